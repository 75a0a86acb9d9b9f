//! The folder in which a command finds a partition and leaves what it makes of it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::super::executor::work_folder;
use super::super::filter::selected_schema;
use super::super::{RunInput, Selects, ToolError};
use crate::model::Epoch;
use crate::storage::{StorageError, TableWriter, create_folder};

/// Removed when it is dropped; after a kill, by the next claim of the partition.
pub(super) struct Scratch {
    folder: PathBuf,
    /// The dataset's own files that it links to, as they were.
    linked: Vec<(PathBuf, Option<Stamp>)>,
}

/// What changes when somebody writes to a file: its number, its length, and when that was.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

impl Scratch {
    /// Lays out what the command gets. The folder is in the dataset, where there is room for images.
    pub fn new(input: &RunInput, epoch: Epoch, selects: Selects) -> Result<Self, ToolError> {
        let folder = work_folder(&absolute(&input.partition_folder())?, epoch);
        let linked = input.files().iter().map(|(path, _)| (path.clone(), stamp(path))).collect();
        let scratch = Self { folder, linked };
        create_folder(&scratch.input())?;
        create_folder(&scratch.output())?;
        for (path, _) in input.files() {
            let link = scratch.input().join(path.file_name().unwrap_or_default());
            symlink(absolute(path)?, &link).map_err(|source| failed("link", &link, source))?;
        }
        if selects == Selects::Images {
            let mut writer = TableWriter::plain(&scratch.selected(), selected_schema(), "tool")?;
            for batch in input.selected_rows(None)? {
                writer.write(&batch?)?;
            }
            writer.seal()?;
        }
        Ok(scratch)
    }

    /// Whether the dataset's own files are as they were.
    ///
    /// # Errors
    /// `Overwritten` when a command has written to one.
    pub fn check_input(&self) -> Result<(), ToolError> {
        match self.linked.iter().find(|(path, before)| stamp(path) != *before) {
            Some((path, _)) => Err(ToolError::Overwritten { path: path.clone() }),
            None => Ok(()),
        }
    }

    pub fn input(&self) -> PathBuf {
        self.folder.join("input")
    }

    pub fn selected(&self) -> PathBuf {
        self.folder.join("selected.parquet")
    }

    pub fn output(&self) -> PathBuf {
        self.folder.join("output")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ToolError> {
    std::path::absolute(path).map_err(|source| failed("find", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> ToolError {
    StorageError::Io { action, path: path.to_owned(), source }.into()
}
