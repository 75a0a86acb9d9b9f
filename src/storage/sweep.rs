//! Orphans: files that no commit names, left by a kill. They do not exist, so they go.
//!
//! All but those of newer claims: a rank that was frozen in the middle of a sweep and wakes up late would
//! otherwise remove what its successor has sealed, committed or not.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

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
    let mut removed = Vec::new();
    let mut sweep = |path: PathBuf, orphan: fn(&HashSet<String>, &str) -> bool| -> Result<(), StorageError> {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StorageError::io("read folder", &path)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(StorageError::io("read folder", &path))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if orphan(&named, &name)
                && epoch_in(&name).is_none_or(|of| of <= epoch)
                && fs::remove_file(entry.path()).is_ok()
            {
                removed.push(entry.path());
            }
        }
        Ok(())
    };
    sweep(layout.parts_folder(folder, partition_id), |named, name| !named.contains(name))?;
    sweep(layout.images_folder(folder, partition_id), |_, name| name.contains(".parquet.tmp-"))?;
    Ok(removed)
}

/// The claim that made a file: `successes-RUN-COUNTER-SEQUENCE.parquet`, or `successes.parquet.tmp-RUN-COUNTER`.
fn epoch_in(name: &str) -> Option<Epoch> {
    let numbers = name
        .strip_prefix("successes-")
        .or_else(|| name.strip_prefix("errors-"))
        .or_else(|| name.split_once(".parquet.tmp-").map(|(_, writer)| writer))?;
    let mut numbers = numbers.split('-');
    let run: RunId = numbers.next()?.parse().ok()?;
    Some(Epoch::new(run, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::LayoutOptions;
    use super::*;
    use crate::model::{DataFile, PartId};

    #[test]
    fn a_late_sweep_leaves_the_files_of_newer_claims() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path(), LayoutOptions::default());
        let server = ServerName::from_catalog("a.example");
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
