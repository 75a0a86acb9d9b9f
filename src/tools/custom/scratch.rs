//! The folder in which a command finds a partition and leaves what it makes of it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::executor::work_folder;
use super::super::filter::selected_schema;
use super::super::{RunInput, Selects, ToolError};
use crate::model::Epoch;
use crate::storage::{StorageError, TableWriter, create_folder};

/// Removed when it is dropped; after a kill, by the next claim of the partition.
pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Lays out what the command gets. The folder is in the dataset, where there is room for images.
    pub fn new(input: &RunInput, epoch: Epoch, selects: Selects) -> Result<Self, ToolError> {
        let folder = work_folder(&absolute(&input.partition_folder())?, epoch);
        let scratch = Self { folder };
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
