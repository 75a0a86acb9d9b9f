//! The loop of one partition: records in, parts out, then compaction.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::executor::DownloadExecutor;
use super::part::{PartJob, PartQueue, on_disk};
use super::record::{Attempted, Job, attempt};
use crate::catalog::CompactionReport;
use crate::dispatch::protocol::Claim;
use crate::dispatch::{ClaimEnding, ClaimHandle, ExecutorError};
use crate::fetch::Attempts;
use crate::model::{PartRow, RecordIndex, RecordState};
use crate::storage::{
    CompactionInput, ErrorRow, ImageRow, ManifestReader, compact_partition, finish_partition, sweep_parts,
};

/// Records read from the manifest at a time: some 100 KB.
const MANIFEST_SLICE: usize = 512;
/// Record tasks of a folder that many servers share: each server still has its own limits.
const SHARED_WINDOW: usize = 64;
/// Row bytes beyond the image, roughly.
const ROW_OVERHEAD: u64 = 1024;

/// Takes a claimed partition as far as it goes: to `Finished`, or to a clean stop.
pub(super) async fn work_on_partition(
    executor: &Arc<DownloadExecutor>,
    claim: &Claim,
    handle: &ClaimHandle,
) -> Result<ClaimEnding, ExecutorError> {
    let started = Instant::now();
    let mut rows = None;
    if !claim.compacted {
        on_disk(executor, claim, |executor, claim| {
            let layout = &executor.settings.layout;
            let swept = sweep_parts(layout, &claim.folder, claim.partition.partition_id, &claim.parts)?;
            if !swept.is_empty() {
                tracing::debug!(folder = %claim.folder, files = swept.len(), "removed files that no commit names");
            }
            Ok(())
        })
        .await?;
        let Some(downloaded) = Downloads::new(executor, claim, handle).run().await? else {
            return Ok(ClaimEnding::Released);
        };
        rows = Some(compact(executor, claim, handle, downloaded).await?);
    }
    on_disk(executor, claim, |executor, claim| {
        finish_partition(&executor.settings.layout, &claim.folder, claim.partition.partition_id)
    })
    .await?;
    handle.report_finished().await?;
    let (images, failures) = rows.unzip();
    let seconds = started.elapsed().as_secs();
    tracing::info!(folder = %claim.folder, partition_id = claim.partition.partition_id, images, failures, seconds, "partition finished");
    Ok(ClaimEnding::Finished)
}

/// Parts and failures of a partition whose records are all done.
struct Downloaded {
    parts: Vec<PartRow>,
    failed: HashSet<RecordIndex>,
}

/// Returns the numbers of images and of failures.
async fn compact(
    executor: &Arc<DownloadExecutor>,
    claim: &Claim,
    handle: &ClaimHandle,
    downloaded: Downloaded,
) -> Result<(u64, u64), ExecutorError> {
    let report = on_disk(executor, claim, move |executor, claim| {
        let output = compact_partition(&CompactionInput {
            layout: &executor.settings.layout,
            folder: &claim.folder,
            partition_id: claim.partition.partition_id,
            parts: &downloaded.parts,
            failed: &downloaded.failed,
            epoch: claim.epoch,
            options: executor.storage_options(),
        })?;
        Ok(CompactionReport {
            partition: claim.partition,
            epoch: claim.epoch,
            parts: downloaded.parts.iter().map(|part| part.part).collect(),
            successes: output.successes,
            errors: output.errors,
        })
    })
    .await?;
    let rows = (report.successes.num_rows, report.errors.num_rows);
    handle.report_compaction(report).await?;
    Ok(rows)
}

