//! Repair of what holds no data: orphans, markers, empty folders.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use super::error::CheckError;
use super::folders::{KnownFolders, folders_within, is_real, partition_orphans, server_folders};
use crate::catalog::{Catalog, CatalogError, PartitionRow, PartitionStage};
use crate::model::{ServerId, ServerName};
use crate::storage::{DatasetLayout, write_atomically};

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RepairReport {
    pub orphans_removed: u64,
    pub orphan_bytes: u64,
    pub markers_written: u64,
    pub folders_removed: u64,
    /// Orphans that could not be removed; a warning names each.
    pub num_failed: u64,
}

/// Removes orphans, writes the missing `completed` markers of finished partitions whose files stand, and
/// removes empty folders. Never touches a file that the catalog names. Done again, it does what is left.
///
/// `catalog` is the writer's: while it is held nobody else is at work on the dataset.
///
/// # Errors
/// `OtherDataset` when the catalog is not the one in `layout`, `OtherLists` when a manifest file is not what it
/// names; when the catalog's storage fails, a folder
/// cannot be listed, or a marker cannot be written.
pub fn repair_dataset(layout: &DatasetLayout, catalog: &Catalog) -> Result<RepairReport, CheckError> {
    refuse_other_dataset(layout, catalog)?;
    let view = catalog.view()?;
    let servers: HashMap<ServerId, ServerName> =
        view.servers()?.into_iter().map(|row| (row.id, row.folder)).collect();
    let mut partitions = Vec::new();
    view.for_each_partition(|key, _| partitions.push(key))?;
    // Before anything is removed: without its server's name a partition's folder would pass for an unknown one.
    if let Some(key) = partitions.iter().find(|key| !servers.contains_key(&key.server_id)) {
        return Err(CatalogError::Inconsistent(format!("{key:?} has no server")).into());
    }

    let partition =
        |key| view.partition(key)?.ok_or_else(|| CatalogError::Inconsistent(format!("there is no {key:?}")));
    for &key in &partitions {
        refuse_other_lists(layout, &servers[&key.server_id], key.partition_id, &partition(key)?)?;
    }
    let mut report = RepairReport::default();
    for &key in &partitions {
        let folder = &servers[&key.server_id];
        let row = partition(key)?;
        partition_orphans(layout, folder, key.partition_id, &row, &mut |path, bytes| {
            report.remove(path, bytes);
        })?;
        if row.stage == PartitionStage::Finished {
            report.markers_written += u64::from(write_missing_marker(layout, folder, key.partition_id)?);
        }
    }
    KnownFolders::new(layout, &servers, &partitions)
        .unknown_files(layout, &mut |path, bytes| report.remove(path, bytes))?;
    for server in server_folders(layout)? {
        // Inner folders first. Those that are not empty refuse, as they should.
        let removed =
            folders_within(server)?.iter().rev().filter(|folder| fs::remove_dir(folder).is_ok()).count();
        report.folders_removed += removed as u64;
    }
    Ok(report)
}

impl RepairReport {
    fn remove(&mut self, path: PathBuf, bytes: u64) {
        match fs::remove_file(&path) {
            Ok(()) => {
                self.orphans_removed += 1;
                self.orphan_bytes += bytes;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file that no commit names");
                self.num_failed += 1;
            }
        }
    }
}

/// By a catalog that was copied here from another dataset, images would be orphans. Its lists are other ones.
fn refuse_other_lists(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    row: &PartitionRow,
) -> Result<(), CheckError> {
    for file in &row.manifest_files {
        let path = layout.manifest_folder(folder, partition_id).join(&file.name);
        if !fs::metadata(&path).is_ok_and(|meta| meta.len() == file.bytes) {
            return Err(CheckError::OtherLists { path });
        }
    }
    Ok(())
}

/// By another dataset's catalog every file here would be an orphan.
fn refuse_other_dataset(layout: &DatasetLayout, catalog: &Catalog) -> Result<(), CheckError> {
    let own = layout.catalog();
    let real = |path: &std::path::Path| path.canonicalize().map_err(CheckError::io("find", path));
    if real(catalog.path())? == real(&own)? {
        return Ok(());
    }
    Err(CheckError::OtherDataset { catalog: catalog.path().to_owned(), dataset: layout.root().to_owned() })
}

/// A marker says that the data is there: without its files none is written.
fn write_missing_marker(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
) -> Result<bool, CheckError> {
    let marker = layout.completed_marker(folder, partition_id);
    let is_whole =
        layout.successes(folder, partition_id).is_file() && layout.errors(folder, partition_id).is_file();
    let is_real = is_real(&layout.images(), &layout.images_folder(folder, partition_id));
    if fs::symlink_metadata(&marker).is_ok() || !is_whole || !is_real {
        return Ok(false);
    }
    write_atomically(&marker, b"")?;
    Ok(true)
}
