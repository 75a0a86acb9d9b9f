//! CSV files that are whole or not there.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{AtomicFile, StorageError};

/// A CSV file under a temporary name until [`CsvFile::finish`].
pub struct CsvFile {
    csv: csv::Writer<AtomicFile>,
    path: PathBuf,
}

impl CsvFile {
    /// Starts a file. Its header is its first row.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        let file = AtomicFile::create(path, &std::process::id().to_string())?;
        // Headers are rows of their own, also where no row follows.
        let csv = csv::WriterBuilder::new().has_headers(false).from_writer(file);
        Ok(Self { csv, path: path.to_owned() })
    }

    /// # Errors
    /// When the disk is full or the like.
    pub fn row<T: AsRef<[u8]>>(&mut self, fields: impl IntoIterator<Item = T>) -> Result<(), StorageError> {
        let written = self.csv.write_record(fields);
        written.map_err(|error| StorageError::io("write", &self.path)(error.into()))
    }

    /// A row of the fields of a plain struct or tuple.
    ///
    /// # Errors
    /// As [`CsvFile::row`].
    pub fn serialize(&mut self, row: impl Serialize) -> Result<(), StorageError> {
        let written = self.csv.serialize(row);
        written.map_err(|error| StorageError::io("write", &self.path)(error.into()))
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// When any of this fails.
    pub fn finish(self) -> Result<(), StorageError> {
        let file = self.csv.into_inner();
        file.map_err(|error| StorageError::io("write", &self.path)(error.into_error()))?.commit()?;
        Ok(())
    }
}
