//! `ddl ingest`: lists into the catalog and the manifest.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Dataset, PipelineError};
use crate::catalog::{Catalog, IngestRow};
use crate::ingest::{IngestOptions, IngestPaths, IngestProgress, IngestReport};

/// Reads the lists that the configuration names.
///
/// # Errors
/// When there is no input, a list cannot be read, or another process holds the catalog.
pub fn ingest(
    dataset: &Dataset,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<IngestReport, PipelineError> {
    let options: IngestOptions =
        dataset.resolved.section(&["ingest_parameters", "downloader_parameters", ""], &[])?;
    let inputs = dataset.settings.inputs()?;
    let paths = IngestPaths {
        urls_folder: dataset.layout.urls(),
        ignored_table: dataset.layout.ignored_table(),
        tools_folder: dataset.layout.tools(),
    };
    let is_new = !dataset.layout.catalog().exists();
    let catalog = dataset.create()?;
    let mut row = IngestRow {
        started_at: now_ms(),
        inputs: inputs.iter().map(|path| path.display().to_string()).collect(),
        ..IngestRow::default()
    };
    let report = match crate::ingest::ingest(inputs, &options, &paths, &catalog, progress) {
        Ok(report) => report,
        Err(error) => {
            if is_new {
                remove_if_empty(&catalog);
            }
            return Err(error.into());
        }
    };
    row.ended_at = Some(now_ms());
    row.rows = report.rows_read;
    row.new = report.records_new;
    row.known = report.records_known;
    row.gone = report.records_gone;
    row.duplicates = report.duplicates;
    row.malformed = report.malformed;
    catalog.record_ingest(row)?;
    Ok(report)
}

/// A list that is refused leaves no dataset behind, which a download would take for a finished one.
fn remove_if_empty(catalog: &Catalog) {
    let is_empty = catalog.view().and_then(|view| view.servers()).is_ok_and(|servers| servers.is_empty());
    if is_empty && let Err(error) = std::fs::remove_file(catalog.path()) {
        tracing::debug!(%error, "cannot remove the empty catalog");
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
