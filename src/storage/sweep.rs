//! Orphans: files that no commit names, left by a kill. They do not exist, so they go.
//!
//! All but those of newer claims: a rank that was frozen in the middle of a sweep and wakes up late would
//! otherwise remove what its successor has sealed, committed or not.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::atomic::is_temporary;
use super::layout::{error_part_name, success_part_name};
use super::{DatasetLayout, StorageError};
use crate::model::{Epoch, PartRow, RunId, ServerName};

/// Removes what is in a partition's folder and is neither one of its parts nor a final file nor of a claim
/// newer than `epoch`. Call it only under a claim. Returns what was removed.
///
/// # Errors
/// When the folder cannot be read.
pub fn sweep_parts(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    parts: &[PartRow],
    epoch: Epoch,
) -> Result<Vec<PathBuf>, StorageError> {
    let named: HashSet<String> =
        parts.iter().flat_map(|part| [success_part_name(part.part), error_part_name(part.part)]).collect();
    let is_old = |name: &str| epoch_in(name).is_none_or(|of| of <= epoch);
    let mut removed = remove_files(&layout.parts_folder(folder, partition_id), |name| {
        !named.contains(name) && is_old(name)
    })?;
    removed.extend(remove_files(&layout.images_folder(folder, partition_id), |name| {
        is_temporary(name) && is_old(name)
    })?);
    Ok(removed)
}

/// Removes files that were never committed. Returns what was removed.
///
/// # Errors
/// When the folder cannot be read; one that is not there is empty.
pub fn sweep_temporary(folder: &Path) -> Result<Vec<PathBuf>, StorageError> {
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

/// The claim that made a file, if its name says so: `successes-RUN-COUNTER-SEQUENCE.parquet`,
/// `successes.parquet.tmp-RUN-COUNTER`, or the folder `work-RUN-COUNTER` of a tool.
#[must_use]
pub fn epoch_in(name: &str) -> Option<Epoch> {
    let numbers = name
        .strip_prefix("successes-")
        .or_else(|| name.strip_prefix("errors-"))
        .or_else(|| name.strip_prefix("verdicts-"))
        .or_else(|| name.strip_prefix("work-"))
        .or_else(|| name.split_once(".parquet.tmp-").map(|(_, writer)| writer))?;
    let mut numbers = numbers.split('-');
    let run: RunId = numbers.next()?.parse().ok()?;
    Some(Epoch::new(run, numbers.next()?.parse().ok()?))
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
        let mut removed = sweep_parts(&layout, &server, 0, &[part], Epoch::new(1, 2)).unwrap();
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

    #[test]
    fn a_late_sweep_leaves_the_files_of_newer_claims() {
        let (_root, layout, server) = layout();
        let (parts, images) = (layout.parts_folder(&server, 0), layout.images_folder(&server, 0));
        fs::create_dir_all(&parts).unwrap();
        let stays = [
            parts.join("successes-2-5-0.parquet"),
            parts.join("successes-2-7-0.parquet"),
            parts.join("errors-3-1-0.parquet.tmp-part"),
            images.join("successes.parquet.tmp-2-7"),
            images.join("successes.parquet"),
        ];
        let goes = [
            parts.join("successes-2-5-1.parquet"),
            parts.join("errors-1-9-0.parquet.tmp-part"),
            parts.join("stray"),
            images.join("errors.parquet.tmp-2-5"),
        ];
        for path in stays.iter().chain(&goes) {
            fs::write(path, b"").unwrap();
        }
        let part = PartId { epoch: Epoch::new(2, 5), sequence: 0 };
        let named = PartRow { part, successes: DataFile::default(), errors: DataFile::default() };
        let mut removed = sweep_parts(&layout, &server, 0, &[named], Epoch::new(2, 6)).unwrap();
        removed.sort();
        let mut expected = goes.to_vec();
        expected.sort();
        assert_eq!(removed, expected);
        assert!(stays.iter().all(|path| path.exists()));
    }
}
