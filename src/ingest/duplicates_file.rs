//! `_duplicates/ingest-NNNN.parquet`: rows that repeat an earlier row of the same list.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::IngestError;
use super::manifest_file::ParquetOutput;

/// `identifier`, `source_id`, `server_name`, `input` (file), `row` (line or row in it, from 1), and
/// `known_from`: `catalog` if the catalog had the URL when the ingest began, else `list`.
pub(super) fn duplicates_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        text("identifier"),
        text("source_id"),
        text("server_name"),
        text("input"),
        Field::new("row", DataType::UInt64, false),
        text("known_from"),
    ]))
}

/// Made with the first duplicate, given its name with the end of the ingest.
pub(super) struct DuplicatesFile {
    folder: PathBuf,
    open: Option<ParquetOutput>,
}

impl DuplicatesFile {
    pub(super) fn new(urls_folder: &Path) -> Self {
        Self { folder: urls_folder.join("_duplicates"), open: None }
    }

    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<(), IngestError> {
        if self.open.is_none() {
            self.open = Some(ParquetOutput::create(&free_name(&self.folder)?, duplicates_schema())?);
        }
        self.open.as_mut().map_or(Ok(()), |open| open.push(rows))
    }

    pub(super) fn finish(self) -> Result<Option<PathBuf>, IngestError> {
        Ok(self.open.map(ParquetOutput::finish).transpose()?.map(|(path, _)| path))
    }
}

/// The name behind the last that is taken.
fn free_name(folder: &Path) -> Result<PathBuf, IngestError> {
    fs::create_dir_all(folder).map_err(IngestError::write(folder))?;
    let mut next = 0;
    for entry in fs::read_dir(folder).map_err(IngestError::read(folder))? {
        let name = entry.map_err(IngestError::read(folder))?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix("ingest-").and_then(|name| name.strip_suffix(".parquet"));
        if let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) {
            next = next.max(number.saturating_add(1));
        }
    }
    Ok(folder.join(format!("ingest-{next:04}.parquet")))
}
