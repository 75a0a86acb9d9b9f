//! The one thread that touches the catalog during a run: jobs in, results out, many reports per commit.
//!
//! A durable commit costs milliseconds and blocks; on its own thread it delays no message, and while one
//! commit runs the next batch gathers by itself.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::mpsc as async_mpsc;

use super::protocol::{Claim, runs_of};
use crate::catalog::{Catalog, CatalogError, PartitionStage, Refusal, Report};
use crate::model::{Epoch, PartitionKey, Rank, ServerName};

/// Reports that one transaction takes at most: bounds its memory and the wait of the first of them.
const MAX_BATCH: usize = 1024;

pub(super) enum Job {
    Commit {
        from: Rank,
        epoch: Epoch,
        report: Report,
    },
    /// Read what a worker needs to know about a partition that it was granted.
    Load {
        rank: Rank,
        partition: PartitionKey,
        epoch: Epoch,
        share: f64,
        folder: ServerName,
        shared: bool,
    },
}

pub(super) enum JobResult {
    Committed { from: Rank, epoch: Epoch, report: Report, answer: Result<(), Refusal> },
    Loaded { rank: Rank, claim: Box<Claim> },
    Failed(CatalogError),
}

/// Starts the thread. It ends when the sender of jobs is dropped.
pub(super) fn start(
    catalog: Arc<Catalog>,
) -> std::io::Result<(mpsc::Sender<Job>, async_mpsc::UnboundedReceiver<JobResult>, JoinHandle<()>)> {
    let (jobs, job_queue) = mpsc::channel();
    let (results, result_queue) = async_mpsc::unbounded_channel();
    let thread = std::thread::Builder::new().name("catalog".into()).spawn(move || {
        while let Ok(first) = job_queue.recv() {
            let batch: Vec<Job> =
                std::iter::once(first).chain(job_queue.try_iter().take(MAX_BATCH - 1)).collect();
            for result in run_batch(&catalog, batch) {
                if results.send(result).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok((jobs, result_queue, thread))
}

fn run_batch(catalog: &Catalog, batch: Vec<Job>) -> Vec<JobResult> {
    let mut origins = Vec::new();
    let mut reports = Vec::new();
    let mut loads = Vec::new();
    for job in batch {
        match job {
            Job::Commit { from, epoch, report } => {
                origins.push((from, epoch));
                reports.push(report);
            }
            load @ Job::Load { .. } => loads.push(load),
        }
    }
    let mut results = Vec::new();
    if !reports.is_empty() {
        match catalog.commit_reports(&reports) {
            Ok(answers) => results.extend(origins.into_iter().zip(reports).zip(answers).map(
                |(((from, epoch), report), answer)| JobResult::Committed { from, epoch, report, answer },
            )),
            Err(error) => return vec![JobResult::Failed(error)],
        }
    }
    // Loads see the commits of their own batch.
    for load in loads {
        let Job::Load { rank, partition, epoch, share, folder, shared } = load else { continue };
        results.push(match load_claim(catalog, partition, epoch, share, folder, shared) {
            Ok(claim) => JobResult::Loaded { rank, claim: Box::new(claim) },
            Err(error) => JobResult::Failed(error),
        });
    }
    results
}

fn load_claim(
    catalog: &Catalog,
    partition: PartitionKey,
    epoch: Epoch,
    share: f64,
    folder: ServerName,
    shared: bool,
) -> Result<Claim, CatalogError> {
    let view = catalog.view()?;
    let row = view
        .partition(partition)?
        .ok_or_else(|| CatalogError::Inconsistent(format!("there is no {partition:?}")))?;
    let states = view.states(partition)?;
    Ok(Claim {
        partition,
        folder,
        shared,
        epoch,
        share,
        manifest_files: row.manifest_files.into_iter().map(|file| file.name).collect(),
        states: runs_of(states.into_iter().map(|status| status.state)),
        parts: row.parts,
        compacted: row.stage != PartitionStage::Open,
    })
}
