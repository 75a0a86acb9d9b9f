//! What all partitions of a rank share, and the door through which claims come in.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::DownloadOptions;
use super::Renditions;
use super::part_memory::PartMemory;
use super::partition::work_on_partition;
use crate::dispatch::protocol::{Claim, RankProgress};
use crate::dispatch::{ClaimEnding, ClaimHandle, Executor, ExecutorError};
use crate::fetch::{FetchOptions, Fetcher, Landlord, RequestLog, ServerRules};
use crate::imaging::ImagingOptions;
use crate::model::{Embargo, ImageEncoding, Loan, ServerKnowledge, ServerName};
use crate::runtime::{CpuPool, MemoryBudget, available_cores, max_open_files};
use crate::storage::{DatasetLayout, StorageOptions};

/// Row groups and files written, and manifests read, at once: enough to keep a disk busy, few enough to bound
/// copies in memory.
const MAX_WRITERS: usize = 4;
/// Partitions made complete at once. Each copies up to some GB, so that they have turns of their own.
const MAX_COMPACTORS: usize = 2;

/// Everything a rank needs to know to download.
#[derive(Clone, Debug)]
pub struct DownloadSettings {
    pub layout: DatasetLayout,
    pub fetch: FetchOptions,
    pub imaging: ImagingOptions,
    pub download: DownloadOptions,
    pub max_open_partitions: u32,
    /// What is set for single servers.
    pub rules: ServerRules,
    /// Servers whose pending records are skipped.
    pub ignored: HashSet<ServerName>,
    pub num_ranks: u32,
    /// Which smaller renditions of images suffice.
    pub renditions: Renditions,
    /// Who lends this process its part of each server's limits; without one it has all of them.
    pub landlord: Option<Arc<dyn Landlord>>,
    /// Is told of every request.
    pub request_log: Option<Arc<dyn RequestLog>>,
}

/// Downloads partitions.
pub struct DownloadExecutor {
    pub(super) settings: DownloadSettings,
    pub(super) fetcher: Fetcher,
    pub(super) cpu: CpuPool,
    pub(super) body_memory: MemoryBudget,
    pub(super) decode_memory: MemoryBudget,
    pub(super) part_memory: Arc<PartMemory>,
    pub(super) writers: Arc<Semaphore>,
    pub(super) compactors: Arc<Semaphore>,
    pub(super) counters: Counters,
    open_partitions: Arc<AtomicU32>,
    pub(super) parked: Arc<AtomicU32>,
}

/// What the rank has done; only grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub success: AtomicU64,
    pub failed: AtomicU64,
    pub skipped: AtomicU64,
    pub requests: AtomicU64,
    pub received_bytes: AtomicU64,
}

/// Counts one more as long as it lives, however that ends.
pub(super) struct Counted(Arc<AtomicU32>);

impl Counted {
    pub fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DownloadExecutor {
    /// # Errors
    /// One line for people, when an option or the certificate file cannot be used.
    pub fn new(settings: DownloadSettings) -> Result<Arc<Self>, String> {
        let mut fetcher =
            Fetcher::new(settings.fetch.clone(), settings.rules.clone()).map_err(|e| e.to_string())?;
        fetcher = fetcher.with_num_ranks(settings.num_ranks).with_ignored(settings.ignored.clone());
        if let Some(log) = &settings.request_log {
            fetcher = fetcher.with_request_log(log.clone());
        }
        if let Some(landlord) = &settings.landlord {
            fetcher = fetcher.with_landlord(landlord.clone());
        }
        let options = &settings.download;
        let threads = match options.cpu_threads {
            0 => available_cores(),
            threads => threads,
        };
        let cpu = CpuPool::new(threads, 2 * threads).map_err(|error| error.to_string())?;
        let max_body = settings.fetch.max_body_bytes;
        // A decode may need several bytes for each of the most pixels that an image may have.
        let max_decode = settings.imaging.max_image_pixels.saturating_mul(16).max(options.decode_memory);
        Ok(Arc::new(Self {
            // Twice: a body and, for a moment, its decoded form (Content-Encoding).
            body_memory: MemoryBudget::new(
                options.body_memory,
                max_body.saturating_mul(2).saturating_add(1 << 20),
            ),
            decode_memory: MemoryBudget::new(options.decode_memory, max_decode),
            part_memory: Arc::new(PartMemory::new(options.part_memory, max_body.max(max_decode))),
            writers: Arc::new(Semaphore::new(MAX_WRITERS)),
            compactors: Arc::new(Semaphore::new(MAX_COMPACTORS)),
            counters: Counters::default(),
            open_partitions: Arc::default(),
            parked: Arc::default(),
            fetcher,
            cpu,
            settings,
        }))
    }

    pub(super) fn storage_options(&self) -> StorageOptions {
        StorageOptions {
            hash_algorithm: self.settings.imaging.hash_algorithm,
            raw_pixels: self.settings.imaging.image_encoding == ImageEncoding::Raw,
        }
    }
}

impl Executor for DownloadExecutor {
    fn run(
        self: Arc<Self>,
        claim: Claim,
        handle: ClaimHandle,
    ) -> BoxFuture<'static, Result<ClaimEnding, ExecutorError>> {
        Box::pin(async move {
            let _open = Counted::new(&self.open_partitions);
            work_on_partition(&self, &Arc::new(claim), &handle).await
        })
    }

    fn progress(&self) -> RankProgress {
        let counters = &self.counters;
        RankProgress {
            success: counters.success.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            skipped: counters.skipped.load(Ordering::Relaxed),
            received_bytes: counters.received_bytes.load(Ordering::Relaxed),
            requests: counters.requests.load(Ordering::Relaxed),
            in_flight: u32::try_from(self.fetcher.under_way()).unwrap_or(u32::MAX),
            open_partitions: self.open_partitions.load(Ordering::Relaxed),
        }
    }

    fn max_open_partitions(&self) -> u32 {
        // Each has a file or two open; connections need as many again, and more.
        let files = u32::try_from(max_open_files() / 8).unwrap_or(u32::MAX);
        self.settings.max_open_partitions.min(files.max(1))
    }

    fn num_parked(&self) -> u32 {
        self.parked.load(Ordering::Relaxed)
    }

    fn lend(&self, server: &ServerName, loan: Loan, knowledge: Option<ServerKnowledge>) {
        self.fetcher.lend(server, loan, knowledge);
    }

    fn embargo(&self, server: &ServerName, embargo: Embargo) {
        self.fetcher.embargo(server, embargo);
    }

    fn leave(&self) {
        self.fetcher.leave();
    }
}
