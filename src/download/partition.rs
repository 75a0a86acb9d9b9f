//! The loop of one partition: records in, parts out, then compaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::executor::{Counted, DownloadExecutor};
use super::jobs::Jobs;
use super::part::{PartJob, PartQueue, on_disk};
use super::part_memory::Shelf;
use super::record::{Attempted, Job, Target, attempt};
use crate::catalog::CompactionReport;
use crate::dispatch::protocol::Claim;
use crate::dispatch::{ClaimEnding, ClaimHandle, ExecutorError};
use crate::fetch::Server;
use crate::model::{PartRow, RecordIndex, RecordState, ServerName};
use crate::storage::{CompactionInput, ErrorRow, compact_partition, finish_partition, sweep_parts};

/// Record tasks of a folder that many servers share: each server still has its own limits.
const SHARED_WINDOW: usize = 64;
/// Records that wait for a retry or a paused server, from which on no further ones are read: some 100 KB.
const MAX_WAITING: usize = 512;
/// A wait that is at least so long is worth a part of its own, and counts as parked.
const WORTH_PARKING: Duration = Duration::from_secs(10);
/// How often to look whether servers are paused: tasks that stand in line do not tell.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Takes a claimed partition as far as it goes: to `Finished`, or to a clean stop.
pub(super) async fn work_on_partition(
    executor: &Arc<DownloadExecutor>,
    claim: &Arc<Claim>,
    handle: &ClaimHandle,
) -> Result<ClaimEnding, ExecutorError> {
    if !claim.compacted {
        on_disk(&executor.writers, executor, claim, |executor, claim| {
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
        compact(executor, claim, handle, downloaded).await?;
    }
    on_disk(&executor.compactors, executor, claim, |executor, claim| {
        finish_partition(&executor.settings.layout, &claim.folder, claim.partition.partition_id)
    })
    .await?;
    handle.report_finished().await?;
    Ok(ClaimEnding::Finished)
}

/// Parts and failures of a partition whose records are all done.
struct Downloaded {
    parts: Vec<PartRow>,
    failed: HashSet<RecordIndex>,
}

async fn compact(
    executor: &Arc<DownloadExecutor>,
    claim: &Arc<Claim>,
    handle: &ClaimHandle,
    downloaded: Downloaded,
) -> Result<(), ExecutorError> {
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
    handle.report_compaction(report).await
}

/// A server that tasks of the partition are about.
struct Busy {
    /// Held, so that the server keeps its share.
    server: Arc<Server>,
    tasks: usize,
}

/// The records of a claim on their way.
struct Downloads<'a> {
    executor: &'a Arc<DownloadExecutor>,
    claim: &'a Arc<Claim>,
    handle: &'a ClaimHandle,
    /// Record tasks at most, without those that stand in line at a paused server.
    window: usize,
    pending: HashSet<RecordIndex>,
    failed: HashSet<RecordIndex>,
    jobs: Jobs,
    tasks: JoinSet<(Option<Arc<Target>>, Attempted)>,
    /// Servers of all tasks.
    servers: HashMap<ServerName, Busy>,
    /// Tasks that have no answer yet: in line for a permit, or asking.
    asking: Arc<AtomicU32>,
    /// Counts while all that is left waits for paused servers and retries.
    parked: Option<Counted>,
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
            false => 2 * executor.settings.fetch.max_connections_per_server + 8,
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
            servers: HashMap::new(),
            asking: Arc::default(),
            parked: None,
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
                    let (target, attempted) = done.map_err(|error| {
                        // A task takes its own panic for a failure, and none is aborted here.
                        ExecutorError::Partition(format!("a record's task ended: {error}"))
                    })?;
                    self.leave(target.as_deref());
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

    /// When to look again without an event: a retry is due, the part is old enough, the grace is over, or a
    /// server may have paused.
    fn next_wake(&self, stop_by: Option<Instant>) -> Instant {
        let look_at = Instant::now() + LOOK_INTERVAL;
        let seal_at = self.part_since.map(|since| since + self.executor.settings.download.part_seconds);
        // With the window full, a due retry waits for a task to end.
        let retry_at = self.jobs.next_due().filter(|_| stop_by.is_none() && self.room() > 0);
        [seal_at, retry_at, stop_by].into_iter().flatten().fold(look_at, Instant::min)
    }

    /// Tasks that may start. Those at a paused server are not counted: they may stand in line for an hour, and
    /// other servers are not to wait with them.
    fn room(&self) -> usize {
        let is_active = |busy: &&Busy| busy.server.snapshot().paused_until.is_none();
        let active: usize = self.servers.values().filter(is_active).map(|busy| busy.tasks).sum();
        self.window.saturating_sub(active)
    }

    /// Starts record tasks while there is room; what finds its server paused is put off until then.
    fn dispatch(&mut self) {
        let now = Instant::now();
        let mut room = self.room();
        let max_waiting = MAX_WAITING.max(2 * self.window);
        while room > 0 {
            let takes_new = self.tasks.len() + self.jobs.num_delayed() < max_waiting;
            let Some(job) = self.jobs.next(now, takes_new) else { return };
            let server = job.target.as_ref().map(|target| self.executor.fetcher.server(&target.server));
            match server.as_ref().and_then(|server| server.snapshot().paused_until) {
                Some(until) => self.jobs.delay(job, until),
                None => {
                    self.start(job, server);
                    room -= 1;
                }
            }
        }
    }

    fn start(&mut self, job: Job, server: Option<Arc<Server>>) {
        if let Some(server) = server {
            server.set_share(self.claim.share);
            let busy = self.servers.entry(server.name().clone()).or_insert_with(|| Busy { server, tasks: 0 });
            busy.tasks += 1;
        }
        let target = job.target.clone();
        let attempt = attempt(self.executor.clone(), job, Counted::new(&self.asking));
        self.tasks.spawn(async move { (target, attempt.await) });
    }

    /// A task has ended.
    fn leave(&mut self, target: Option<&Target>) {
        let Some(server) = target.map(|target| &target.server) else { return };
        if let Some(busy) = self.servers.get_mut(server) {
            busy.tasks -= 1;
            if busy.tasks == 0 {
                self.servers.remove(server);
            }
        }
    }

    /// When the first wait ends, if all that is left waits: for its time, or in line at a server that is paused
    /// and has no request under way.
    fn waits_until(&self) -> Option<Instant> {
        if self.jobs.is_reading() || self.asking.load(Ordering::Relaxed) as usize != self.tasks.len() {
            return None;
        }
        let mut first = self.jobs.next_due();
        for busy in self.servers.values() {
            let snapshot = busy.server.snapshot();
            let until = snapshot.paused_until.filter(|_| snapshot.under_way == 0)?;
            first = Some(first.map_or(until, |first| first.min(until)));
        }
        first
    }

    /// Notes whether the partition is parked. Its part is sealed when that begins: the wait may be long. False
    /// when the part writer has failed.
    async fn park(&mut self, waits_until: Option<Instant>, queue: &PartQueue) -> bool {
        match waits_until {
            None => self.parked = None,
            Some(until) if self.parked.is_none() && until >= Instant::now() + WORTH_PARKING => {
                self.parked = Some(Counted::new(&self.executor.parked));
                return self.seal(queue).await;
            }
            Some(_) => {}
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
