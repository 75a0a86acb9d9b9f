//! Taking results back: files first, then each report in one commit with the end of its lease.
//!
//! ```text
//! files of a part (synced, renamed) -> report committed, lease settled -> compaction -> Compacted -> Finished
//! ```
//! From the commit on a partition is one whose records are all done, as after any download: an import that was killed is
//! finished by the next one, or by `ddl download`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use serde::Serialize;

use super::UnitError;
use super::result_file::{ResultFile, entry_name, ledger_entry};
use super::unit_file::UnitClaim;
use crate::catalog::{
    Catalog, CatalogError, CompactionReport, Lease, PartReport, PartitionStage, Report, ServerFact, Settled,
};
use crate::model::{DataFile, PartitionKey, RecordIndex, RecordState, ServerId, ServerName};
use crate::storage::{
    AtomicFile, CompactionInput, DatasetLayout, StorageError, StorageOptions, compact_partition,
    finish_partition, ledger_file, receive_part_file, remove_if_there,
};

/// What an import has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Committed now.
    pub partitions: u64,
    /// Committed by an earlier import.
    pub known: u64,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub image_bytes: u64,
    /// Partitions that were not taken, with the reason.
    pub refused: Vec<(String, String)>,
}

impl ImportReport {
    fn count(&mut self, report: &PartReport) {
        self.partitions += 1;
        self.image_bytes += report.image_bytes;
        for outcome in &report.outcomes {
            match RecordState::from_byte(outcome.state) {
                Some(RecordState::Success) => self.success += 1,
                Some(RecordState::Failed(_)) => self.failed += 1,
                _ => self.skipped += 1,
            }
        }
    }
}

/// Commits the result of a unit. `now`, in milliseconds since 1970, is not to be after its lease; `late` takes also what
/// comes after it, where nobody else has taken the partition.
///
/// # Errors
/// `NotAResult` when the file is damaged; or when the catalog or the disk fails. What is committed stays.
pub fn import_result(
    catalog: &Catalog,
    layout: &DatasetLayout,
    options: StorageOptions,
    path: &Path,
    now: u64,
    late: bool,
) -> Result<ImportReport, UnitError> {
    let result = ResultFile::open(path)?;
    let view = catalog.view()?;
    let unit = u128::from_str_radix(&result.header.unit, 16)
        .map_err(|_| result.damaged("its unit has no number"))?;
    let folders: HashMap<ServerId, ServerName> =
        view.servers()?.into_iter().map(|server| (server.id, server.folder)).collect();
    let leases: HashMap<PartitionKey, Lease> =
        view.leases()?.into_iter().filter(|(_, lease)| lease.unit == unit).collect();
    let algorithm = result.header.hash_algorithm.as_deref();
    if let (Some(settled), Some(found)) = (view.hash_algorithm()?, algorithm)
        && settled.as_str() != found
    {
        let settled = settled.as_str();
        return Err(result.damaged(format!("its digests are {found}, those of this dataset {settled}")));
    }
    drop(view);
    let mut import =
        Import { catalog, layout, options, unit, now: (!late).then_some(now), leases, folders, result };
    let report = import.run()?;
    if !import.leases.is_empty() {
        import.take_ledgers()?;
        import.remember_pauses(now)?;
        import.count_for_run(&report)?;
    }
    Ok(report)
}

struct Import<'a> {
    catalog: &'a Catalog,
    layout: &'a DatasetLayout,
    options: StorageOptions,
    unit: u128,
    /// `None`: the end of the lease does not matter.
    now: Option<u64>,
    /// Those of the unit.
    leases: HashMap<PartitionKey, Lease>,
    folders: HashMap<ServerId, ServerName>,
    result: ResultFile,
}

