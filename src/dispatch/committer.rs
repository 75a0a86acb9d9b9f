//! The one thread that touches the catalog during a run: jobs in, results out, many reports per commit.
//!
//! A durable commit costs milliseconds and blocks; on its own thread it delays no message, and while one
//! commit runs the next batch gathers by itself.
//!
//! After the first failure (a full disk, say) it commits nothing more: what the storage did with half a write
//! is for the next opening to find out. Every report still gets its answer, so nobody waits for one.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::mpsc as async_mpsc;

use super::DispatchError;
use super::protocol::{AnswerTo, Claim, runs_of};
use super::rank_zero::ToolWork;
use crate::catalog::{
    Catalog, CatalogError, CatalogView, PartitionStage, Refusal, Report, ServerFact, ToolReport,
};
use crate::model::{Epoch, PartitionKey, Rank, ServerName};
use crate::runtime::catch_panic;

/// Reports that one transaction takes at most: bounds its memory and the wait of the first of them.
const MAX_BATCH: usize = 1024;

pub(super) enum Job {
    Commit {
        origin: Origin,
        report: Report,
    },
    /// Read what a worker needs to know about a partition that it was granted.
    Load {
        rank: Rank,
        partition: PartitionKey,
        epoch: Epoch,
        folder: ServerName,
        shared: bool,
    },
    /// Keep what is known of servers.
    Remember(Vec<(ServerName, ServerFact)>),
    /// Read what is known of a server that a rank borrows.
    Recall {
        rank: Rank,
        server: ServerName,
        /// Milliseconds since 1970.
        now: u64,
    },
}

/// Who waits for the answer to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub rank: Rank,
    pub partition: PartitionKey,
    pub epoch: Epoch,
    pub to: AnswerTo,
}

pub(super) enum JobResult {
    Committed {
        origin: Origin,
        report: Report,
        answer: Result<(), Refusal>,
    },
    Loaded {
        rank: Rank,
        claim: Box<Claim>,
    },
    Recalled {
        rank: Rank,
        server: ServerName,
        facts: Vec<ServerFact>,
    },
    /// What the catalog has of this partition is damaged; of others it is not.
    Unusable {
        rank: Rank,
        partition: PartitionKey,
        epoch: Epoch,
        detail: String,
    },
    /// The catalog has failed, then or before: the report is lost.
    NotCommitted {
        origin: Origin,
    },
    /// Said once, at the first failure.
    Failed(DispatchError),
}

/// Starts the thread. It ends when the sender of jobs is dropped.
pub(super) fn start(
    catalog: Arc<Catalog>,
    tool: Option<ToolWork>,
) -> std::io::Result<(mpsc::Sender<Job>, async_mpsc::UnboundedReceiver<JobResult>, JoinHandle<()>)> {
    let (jobs, job_queue) = mpsc::channel();
    let (results, result_queue) = async_mpsc::unbounded_channel();
    let thread = std::thread::Builder::new().name("catalog".into()).spawn(move || {
        let mut failed = false;
        while let Ok(first) = job_queue.recv() {
            let batch: Vec<Job> =
                std::iter::once(first).chain(job_queue.try_iter().take(MAX_BATCH - 1)).collect();
            let origins: Vec<Origin> = batch.iter().filter_map(Job::origin).collect();
            let mut batch_results = Vec::new();
            let run = || run_batch(&catalog, tool.as_ref(), batch, &mut batch_results);
            let failure = if failed { None } else { guard(run).err() };
            failed |= failure.is_some();
            if failed {
                let answered: Vec<_> = batch_results.iter().filter_map(JobResult::origin).collect();
                let unanswered = origins.into_iter().filter(|origin| !answered.contains(origin));
                batch_results.extend(unanswered.map(|origin| JobResult::NotCommitted { origin }));
            }
            batch_results.extend(failure.map(JobResult::Failed));
            for result in batch_results {
                if results.send(result).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok((jobs, result_queue, thread))
}

impl Job {
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Commit { origin, .. } => Some(*origin),
            Self::Load { .. } | Self::Remember(_) | Self::Recall { .. } => None,
        }
    }
}

impl JobResult {
    /// Whose report this answers.
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Committed { origin, .. } | Self::NotCommitted { origin } => Some(*origin),
            _ => None,
        }
    }
}

