//! `_duplicates/ingest-NNNN.parquet`: rows that repeat an earlier row of the same list.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::storage::DatasetLayout;

/// `identifier`, `source_id`, `server_name`, `input` (file), `row` (line or row in it, from 1). All of it depends on
/// the list alone, so the same list makes the same file.
pub(super) fn duplicates_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        text("identifier"),
        text("source_id"),
        text("server_name"),
        text("input"),
        Field::new("row", DataType::UInt64, false),
    ]))
}

/// Where lists of duplicates lie.
pub(super) fn duplicates_folder(layout: &DatasetLayout) -> PathBuf {
    layout.urls().join("_duplicates")
}
