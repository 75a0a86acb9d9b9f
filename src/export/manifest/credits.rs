//! Whom the images are from: tables for those who publish a cleaned dataset.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use crate::export::ExportError;
use crate::export::select::Selection;
use crate::query::QuerySession;
use crate::storage::CsvFile;

/// Names of GBIF's dataset key, as lists carry it.
const DATASET_KEYS: [&str; 3] = ["datasetKey", "datasetkey", "dataset_key"];

/// Writes `license,source,is_license_full,images`: one row for each licence and rights holder. Memory: these rows.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) async fn attribution(
    session: &QuerySession,
    selection: &Selection,
    path: &Path,
) -> Result<u64, ExportError> {
    let columns = ["license", "source", "is_license_full"];
    let rows = counts(session, selection, &columns, |chosen| {
        format!(
            "select license, source, is_license_full, count(*) as images from ({chosen}) group by 1, 2, 3"
        )
    });
    write(path, &columns, rows.await?)
}

/// Writes `datasetKey,count`: what GBIF asks for when a derived dataset is registered.
///
/// # Errors
/// `NoColumn` when the lists carry no dataset key; else as [`attribution`].
pub(super) async fn derived_dataset(
    session: &QuerySession,
    selection: &Selection,
    path: &Path,
) -> Result<u64, ExportError> {
    let urls = session.tables().await?.into_iter().find(|table| table.name == "urls");
    let known = urls.map(|table| table.columns).unwrap_or_default();
    let Some(key) = DATASET_KEYS.into_iter().find(|key| known.iter().any(|column| column.name == *key))
    else {
        return Err(ExportError::NoColumn { name: DATASET_KEYS[0].into() });
    };
    let rows = counts(session, selection, &["dataset_key"], |chosen| {
        format!(
            "select cast(u.\"{key}\" as varchar) as dataset_key, count(*) as images from ({chosen}) as c \
             join ordered_urls as u on u.\"ddl:partition\" = c.\"ddl:partition\" and u.record = c.record \
             group by 1"
        )
    });
    write(path, &["datasetKey", "count"], rows.await?)
}

type Counts = BTreeMap<Vec<String>, u64>;

async fn counts(
    session: &QuerySession,
    selection: &Selection,
    columns: &[&str],
    sql: impl Fn(&str) -> String,
) -> Result<Counts, ExportError> {
    let mut counts = Counts::new();
    for &slice in &selection.slices {
        for batch in session.collect(&sql(&selection.sql("*", slice))).await? {
            let texts = columns.iter().map(|name| cast(&batch[*name], &DataType::Utf8));
            let texts = texts.collect::<Result<Vec<_>, _>>().expect("texts and flags are text");
            let images = batch["images"].as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let value = |column: &arrow::array::ArrayRef| {
                    let text = column.as_string::<i32>();
                    if text.is_null(row) { String::new() } else { text.value(row).to_owned() }
                };
                *counts.entry(texts.iter().map(value).collect()).or_default() += images.value(row) as u64;
            }
        }
    }
    Ok(counts)
}

fn write(path: &Path, columns: &[&str], counts: Counts) -> Result<u64, ExportError> {
    let mut csv = CsvFile::create(path)?;
    let header = if columns.len() > 2 { [columns, &["images"]].concat() } else { columns.to_vec() };
    csv.row(header)?;
    let num_rows = counts.len() as u64;
    for (key, images) in counts {
        csv.row(key.iter().map(String::as_str).chain([images.to_string().as_str()]))?;
    }
    csv.finish()?;
    Ok(num_rows)
}
