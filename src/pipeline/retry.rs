//! `ddl retry`: failed records are pending again, for the next download.
//!
//! Killed at any moment, it leaves a dataset that is sound, and the same command does what is left.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::ingest::now_ms;
use super::{Dataset, PipelineError};
use crate::catalog::{
    Catalog, CatalogError, CatalogView, PartitionRow, PartitionStage, RecordStatus, ServerRow, SetBack,
};
use crate::model::{Epoch, FailureCause, PartId, PartitionKey, RecordIndex, RecordState, RunId, ServerName};
use crate::storage::{final_files_as_part, read_error_facts, remove_final_files, remove_marker};

/// Partitions of one transaction.
const COMMIT_PARTITIONS: usize = 32;

/// Which failed records are tried again: those for which all that is set here holds.
#[derive(Clone, Debug, Default)]
pub struct RetrySelection {
    /// `error_code` as in `errors`: the HTTP status, -1 for the network, -2 for all else. Empty: any.
    pub codes: Vec<i32>,
    /// Empty: any.
    pub causes: Vec<FailureCause>,
    /// Empty: all. In a shared folder a server's own records only.
    pub servers: Vec<ServerName>,
    /// The failure is at least so long ago.
    pub older_than: Option<Duration>,
}

impl RetrySelection {
    fn takes(&self, status: &RecordStatus) -> bool {
        let RecordState::Failed(cause) = status.state else { return false };
        (self.codes.is_empty() || status.error_code().is_some_and(|code| self.codes.contains(&code)))
            && (self.causes.is_empty() || self.causes.contains(&cause))
    }
}

/// What was set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetryReport {
    pub records: u64,
    /// Partitions that these are in.
    pub partitions: u64,
    /// Those among them that were complete.
    pub reopened: u64,
}

/// Sets failed records back to pending.
///
/// # Errors
/// When another process holds the catalog, or a file of the dataset cannot be read. What is committed stays.
pub fn retry(dataset: &Dataset, selection: &RetrySelection) -> Result<RetryReport, PipelineError> {
    let catalog = dataset.open_writer()?;
    let mut run = dataset.run_row("retry", 1);
    run.run_id = catalog.start_run(run.clone())?;
    let retry = Retry {
        dataset,
        selection,
        catalog: &catalog,
        servers: catalog.view()?.servers()?.into_iter().map(|row| (row.id, row)).collect(),
        run_id: run.run_id,
        last_moment: selection.older_than.map(|age| {
            let moment = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
            moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
        }),
    };
    let report = retry.run()?;
    run.ended_at = Some(now_ms());
    run.ending = Some("done".into());
    catalog.end_run(&run)?;
    Ok(report)
}

struct Retry<'a> {
    dataset: &'a Dataset,
    selection: &'a RetrySelection,
    catalog: &'a Catalog,
    servers: HashMap<crate::model::ServerId, ServerRow>,
    run_id: RunId,
    /// Failures after this are left, in milliseconds since 1970.
    last_moment: Option<i64>,
}

/// A partition with records that are taken.
struct Found {
    key: PartitionKey,
    row: PartitionRow,
    records: Vec<RecordIndex>,
}

impl Retry<'_> {
    fn run(&self) -> Result<RetryReport, PipelineError> {
        let view = self.catalog.view()?;
        let mut partitions = Vec::new();
        view.for_each_partition(|key, row| {
            if row.counts.failed > 0 {
                partitions.push((key, row));
            }
        })?;
        let mut report = RetryReport::default();
        let mut batch = Vec::new();
        for (key, row) in partitions {
            let records = self.records(&view, key, &row)?;
            if !records.is_empty() {
                batch.push(Found { key, row, records });
            }
            if batch.len() == COMMIT_PARTITIONS {
                self.set_back(std::mem::take(&mut batch), &mut report)?;
            }
        }
        self.set_back(batch, &mut report)?;
        Ok(report)
    }

    fn server(&self, key: PartitionKey) -> Result<&ServerRow, PipelineError> {
        let missing = || CatalogError::Inconsistent(format!("{key:?} has no server"));
        Ok(self.servers.get(&key.server_id).ok_or_else(missing)?)
    }

    /// The records of a partition that are taken.
    fn records(
        &self,
        view: &CatalogView,
        key: PartitionKey,
        row: &PartitionRow,
    ) -> Result<Vec<RecordIndex>, PipelineError> {
        let server = self.server(key)?;
        let by_server = !self.selection.servers.is_empty();
        if by_server && !server.shared && !self.selection.servers.contains(&server.folder) {
            return Ok(Vec::new());
        }
        let states = view.states(key)?;
        let mut records: Vec<_> = (0..states.len() as RecordIndex)
            .filter(|&record| self.selection.takes(&states[record as usize]))
            .collect();
        if records.is_empty() || self.last_moment.is_none() && !(by_server && server.shared) {
            return Ok(records);
        }
        // The rest is in the files only; every failure has a row, the last of several counts.
        let mut taken = HashSet::new();
        for path in self.error_files(&server.folder, key, row) {
            for facts in read_error_facts(&path)? {
                let is_old =
                    self.last_moment.is_none_or(|last| facts.fetched_at.is_none_or(|time| time <= last));
                let name = facts.shared_server_name;
                let is_of_server = !by_server
                    || !server.shared
                    || name.is_some_and(|name| self.selection.servers.iter().any(|s| s.as_str() == name));
                if is_old && is_of_server {
                    taken.insert(facts.record);
                } else {
                    taken.remove(&facts.record);
                }
            }
        }
        records.retain(|record| taken.contains(record));
        Ok(records)
    }

    /// In the order of their commits.
    fn error_files(
        &self,
        folder: &ServerName,
        key: PartitionKey,
        row: &PartitionRow,
    ) -> Vec<std::path::PathBuf> {
        let layout = &self.dataset.layout;
        if row.stage != PartitionStage::Open {
            return vec![layout.errors(folder, key.partition_id)];
        }
        let parts = row.parts.iter().filter(|part| part.errors.num_rows > 0);
        parts.map(|part| layout.error_part(folder, key.partition_id, part.part)).collect()
    }

    /// Data first, commit second, deletes last.
    fn set_back(&self, batch: Vec<Found>, report: &mut RetryReport) -> Result<(), PipelineError> {
        if batch.is_empty() {
            return Ok(());
        }
        let layout = &self.dataset.layout;
        let complete = |found: &&Found| found.row.stage != PartitionStage::Open;
        let keys: Vec<_> = batch.iter().filter(complete).map(|found| found.key).collect();
        if !keys.is_empty() {
            self.catalog.unfinish(&keys)?;
        }
        let mut to_commit = Vec::new();
        for found in &batch {
            let folder = &self.server(found.key)?.folder;
            let id = found.key.partition_id;
            let part = if complete(&found) {
                remove_marker(layout, folder, id)?;
                let part = PartId { epoch: Epoch::new(self.run_id, 0), sequence: 0 };
                let (successes, errors) = (found.row.successes, found.row.errors);
                Some(final_files_as_part(layout, folder, id, part, successes, errors)?)
            } else {
                None
            };
            to_commit.push(SetBack { partition: found.key, records: found.records.clone(), part });
        }
        self.catalog.set_back(&to_commit)?;
        for found in batch.iter().filter(complete) {
            remove_final_files(layout, &self.server(found.key)?.folder, found.key.partition_id)?;
        }
        report.partitions += batch.len() as u64;
        report.reopened += keys.len() as u64;
        report.records += batch.iter().map(|found| found.records.len() as u64).sum::<u64>();
        Ok(())
    }
}
