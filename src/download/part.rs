//! The writer of a partition's parts: rows in, sealed and committed parts out, one job at a time.
//!
//! It runs beside the downloads of its partition, so that neither disk nor commit ever stops them; its
//! queue of one job is what holds them back when the disk cannot keep up.

use std::io::ErrorKind;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::executor::DownloadExecutor;
use super::part_memory::RowGroup;
use crate::catalog::{PartReport, RecordOutcome};
use crate::dispatch::protocol::Claim;
use crate::dispatch::{ClaimHandle, ExecutorError};
use crate::model::{DataFile, PartId, PartRow, RecordState};
use crate::storage::{ErrorRow, PartWriter, StorageError, write_error_part};

pub(super) enum PartJob {
    /// Append these rows as a row group.
    Rows(RowGroup),
    /// Close the part with these errors, report it, wait for the commit.
    Seal(Vec<(ErrorRow, RecordState)>),
}

/// The queue of a partition's part writer and its end.
pub(super) struct PartQueue {
    jobs: mpsc::Sender<PartJob>,
    /// A set of one: dropped with a revoked claim, it stops.
    writer: JoinSet<Result<Vec<PartRow>, ExecutorError>>,
}

impl PartQueue {
    pub(super) fn start(executor: Arc<DownloadExecutor>, claim: Arc<Claim>, handle: ClaimHandle) -> Self {
        let (jobs, queue) = mpsc::channel(1);
        let mut writer = JoinSet::new();
        writer.spawn(write_parts(executor, claim, handle, queue));
        Self { jobs, writer }
    }

    /// Hands over a job; waits while another waits already. False when the writer has failed:
    /// [`PartQueue::close`] then says why.
    pub(super) async fn push(&self, job: PartJob) -> bool {
        self.jobs.send(job).await.is_ok()
    }

    /// Waits for all jobs. Returns the parts that were committed.
    pub(super) async fn close(mut self) -> Result<Vec<PartRow>, ExecutorError> {
        drop(self.jobs);
        let written = self.writer.join_next().await.expect("there is one writer");
        written.unwrap_or_else(|panic| Err(ExecutorError::Fatal(panic.to_string())))
    }
}

/// A part that is being written.
#[derive(Default)]
struct OpenPart {
    writer: Option<PartWriter>,
    outcomes: Vec<RecordOutcome>,
    digests: Vec<u8>,
    digest_bytes: u8,
    image_bytes: u64,
}

async fn write_parts(
    executor: Arc<DownloadExecutor>,
    claim: Arc<Claim>,
    handle: ClaimHandle,
    mut queue: mpsc::Receiver<PartJob>,
) -> Result<Vec<PartRow>, ExecutorError> {
    let mut committed = Vec::new();
    let mut open = OpenPart::default();
    let mut sequence = 0;
    while let Some(job) = queue.recv().await {
        let part = PartId { epoch: claim.epoch, sequence };
        match job {
            PartJob::Rows(rows) => {
                open = on_disk(&executor.writers, &executor, &claim, move |executor, claim| {
                    write_rows(executor, claim, part, open, rows)
                })
                .await?;
            }
            PartJob::Seal(errors) => {
                let full = std::mem::take(&mut open);
                let report = on_disk(&executor.writers, &executor, &claim, move |executor, claim| {
                    seal(executor, claim, part, full, &errors)
                })
                .await?;
                let row = report.part;
                handle.report_part(report).await?;
                tracing::debug!(
                    folder = %claim.folder,
                    partition_id = claim.partition.partition_id,
                    %part,
                    images = row.successes.num_rows,
                    failures = row.errors.num_rows,
                    "part committed"
                );
                committed.push(row);
                sequence += 1;
            }
        }
    }
    Ok(committed)
}

/// Runs disk work on a blocking thread, as many at a time over the whole rank as there are turns.
pub(super) async fn on_disk<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    executor: &Arc<DownloadExecutor>,
    claim: &Arc<Claim>,
    work: impl FnOnce(&DownloadExecutor, &Claim) -> Result<T, StorageError> + Send + 'static,
) -> Result<T, ExecutorError> {
    let turn = turns.clone().acquire_owned().await;
    let (executor, claim) = (executor.clone(), claim.clone());
    // The turn goes with the work: who waits here may be dropped, the work goes on.
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&executor, &claim)
    })
    .await
    .map_err(|panic| ExecutorError::Fatal(panic.to_string()))?
    .map_err(what_it_ends)
}

