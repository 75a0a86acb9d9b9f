//! Orphans: files that no commit names, left by a kill. They do not exist, so they go.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::atomic::is_temporary;
use super::layout::{error_part_name, success_part_name};
use super::{DatasetLayout, StorageError};
use crate::model::{PartRow, ServerName};

/// Removes what is in a partition's folder and is neither one of its parts nor a final file.
/// Call it only under a claim. Returns what was removed.
///
/// # Errors
/// When the folder cannot be read.
pub fn sweep_parts(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    parts: &[PartRow],
) -> Result<Vec<PathBuf>, StorageError> {
    let named: HashSet<String> =
        parts.iter().flat_map(|part| [success_part_name(part.part), error_part_name(part.part)]).collect();
    let mut removed = remove_files(&layout.parts_folder(folder, partition_id), |name| !named.contains(name))?;
    removed.extend(sweep_temporary(&layout.images_folder(folder, partition_id))?);
    Ok(removed)
}

/// Removes files that were never committed.
pub(super) fn sweep_temporary(folder: &Path) -> Result<Vec<PathBuf>, StorageError> {
    remove_files(folder, is_temporary)
}

fn remove_files(folder: &Path, orphan: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, StorageError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::io("read folder", folder)(error)),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StorageError::io("read folder", folder))?;
        if orphan(&entry.file_name().to_string_lossy()) && fs::remove_file(entry.path()).is_ok() {
            removed.push(entry.path());
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataFile, Epoch, PartId};
    use crate::storage::{LayoutOptions, finish_partition};

    fn layout() -> (tempfile::TempDir, DatasetLayout, ServerName) {
        let root = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(root.path(), LayoutOptions::default());
        (root, layout, ServerName::from_catalog("s"))
    }

    fn put(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        path
    }

    #[test]
    fn what_was_never_committed_goes_and_all_else_stays() {
        let (_root, layout, server) = layout();
        let images = layout.images_folder(&server, 0);
        let named = PartId { epoch: Epoch::new(1, 2), sequence: 0 };
        let unnamed = PartId { epoch: Epoch::new(1, 2), sequence: 1 };
        let mut orphans = vec![
            put(layout.success_part(&server, 0, unnamed)),
            put(layout.parts_folder(&server, 0).join("errors-1-2-1.parquet.tmp-part")),
            put(images.join("successes.parquet.tmp-1-2")),
            put(images.join("errors.parquet.tmp-1-2")),
            put(images.join("completed.tmp-4711")),
        ];
        let kept = [
            put(layout.success_part(&server, 0, named)),
            put(layout.successes(&server, 0)),
            put(layout.completed_marker(&server, 0)),
        ];
        let part = PartRow { part: named, successes: DataFile::default(), errors: DataFile::default() };
        let mut removed = sweep_parts(&layout, &server, 0, &[part]).unwrap();
        orphans.sort();
        removed.sort();
        assert_eq!(removed, orphans);
        assert!(kept.iter().all(|path| path.exists()));
    }

    /// Killed between the marker's temporary name and its own: the partition is compacted, and only finished.
    #[test]
    fn finishing_sweeps_the_marker_that_was_not_renamed() {
        let (_root, layout, server) = layout();
        let torn = put(layout.images_folder(&server, 0).join("completed.tmp-4711"));
        finish_partition(&layout, &server, 0).unwrap();
        assert!(!torn.exists());
        assert!(layout.completed_marker(&server, 0).exists());
    }
}
