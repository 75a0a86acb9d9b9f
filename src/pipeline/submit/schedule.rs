//! `schedules/`: how far a chain of jobs is, for distributed-downloader's readers and for the chain itself.
//!
//! Work is claimed while it is done, so a schedule decides nothing; it says which servers are looked at together, and what
//! of them is finished. The first job of a chain makes it, each brings it up to date.

use std::collections::HashMap;

use serde::Serialize;

use super::{Dataset, PipelineError, SubmitError};
use crate::catalog::{CatalogView, DispositionCounts};
use crate::model::ServerId;
use crate::slurm::{JobEnvironment, job_states};
use crate::storage::{
    BatchView, BigBatch, JobFolder, ScheduleProgress, ScheduledServer, SubmittedJob, current_schedule,
    read_progress, replace_schedule, write_progress,
};

/// Partitions of a big batch, for each rank of a job: distributed-downloader's number.
const PARTITIONS_PER_RANK: u64 = 50;

/// What a job finds when it begins, or a chain when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduleVerdict {
    pub partitions_left: u64,
    pub pending: u64,
    /// The job before, when it has changed nothing although something was left.
    pub unchanged_since: Option<u64>,
}

/// How the current schedule stands.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduleStatus {
    /// The chain of jobs that was submitted last.
    pub chain: Option<u32>,
    pub jobs: Vec<JobStatus>,
    pub batches: Vec<BatchStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct JobStatus {
    #[serde(flatten)]
    pub job: SubmittedJob,
    /// As Slurm has it; `None` once it has forgotten the job.
    pub state: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct BatchStatus {
    pub number: u32,
    pub servers: u64,
    pub partitions: u64,
    pub finished: u64,
    pub counts: DispositionCounts,
    /// Whether it has the markers.
    pub is_done: bool,
    pub is_unchanged: bool,
}

/// What the catalog says, server by server.
struct Progress {
    servers: Vec<ServerProgress>,
    counts: DispositionCounts,
}

struct ServerProgress {
    name: String,
    num_partitions: u32,
    finished: Vec<u32>,
    counts: DispositionCounts,
}

impl Progress {
    fn read(view: &CatalogView) -> Result<Self, PipelineError> {
        let mut servers: Vec<ServerProgress> = Vec::new();
        let mut positions: HashMap<ServerId, usize> = HashMap::new();
        for row in view.servers()? {
            positions.insert(row.id, servers.len());
            servers.push(ServerProgress {
                name: row.folder.to_string(),
                num_partitions: 0,
                finished: Vec::new(),
                counts: DispositionCounts::default(),
            });
        }
        let mut counts = DispositionCounts::default();
        view.for_each_partition(|key, row| {
            counts += row.counts;
            let Some(server) = positions.get(&key.server_id).map(|&at| &mut servers[at]) else { return };
            server.num_partitions += 1;
            server.counts += row.counts;
            if !row.needs_work() {
                server.finished.push(key.partition_id);
            }
        })?;
        Ok(Self { servers, counts })
    }

    fn finished(&self) -> u64 {
        self.servers.iter().map(|server| server.finished.len() as u64).sum()
    }

    fn left(&self) -> u64 {
        self.servers.iter().map(|server| u64::from(server.left())).sum()
    }

    fn by_name(&self) -> HashMap<&str, &ServerProgress> {
        self.servers.iter().map(|server| (server.name.as_str(), server)).collect()
    }
}

impl ServerProgress {
    fn left(&self) -> u32 {
        self.num_partitions - self.finished.len() as u32
    }
}

/// Brings `schedules/current/` up to date, makes it anew for a chain that has none, and says whether a job of that chain
/// has something to do. Without a `chain` it is that of the last `ddl submit`.
///
/// Only downloads are expected to change anything, and one that was requeued is the same job: nothing is said of it.
///
/// # Errors
/// When the catalog cannot be read, there is no such chain, or a file cannot be written.
pub fn verify_schedule(dataset: &Dataset, chain: Option<u32>) -> Result<ScheduleVerdict, PipelineError> {
    let layout = &dataset.layout;
    let mut chains = JobFolder::all(layout)?;
    if let Some(number) = chain {
        chains.retain(|chain| chain.number == number);
        if chains.is_empty() {
            return Err(SubmitError::UnknownChain { chain: number, folder: layout.jobs() }.into());
        }
    }
    let chain = chains.pop();
    let number = chain.as_ref().map_or(0, |chain| chain.number);
    let now = Progress::read(&dataset.open_reader()?.view()?)?;

    let mut rows = read_progress(layout)?;
    let is_current = rows.first().is_some_and(|row| row.chain == number);
    let batches = if is_current {
        current_schedule(layout)?
    } else {
        rows.clear();
        let jobs = &dataset.settings.downloader_parameters;
        let ranks = u64::from(jobs.max_nodes) * u64::from(jobs.workers_per_node);
        let rules = |left| {
            let rules = &dataset.settings.schedule_rules;
            rules.range(..=u64::from(left)).next_back().map_or(1, |(_, ranks)| *ranks)
        };
        replace_schedule(layout, big_batches(&now, ranks * PARTITIONS_PER_RANK, &rules))?
    };

    let job_id = JobEnvironment::read().job_id.and_then(|id| id.parse().ok()).unwrap_or(0);
    let row = ScheduleProgress {
        chain: number,
        job_id,
        finished_partitions: now.finished(),
        success: now.counts.success,
        failed: now.counts.failed,
        skipped: now.counts.skipped,
        pending: now.counts.pending,
    };
    let jobs = chain.map(|chain| chain.jobs()).transpose()?.unwrap_or_default();
    let is_download = |id| jobs.iter().any(|job| job.job_id == id && job.kind == "download");
    let before = rows.last().filter(|before| is_download(before.job_id));
    let unchanged_since = before.and_then(|before| unchanged_since(before, &row, now.left()));
    let is_new_job = job_id > 0 && rows.last().is_none_or(|before| before.job_id != job_id);
    if is_new_job || rows.is_empty() {
        rows.push(row);
        write_progress(layout, &rows)?;
    }
    let jobs: Vec<_> = jobs.iter().map(|job| (job.job_id, job.kind == "check")).collect();
    for batch in &batches {
        write_batch(batch, &now, unchanged_since.is_some(), &jobs)?;
    }
    Ok(ScheduleVerdict { partitions_left: now.left(), pending: now.counts.pending, unchanged_since })
}

/// The job before, when something is left and this one finds all as that one did. Whoever is no job (id 0) learns nothing.
fn unchanged_since(before: &ScheduleProgress, now: &ScheduleProgress, left: u64) -> Option<u64> {
    let is_later_job = now.job_id > 0 && before.job_id != now.job_id;
    let is_same = ScheduleProgress { job_id: now.job_id, ..*before } == *now;
    (is_later_job && is_same && left > 0).then_some(before.job_id)
}

fn write_batch(
    batch: &BigBatch,
    now: &Progress,
    is_unchanged: bool,
    jobs: &[(u64, bool)],
) -> Result<(), PipelineError> {
    let servers = now.by_name();
    let mut finished = Vec::new();
    let mut left = 0;
    for server in &batch.servers {
        let Some(progress) = servers.get(server.server_name.as_str()) else { continue };
        finished.extend(progress.finished.iter().map(|&partition| (server.server_name.clone(), partition)));
        left += progress.left();
    }
    let view =
        BatchView { finished: &finished, is_done: left == 0, is_unchanged: is_unchanged && left > 0, jobs };
    Ok(batch.write(&view)?)
}

/// Servers with something left, those that take most ranks first, in batches of at least so many partitions.
fn big_batches(
    now: &Progress,
    min_partitions: u64,
    ranks_of: &dyn Fn(u32) -> u64,
) -> Vec<Vec<ScheduledServer>> {
    let mut servers: Vec<_> = now.servers.iter().filter(|server| server.left() > 0).collect();
    servers.sort_by_key(|server| (std::cmp::Reverse(ranks_of(server.left())), server.name.clone()));
    let mut batches: Vec<Vec<ScheduledServer>> = Vec::new();
    let mut num_partitions = u64::MAX;
    for (index, server) in servers.into_iter().enumerate() {
        if num_partitions >= min_partitions {
            batches.push(Vec::new());
            num_partitions = 0;
        }
        num_partitions += u64::from(server.num_partitions);
        let scheduled = ScheduledServer {
            index: index as u64,
            server_name: server.name.clone(),
            total_batches: server.num_partitions,
            process_per_node: 1,
            nodes: ranks_of(server.left()),
        };
        batches.last_mut().expect("one was just begun").push(scheduled);
    }
    batches
}

/// How the jobs that were submitted last, and the big batches, stand now.
///
/// # Errors
/// When the catalog or a file of the schedule cannot be read.
pub fn schedule_status(dataset: &Dataset) -> Result<ScheduleStatus, PipelineError> {
    let chain = JobFolder::all(&dataset.layout)?.pop();
    let jobs = chain.as_ref().map(JobFolder::jobs).transpose()?.unwrap_or_default();
    let states = job_states(&jobs.iter().map(|job| job.job_id).collect::<Vec<_>>());
    let jobs = jobs.into_iter().map(|job| JobStatus { state: states.get(&job.job_id).cloned(), job });
    let batches = current_schedule(&dataset.layout)?;
    let mut stood = Vec::new();
    if !batches.is_empty() {
        let now = Progress::read(&dataset.open_reader()?.view()?)?;
        let servers = now.by_name();
        for batch in &batches {
            let of_batch = batch.servers.iter().filter_map(|server| servers.get(server.server_name.as_str()));
            let mut counts = DispositionCounts::default();
            let mut finished = 0;
            for server in of_batch {
                counts += server.counts;
                finished += server.finished.len() as u64;
            }
            let (is_done, is_unchanged) = batch.markers();
            stood.push(BatchStatus {
                number: batch.number,
                servers: batch.servers.len() as u64,
                partitions: batch.num_partitions(),
                finished,
                counts,
                is_done,
                is_unchanged,
            });
        }
    }
    Ok(ScheduleStatus { chain: chain.map(|chain| chain.number), jobs: jobs.collect(), batches: stood })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(servers: &[(&str, u32, u32)]) -> Progress {
        let server = |&(name, num_partitions, finished): &(&str, u32, u32)| ServerProgress {
            name: name.into(),
            num_partitions,
            finished: (0..finished).collect(),
            counts: DispositionCounts::default(),
        };
        Progress { servers: servers.iter().map(server).collect(), counts: DispositionCounts::default() }
    }

    fn shown(batches: &[Vec<ScheduledServer>]) -> String {
        let server =
            |s: &ScheduledServer| format!("{}:{}x{}@{}", s.index, s.server_name, s.total_batches, s.nodes);
        let batch = |batch: &Vec<ScheduledServer>| batch.iter().map(server).collect::<Vec<_>>().join(" ");
        batches.iter().map(batch).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn a_whole_job_without_progress_is_noticed() {
        let row = |job_id, success| ScheduleProgress {
            chain: 1,
            job_id,
            finished_partitions: 3,
            success,
            failed: 1,
            skipped: 0,
            pending: 10,
        };
        assert_eq!(unchanged_since(&row(7, 5), &row(8, 5), 2), Some(7));
        assert_eq!(unchanged_since(&row(7, 5), &row(8, 6), 2), None);
        assert_eq!(unchanged_since(&row(7, 5), &row(7, 5), 2), None, "it was requeued");
        assert_eq!(unchanged_since(&row(7, 5), &row(8, 5), 0), None, "all is done");
        assert_eq!(unchanged_since(&row(7, 5), &row(0, 5), 2), None, "somebody looks meanwhile");
    }

    #[test]
    fn big_batches_hold_what_is_left_largest_first() {
        let now = progress(&[("b", 30, 0), ("a", 10, 0), ("done", 5, 5), ("big", 200, 50), ("c", 80, 1)]);
        let rules = |left: u32| if left >= 100 { 4 } else { 1 };
        assert_eq!(shown(&big_batches(&now, 100, &rules)), "0:bigx200@4 | 1:ax10@1 2:bx30@1 3:cx80@1");
        assert_eq!(shown(&big_batches(&now, 40, &rules)), "0:bigx200@4 | 1:ax10@1 2:bx30@1 | 3:cx80@1");
        assert!(big_batches(&progress(&[("done", 5, 5)]), 40, &rules).is_empty());
    }
}
