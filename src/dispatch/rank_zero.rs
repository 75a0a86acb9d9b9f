//! The coordinator's loop: messages, commits, the clock and signals in; grants and answers out.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::committer::{self, Job, JobResult};
use super::protocol::{AnswerTo, ToCoordinator, ToWorker};
use super::publish::{PublishedStatus, ServerProgress, publish};
use super::{Action, Coordinator, CoordinatorEvent, DispatchError, DispatchOptions};
use crate::catalog::{Catalog, DispositionCounts, Report, RunRow};
use crate::cluster::{Outbox, wire};
use crate::model::{Epoch, PartitionKey, Rank, RecordState, RunId, ServerId, ServerName};
use crate::runtime::Shutdown;

/// After a stop, ranks that do not say goodbye within this time are given up.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(60);
/// Servers named in the status.
const MAX_SLOWEST: usize = 5;

/// What one run needs to know.
pub struct RunContext {
    pub catalog: Arc<Catalog>,
    pub options: DispatchOptions,
    /// The run as it will be recorded; counts are filled in.
    pub run: RunRow,
    /// Sent to every rank.
    pub settings: String,
    pub status_folder: PathBuf,
    pub num_ranks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnding {
    /// Every partition is finished.
    Done,
    /// Asked to stop; the same command goes on from here.
    Stopped,
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
    pub lost_ranks: usize,
    /// Partitions that could not be worked on, with the reason.
    pub set_aside: Vec<(String, String)>,
}

struct ServerTally {
    folder: ServerName,
    shared: bool,
    pending: u64,
    done_in_run: u64,
}

/// Everything the loop keeps.
struct RankZero<'a> {
    coordinator: Coordinator,
    run: RunRow,
    counts: DispositionCounts,
    servers: HashMap<ServerId, ServerTally>,
    outbox: Outbox,
    jobs: std::sync::mpsc::Sender<Job>,
    settings: String,
    set_aside: Vec<(String, String)>,
    started: Instant,
    num_ranks: u32,
    observe: &'a mut (dyn FnMut(&PublishedStatus) + Send),
}

/// Runs the coordinator until every rank has said goodbye. `inbox` carries the ranks' messages.
/// `observe` is shown the status about once a second.
///
/// # Errors
/// When the catalog fails or a rank cannot go on; everything committed stays committed.
pub async fn coordinate(
    context: RunContext,
    outbox: Outbox,
    mut inbox: mpsc::UnboundedReceiver<(Rank, ToCoordinator)>,
    shutdown: Shutdown,
    observe: &mut (dyn FnMut(&PublishedStatus) + Send),
) -> Result<RunReport, DispatchError> {
    let RunContext { catalog, options, mut run, settings, status_folder, num_ranks } = context;
    let view = catalog.view()?;
    let mut servers: HashMap<ServerId, ServerTally> = view
        .servers()?
        .into_iter()
        .map(|row| {
            (row.id, ServerTally { folder: row.folder, shared: row.shared, pending: 0, done_in_run: 0 })
        })
        .collect();
    let mut counts = DispositionCounts::default();
    let mut work = Vec::new();
    view.for_each_partition(|key, row| {
        counts += row.counts;
        if let Some(server) = servers.get_mut(&key.server_id) {
            server.pending += row.counts.pending;
        }
        if row.needs_work() {
            work.push(key);
        }
    })?;
    drop(view);
    run.run_id = catalog.start_run(run.clone())?;
    tracing::info!(
        run_id = run.run_id,
        num_ranks,
        partitions = work.len(),
        pending = counts.pending,
        "coordinating the run"
    );
    let (jobs, mut results, committer) = committer::start(catalog.clone())
        .map_err(|error| DispatchError::Rank { rank: 0, message: error.to_string() })?;
    let status_interval = options.status_interval;
    let mut state = RankZero {
        coordinator: Coordinator::new(options, run.run_id, num_ranks, work),
        run,
        counts,
        servers,
        outbox,
        jobs,
        settings,
        set_aside: Vec::new(),
        started: Instant::now(),
        num_ranks,
        observe,
    };

    let mut failure: Option<DispatchError> = None;
    let mut stop_sent: Option<Instant> = None;
    let mut published = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while !state.coordinator.is_over() {
        let event = tokio::select! {
            Some((from, message)) = inbox.recv() => state.on_message(from, message),
            Some(result) = results.recv() => state.on_result(result),
            _ = tick.tick() => {
                let status = state.status("running");
                (state.observe)(&status);
                if published.elapsed() >= status_interval {
                    published = Instant::now();
                    if let Err(error) = publish(&status_folder, &status) {
                        tracing::debug!(%error, "cannot publish the status");
                    }
                }
                state.decide(0, CoordinatorEvent::Tick)
            }
            _ = shutdown.wait(), if stop_sent.is_none() => {
                stop_sent = Some(Instant::now());
                state.decide(0, CoordinatorEvent::StopAsked)
            }
        };
        if let Err(error) = event
            && failure.is_none()
        {
            tracing::error!(%error, "ending the run");
            failure = Some(error);
            stop_sent = Some(Instant::now());
            let _ = state.decide(0, CoordinatorEvent::StopAsked);
        }
        if stop_sent.is_some_and(|since| since.elapsed() > GOODBYE_TIMEOUT) {
            break;
        }
    }

    let ending = if state.coordinator.is_finished() { RunEnding::Done } else { RunEnding::Stopped };
    let state_name = match (&failure, ending) {
        (Some(_), _) => "failed",
        (None, RunEnding::Done) => "done",
        (None, RunEnding::Stopped) => "stopped",
    };
    let status = state.status(state_name);
    (state.observe)(&status);
    let _ = publish(&status_folder, &status);
    tracing::info!(
        run_id = state.run.run_id,
        ending = state_name,
        images = state.run.success,
        failed = state.run.failed,
        skipped = state.run.skipped,
        seconds = state.started.elapsed().as_secs(),
        "the run has ended"
    );
    state.run.ended_at = Some(now_ms());
    state.run.ending = Some(state_name.into());
    let run_at_end = state.run.clone();
    // The catalog must be closed when this returns: a process that ends with it open leaves it to be repaired.
    drop(state.jobs);
    let recorded = tokio::task::spawn_blocking(move || {
        let _ = committer.join();
        catalog.end_run(&run_at_end)
    })
    .await
    .map_err(|panic| DispatchError::Rank { rank: 0, message: panic.to_string() })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    recorded?;
    Ok(RunReport {
        run_id: state.run.run_id,
        ending,
        counts: state.counts,
        success: state.run.success,
        failed: state.run.failed,
        skipped: state.run.skipped,
        image_bytes: state.run.image_bytes,
        elapsed: state.started.elapsed(),
        lost_ranks: state.coordinator.num_lost(),
        set_aside: state.set_aside,
    })
}

