//! Parquet files of whole batches: what tools make.

use std::fs::File;
use std::path::Path;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::part_writer::{arrow_writer, close, num_small};
use super::schema::{successes_properties, zstd};
use super::{AtomicFile, Checksummed, StorageError, StorageOptions, successes_schema};
use crate::model::DataFile;

/// Rows of a row group of a plain table: readers skip by its statistics, and a writer holds one.
const ROWS_PER_GROUP: usize = 100_000;

/// Writes one file, whole or not at all. Memory: one row group.
pub struct TableWriter {
    file: AtomicFile,
    writer: ArrowWriter<Checksummed<File>>,
    num_rows: u64,
}

impl TableWriter {
    /// A table of narrow rows. `writer` tells writers of the same path apart.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn plain(path: &Path, schema: SchemaRef, writer: &str) -> Result<Self, StorageError> {
        let properties = WriterProperties::builder()
            .set_compression(zstd(1))
            .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
            .set_created_by(concat!("ddl ", env!("CARGO_PKG_VERSION")).into())
            .build();
        Self::create(path, schema, properties, writer)
    }

    /// Images, with the columns of `successes.parquet`. Row groups end where they are flushed.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn images(path: &Path, options: StorageOptions, writer: &str) -> Result<Self, StorageError> {
        Self::create(path, successes_schema(), successes_properties(options), writer)
    }

    fn create(
        path: &Path,
        schema: SchemaRef,
        properties: WriterProperties,
        writer: &str,
    ) -> Result<Self, StorageError> {
        let file = AtomicFile::create(path, writer)?;
        let writer = arrow_writer(&file, schema, properties)?;
        Ok(Self { file, writer, num_rows: 0 })
    }

    /// # Errors
    /// When the disk is full or the like. The file is then useless: drop it.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StorageError> {
        self.num_rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(StorageError::parquet("write", self.file.temporary()))
    }

    /// Appends images as a row group of their own.
    ///
    /// # Errors
    /// As [`TableWriter::write`].
    pub fn write_row_group(&mut self, batch: &RecordBatch) -> Result<(), StorageError> {
        // As in a part: from the first large image on, the writer looks after each whether its page is full.
        let images = batch.column_by_name("image").and_then(|column| column.as_binary_opt::<i32>());
        let lengths = images.map(|images| images.iter().map(|image| image.map_or(0, <[u8]>::len)));
        let small = lengths.map_or(0, num_small);
        self.write(&batch.slice(0, small))?;
        self.write(&batch.slice(small, batch.num_rows() - small))?;
        self.flush()
    }

    /// Ends a row group.
    ///
    /// # Errors
    /// As [`TableWriter::write`].
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.writer.flush().map_err(StorageError::parquet("write", self.file.temporary()))
    }

    /// Says something in the file's key-value metadata.
    pub fn set_metadata(&mut self, key: &str, value: String) {
        self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }

    /// Rows so far.
    #[must_use]
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Closes the file, syncs it and gives it its name.
    ///
    /// # Errors
    /// As [`TableWriter::write`].
    pub fn seal(self) -> Result<DataFile, StorageError> {
        close(self.file, self.writer, self.num_rows)
    }
}
