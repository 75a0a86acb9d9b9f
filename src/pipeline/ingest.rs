//! `ddl ingest`: lists into the catalog and the manifest.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Dataset, PipelineError};
use crate::catalog::IngestRow;
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
    let catalog = dataset.create()?;
    let mut row = IngestRow {
        started_at: now_ms(),
        inputs: inputs.iter().map(|path| path.display().to_string()).collect(),
        ..IngestRow::default()
    };
    let report = crate::ingest::ingest(inputs, &options, &paths, &catalog, progress)?;
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

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
