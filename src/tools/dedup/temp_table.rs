//! Rows that are put aside while the tool works.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::ToolError;
use crate::query::QuerySession;
use crate::storage::{StorageError, create_folder};

/// Rows of a row group, which the writer holds.
const ROWS_PER_GROUP: usize = 100_000;

/// A table in a file without a name: nobody else writes to it, and it ends with the process, however that ends.
pub(super) struct TempTable {
    name: String,
    folder: PathBuf,
    schema: SchemaRef,
    writer: ArrowWriter<File>,
    num_rows: u64,
}

impl TempTable {
    /// `name` is that of the table in SQL.
    pub fn create(session: &QuerySession, name: &str, schema: SchemaRef) -> Result<Self, ToolError> {
        let folder = session.temp_folder().to_owned();
        create_folder(&folder)?;
        let file = tempfile::tempfile_in(&folder).map_err(failed("create a file in", &folder))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
        let writer = writer.map_err(failed("write to a file in", &folder))?;
        Ok(Self { name: name.to_owned(), folder, schema, writer, num_rows: 0 })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ToolError> {
        self.num_rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(failed("write to a file in", &self.folder))
    }

    /// Rows so far.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// The rows can be asked for from now on, until another table gets the name.
    pub fn register(self, session: &QuerySession) -> Result<(), ToolError> {
        let Self { name, folder, schema, writer, .. } = self;
        let file = writer.into_inner().map_err(failed("write to a file in", &folder))?;
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        session.register_file(&name, file, &folder, &columns)?;
        Ok(())
    }
}

fn failed<E: Into<ParquetError>>(
    action: &'static str,
    folder: &Path,
) -> impl FnOnce(E) -> ToolError + use<E> {
    let path = folder.to_owned();
    move |error| {
        let source = match error.into() {
            ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
                Ok(error) => *error,
                Err(error) => std::io::Error::other(error),
            },
            error => std::io::Error::other(error),
        };
        StorageError::Io { action, path, source }.into()
    }
}