/// A panic of the storage is a failure like others; without this, everybody would wait for the thread.
fn guard<T>(work: impl FnOnce() -> Result<T, DispatchError>) -> Result<T, DispatchError> {
    catch_panic(work)
        .unwrap_or_else(|message| Err(DispatchError::CatalogThread { message: format!("panic: {message}") }))
}

/// Commits and loads a batch. A failure of a load after the commit leaves the results of the commit in
/// `results`.
fn run_batch(
    catalog: &Catalog,
    tool: Option<&ToolWork>,
    batch: Vec<Job>,
    results: &mut Vec<JobResult>,
) -> Result<(), DispatchError> {
    let mut origins = Vec::new();
    let mut reports = Vec::new();
    let mut facts = Vec::new();
    let mut loads = Vec::new();
    for job in batch {
        match job {
            Job::Commit { origin, report } => {
                if let (Report::Tool(piece), Some(tool)) = (&report, tool)
                    && let Err(reason) = settle(tool, piece)
                {
                    let answer = Err(Refusal { partition: piece.partition, reason });
                    results.push(JobResult::Committed { origin, report, answer });
                    continue;
                }
                origins.push(origin);
                reports.push(report);
            }
            Job::Remember(more) => facts.extend(more),
            load @ (Job::Load { .. } | Job::Recall { .. }) => loads.push(load),
        }
    }
    if !reports.is_empty() {
        let answers = catalog.commit_reports(&reports)?;
        results.extend(
            origins
                .into_iter()
                .zip(reports)
                .zip(answers)
                .map(|((origin, report), answer)| JobResult::Committed { origin, report, answer }),
        );
    }
    if !facts.is_empty() {
        match catalog.remember(&facts) {
            // The next run asks the servers again: no reason to end this one.
            Err(error @ (CatalogError::Inconsistent(_) | CatalogError::Corrupted(_))) => {
                tracing::warn!(%error, "what is known of servers cannot be kept");
            }
            kept => kept?,
        }
    }
    if loads.is_empty() {
        return Ok(());
    }
    // Loads see the commits of their own batch.
    let view = catalog.view()?;
    for load in loads {
        results.push(match load {
            Job::Load { rank, partition, epoch, folder, shared } => {
                match load_claim(&view, tool, partition, epoch, folder, shared) {
                    Ok(claim) => JobResult::Loaded { rank, claim: Box::new(claim) },
                    Err(error @ (CatalogError::Inconsistent(_) | CatalogError::Corrupted(_))) => {
                        JobResult::Unusable { rank, partition, epoch, detail: error.to_string() }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Job::Recall { rank, server, now } => {
                let facts = match view.server_facts(&server, now) {
                    Err(error @ (CatalogError::Inconsistent(_) | CatalogError::Corrupted(_))) => {
                        tracing::warn!(%server, %error, "what is known of a server cannot be read");
                        Vec::new()
                    }
                    facts => facts?,
                };
                JobResult::Recalled { rank, server, facts }
            }
            Job::Commit { .. } | Job::Remember(_) => continue,
        });
    }
    Ok(())
}

/// Gives the files of a tool's piece their names. What goes wrong is wrong with this piece alone.
fn settle(tool: &ToolWork, piece: &ToolReport) -> Result<(), &'static str> {
    match (tool.settle)(piece) {
        Ok(true) => Ok(()),
        Ok(false) => Err("its files are gone"),
        Err(error) => {
            tracing::warn!(partition = ?piece.partition, %error, "a tool's files cannot be given their names");
            Err("its files cannot be given their names")
        }
    }
}

fn load_claim(
    view: &CatalogView,
    tool: Option<&ToolWork>,
    partition: PartitionKey,
    epoch: Epoch,
    folder: ServerName,
    shared: bool,
) -> Result<Claim, CatalogError> {
    let row = view
        .partition(partition)?
        .ok_or_else(|| CatalogError::Inconsistent(format!("there is no {partition:?}")))?;
    let states = view.states(partition)?;
    Ok(Claim {
        partition,
        folder,
        shared,
        epoch,
        manifest_files: row.manifest_files.into_iter().map(|file| file.name).collect(),
        states: runs_of(states.into_iter().map(|status| status.state)),
        parts: row.parts,
        compacted: row.stage != PartitionStage::Open,
        scheduled: tool.map(|tool| view.tool_partition(&tool.name, partition)).transpose()?.flatten(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rank_zero::Settle;
    use super::*;
    use crate::catalog::{CatalogOptions, ToolPiece};
    use crate::model::{DataFile, ServerId};
    use crate::storage::StorageError;

    /// No ingest knows the partition, so every commit fails.
    fn finish_what_is_not_there(partition_id: u32) -> (Origin, Job) {
        let partition = PartitionKey { server_id: ServerId(7), partition_id };
        let origin = Origin { rank: 3, partition, epoch: Epoch::new(1, 1), to: AnswerTo::Finished };
        (origin, Job::Commit { origin, report: Report::Finished(partition) })
    }

    #[tokio::test]
    async fn every_report_is_answered_when_the_catalog_fails_and_the_error_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        let (jobs, mut results, thread) = start(Arc::new(catalog), None).unwrap();
        let (origins, reports): (Vec<_>, Vec<_>) = (0..5).map(finish_what_is_not_there).unzip();
        reports.into_iter().for_each(|job| jobs.send(job).unwrap());
        let mut failures = 0;
        let mut unanswered = origins;
        while !unanswered.is_empty() {
            match results.recv().await.unwrap() {
                JobResult::NotCommitted { origin } => unanswered.retain(|other| *other != origin),
                JobResult::Failed(error) => {
                    failures += 1;
                    assert!(matches!(error, DispatchError::Catalog(_)), "{error}");
                }
                _ => panic!("nothing can succeed"),
            }
        }
        drop(jobs);
        thread.join().unwrap();
        while let Some(result) = results.recv().await {
            failures += u32::from(matches!(result, JobResult::Failed(_)));
        }
        assert_eq!(failures, 1);
    }

    /// It ended the run, and other reports of its batch got no answer.
    #[tokio::test]
    async fn a_piece_whose_files_cannot_be_named_is_refused_and_no_failure_of_the_catalog() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        let settle: Settle = Arc::new(|_| {
            let source = std::io::ErrorKind::PermissionDenied.into();
            Err(StorageError::Io { action: "rename", path: "verdicts.parquet".into(), source })
        });
        let tool = ToolWork { name: "size".into(), settle };
        let (jobs, mut results, thread) = start(Arc::new(catalog), Some(tool)).unwrap();
        let partition = PartitionKey { server_id: ServerId(7), partition_id: 0 };
        let epoch = Epoch::new(1, 1);
        let origin = Origin { rank: 3, partition, epoch, to: AnswerTo::Tool };
        let file = DataFile::default();
        let piece = ToolPiece { epoch, rank: 3, num_images: 1, num_removed: 0, verdicts: file, images: file };
        let report = Report::Tool(ToolReport { tool: "size".into(), partition, piece });
        jobs.send(Job::Commit { origin, report }).unwrap();
        drop(jobs);
        thread.join().unwrap();
        let Some(JobResult::Committed { answer: Err(refusal), .. }) = results.recv().await else { panic!() };
        assert_eq!(refusal.reason, "its files cannot be given their names");
        assert!(results.recv().await.is_none());
    }

    /// Damage to one partition ended every run.
    #[tokio::test]
    async fn a_partition_that_cannot_be_loaded_is_no_failure_of_the_catalog() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        let (jobs, mut results, thread) = start(Arc::new(catalog), None).unwrap();
        for partition_id in 0..2 {
            let partition = PartitionKey { server_id: ServerId(7), partition_id };
            let (epoch, folder) = (Epoch::new(1, 1), ServerName::from_catalog("s"));
            jobs.send(Job::Load { rank: 3, partition, epoch, folder, shared: false }).unwrap();
            match results.recv().await.unwrap() {
                JobResult::Unusable { rank: 3, partition: found, detail, .. } => {
                    assert_eq!(found, partition);
                    assert!(detail.contains("there is no"), "{detail}");
                }
                _ => panic!("it cannot be loaded, and nothing else has failed"),
            }
        }
        drop(jobs);
        thread.join().unwrap();
    }

    #[test]
    fn a_panic_of_the_storage_has_a_name() {
        let error = guard(|| -> Result<(), DispatchError> { panic!("page {} is gone", 7) }).unwrap_err();
        assert_eq!(error.to_string(), "the catalog's thread failed: panic: page 7 is gone");
    }
}
