//! Reports of workers, and the rules by which they are committed or refused.
//!
//! | report | partition is | then |
//! |---|---|---|
//! | part | `Open`, every record pending | states, digests and files are committed |
//! | part | the same part already named | accepted again, nothing changes (a lost acknowledgement) |
//! | part | otherwise | refused: a successor has done this work |
//! | compaction | `Open`, nothing pending, the same parts | `Compacted`, parts forgotten |
//! | compaction | already `Compacted` or `Finished` | accepted again, nothing changes |
//! | compaction | otherwise | refused |
//! | finish | `Compacted` | `Finished` |
//!
//! Whether the reporter still holds its lease is the coordinator's question, asked before; these rules hold
//! whatever it answered.

use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::encoding::{self, PackedStates, RecordStatus};
use super::rows::DispositionCounts;
use super::tools::commit_piece;
use super::{Catalog, CatalogError, PartitionRow, PartitionStage, ToolReport, tables};
use crate::model::{
    ContentDigest, DataFile, Disposition, Epoch, PartId, PartRow, PartitionKey, RecordIndex, RecordState,
};

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordOutcome {
    pub record: RecordIndex,
    /// [`RecordState::to_byte`].
    pub state: u8,
    pub http_status: u16,
    pub retry_count: u8,
}

/// A sealed part: its files are closed, synced and renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    pub partition: PartitionKey,
    pub part: PartRow,
    /// Every record of the part, successes in the order of the file of successes.
    pub outcomes: Vec<RecordOutcome>,
    /// `hashsum_original` of the successes, in file order, `digest_bytes` each.
    pub digests: Vec<u8>,
    pub digest_bytes: u8,
    /// Sum of the stored images' bytes.
    pub image_bytes: u64,
}

/// `successes.parquet` and `errors.parquet` stand, made from these parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionReport {
    pub partition: PartitionKey,
    pub epoch: Epoch,
    pub parts: Vec<PartId>,
    pub successes: DataFile,
    pub errors: DataFile,
}

/// Why a report was not committed. The reporter drops the partition; its files are swept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("report on {partition:?} refused: {reason}")]
pub struct Refusal {
    pub partition: PartitionKey,
    pub reason: &'static str,
}

/// What a worker may report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Part(PartReport),
    Compacted(CompactionReport),
    /// The `completed` marker stands and the parts are gone.
    Finished(PartitionKey),
    /// A tool has gone through the partition.
    Tool(ToolReport),
}

