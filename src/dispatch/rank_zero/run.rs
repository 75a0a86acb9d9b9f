//! What one run needs to know, and what it did.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::DispatchOptions;
use super::super::lending::BudgetOf;
use crate::catalog::{Catalog, DispositionCounts, RunRow, ToolReport};
use crate::model::RunId;
use crate::storage::StorageError;

/// What the ranks do with partitions.
#[derive(Clone)]
pub enum Work {
    Download,
    Tool(ToolWork),
}

/// A tool that goes through the partitions that are scheduled for it.
#[derive(Clone)]
pub struct ToolWork {
    pub name: String,
    pub settle: Settle,
}

/// Gives the files of a tool's report their final names, before the report is committed. False when they are gone: then
/// the report is refused.
pub type Settle = Arc<dyn Fn(&ToolReport) -> Result<bool, StorageError> + Send + Sync>;

/// What one run needs to know.
pub struct RunContext {
    pub work: Work,
    pub catalog: Arc<Catalog>,
    pub options: DispatchOptions,
    /// The run as it will be recorded; counts are filled in.
    pub run: RunRow,
    /// Sent to every rank.
    pub settings: String,
    pub status_folder: PathBuf,
    pub num_ranks: u32,
    /// The limits of every server, over the whole cluster.
    pub budget_of: BudgetOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnding {
    /// Every partition is finished.
    Done,
    /// Nothing is left that can be done: what is not finished is set aside, or leased to work units.
    Incomplete,
    /// Asked to stop; the same command goes on from here.
    Stopped,
}

impl RunEnding {
    /// The word of `runs.ending` and `status.json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Incomplete => "incomplete",
            Self::Stopped => "stopped",
        }
    }
}

/// What a download has left alone: servers of which partitions are out in work units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leased {
    /// Partitions of these servers that are not finished.
    pub partitions: u64,
    /// Their pending records.
    pub records: u64,
    /// When the last lease ends, in milliseconds since 1970.
    pub until: u64,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct RunReport {
    pub run_id: RunId,
    pub ending: RunEnding,
    /// The whole dataset, after the run.
    pub counts: DispositionCounts,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub image_bytes: u64,
    pub elapsed: Duration,
    /// Ranks that did not say goodbye.
    pub lost_ranks: usize,
    /// Partitions that could not be worked on, with the reason. They are not finished.
    pub set_aside: Vec<(String, String)>,
    pub leased: Leased,
}
