//! `ddl ingest`: lists into the catalog and the manifest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, Runtime};

use super::ranks::{warn_before, watch_job_end};
use super::{Dataset, PipelineError};
use crate::catalog::{Catalog, IngestRow};
use crate::config;
use crate::ingest::{IngestError, IngestOptions, IngestProgress, IngestReport, Inspection};
use crate::runtime::{Shutdown, install_signals};

/// Keys that name files or folders which must be there: what is missing is told with the place that names it.
const PATHS: &[&str] = &[
    "path_to_input",
    "excluded_servers_path",
    "bounding_box_information_path",
    "ingest_parameters.temp_folder",
];

/// Reads the lists that the configuration names. Signals and the job's end ask `shutdown` to stop.
///
/// # Errors
/// When there is no input, a list cannot be read, or another process holds the catalog;
/// [`IngestError::Stopped`](crate::ingest::IngestError::Stopped) when `shutdown` ended it early.
pub fn ingest(
    dataset: &Dataset,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<IngestReport, PipelineError> {
    let options: IngestOptions =
        dataset.resolved.section(&["ingest_parameters", "downloader_parameters", ""], &[])?;
    let inputs = dataset.settings.inputs()?;
    dataset.resolved.require_paths(PATHS)?;
    let _listening = listen(shutdown, warn_before(dataset)?)?;
    let is_new = !dataset.layout.catalog().exists();
    let catalog = dataset.create()?;
    let mut row = IngestRow {
        started_at: now_ms(),
        inputs: inputs.iter().map(|path| path.display().to_string()).collect(),
        configuration: config::to_yaml(&dataset.resolved),
        ..IngestRow::default()
    };
    let report = match crate::ingest::ingest(inputs, &options, &dataset.layout, &catalog, shutdown, progress)
    {
        Ok(report) => report,
        Err(error) => {
            if is_new && !matches!(error, IngestError::Stopped) {
                remove_if_empty(&catalog);
            }
            return Err(error.into());
        }
    };
    if report.records_known > 0 {
        for key in columns_named_late(dataset, &catalog)? {
            tracing::warn!(
                "`{key}` differs from the last ingest, but {} records of this list were in the dataset before and \
                 keep what they have; a new dataset (`--dataset DIR`) takes it for all",
                report.records_known
            );
        }
    }
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

/// Reads the lists that the configuration names and says what is in them, without a dataset.
///
/// # Errors
/// As [`ingest`], as far as it reads.
pub fn inspect(
    dataset: &Dataset,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Inspection, PipelineError> {
    let options: IngestOptions =
        dataset.resolved.section(&["ingest_parameters", "downloader_parameters", ""], &[])?;
    let inputs = dataset.settings.inputs()?;
    dataset.resolved.require_paths(PATHS)?;
    let _listening = listen(shutdown, warn_before(dataset)?)?;
    Ok(crate::ingest::inspect(inputs, &options, &dataset.layout, shutdown, progress)?)
}

/// Keys that say of a record what a later ingest does not add.
const OF_RECORDS: &[&str] =
    &["columns.id", "columns.label", "columns.license", "columns.source", "columns.title", "columns.uuid"];

/// Columns that are named now, and were not so in the last ingest.
fn columns_named_late(dataset: &Dataset, catalog: &Catalog) -> Result<Vec<&'static str>, PipelineError> {
    let ingests = catalog.view()?.ingests()?;
    // Those of earlier versions have no configuration.
    let last = ingests.last().and_then(|row| config::parse("the last ingest", &row.configuration).ok());
    let Some(last) = last else { return Ok(Vec::new()) };
    let is_late = |key: &&str| {
        let is_named = dataset.resolved.origin(key).is_some_and(|origin| *origin != config::Origin::Default);
        is_named && dataset.resolved.get(key) != last.get(key)
    };
    Ok(OF_RECORDS.iter().copied().filter(is_late).collect())
}

/// Listens on a thread of its own, for as long as the value lives.
fn listen(shutdown: &Shutdown, warn_before: Duration) -> Result<Runtime, PipelineError> {
    let io = |action: &str| {
        let action = action.to_owned();
        move |source| PipelineError::Io { action, source }
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("signals")
        .enable_all()
        .build()
        .map_err(io("start the runtime"))?;
    let within = runtime.enter();
    install_signals(shutdown).map_err(io("listen for signals"))?;
    watch_job_end(shutdown, warn_before);
    drop(within);
    Ok(runtime)
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
