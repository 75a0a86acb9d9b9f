//! `ddl check`: whether catalog and files agree, also while a download runs.

use super::{Dataset, PipelineError};
use crate::catalog::CatalogReader;
use crate::check::{CheckOptions, CheckProgress, CheckReport, RepairReport, check_dataset, repair_dataset};

/// Compares the dataset's files with its catalog.
///
/// # Errors
/// When the catalog cannot be read, or a folder cannot be listed.
pub fn check(
    dataset: &Dataset,
    options: CheckOptions,
    progress: &dyn Fn(CheckProgress),
) -> Result<CheckReport, PipelineError> {
    let reader = dataset.open_reader()?;
    let writers_before = num_writers(&reader)?;
    let holder_before = dataset.in_use_by()?;
    let mut report = check_dataset(&dataset.layout, &|| reader.view(), options, progress)?;
    let holder = dataset.in_use_by()?.or(holder_before).map(|holder| holder.to_string());
    // One that came and went meanwhile has left a row.
    let passed =
        (num_writers(&reader)? != writers_before).then(|| "a process that has ended since".to_owned());
    if let Some(writer) = holder.or(passed) {
        report.set_in_use_by(writer);
    }
    Ok(report)
}

/// Removes orphans and writes missing markers; `discard_newer` also where the catalog is older than the files.
///
/// # Errors
/// When another process holds the catalog, or as [`repair_dataset`].
pub fn repair(dataset: &Dataset, discard_newer: bool) -> Result<RepairReport, PipelineError> {
    Ok(repair_dataset(&dataset.layout, &dataset.open_writer()?, discard_newer)?)
}

/// Runs and ingests so far.
fn num_writers(reader: &CatalogReader) -> Result<usize, PipelineError> {
    let view = reader.view()?;
    Ok(view.runs()?.len() + view.ingests()?.len())
}
