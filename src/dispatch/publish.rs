//! What rank 0 publishes while it runs: `status/status.json`, replaced atomically.
//!
//! For filesystems whose locks cannot be trusted to let readers into the catalog, and for anything that
//! watches a run from outside.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::protocol::RankProgress;
use crate::catalog::DispositionCounts;
use crate::model::RunId;

/// The state of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PublishedStatus {
    pub run_id: RunId,
    /// As `runs.kind`: `download`, or `tool` and its name.
    #[serde(default)]
    pub kind: String,
    /// Milliseconds since 1970.
    pub started_at: u64,
    pub updated_at: u64,
    /// `running`, `done`, `incomplete`, `stopped` or `failed`.
    pub state: String,
    /// What the catalog has committed, over the whole dataset.
    pub counts: DispositionCounts,
    /// Bytes of images committed in this run.
    pub image_bytes: u64,
    /// Outcomes committed in this run.
    pub committed: u64,
    /// What the ranks say they have done in this run, committed or not.
    pub progress: RankProgress,
    pub num_ranks: u32,
    pub lost_ranks: u32,
    pub unfinished_partitions: u64,
    /// Partitions that were unfinished when the run began.
    #[serde(default)]
    pub partitions: u64,
    /// Servers that will take longest at their present pace, longest first.
    pub slowest_servers: Vec<ServerProgress>,
    /// Servers that are left alone now, those that are longest first.
    #[serde(default)]
    pub paused_servers: Vec<PausedServer>,
}

impl PublishedStatus {
    /// Whether a server is among those of which it is known that they are left alone.
    #[must_use]
    pub fn is_paused(&self, server_name: &str) -> bool {
        self.paused_servers.iter().any(|paused| paused.server_name == server_name)
    }
}

/// A server that is sent nothing now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PausedServer {
    pub server_name: String,
    /// Milliseconds since 1970.
    pub until: u64,
    /// As in `errors.parquet`, or `byte budget`.
    pub cause: String,
    /// `None` where no answer led to it.
    pub http_status: Option<u16>,
}

/// How one server stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerProgress {
    pub server_name: String,
    pub pending: u64,
    /// Outcomes per second in this run.
    pub per_second: f64,
    /// Seconds that are left at this pace; `None` as long as nothing has come.
    pub seconds_left: Option<f64>,
}

/// File name in the status folder.
const STATUS_FILE: &str = "status.json";

/// Publishes on a thread that may block: a stalled filesystem must not stall rank 0.
pub(super) struct Publisher {
    folder: PathBuf,
    interval: Duration,
    last: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Publisher {
    pub(super) fn new(folder: PathBuf, interval: Duration) -> Self {
        Self { folder, interval, last: Instant::now(), writing: None }
    }

    /// Publishes, unless it is too early or the last one is still being written.
    pub(super) fn offer(&mut self, status: PublishedStatus) {
        if self.last.elapsed() >= self.interval && self.writing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.write(status);
        }
    }

    /// Publishes the last status.
    pub(super) async fn finish(mut self, status: PublishedStatus) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        self.write(status);
        if let Some(writing) = self.writing {
            let _ = writing.await;
        }
    }

    fn write(&mut self, status: PublishedStatus) {
        self.last = Instant::now();
        let folder = self.folder.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = publish(&folder, &status) {
                tracing::debug!(%error, "cannot publish the status");
            }
        }));
    }
}

/// Writes the status. Readers see the old one or the new one, whole.
///
/// It is not synced: it is worth nothing after a crash.
fn publish(folder: &Path, status: &PublishedStatus) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let temporary = folder.join(".status.json.tmp");
    std::fs::write(&temporary, serde_json::to_vec_pretty(status)?)?;
    std::fs::rename(temporary, folder.join(STATUS_FILE))
}

/// What was published last; `None` when nothing was, or it is not readable.
#[must_use]
pub fn read_published(folder: &Path) -> Option<PublishedStatus> {
    serde_json::from_slice(&std::fs::read(folder.join(STATUS_FILE)).ok()?).ok()
}