impl Catalog {
    /// Commits many reports at once, in order. Each gets its own answer; the refused change nothing.
    ///
    /// # Errors
    /// When the storage fails: then none is committed.
    pub fn commit_reports(&self, reports: &[Report]) -> Result<Vec<Result<(), Refusal>>, CatalogError> {
        let txn = self.begin()?;
        #[cfg(test)]
        self.panic_if_told_to();
        let answers = reports
            .iter()
            .map(|report| match report {
                Report::Part(part) => commit_part(&txn, part),
                Report::Compacted(compaction) => commit_compaction(&txn, compaction),
                Report::Finished(partition) => commit_finish(&txn, *partition),
                Report::Tool(report) => commit_piece(&txn, report),
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.commit(txn)?;
        Ok(answers)
    }
}

fn commit_compaction(
    txn: &redb::WriteTransaction,
    report: &CompactionReport,
) -> Result<Result<(), Refusal>, CatalogError> {
    change_partition(txn, report.partition, |row| {
        if row.stage != PartitionStage::Open {
            return Ok(());
        }
        if row.counts.pending > 0 {
            return Err("records are still pending");
        }
        if !row.parts.iter().map(|part| part.part).eq(report.parts.iter().copied()) {
            return Err("it was made from other parts");
        }
        if report.successes.num_rows != row.counts.success {
            return Err("its rows are not the partition's successes");
        }
        row.stage = PartitionStage::Compacted;
        row.parts.clear();
        row.successes = report.successes;
        row.errors = report.errors;
        row.epoch = Some(report.epoch);
        Ok(())
    })
}

fn commit_finish(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
) -> Result<Result<(), Refusal>, CatalogError> {
    change_partition(txn, partition, |row| match row.stage {
        PartitionStage::Open => Err("it is not compacted"),
        PartitionStage::Compacted | PartitionStage::Finished => {
            row.stage = PartitionStage::Finished;
            Ok(())
        }
    })
}

fn change_partition(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
    change: impl FnOnce(&mut PartitionRow) -> Result<(), &'static str>,
) -> Result<Result<(), Refusal>, CatalogError> {
    let mut row = read_partition(txn, partition)?;
    if let Err(reason) = change(&mut row) {
        return Ok(Err(Refusal { partition, reason }));
    }
    write_partition(txn, partition, &row)?;
    Ok(Ok(()))
}

pub(super) fn commit_part(
    txn: &redb::WriteTransaction,
    report: &PartReport,
) -> Result<Result<(), Refusal>, CatalogError> {
    let partition = report.partition;
    let refuse = |reason| Ok(Err(Refusal { partition, reason }));
    let mut row = read_partition(txn, partition)?;
    if row.parts.iter().any(|known| known.part == report.part.part) {
        return Ok(Ok(()));
    }
    if row.stage != PartitionStage::Open {
        return refuse("the partition is complete");
    }
    let key = (partition.server_id.0, partition.partition_id);
    let mut states = read_states(txn, partition)?;
    let mut successes = Vec::new();
    for outcome in &report.outcomes {
        let Some(status) = states.get_mut(outcome.record as usize) else {
            return refuse("it names a record that the partition does not have");
        };
        if status.state != RecordState::Pending {
            return refuse("it holds a record that is no longer pending");
        }
        *status = match RecordState::from_byte(outcome.state) {
            Some(state @ (RecordState::Success | RecordState::Skipped(_))) => RecordStatus::new(state),
            Some(state @ RecordState::Failed(_)) => {
                RecordStatus { state, http_status: outcome.http_status, retry_count: outcome.retry_count }
            }
            Some(RecordState::Pending) | None => return refuse("it holds a record without an outcome"),
        };
        if status.state == RecordState::Success {
            successes.push(outcome.record);
        }
    }
    let digest_bytes = usize::from(report.digest_bytes);
    if report.digests.len() != successes.len() * digest_bytes
        || report.part.successes.num_rows != successes.len() as u64
        || (digest_bytes == 0 && !successes.is_empty())
        || digest_bytes > 32
    {
        return refuse("its counts disagree");
    }

    row.counts = DispositionCounts::of(states.iter().map(|status| status.state));
    row.parts.push(report.part);
    row.image_bytes += report.image_bytes;
    row.epoch = Some(report.part.part.epoch);
    write_partition(txn, partition, &row)?;
    write_states(txn, partition, &states)?;
    if !successes.is_empty() {
        let rows: Vec<_> = successes
            .into_iter()
            .zip(report.digests.chunks_exact(digest_bytes).map(ContentDigest::from_bytes))
            .collect();
        let mut table = txn.open_table(tables::DIGESTS)?;
        let PartId { epoch, sequence } = report.part.part;
        for (chunk, rows) in rows.chunks(encoding::digests_per_chunk(digest_bytes)).enumerate() {
            table.insert(
                (key.0, key.1, epoch.0, sequence, chunk as u32),
                encoding::encode_digests(rows).as_slice(),
            )?;
        }
    }
    debug_assert_eq!(
        row.counts.get(Disposition::Success),
        row.parts.iter().map(|part| part.successes.num_rows).sum::<u64>()
    );
    Ok(Ok(()))
}

pub(super) fn read_partition(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
) -> Result<PartitionRow, CatalogError> {
    let table = txn.open_table(tables::PARTITIONS)?;
    let value = table
        .get((partition.server_id.0, partition.partition_id))?
        .ok_or_else(|| CatalogError::inconsistent(format!("there is no {partition:?}")))?;
    encoding::decode(value.value(), "partition")
}

/// The states of all records of a partition.
pub(super) fn read_states(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
) -> Result<Vec<RecordStatus>, CatalogError> {
    let table = txn.open_table(tables::STATES)?;
    let value = table
        .get((partition.server_id.0, partition.partition_id))?
        .ok_or_else(|| CatalogError::inconsistent(format!("{partition:?} has no states")))?;
    encoding::decode::<PackedStates>(value.value(), "states")?.unpack()
}

pub(super) fn write_states(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
    states: &[RecordStatus],
) -> Result<(), CatalogError> {
    let key = (partition.server_id.0, partition.partition_id);
    txn.open_table(tables::STATES)?.insert(key, encoding::encode(&PackedStates::pack(states)).as_slice())?;
    Ok(())
}

pub(super) fn write_partition(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
    row: &PartitionRow,
) -> Result<(), CatalogError> {
    txn.open_table(tables::PARTITIONS)?
        .insert((partition.server_id.0, partition.partition_id), encoding::encode(row).as_slice())?;
    Ok(())
}