impl RankZero<'_> {
    fn on_message(&mut self, from: Rank, message: ToCoordinator) -> Result<(), DispatchError> {
        match message {
            ToCoordinator::Hello { ddl_version } => {
                if ddl_version != env!("CARGO_PKG_VERSION") {
                    let message = format!(
                        "it is ddl {ddl_version}, rank 0 is ddl {}; start all ranks from one build",
                        env!("CARGO_PKG_VERSION")
                    );
                    return Err(DispatchError::Rank { rank: from, message });
                }
                self.send(
                    from,
                    &ToWorker::Welcome { run_id: self.run.run_id, settings: self.settings.clone() },
                )?;
                self.decide(from, CoordinatorEvent::Hello)
            }
            ToCoordinator::Ready { max_open_partitions } => {
                self.decide(from, CoordinatorEvent::Ready { max_open_partitions })
            }
            ToCoordinator::Alive(progress) => self.decide(from, CoordinatorEvent::Alive(progress)),
            ToCoordinator::Part(report) => self.on_report(from, report.part.part.epoch, Report::Part(report)),
            ToCoordinator::Compacted(report) => self.on_report(from, report.epoch, Report::Compacted(report)),
            ToCoordinator::Finished { partition, epoch } => {
                self.on_report(from, epoch, Report::Finished(partition))
            }
            ToCoordinator::Release { partition, epoch, trouble: None } => {
                self.decide(from, CoordinatorEvent::Release { partition, epoch })
            }
            ToCoordinator::Release { partition, epoch, trouble: Some(trouble) } => {
                if self.coordinator.is_current(partition, epoch) {
                    let name = self.name_of(partition);
                    tracing::error!(partition = name, %trouble, "partition set aside");
                    self.set_aside.push((name, trouble));
                }
                self.decide(from, CoordinatorEvent::SetAside { partition, epoch })
            }
            ToCoordinator::StopAsked { reason } => {
                tracing::info!(rank = from, reason, "a rank was asked to stop");
                self.decide(from, CoordinatorEvent::StopAsked)
            }
            ToCoordinator::Failed { message } => Err(DispatchError::Rank { rank: from, message }),
            ToCoordinator::Bye => self.decide(from, CoordinatorEvent::Bye),
        }
    }

    /// Reports of void claims are refused here; the others go to the catalog.
    fn on_report(&mut self, from: Rank, epoch: Epoch, report: Report) -> Result<(), DispatchError> {
        let (partition, to) = answer_key(&report);
        // Any word is a sign of life.
        self.decide(from, CoordinatorEvent::Hello)?;
        if self.coordinator.is_current(partition, epoch) {
            self.submit(Job::Commit { from, epoch, report })
        } else {
            let refusal = Some("the claim has ended".to_owned());
            self.send(from, &ToWorker::Answer { partition, epoch, to, refusal })
        }
    }

    fn on_result(&mut self, result: JobResult) -> Result<(), DispatchError> {
        match result {
            JobResult::Failed(error) => Err(error.into()),
            JobResult::Loaded { rank, claim } => self.send(rank, &ToWorker::Claims(vec![*claim])),
            JobResult::Committed { from, epoch, report, answer } => {
                let (partition, to) = answer_key(&report);
                if answer.is_ok() {
                    self.count(&report);
                }
                let refusal = answer.as_ref().err().map(ToString::to_string);
                self.send(from, &ToWorker::Answer { partition, epoch, to, refusal })?;
                match (report, answer) {
                    (Report::Finished(partition), Ok(())) => {
                        self.decide(from, CoordinatorEvent::Finished { partition })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn count(&mut self, report: &Report) {
        let Report::Part(part) = report else { return };
        for outcome in &part.outcomes {
            let Some(state) = RecordState::from_byte(outcome.state) else { continue };
            self.counts.pending -= 1;
            *self.counts.get_mut(state.disposition()) += 1;
            match state {
                RecordState::Success => self.run.success += 1,
                RecordState::Failed(_) => self.run.failed += 1,
                RecordState::Skipped(_) => self.run.skipped += 1,
                RecordState::Pending => {}
            }
        }
        self.run.image_bytes += part.image_bytes;
        if let Some(server) = self.servers.get_mut(&part.partition.server_id) {
            let done = part.outcomes.len() as u64;
            server.pending = server.pending.saturating_sub(done);
            server.done_in_run += done;
        }
    }

    fn decide(&mut self, from: Rank, event: CoordinatorEvent) -> Result<(), DispatchError> {
        for action in self.coordinator.on_event(from, event, Instant::now()) {
            match action {
                Action::Grant { rank, partition, epoch, share } => {
                    let server = &self.servers[&partition.server_id];
                    let (folder, shared) = (server.folder.clone(), server.shared);
                    self.submit(Job::Load { rank, partition, epoch, share, folder, shared })?;
                }
                Action::Stop { rank } => self.send(rank, &ToWorker::Stop)?,
                Action::Done { rank } => self.send(rank, &ToWorker::Done)?,
                Action::Lost { rank, claims } => {
                    tracing::warn!(rank, claims, "rank fell silent; its claims go to others");
                }
            }
        }
        Ok(())
    }

    fn submit(&self, job: Job) -> Result<(), DispatchError> {
        self.jobs.send(job).map_err(|_| DispatchError::CoordinatorGone)
    }

    fn send(&self, rank: Rank, message: &ToWorker) -> Result<(), DispatchError> {
        Ok(self.outbox.send(rank, wire::encode(&super::worker::Packet::ToWorker(message.clone()))?)?)
    }

    fn name_of(&self, partition: PartitionKey) -> String {
        let folder = self.servers.get(&partition.server_id).map(|server| server.folder.to_string());
        format!("server_name={}/partition_id={}", folder.unwrap_or_default(), partition.partition_id)
    }

    fn status(&self, state: &str) -> PublishedStatus {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let mut slowest: Vec<ServerProgress> = self
            .servers
            .values()
            .filter(|server| server.pending > 0)
            .map(|server| {
                let per_second = server.done_in_run as f64 / seconds;
                ServerProgress {
                    server_name: server.folder.to_string(),
                    pending: server.pending,
                    per_second,
                    seconds_left: (per_second > 0.0).then(|| server.pending as f64 / per_second),
                }
            })
            .collect();
        let by_time = |server: &ServerProgress| server.seconds_left.unwrap_or(f64::INFINITY);
        slowest.sort_by(|a, b| {
            by_time(b)
                .total_cmp(&by_time(a))
                .then(b.pending.cmp(&a.pending))
                .then(a.server_name.cmp(&b.server_name))
        });
        slowest.truncate(MAX_SLOWEST);
        PublishedStatus {
            run_id: self.run.run_id,
            started_at: self.run.started_at,
            updated_at: now_ms(),
            state: state.into(),
            counts: self.counts,
            image_bytes: self.run.image_bytes,
            committed: self.run.success + self.run.failed + self.run.skipped,
            progress: self.coordinator.progress(),
            num_ranks: self.num_ranks,
            lost_ranks: self.coordinator.num_lost() as u32,
            unfinished_partitions: self.coordinator.num_unfinished(),
            slowest_servers: slowest,
        }
    }
}

fn answer_key(report: &Report) -> (PartitionKey, AnswerTo) {
    match report {
        Report::Part(report) => (report.partition, AnswerTo::Part(report.part.part)),
        Report::Compacted(report) => (report.partition, AnswerTo::Compacted),
        Report::Finished(partition) => (*partition, AnswerTo::Finished),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