/// A retry that waits for its time; the earliest first.
struct Delayed(Reverse<Instant>, Job);

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Delayed {}
impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// The records of a claim on their way.
struct Downloads<'a> {
    executor: &'a Arc<DownloadExecutor>,
    claim: &'a Claim,
    handle: &'a ClaimHandle,
    /// Record tasks at most.
    window: usize,
    pending: HashSet<RecordIndex>,
    failed: HashSet<RecordIndex>,
    reader: Option<ManifestReader>,
    upcoming: VecDeque<Job>,
    delayed: BinaryHeap<Delayed>,
    tasks: JoinSet<Attempted>,
    /// Rows that wait for their row group.
    rows: Vec<ImageRow>,
    row_bytes: u64,
    /// The part that is being filled: images and their bytes, rows included; its errors; its first outcome.
    part_images: u32,
    part_bytes: u64,
    errors: Vec<(ErrorRow, RecordState)>,
    part_since: Option<Instant>,
}

impl<'a> Downloads<'a> {
    fn new(executor: &'a Arc<DownloadExecutor>, claim: &'a Claim, handle: &'a ClaimHandle) -> Self {
        let mut pending = HashSet::new();
        let mut failed = HashSet::new();
        for (record, state) in claim.records() {
            match state {
                RecordState::Pending => drop(pending.insert(record)),
                RecordState::Failed(_) | RecordState::Skipped(_) => drop(failed.insert(record)),
                RecordState::Success => {}
            }
        }
        let settings = &executor.settings;
        let window =
            if claim.shared { SHARED_WINDOW } else { 2 * settings.fetch.max_connections_per_server + 8 };
        let folder = settings.layout.manifest_folder(&claim.folder, claim.partition.partition_id);
        let files = claim.manifest_files.iter().map(|name| folder.join(name)).collect();
        Self {
            executor,
            claim,
            handle,
            window,
            reader: (!pending.is_empty()).then(|| ManifestReader::new(files, MANIFEST_SLICE)),
            pending,
            failed,
            upcoming: VecDeque::new(),
            delayed: BinaryHeap::new(),
            tasks: JoinSet::new(),
            rows: Vec::new(),
            row_bytes: 0,
            part_images: 0,
            part_bytes: 0,
            errors: Vec::new(),
            part_since: None,
        }
    }

    /// Downloads until nothing is pending, or until asked to stop: then `None`.
    async fn run(mut self) -> Result<Option<Downloaded>, ExecutorError> {
        let queue = PartQueue::start(self.executor.clone(), self.claim, self.handle.clone());
        let stopped = self.download(&queue).await;
        let written = match &stopped {
            Ok(_) => self.seal(&queue).await,
            Err(_) => true,
        };
        // Aborts what is still under way: those records stay pending.
        self.tasks.shutdown().await;
        let committed = queue.close().await?;
        let stopped = stopped?;
        debug_assert!(written, "a writer that refuses jobs has failed");
        if stopped {
            return Ok(None);
        }
        if !self.pending.is_empty() {
            return Err(ExecutorError::Partition(format!(
                "the manifest lacks {} records that the catalog has",
                self.pending.len()
            )));
        }
        let mut parts = self.claim.parts.clone();
        parts.extend(committed);
        Ok(Some(Downloaded { parts, failed: self.failed }))
    }

    /// The loop. True when it was asked to stop. Ends early, too, when the part writer has failed.
    async fn download(&mut self, queue: &PartQueue) -> Result<bool, ExecutorError> {
        let mut stop_by: Option<Instant> = None;
        loop {
            if stop_by.is_none() {
                self.dispatch().await?;
            }
            if self.tasks.is_empty() && (stop_by.is_some() || self.delayed.is_empty()) {
                return Ok(stop_by.is_some());
            }
            let wake = self.next_wake(stop_by);
            tokio::select! {
                Some(done) = self.tasks.join_next() => match done {
                    Ok(attempted) => if !self.take_in(attempted, queue).await {
                        return Ok(false);
                    },
                    Err(panic) => return Err(ExecutorError::Fatal(format!("a record's task failed: {panic}"))),
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if stop_by.is_some_and(|by| Instant::now() >= by) {
                        return Ok(true);
                    }
                }
                _ = self.handle.stop.wait(), if stop_by.is_none() => {
                    stop_by = Some(Instant::now() + self.executor.settings.download.stop_grace);
                }
            }
            let options = &self.executor.settings.download;
            if self.part_since.is_some_and(|since| since.elapsed() >= options.part_seconds)
                && !self.seal(queue).await
            {
                return Ok(false);
            }
        }
    }