/// What a failure on disk ends: the claim, the partition or the rank's work.
fn what_it_ends(error: StorageError) -> ExecutorError {
    match &error {
        // Writing fails for every partition alike; reading what others wrote fails for this one.
        StorageError::Io { action: "open" | "read" | "read folder", .. }
        | StorageError::Parquet { .. }
        | StorageError::Unexpected { .. } => ExecutorError::Partition(error.to_string()),
        // A file that this claim has just made can only have been swept, by a successor.
        StorageError::Io { source, .. }
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle) =>
        {
            ExecutorError::FilesGone(error.to_string())
        }
        _ => ExecutorError::Fatal(error.to_string()),
    }
}

fn write_rows(
    executor: &DownloadExecutor,
    claim: &Claim,
    part: PartId,
    mut open: OpenPart,
    mut group: RowGroup,
) -> Result<OpenPart, StorageError> {
    let writer = match &mut open.writer {
        Some(writer) => writer,
        empty => {
            let layout = &executor.settings.layout;
            let path = layout.success_part(&claim.folder, claim.partition.partition_id, part);
            empty.insert(PartWriter::create(&path, executor.storage_options())?)
        }
    };
    writer.write_row_group(&mut group.rows)?;
    for row in &group.rows {
        let digest = row.hashsum_original.as_bytes();
        open.digest_bytes = digest.len() as u8;
        open.digests.extend_from_slice(digest);
        open.image_bytes += row.image.len() as u64;
        open.outcomes.push(RecordOutcome {
            record: row.record.record,
            state: RecordState::Success.to_byte(),
            http_status: 0,
            retry_count: 0,
        });
    }
    Ok(open)
}

fn seal(
    executor: &DownloadExecutor,
    claim: &Claim,
    part: PartId,
    open: OpenPart,
    errors: &[(ErrorRow, RecordState)],
) -> Result<PartReport, StorageError> {
    let layout = &executor.settings.layout;
    let successes = open.writer.map(PartWriter::seal).transpose()?.unwrap_or_default();
    let error_file = if errors.is_empty() {
        DataFile::default()
    } else {
        let path = layout.error_part(&claim.folder, claim.partition.partition_id, part);
        let rows: Vec<ErrorRow> = errors.iter().map(|(row, _)| row.clone()).collect();
        write_error_part(&path, &rows, executor.storage_options())?
    };
    let mut outcomes = open.outcomes;
    outcomes.extend(errors.iter().map(|(row, state)| RecordOutcome {
        record: row.record.record,
        state: state.to_byte(),
        http_status: row.http_status.unwrap_or(0),
        retry_count: row.retry_count,
    }));
    Ok(PartReport {
        partition: claim.partition,
        part: PartRow { part, successes, errors: error_file },
        outcomes,
        digests: open.digests,
        digest_bytes: open.digest_bytes,
        image_bytes: open.image_bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn vanished_files_cost_the_claim_and_a_full_disk_the_run() {
        let failure = |action, number| {
            let path = "successes-1-2-0.parquet.tmp-part".into();
            what_it_ends(StorageError::Io { action, path, source: io::Error::from_raw_os_error(number) })
        };
        assert!(matches!(failure("rename", libc::ENOENT), ExecutorError::FilesGone(_)));
        assert!(matches!(failure("write", libc::ESTALE), ExecutorError::FilesGone(_)));
        assert!(matches!(failure("open", libc::ENOENT), ExecutorError::Partition(_)), "others wrote it");
        assert!(matches!(failure("read", libc::EIO), ExecutorError::Partition(_)), "a bad sector of a part");
        assert!(matches!(failure("sync", libc::ENOSPC), ExecutorError::Fatal(_)));
        assert!(matches!(failure("create", libc::EACCES), ExecutorError::Fatal(_)));
    }
}
