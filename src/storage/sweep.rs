//! Orphans: files that no commit names, left by a kill. They do not exist, so they go.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

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
    let mut removed = Vec::new();
    let mut sweep = |path: PathBuf, orphan: fn(&HashSet<String>, &str) -> bool| -> Result<(), StorageError> {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StorageError::io("read folder", &path)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(StorageError::io("read folder", &path))?;
            if orphan(&named, &entry.file_name().to_string_lossy()) && fs::remove_file(entry.path()).is_ok() {
                removed.push(entry.path());
            }
        }
        Ok(())
    };
    sweep(layout.parts_folder(folder, partition_id), |named, name| !named.contains(name))?;
    sweep(layout.images_folder(folder, partition_id), |_, name| name.contains(".parquet.tmp-"))?;
    Ok(removed)
}
