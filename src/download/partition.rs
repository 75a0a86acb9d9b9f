//! The loop of one partition: records in, parts out, then compaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::executor::{Counted, DownloadExecutor};
use super::jobs::Jobs;
use super::part::{PartJob, PartQueue, on_disk};
use super::part_memory::Shelf;
use super::record::{Attempted, Job, attempt};
use crate::catalog::CompactionReport;
use crate::dispatch::protocol::Claim;
use crate::dispatch::{ClaimEnding, ClaimHandle, ExecutorError};
use crate::fetch::Server;
use crate::model::{PartRow, RecordIndex, RecordState, ServerName};
use crate::storage::{CompactionInput, ErrorRow, compact_partition, finish_partition, sweep_parts};

/// Record tasks of a folder that many servers share: each server still has its own limits.
const SHARED_WINDOW: usize = 64;
/// Bodies of a partition that may wait for the CPU while its server's connections are all in use. Its threads have
/// a queue of their own: more would only take memory.
const WAIT_FOR_PIXELS: usize = 4;
/// Records that wait for a retry or a paused server, from which on no further ones are read: some 100 KB.
const MAX_WAITING: usize = 512;
/// A wait that is at least so long is worth a part of its own, and counts as parked.
const WORTH_PARKING: Duration = Duration::from_secs(10);
/// A record whose server has its share of the window is looked at again after so long.
const CROWDED_OUT: Duration = Duration::from_secs(1);
/// The loop looks again after so long, whatever happens.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Takes a claimed partition as far as it goes: to `Finished`, or to a clean stop.
pub(super) async fn work_on_partition(
    executor: &Arc<DownloadExecutor>,
    claim: &Arc<Claim>,
    handle: &ClaimHandle,
) -> Result<ClaimEnding, ExecutorError> {
    let started = Instant::now();
    let mut rows = None;
    if !claim.compacted {
        on_disk(&executor.writers, executor, claim, |executor, claim| {
            let layout = &executor.settings.layout;
            let partition_id = claim.partition.partition_id;
            let swept = sweep_parts(layout, &claim.folder, partition_id, &claim.parts, claim.epoch)?;
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
    on_disk(&executor.compactors, executor, claim, |executor, claim| {
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
    claim: &Arc<Claim>,
    handle: &ClaimHandle,
    downloaded: Downloaded,
) -> Result<(u64, u64), ExecutorError> {
    let report = on_disk(&executor.compactors, executor, claim, move |executor, claim| {
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

/// The records of a claim on their way.
struct Downloads<'a> {
    executor: &'a Arc<DownloadExecutor>,
    claim: &'a Arc<Claim>,
    handle: &'a ClaimHandle,
    /// Record tasks at most.
    window: usize,
    pending: HashSet<RecordIndex>,
    failed: HashSet<RecordIndex>,
    jobs: Jobs,
    tasks: JoinSet<(Option<ServerName>, Attempted)>,
    /// How many of them are about each server.
    tasks_of: HashMap<ServerName, (Arc<Server>, usize)>,
    /// Counts while all that is left waits for paused servers and retries, or all tasks for servers that other ranks
    /// have.
    parked: Option<Counted>,
    /// When a task has begun or ended last.
    progress_at: Instant,
    /// Images that wait for their row group.
    shelf: Shelf,
    /// The part that is being filled: images and their bytes, the shelf's included; its errors; its first
    /// outcome.
    part_images: u32,
    part_bytes: u64,
    errors: Vec<(ErrorRow, RecordState)>,
    part_since: Option<Instant>,
}

impl<'a> Downloads<'a> {
    fn new(executor: &'a Arc<DownloadExecutor>, claim: &'a Arc<Claim>, handle: &'a ClaimHandle) -> Self {
        let mut pending = HashSet::new();
        let mut failed = HashSet::new();
        for (record, state) in claim.records() {
            match state {
                RecordState::Pending => drop(pending.insert(record)),
                RecordState::Failed(_) | RecordState::Skipped(_) => drop(failed.insert(record)),
                RecordState::Success => {}
            }
        }
        let window = match claim.shared {
            true => SHARED_WINDOW,
            false => executor.fetcher.max_connections(&claim.folder) + WAIT_FOR_PIXELS,
        };
        Self {
            executor,
            claim,
            handle,
            window,
            jobs: Jobs::new(executor.clone(), claim.clone(), !pending.is_empty()),
            pending,
            failed,
            tasks: JoinSet::new(),
            tasks_of: HashMap::new(),
            parked: None,
            progress_at: Instant::now(),
            shelf: executor.part_memory.shelf(),
            part_images: 0,
            part_bytes: 0,
            errors: Vec::new(),
            part_since: None,
        }
    }

    /// Downloads until nothing is pending, or until asked to stop: then `None`.
    async fn run(mut self) -> Result<Option<Downloaded>, ExecutorError> {
        let queue = PartQueue::start(self.executor.clone(), self.claim.clone(), self.handle.clone());
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
                self.dispatch();
            }
            let waits_until = self.waits_until();
            if stop_by.is_some() && (self.tasks.is_empty() || waits_until.is_some()) {
                return Ok(true);
            }
            if self.tasks.is_empty() && self.jobs.is_empty() {
                return Ok(false);
            }
            if !self.park(waits_until, queue).await {
                return Ok(false);
            }
            let wake = self.next_wake(stop_by);
            tokio::select! {
                Some(done) = self.tasks.join_next() => {
                    let (server, attempted) = done.map_err(|error| {
                        // A task takes its own panic for a failure, and none is aborted here.
                        ExecutorError::Partition(format!("a record's task ended: {error}"))
                    })?;
                    self.leave(server.as_ref());
                    self.progress_at = Instant::now();
                    if !self.take_in(attempted, queue).await {
                        return Ok(false);
                    }
                }
                Some(read) = self.jobs.read(&self.pending) => read?,
                () = self.shelf.asked() => if !self.flush(queue).await {
                    return Ok(false);
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if stop_by.is_some_and(|by| Instant::now() >= by) {
                        return Ok(true);
                    }
                }
                _ = self.handle.stop.wait(), if stop_by.is_none() => {
                    stop_by = Some(Instant::now() + self.executor.settings.download.stop_grace);
                    self.executor.fetcher.close();
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

    /// When to look again without an event: a retry is due, the part is old enough, or the grace is over.
    fn next_wake(&self, stop_by: Option<Instant>) -> Instant {
        let seal_at = self.part_since.map(|since| since + self.executor.settings.download.part_seconds);
        // With the window full, a due retry waits for a task to end.
        let retry_at = self.jobs.next_due().filter(|_| stop_by.is_none() && self.tasks.len() < self.window);
        // That nothing happens is no event.
        let parked_at =
            (!self.tasks.is_empty() && self.parked.is_none()).then(|| Instant::now() + WORTH_PARKING);
        let far = Instant::now() + LONGEST_WAIT;
        [seal_at, retry_at, stop_by, parked_at].into_iter().flatten().fold(far, Instant::min)
    }

    /// Starts record tasks while there is room; what cannot be asked for now is put off.
    fn dispatch(&mut self) {
        let now = Instant::now();
        let max_waiting = MAX_WAITING.max(2 * self.window);
        while self.tasks.len() < self.window {
            let takes_new = self.tasks.len() + self.jobs.num_delayed() < max_waiting;
            let Some(job) = self.jobs.next(now, takes_new) else { return };
            let server = job.target.as_ref().map(|target| self.executor.fetcher.server(&target.server));
            match server.as_ref().and_then(|server| self.puts_off(server, now)) {
                Some(until) => self.jobs.delay(job, until),
                None => self.start(job, server),
            }
        }
    }

    /// Until when a record of this server is to wait outside the window.
    fn puts_off(&self, server: &Server, now: Instant) -> Option<Instant> {
        match server.pause() {
            // What is given up is not waited for: what is asked of it fails at once.
            Some(pause) if pause.given_up => None,
            Some(pause) => Some(pause.until),
            // In a shared folder nobody may fill the window: a server that is mute holds its place for long.
            None if self.claim.shared => {
                let tasks = self.tasks_of.get(server.name()).map_or(0, |(_, tasks)| *tasks);
                (tasks >= 2 * server.max_connections()).then_some(now + CROWDED_OUT)
            }
            None => None,
        }
    }

    fn start(&mut self, job: Job, server: Option<Arc<Server>>) {
        let name = server.as_ref().map(|server| server.name().clone());
        if let Some(server) = &server {
            let entry = self.tasks_of.entry(server.name().clone());
            entry.or_insert_with(|| (server.clone(), 0)).1 += 1;
        }
        if self.tasks.is_empty() {
            self.progress_at = Instant::now();
        }
        let attempt = attempt(self.executor.clone(), job);
        self.tasks.spawn(async move { (name, attempt.await) });
    }

    /// A task has ended.
    fn leave(&mut self, server: Option<&ServerName>) {
        let Some(server) = server else { return };
        if let Some((_, tasks)) = self.tasks_of.get_mut(server) {
            *tasks -= 1;
            if *tasks == 0 {
                self.tasks_of.remove(server);
            }
        }
    }

    /// When the first wait ends, if all that is left waits for its time.
    fn waits_until(&self) -> Option<Instant> {
        self.jobs.next_due().filter(|_| self.tasks.is_empty() && !self.jobs.is_reading())
    }

    /// Whether nothing has come of any task for long: the servers are silent or slow, or other ranks have them.
    fn is_stuck(&self) -> bool {
        !self.tasks.is_empty() && self.progress_at.elapsed() >= WORTH_PARKING
    }

    /// Notes whether the partition is parked. Where the end of the wait is known its part is sealed when that begins:
    /// it may be long. False when the part writer has failed.
    async fn park(&mut self, waits_until: Option<Instant>, queue: &PartQueue) -> bool {
        let waits_long = waits_until.is_some_and(|until| until >= Instant::now() + WORTH_PARKING);
        if waits_until.is_none() && !self.is_stuck() {
            self.parked = None;
        } else if self.parked.is_none() && (waits_long || waits_until.is_none()) {
            self.parked = Some(Counted::new(&self.executor.parked));
            return !waits_long || self.seal(queue).await;
        }
        true
    }

    /// Takes in what an attempt came to. False when the part writer has failed.
    async fn take_in(&mut self, attempted: Attempted, queue: &PartQueue) -> bool {
        match attempted {
            Attempted::Later(job, at) => {
                self.jobs.delay(job, at);
                return true;
            }
            Attempted::Image(row, permit) => {
                self.pending.remove(&row.record.record);
                self.part_bytes += row.image.len() as u64;
                self.part_images += 1;
                self.shelf.put(*row, permit);
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
        if self.shelf.bytes() >= options.row_group_bytes {
            return self.flush(queue).await;
        }
        true
    }

    async fn flush(&mut self, queue: &PartQueue) -> bool {
        match self.shelf.take() {
            Some(group) => queue.push(PartJob::Rows(group)).await,
            None => true,
        }
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
