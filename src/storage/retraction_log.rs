//! What was retracted, when and why: `logs/retractions/run-N.jsonl`. No image is in it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DatasetLayout, StorageError, create_folder, sync_folder};
use crate::model::{RecordIndex, RunId};

/// A line of the log: one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetractionEntry {
    pub uuid: String,
    /// Without a user name or a password.
    pub url: String,
    /// The folder that the partition is in.
    pub server_name: String,
    pub partition_id: u32,
    pub record: RecordIndex,
    /// What it was: `success`, `pending`, `failed`, `skipped`.
    pub was: String,
    /// Of an image, as downloaded.
    pub hashsum_original: Option<String>,
    pub reason: Option<String>,
    /// RFC 3339, UTC.
    pub time: String,
}

/// The log of one run, made with its first line. Lines are written before their commit: a kill in between leaves some of
/// records that were not retracted, and the run that does it writes them again.
pub struct RetractionLog {
    path: PathBuf,
    file: Option<File>,
}

impl RetractionLog {
    #[must_use]
    pub fn new(layout: &DatasetLayout, run: RunId) -> Self {
        Self { path: layout.retractions().join(format!("run-{run}.jsonl")), file: None }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes lines, durably.
    ///
    /// # Errors
    /// When the file cannot be made, the disk is full, or the like.
    pub fn append(&mut self, entries: &[RetractionEntry]) -> Result<(), StorageError> {
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, entry).expect("plain data always encodes into memory");
            lines.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(create(&self.path)?),
        };
        let write = file.write_all(&lines).and_then(|()| file.sync_data());
        write.map_err(StorageError::io("write", &self.path))
    }
}

fn create(path: &Path) -> Result<File, StorageError> {
    create_folder(path.parent().unwrap_or(path))?;
    let file = File::options().create(true).append(true).open(path);
    let file = file.map_err(StorageError::io("create", path))?;
    sync_folder(path)?;
    Ok(file)
}