impl Import<'_> {
    fn run(&mut self) -> Result<ImportReport, UnitError> {
        let mut imported = ImportReport::default();
        for claim in self.result.header.claims.clone() {
            let name = format!("server_name={}/partition_id={}", claim.server_name, claim.partition_id);
            if self.folders.get(&ServerId(claim.server_id)) != Some(&claim.folder()) {
                imported.refused.push((name, "this dataset has no such partition".into()));
                continue;
            }
            let report = self.result.report(&claim)?;
            if self.may_be_taken(&claim) {
                self.place(&claim, &report)?;
            }
            match self.catalog.commit_leased(self.unit, &report, self.now)? {
                Ok(Settled::Now) => imported.count(&report),
                Ok(Settled::Before) => imported.known += 1,
                Err(refusal) => {
                    self.remove_files(&claim, &report)?;
                    imported.refused.push((name, refusal.reason.into()));
                    continue;
                }
            }
            self.complete(&claim)?;
        }
        Ok(imported)
    }

    /// Whether its files are worth being written: the commit has the last word.
    fn may_be_taken(&self, claim: &UnitClaim) -> bool {
        let lease = self.leases.get(&claim.partition());
        lease.is_some_and(|lease| {
            lease.epoch == claim.epoch && !lease.is_settled && self.now.is_none_or(|now| lease.holds(now))
        })
    }

    /// Writes the files of the report's part.
    fn place(&mut self, claim: &UnitClaim, report: &PartReport) -> Result<(), UnitError> {
        let (folder, id, part) = (claim.folder(), claim.partition_id, report.part.part);
        let is_success = |state: u8| state == RecordState::Success.to_byte();
        let records = |success: bool| -> Vec<RecordIndex> {
            let those = report.outcomes.iter().filter(|outcome| is_success(outcome.state) == success);
            those.map(|outcome| outcome.record).collect()
        };
        let mut take = |stated: DataFile, name: &str, path: &Path, check: &dyn Fn(&[RecordIndex]) -> bool| {
            if stated.num_rows == 0 {
                return if check(&[]) {
                    Ok(())
                } else {
                    Err(self.result.damaged(format!("it has no {name}")))
                };
            }
            self.result.with_entry(&entry_name(claim, name), |bytes| {
                receive_part_file(path, part, stated, check, bytes)
            })
        };
        let successes = records(true);
        let failures: HashSet<_> = records(false).into_iter().collect();
        take(
            report.part.successes,
            "successes.parquet",
            &self.layout.success_part(&folder, id, part),
            &|found| found == successes,
        )?;
        take(report.part.errors, "errors.parquet", &self.layout.error_part(&folder, id, part), &|found| {
            found.len() == failures.len() && found.iter().all(|record| failures.contains(record))
        })
    }

    fn remove_files(&self, claim: &UnitClaim, report: &PartReport) -> Result<(), UnitError> {
        let (folder, id, part) = (claim.folder(), claim.partition_id, report.part.part);
        remove_if_there(&self.layout.success_part(&folder, id, part))?;
        Ok(remove_if_there(&self.layout.error_part(&folder, id, part))?)
    }

    /// Takes a partition on to `Finished`, if none of its records is pending.
    fn complete(&self, claim: &UnitClaim) -> Result<(), UnitError> {
        let (key, folder, id) = (claim.partition(), claim.folder(), claim.partition_id);
        let view = self.catalog.view()?;
        let missing = || CatalogError::Inconsistent(format!("there is no {key:?}"));
        let row = view.partition(key)?.ok_or_else(missing)?;
        if row.stage == PartitionStage::Finished || row.counts.pending > 0 {
            return Ok(());
        }
        if row.stage == PartitionStage::Open {
            let is_failure = |state| !matches!(state, RecordState::Success | RecordState::Pending);
            let states = (0..).zip(view.states(key)?);
            let failed =
                states.filter(|(_, status)| is_failure(status.state)).map(|(record, _)| record).collect();
            let output = compact_partition(&CompactionInput {
                layout: self.layout,
                folder: &folder,
                partition_id: id,
                parts: &row.parts,
                failed: &failed,
                epoch: claim.epoch,
                options: self.options,
            })?;
            self.commit(Report::Compacted(CompactionReport {
                partition: key,
                epoch: claim.epoch,
                parts: row.parts.iter().map(|part| part.part).collect(),
                successes: output.successes,
                errors: output.errors,
            }))?;
        }
        finish_partition(self.layout, &folder, id)?;
        self.commit(Report::Finished(key))
    }

    fn commit(&self, report: Report) -> Result<(), UnitError> {
        for answer in self.catalog.commit_reports(&[report])? {
            // Nobody else writes this catalog.
            answer.map_err(|refusal| CatalogError::Inconsistent(refusal.to_string()))?;
        }
        Ok(())
    }

    /// The unit's requests count like those of any rank of its run.
    fn take_ledgers(&mut self) -> Result<(), UnitError> {
        let run = self.result.header.run;
        for rank in self.result.header.ledgers.clone() {
            let path = ledger_file(&self.layout.ledger(), run, rank);
            if path.exists() {
                continue;
            }
            self.result.with_entry(&ledger_entry(run, rank), |bytes| {
                let io_error = |source| StorageError::Io { action: "write", path: path.clone(), source };
                let file = AtomicFile::create(&path, "unit")?;
                io::copy(bytes, &mut file.handle()?).map_err(io_error)?;
                file.commit().map(drop)
            })?;
        }
        Ok(())
    }

    /// A pause that a server has asked a unit for holds for all.
    fn remember_pauses(&self, now: u64) -> Result<(), UnitError> {
        let view = self.catalog.view()?;
        let mut pauses = Vec::new();
        for (server, fact) in self.result.header.facts.iter().filter_map(|fact| fact.read()) {
            let ServerFact::Embargo { until, .. } = fact else { continue };
            let known = view.server_facts(&server, now)?;
            let is_known = |fact: &ServerFact| matches!(fact, ServerFact::Embargo { until: known, .. } if *known >= until);
            if until > now && !known.iter().any(is_known) {
                pauses.push((server, fact));
            }
        }
        if pauses.is_empty() { Ok(()) } else { Ok(self.catalog.remember(&pauses)?) }
    }

    /// What the unit has done counts for the run of its export.
    fn count_for_run(&self, report: &ImportReport) -> Result<(), UnitError> {
        let runs = self.catalog.view()?.runs()?;
        if report.partitions == 0 {
            return Ok(());
        }
        if let Some(mut run) = runs.into_iter().find(|run| run.run_id == self.result.header.run) {
            run.success += report.success;
            run.failed += report.failed;
            run.skipped += report.skipped;
            run.image_bytes += report.image_bytes;
            run.ended_at = self.now.or(run.ended_at);
            self.catalog.end_run(&run)?;
        }
        Ok(())
    }
}
