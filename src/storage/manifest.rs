//! Reading a partition's manifest, a slice at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::StorageError;
use crate::model::RecordIndex;

/// A row of the manifest, as far as downloading needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRecord {
    pub record: RecordIndex,
    pub uuid: String,
    pub source_id: Option<String>,
    pub identifier: String,
    pub license: Option<String>,
    pub source: Option<String>,
    pub title: Option<String>,
    pub label: Option<String>,
    pub shared_server_name: Option<String>,
}

const COLUMNS: [&str; 9] = [
    "uuid",
    "source_id",
    "identifier",
    "license",
    "source",
    "title",
    "label",
    "record",
    "shared_server_name",
];

/// Reads the manifest files of a partition in order, `batch_rows` rows at a time.
pub struct ManifestReader {
    files: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, ParquetRecordBatchReader)>,
    batch_rows: usize,
}

impl ManifestReader {
    #[must_use]
    pub fn new(files: Vec<PathBuf>, batch_rows: usize) -> Self {
        Self { files: files.into_iter(), current: None, batch_rows }
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// When a file is missing, damaged, or lacks a column.
    pub fn next_batch(&mut self) -> Result<Option<Vec<ManifestRecord>>, StorageError> {
        loop {
            if let Some((path, reader)) = &mut self.current {
                match reader.next() {
                    Some(batch) => {
                        let batch =
                            batch.map_err(|error| StorageError::parquet("read", path)(error.into()))?;
                        return records_of(&batch, path).map(Some);
                    }
                    None => self.current = None,
                }
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            let file = File::open(&path).map_err(StorageError::io("open", &path))?;
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                .map_err(StorageError::parquet("read", &path))?;
            let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
            let reader = builder
                .with_projection(columns)
                .with_batch_size(self.batch_rows)
                .build()
                .map_err(StorageError::parquet("read", &path))?;
            self.current = Some((path, reader));
        }
    }
}

fn records_of(batch: &RecordBatch, path: &Path) -> Result<Vec<ManifestRecord>, StorageError> {
    let missing = |name: &str| StorageError::Unexpected {
        path: path.to_owned(),
        detail: format!("column `{name}` is missing or of another type"),
    };
    let column = |name: &str, data_type: &DataType| {
        let column = batch.column_by_name(name).ok_or_else(|| missing(name))?;
        cast(column, data_type).map_err(|_| missing(name))
    };
    let text = |name: &str| column(name, &DataType::Utf8);
    let [uuid, source_id, identifier] = [text("uuid")?, text("source_id")?, text("identifier")?];
    let [license, source, title, label] = [text("license")?, text("source")?, text("title")?, text("label")?];
    let shared = text("shared_server_name")?;
    let record = column("record", &DataType::Int32)?;
    let record = record.as_primitive::<Int32Type>();
    let value = |array: &arrow::array::ArrayRef, row: usize| {
        array.is_valid(row).then(|| array.as_string::<i32>().value(row).to_owned())
    };
    Ok((0..batch.num_rows())
        .map(|row| ManifestRecord {
            record: record.value(row).cast_unsigned(),
            uuid: value(&uuid, row).unwrap_or_default(),
            source_id: value(&source_id, row),
            identifier: value(&identifier, row).unwrap_or_default(),
            license: value(&license, row),
            source: value(&source, row),
            title: value(&title, row),
            label: value(&label, row),
            shared_server_name: value(&shared, row),
        })
        .collect())
}
