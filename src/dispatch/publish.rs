//! What rank 0 publishes while it runs: `status/status.json`, replaced atomically.
//!
//! For filesystems whose locks cannot be trusted to let readers into the catalog, and for anything that
//! watches a run from outside.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::protocol::RankProgress;
use crate::catalog::DispositionCounts;
use crate::model::RunId;

/// The state of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PublishedStatus {
    pub run_id: RunId,
    /// Milliseconds since 1970.
    pub started_at: u64,
    pub updated_at: u64,
    /// `running`, `done`, `stopped` or `failed`.
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
    /// Servers that will take longest at their present pace, longest first.
    pub slowest_servers: Vec<ServerProgress>,
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

/// Writes the status. Readers see the old one or the new one, whole.
///
/// It is not synced: it is worth nothing after a crash.
pub(super) fn publish(folder: &Path, status: &PublishedStatus) -> std::io::Result<()> {
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
