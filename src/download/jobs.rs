//! The records of a claim that are still to be tried: read from the manifest a slice ahead, or put off.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::executor::DownloadExecutor;
use super::part::on_disk;
use super::record::Job;
use crate::dispatch::ExecutorError;
use crate::dispatch::protocol::Claim;
use crate::model::RecordIndex;
use crate::storage::{ManifestReader, ManifestRecord};

/// Records read from the manifest at a time: some 100 KB. The next are read when half of them are left.
const MANIFEST_SLICE: usize = 256;

/// A job that waits for its time; the earliest first.
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

type Slice = (ManifestReader, Option<Vec<ManifestRecord>>);

pub(super) struct Jobs {
    executor: Arc<DownloadExecutor>,
    claim: Arc<Claim>,
    /// None while a slice is being read, and after the last.
    reader: Option<ManifestReader>,
    /// The slice that is being read: a task of its own, so that it has its turn on the disk whatever the
    /// partition's loop is about.
    reading: JoinSet<Result<Slice, ExecutorError>>,
    upcoming: VecDeque<Job>,
    delayed: BinaryHeap<Delayed>,
}

impl Jobs {
    /// The records of the claim's manifest, or none.
    pub fn new(executor: Arc<DownloadExecutor>, claim: Arc<Claim>, has_pending: bool) -> Self {
        let folder = executor.settings.layout.manifest_folder(&claim.folder, claim.partition.partition_id);
        let files = claim.manifest_files.iter().map(|name| folder.join(name)).collect();
        Self {
            reader: has_pending.then(|| ManifestReader::new(files, MANIFEST_SLICE)),
            executor,
            claim,
            reading: JoinSet::new(),
            upcoming: VecDeque::new(),
            delayed: BinaryHeap::new(),
        }
    }

    /// The next job that may start now: a delayed one that is due, else one from the manifest if `takes_new`.
    pub fn next(&mut self, now: Instant, takes_new: bool) -> Option<Job> {
        if self.next_due().is_some_and(|at| at <= now) {
            return self.delayed.pop().map(|delayed| delayed.1);
        }
        if !takes_new {
            return None;
        }
        let job = self.upcoming.pop_front();
        if self.upcoming.len() <= MANIFEST_SLICE / 2
            && let Some(mut reader) = self.reader.take()
        {
            let (executor, claim) = (self.executor.clone(), self.claim.clone());
            self.reading.spawn(async move {
                on_disk(&executor.writers, &executor, &claim, move |_, _| {
                    let slice = reader.next_batch()?;
                    Ok((reader, slice))
                })
                .await
            });
        }
        job
    }

    /// Waits for the slice that is being read and keeps what is pending of it; `None` when none is being read.
    /// Cancel safe.
    pub async fn read(&mut self, pending: &HashSet<RecordIndex>) -> Option<Result<(), ExecutorError>> {
        let read = self.reading.join_next().await?;
        let read = read.unwrap_or_else(|panic| Err(ExecutorError::Partition(panic.to_string())));
        Some(read.map(|(reader, slice)| {
            let Some(slice) = slice else { return };
            self.reader = Some(reader);
            let renditions = &self.executor.settings.renditions;
            let pending = slice.into_iter().filter(|record| pending.contains(&record.record));
            self.upcoming.extend(pending.map(|record| Job::new(record, renditions)));
        }))
    }

    pub fn delay(&mut self, job: Job, until: Instant) {
        self.delayed.push(Delayed(Reverse(until), job));
    }

    /// When the first of the delayed jobs is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.peek().map(|delayed| delayed.0.0)
    }

    pub fn num_delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Whether records are being read.
    pub fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// Whether all jobs were handed out, and none came back.
    pub fn is_empty(&self) -> bool {
        self.upcoming.is_empty()
            && self.delayed.is_empty()
            && self.reading.is_empty()
            && self.reader.is_none()
    }
}
