//! `ddl retract`: images are taken down. Their bytes leave every file of the dataset, their records stay, as skipped
//! (`retracted`), so that no later ingest, retry or download brings them back.
//!
//! Partition by partition: what is left is written anew, then the catalog is committed, then the old files go. The same
//! commit forgets what tools have made of the partition, whose files go in the end. Killed at any moment, it leaves a
//! dataset that is sound, and any later retraction finishes what is left: which partitions, records and files these are,
//! the catalog knows.

mod partitions;
mod plan;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::ingest::now_ms;
use super::{Dataset, PipelineError};
use crate::catalog::DispositionCounts;
use crate::check::SearchReport;
use crate::model::{PartitionKey, RecordIndex, RunId, ServerName};

/// Which records are retracted: those for which all that is set here holds.
#[derive(Clone, Debug, Default)]
pub struct RetractSelection {
    /// Empty: any.
    pub uuids: Vec<String>,
    /// As in `identifier`. Empty: any.
    pub urls: Vec<String>,
    /// Empty: all. In a shared folder a server's own records only.
    pub servers: Vec<ServerName>,
    /// A condition over the table `urls`.
    pub where_sql: Option<String>,
    /// Also other records whose images have the same bytes, as downloaded.
    pub duplicates: bool,
}

/// A record for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordName {
    pub uuid: String,
    /// Without a user name or a password.
    pub url: String,
}

/// What a retraction would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RetractPlan {
    #[serde(skip)]
    records: BTreeMap<PartitionKey, Vec<RecordIndex>>,
    /// What they are now, those that are retracted already left out.
    pub counts: DispositionCounts,
    /// Chosen, and retracted already.
    pub already: u64,
    /// Partitions that they are in.
    pub partitions: u64,
    /// Length of the files with images that may have to be written again.
    pub file_bytes: u64,
    /// UUIDs and URLs that were named and are none of the dataset.
    pub missing: Vec<String>,
    /// Other records whose images have the same bytes. They are among the chosen ones if that was asked for.
    pub same_bytes: u64,
    /// The first of these.
    pub same_bytes_examples: Vec<RecordName>,
}

impl RetractPlan {
    /// Whether no record is chosen that is not retracted already.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.total() == 0
    }
}

/// A partition that could not be worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedPartition {
    pub server_name: ServerName,
    pub partition_id: u32,
    pub error: String,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct RetractReport {
    pub plan: RetractPlan,
    pub run_id: RunId,
    /// What was retracted, by what it was.
    pub retracted: DispositionCounts,
    /// Bytes of the images that are gone.
    pub image_bytes: u64,
    /// Partitions whose files were written again.
    pub partitions_rewritten: u64,
    pub failed_partitions: Vec<FailedPartition>,
    /// Tools that start again: what they have chosen, said or made may rest on images that are gone.
    pub tools_to_run: Vec<String>,
    /// Files below `tools/` that were written again, and the rows that these have lost. What the catalog names is not
    /// among them: it is made again.
    pub tool_files: Vec<PathBuf>,
    pub tool_rows: u64,
    /// All records of the dataset that are retracted: what the search was for.
    pub num_sought: u64,
    pub search: SearchReport,
    /// What else may hold images, and was not searched: exports in other forms, what queries have put aside, what is no
    /// Parquet file below `tools/`.
    pub not_searched: Vec<PathBuf>,
    /// What was retracted, a line each; `None` when nothing was.
    pub log: Option<PathBuf>,
}

impl RetractReport {
    /// Whether all that was chosen is gone from all files that could be searched.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.plan.missing.is_empty() && self.failed_partitions.is_empty() && self.search.is_proof()
    }
}

/// What a retraction would do, also beside a download.
///
/// # Errors
/// When the condition does not hold as SQL, or the catalog or a manifest file cannot be read.
pub fn plan_retraction(
    dataset: &Dataset,
    selection: &RetractSelection,
) -> Result<RetractPlan, PipelineError> {
    let reader = dataset.open_reader()?;
    plan::plan(dataset, selection, &|| reader.view())
}

/// Retracts what is chosen, if `agree` does. Then every file of the dataset is searched for what was ever retracted.
/// `None` when `agree` did not.
///
/// # Errors
/// As [`plan_retraction`]; when another process holds the catalog, or a file cannot be written. What is committed
/// stays; the same again does what is left. A partition whose files are damaged is told of in the report.
pub fn retract(
    dataset: &Dataset,
    selection: &RetractSelection,
    reason: Option<&str>,
    agree: impl FnOnce(&RetractPlan) -> bool,
) -> Result<Option<RetractReport>, PipelineError> {
    let catalog = dataset.open_writer()?;
    let plan = plan::plan(dataset, selection, &|| catalog.view())?;
    if !agree(&plan) {
        return Ok(None);
    }
    let mut run = dataset.run_row("retract", 1);
    run.run_id = catalog.start_run(run.clone())?;
    let report = work::work(dataset, &catalog, plan, run.run_id, reason)?;
    run.ended_at = Some(now_ms());
    run.ending = Some(if report.is_complete() { "done" } else { "incomplete" }.into());
    run.skipped = report.retracted.total();
    catalog.end_run(&run)?;
    Ok(Some(report))
}
