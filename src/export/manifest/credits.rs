//! Whom the images are from: tables for those who publish a cleaned dataset.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use crate::export::ExportError;
use crate::export::select::Selection;
use crate::export::target::Target;
use crate::query::QuerySession;

/// Names of GBIF's dataset key, as lists carry it.
const DATASET_KEYS: [&str; 3] = ["datasetKey", "datasetkey", "dataset_key"];

/// Images by what is known of them. Memory: its rows.
pub(super) struct Credits {
    header: &'static [&'static str],
    images: BTreeMap<Vec<String>, u64>,
}

impl Credits {
    /// Writes them as CSV. Returns the number of rows.
    ///
    /// # Errors
    /// When the disk is full or the like.
    pub fn write(&self, target: &mut Target) -> Result<u64, ExportError> {
        let path = target.path().to_owned();
        let mut csv = csv::Writer::from_writer(target);
        let mut write = || {
            csv.write_record(self.header)?;
            for (key, images) in &self.images {
                csv.write_record(key.iter().map(String::as_str).chain([images.to_string().as_str()]))?;
            }
            csv.flush()
        };
        write().map_err(|source| ExportError::Write { path, source })?;
        Ok(self.images.len() as u64)
    }
}

/// `license,source,is_license_full,images`: one row for each licence and rights holder.
///
/// # Errors
/// When a file cannot be read.
pub(super) async fn attribution(
    session: &QuerySession,
    selection: &Selection,
) -> Result<Credits, ExportError> {
    let header = &["license", "source", "is_license_full", "images"];
    count(session, selection, header, |chosen, _| {
        format!(
            "select license, source, is_license_full, count(*) as images from ({chosen}) group by 1, 2, 3"
        )
    })
    .await
}

/// The column of the lists with the dataset key.
///
/// # Errors
/// `NoColumn` when they carry none.
pub(super) async fn dataset_key(session: &QuerySession) -> Result<&'static str, ExportError> {
    let urls = session.tables().await?.into_iter().find(|table| table.name == "urls");
    let known = urls.map(|table| table.columns).unwrap_or_default();
    let key = DATASET_KEYS.into_iter().find(|key| known.iter().any(|column| column.name == *key));
    key.ok_or(ExportError::NoColumn { name: DATASET_KEYS[0].into() })
}

/// `datasetKey,count`: what GBIF asks for when a derived dataset is registered.
///
/// # Errors
/// When a file cannot be read.
pub(super) async fn derived_dataset(
    session: &QuerySession,
    selection: &Selection,
    key: &str,
) -> Result<Credits, ExportError> {
    count(session, selection, &["datasetKey", "count"], |chosen, (first, last)| {
        format!(
            "select cast(u.\"{key}\" as varchar) as dataset_key, count(*) as images from ({chosen}) as c \
             join ordered_urls as u on u.\"ddl:partition\" = c.\"ddl:partition\" and u.record = c.record \
             where u.\"ddl:partition\" between {first} and {last} group by 1"
        )
    })
    .await
}

/// Adds up the counts of all slices: the last column, by the others.
async fn count(
    session: &QuerySession,
    selection: &Selection,
    header: &'static [&'static str],
    sql: impl Fn(&str, (usize, usize)) -> String,
) -> Result<Credits, ExportError> {
    let mut counts = BTreeMap::new();
    for &slice in &selection.slices {
        for batch in session.collect(&sql(&selection.sql("*", slice), slice)).await? {
            let (counted, keys) = batch.columns().split_last().expect("a count is selected");
            let texts = keys.iter().map(|column| cast(column, &DataType::Utf8));
            let texts = texts.collect::<Result<Vec<_>, _>>().expect("texts and flags are text");
            let images = counted.as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let value = |column: &arrow::array::ArrayRef| {
                    let text = column.as_string::<i32>();
                    if text.is_null(row) { String::new() } else { text.value(row).to_owned() }
                };
                *counts.entry(texts.iter().map(value).collect()).or_default() += images.value(row) as u64;
            }
        }
    }
    Ok(Credits { header, images: counts })
}