    /// When to look again without an event: a retry is due, the part is old enough, the grace is over.
    fn next_wake(&self, stop_by: Option<Instant>) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let seal_at = self.part_since.map(|since| since + self.executor.settings.download.part_seconds);
        let retry_at = match stop_by {
            // With the window full, a due retry waits for a task to end.
            None if self.tasks.len() < self.window => self.delayed.peek().map(|delayed| delayed.0.0),
            _ => None,
        };
        [seal_at, retry_at, stop_by].into_iter().flatten().min().unwrap_or(far)
    }

    /// Starts record tasks while there is room: due retries first, then records in order.
    async fn dispatch(&mut self) -> Result<(), ExecutorError> {
        while self.tasks.len() < self.window {
            let due = self.delayed.peek().is_some_and(|delayed| delayed.0.0 <= Instant::now());
            let job = if due { self.delayed.pop().map(|delayed| delayed.1) } else { self.next_job().await? };
            let Some(job) = job else { return Ok(()) };
            self.tasks.spawn(attempt(self.executor.clone(), job, self.claim.share));
        }
        Ok(())
    }

    /// The next pending record of the manifest.
    async fn next_job(&mut self) -> Result<Option<Job>, ExecutorError> {
        while self.upcoming.is_empty() {
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            let (reader, slice) = on_disk(self.executor, self.claim, move |_, _| {
                let slice = reader.next_batch()?;
                Ok((reader, slice))
            })
            .await?;
            let Some(slice) = slice else { return Ok(None) };
            self.reader = Some(reader);
            self.upcoming.extend(
                slice
                    .into_iter()
                    .filter(|record| self.pending.contains(&record.record))
                    .map(|record| Job { record: Arc::new(record), attempts: Attempts::default() }),
            );
        }
        Ok(self.upcoming.pop_front())
    }

    /// Takes in what an attempt came to. False when the part writer has failed.
    async fn take_in(&mut self, attempted: Attempted, queue: &PartQueue) -> bool {
        match attempted {
            Attempted::Later(job, at) => {
                self.delayed.push(Delayed(Reverse(at), job));
                return true;
            }
            Attempted::Image(row) => {
                self.pending.remove(&row.record.record);
                self.row_bytes += row.image.len() as u64 + ROW_OVERHEAD;
                self.part_bytes += row.image.len() as u64;
                self.part_images += 1;
                self.rows.push(*row);
            }
            Attempted::Error(row, state) => {
                self.pending.remove(&row.record.record);
                self.failed.insert(row.record.record);
                self.errors.push((*row, state));
            }
        }
        self.part_since.get_or_insert_with(Instant::now);
        let options = &self.executor.settings.download;
        if self.part_images + self.errors.len() as u32 >= options.part_images
            || self.part_bytes >= options.part_bytes
        {
            return self.seal(queue).await;
        }
        if self.row_bytes >= self.executor.row_group_bytes() {
            return self.flush(queue).await;
        }
        true
    }

    async fn flush(&mut self, queue: &PartQueue) -> bool {
        self.row_bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        rows.is_empty() || queue.push(PartJob::Rows(rows)).await
    }

    async fn seal(&mut self, queue: &PartQueue) -> bool {
        if self.part_since.take().is_none() {
            return true;
        }
        self.part_images = 0;
        self.part_bytes = 0;
        let errors = std::mem::take(&mut self.errors);
        self.flush(queue).await && queue.push(PartJob::Seal(errors)).await
    }
}
