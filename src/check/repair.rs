//! Repair of what holds no data: orphans, markers, empty folders.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use super::error::CheckError;
use super::folders::{
    KnownFolders, OnOrphan, folders_within, is_real, partition_orphans, server_folders, tool_orphans,
};
use super::partition::Committed;
use crate::catalog::{Catalog, CatalogError, CatalogView, PartitionStage};
use crate::dispatch::read_published;
use crate::model::{Epoch, PartitionKey, ServerId, ServerName};
use crate::storage::{DatasetLayout, epoch_in, write_atomically};

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
/// By an older copy of the catalog, what was committed after the copy looks like orphans. Where something shows that
/// the catalog is one, nothing is removed unless `discard_newer` says that this is meant.
///
/// `catalog` is the writer's: while it is held nobody else is at work on the dataset.
///
/// # Errors
/// `OtherDataset` when the catalog is not the one in `layout`, `OtherLists` when a manifest file is not what it
/// names, `OlderCatalog` as above; when the catalog's storage fails, a folder cannot be listed, or a marker cannot
/// be written.
pub fn repair_dataset(
    layout: &DatasetLayout,
    catalog: &Catalog,
    discard_newer: bool,
) -> Result<RepairReport, CheckError> {
    refuse_other_dataset(layout, catalog)?;
    let dataset = Dataset::new(layout, catalog.view()?)?;
    dataset.refuse_other_lists()?;
    if !discard_newer && let Some(evidence) = dataset.evidence_of_newer()? {
        return Err(CheckError::OlderCatalog { evidence });
    }
    let mut report = RepairReport::default();
    dataset.for_each_orphan(&mut |path, bytes| report.remove(path, bytes))?;
    for &key in &dataset.partitions {
        if dataset.committed(key)?.row.stage == PartitionStage::Finished {
            let folder = &dataset.servers[&key.server_id];
            report.markers_written += u64::from(write_missing_marker(layout, folder, key.partition_id)?);
        }
    }
    for server in server_folders(layout, &dataset.tools)? {
        // Inner folders first. Those that are not empty refuse, as they should.
        let removed =
            folders_within(server)?.iter().rev().filter(|folder| fs::remove_dir(folder).is_ok()).count();
        report.folders_removed += removed as u64;
    }
    Ok(report)
}

/// Removes what tools have left in the folders of partitions and no commit names: pieces that are forgotten, and what
/// killed commands had begun.
///
/// # Errors
/// When the catalog's storage fails, or a folder cannot be listed.
pub fn sweep_tools(layout: &DatasetLayout, catalog: &Catalog) -> Result<RepairReport, CheckError> {
    let dataset = Dataset::new(layout, catalog.view()?)?;
    let mut report = RepairReport::default();
    for &key in &dataset.partitions {
        let (folder, tools) = (&dataset.servers[&key.server_id], dataset.committed(key)?.tools);
        tool_orphans(layout, folder, key.partition_id, &tools, &mut |path, bytes| {
            report.remove(path, bytes)
        })?;
    }
    Ok(report)
}

/// Refuses a catalog that names other lists than those that stand in `layout`: it is another dataset's.
///
/// # Errors
/// `OtherLists`; when the catalog cannot be read.
pub fn refuse_other_lists(layout: &DatasetLayout, view: CatalogView) -> Result<(), CheckError> {
    Dataset::new(layout, view)?.refuse_other_lists()
}

/// A dataset as the catalog has it.
struct Dataset<'a> {
    layout: &'a DatasetLayout,
    view: CatalogView,
    servers: HashMap<ServerId, ServerName>,
    partitions: Vec<PartitionKey>,
    /// Names of tools that ran.
    tools: Vec<String>,
}

impl<'a> Dataset<'a> {
    fn new(layout: &'a DatasetLayout, view: CatalogView) -> Result<Self, CheckError> {
        let servers: HashMap<ServerId, ServerName> =
            view.servers()?.into_iter().map(|row| (row.id, row.folder)).collect();
        let mut partitions = Vec::new();
        view.for_each_partition(|key, _| partitions.push(key))?;
        // Before anything is removed: without its server's name a partition's folder would pass for an unknown one.
        if let Some(key) = partitions.iter().find(|key| !servers.contains_key(&key.server_id)) {
            return Err(CatalogError::Inconsistent(format!("{key:?} has no server")).into());
        }
        let tools = view.tools()?.into_iter().map(|(name, _)| name).collect();
        Ok(Self { layout, view, servers, partitions, tools })
    }

    fn committed(&self, key: PartitionKey) -> Result<Committed, CatalogError> {
        Committed::of(&self.view, key)
    }

    fn for_each_orphan(&self, each: OnOrphan<'_>) -> Result<(), CheckError> {
        for &key in &self.partitions {
            let folder = &self.servers[&key.server_id];
            partition_orphans(self.layout, folder, key.partition_id, &self.committed(key)?, each)?;
        }
        KnownFolders::new(self.layout, &self.servers, &self.partitions, &self.tools)
            .unknown_files(self.layout, each)
    }

    /// By a catalog that was copied here from another dataset, images would be orphans. Its lists are other ones.
    fn refuse_other_lists(&self) -> Result<(), CheckError> {
        for &key in &self.partitions {
            let folder = self.layout.manifest_folder(&self.servers[&key.server_id], key.partition_id);
            for file in &self.committed(key)?.row.manifest_files {
                let path = folder.join(&file.name);
                if !fs::metadata(&path).is_ok_and(|meta| meta.len() == file.bytes) {
                    return Err(CheckError::OtherLists { path });
                }
            }
        }
        Ok(())
    }

    /// What no kill leaves behind, for the catalog is committed first: files of a run that it has never begun, a
    /// partition that is complete without its knowledge, and a status with more images than it has.
    fn evidence_of_newer(&self) -> Result<Option<String>, CheckError> {
        // A success may have been retracted since; otherwise neither of the two ever becomes less.
        let counts = self.view.counts()?;
        let published = read_published(&self.layout.status()).map(|status| status.counts);
        if let Some(published) = published
            && published.success > counts.success
            && published.success + published.skipped > counts.success + counts.skipped
        {
            let (published, success) = (published.success, counts.success);
            let status = self.layout.status();
            return Ok(Some(format!(
                "`{}` tells of {published} images, the catalog of {success}",
                status.display()
            )));
        }
        let last_run = self.view.runs()?.last().map_or(0, |run| run.run_id);
        let mut evidence = None;
        self.for_each_orphan(&mut |path, _| {
            if evidence.is_some() {
                return;
            }
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let run = epoch_in(name).map_or(0, Epoch::run);
            let stands = |name| path.with_file_name(name).is_file();
            if run > last_run {
                evidence = Some(format!(
                    "`{}` is of run {run}, the catalog ends with run {last_run}",
                    path.display()
                ));
            } else if name == "completed" && stands("successes.parquet") && stands("errors.parquet") {
                evidence = Some(format!(
                    "`{}` is of a partition that the catalog has as incomplete",
                    path.display()
                ));
            }
        })?;
        Ok(evidence)
    }
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
