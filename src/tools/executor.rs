//! A rank's part in the third stage: takes claims, runs the tool, reports pieces.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::filter::check_columns;
use super::{RunInput, RunOutput, Tool, ToolError};
use crate::catalog::{ToolPiece, ToolReport};
use crate::dispatch::protocol::{Claim, RankProgress};
use crate::dispatch::{ClaimEnding, ClaimHandle, Executor, ExecutorError, Settle};
use crate::model::{Epoch, PartitionKey, Rank, ServerName};
use crate::runtime::{CpuPool, available_cores};
use crate::storage::{DatasetLayout, StorageOptions, epoch_in, remove_if_there, rename_durably};

/// Runs one tool on the partitions that this rank claims, one on each thread.
pub struct ToolExecutor {
    tool: Arc<dyn Tool>,
    layout: DatasetLayout,
    storage: StorageOptions,
    rank: Rank,
    cpu: CpuPool,
    num_threads: u32,
    num_images: AtomicU64,
    num_open: AtomicU32,
}

impl ToolExecutor {
    /// `num_threads` 0 is one per core.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(
        tool: Box<dyn Tool>,
        layout: DatasetLayout,
        storage: StorageOptions,
        rank: Rank,
        num_threads: usize,
    ) -> Result<Arc<Self>, String> {
        let num_threads = if num_threads == 0 { available_cores() } else { num_threads };
        let cpu = CpuPool::new(num_threads, num_threads).map_err(|error| error.to_string())?;
        Ok(Arc::new(Self {
            tool: tool.into(),
            layout,
            storage,
            rank,
            cpu,
            num_threads: num_threads as u32,
            num_images: AtomicU64::new(0),
            num_open: AtomicU32::new(0),
        }))
    }

    async fn go_through(&self, claim: Claim, handle: ClaimHandle) -> Result<ClaimEnding, ExecutorError> {
        let (partition, epoch) = (claim.partition, claim.epoch);
        let Some(scheduled) = claim.scheduled.clone() else {
            return Err(ExecutorError::Partition("it is not scheduled for this tool".into()));
        };
        // Dropped with this future, when the claim is void: the thread that works then learns of it.
        let void = Void(Arc::new(AtomicBool::new(false)));
        let input = RunInput {
            files: image_files(&self.layout, &claim),
            layout: self.layout.clone(),
            tool: self.tool.name().to_owned(),
            folder: claim.folder,
            partition_id: partition.partition_id,
            shared: claim.shared,
            scheduled,
            stop: handle.stop.clone(),
            dropped: void.0.clone(),
        };
        let (tool, storage, rank) = (self.tool.clone(), self.storage, self.rank);
        let done = self.cpu.run(move || run_one(&*tool, &input, storage, epoch, rank)).await;
        drop(void);
        let piece = match done.map_err(|panic| ExecutorError::Partition(panic.to_string()))? {
            Ok(piece) => piece,
            Err(ToolError::Stopped) => return Ok(ClaimEnding::Released),
            // Other partitions would fare no better.
            Err(
                error @ (ToolError::Storage(_) | ToolError::Start { .. } | ToolError::Overwritten { .. }),
            ) => {
                return Err(ExecutorError::Fatal(error.to_string()));
            }
            Err(error) => return Err(ExecutorError::Partition(error.to_string())),
        };
        self.num_images.fetch_add(piece.num_images, Ordering::Relaxed);
        let tool = self.tool.name().to_owned();
        handle.report_tool(ToolReport { tool, partition, piece }).await?;
        Ok(ClaimEnding::Finished)
    }
}

/// Counts a partition as open as long as it lives.
struct Open<'a>(&'a AtomicU32);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Void(Arc<AtomicBool>);

impl Drop for Void {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run_one(
    tool: &dyn Tool,
    input: &RunInput,
    storage: StorageOptions,
    epoch: Epoch,
    rank: Rank,
) -> Result<ToolPiece, ToolError> {
    let folder = input.partition_folder();
    sweep(&folder, epoch);
    let [verdicts, images] = of_claim(&folder, epoch);
    let mut output = RunOutput::new(verdicts, images, storage, epoch, rank);
    input.check_stop()?;
    if input.scheduled.num_rows == 0 {
        input.files.iter().try_for_each(|(path, rows)| check_columns(path, *rows))?;
        return Err(ToolError::LeftOut);
    }
    tool.run(input, &mut output)?;
    input.check_stop()?;
    output.finish(input)
}

/// Removes what older claims of the partition have left.
fn sweep(folder: &Path, epoch: Epoch) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if epoch_in(&entry.file_name().to_string_lossy()).is_some_and(|of| of < epoch) {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let _ = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
}

/// Where a claim puts aside what it works with, in the partition's folder.
pub(super) fn work_folder(folder: &Path, epoch: Epoch) -> PathBuf {
    folder.join(format!("work-{epoch}"))
}

/// Names of verdicts and images until rank 0 has accepted them.
fn of_claim(folder: &Path, epoch: Epoch) -> [PathBuf; 2] {
    ["verdicts", "successes"].map(|name| folder.join(format!("{name}-{epoch}-0.parquet")))
}

fn image_files(layout: &DatasetLayout, claim: &Claim) -> Vec<(PathBuf, u64)> {
    let (folder, id) = (&claim.folder, claim.partition.partition_id);
    if claim.compacted {
        let images =
            claim.records().filter(|(_, state)| *state == crate::model::RecordState::Success).count();
        return if images == 0 { Vec::new() } else { vec![(layout.successes(folder, id), images as u64)] };
    }
    let parts = claim.parts.iter().filter(|part| part.successes.num_rows > 0);
    parts.map(|part| (layout.success_part(folder, id, part.part), part.successes.num_rows)).collect()
}

/// Gives the files of accepted reports their names, on rank 0, before the report is committed.
///
/// Before that the catalog has no piece of the partition, so nothing that it names is replaced.
#[must_use]
pub fn settle(
    layout: DatasetLayout,
    folder_of: impl Fn(PartitionKey) -> Option<ServerName> + Send + Sync + 'static,
) -> Settle {
    Arc::new(move |report: &ToolReport| {
        let ToolReport { tool, partition, piece } = report;
        let Some(folder) = folder_of(*partition) else { return Ok(false) };
        let path = layout.tool_folder(tool, &folder, partition.partition_id);
        let finals = [
            layout.tool_verdicts(tool, &folder, partition.partition_id),
            layout.tool_images(tool, &folder, partition.partition_id),
        ];
        let files = [piece.verdicts, piece.images];
        for ((from, to), file) in of_claim(&path, piece.epoch).iter().zip(&finals).zip(files) {
            if file.num_rows == 0 {
                remove_if_there(to)?;
            } else if !rename_durably(from, to)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

impl Executor for ToolExecutor {
    fn run(
        self: Arc<Self>,
        claim: Claim,
        handle: ClaimHandle,
    ) -> BoxFuture<'static, Result<ClaimEnding, ExecutorError>> {
        async move {
            let _open = Open::new(&self.num_open);
            self.go_through(claim, handle).await
        }
        .boxed()
    }

    fn progress(&self) -> RankProgress {
        RankProgress {
            success: self.num_images.load(Ordering::Relaxed),
            open_partitions: self.num_open.load(Ordering::Relaxed),
            ..RankProgress::default()
        }
    }

    /// One more than there are threads, so that none waits for the next claim.
    fn max_open_partitions(&self) -> u32 {
        self.num_threads + 1
    }
}
