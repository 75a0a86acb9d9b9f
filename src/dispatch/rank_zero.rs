//! The coordinator's loop: messages, commits, the clock and signals in; grants and answers out.

mod run;

pub use run::{Leased, RunContext, RunEnding, RunReport, Settle, ToolWork, Work};

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::committer::{self, Job, JobResult, Origin};
use super::coordinator::{TICK, num_ticks};
use super::lending::{Lending, Orders};
use super::protocol::{AnswerTo, ToCoordinator, ToWorker};
use super::publish::{PublishedStatus, Publisher};
use super::tally::Tally;
use super::{Action, Coordinator, CoordinatorEvent, DispatchError};
use crate::catalog::{CatalogError, DispositionCounts, Report, RunRow, ToolReport};
use crate::cluster::{Outbox, wire};
use crate::model::{Epoch, PartitionKey, Rank, RecordState, ServerId};
use crate::runtime::Shutdown;

/// After a stop and the grace that what is under way has, ranks get this long to say goodbye; and again after
/// each report, for somebody is still sealing.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(60);
/// A partition whose files vanish so many times under claims that are current is set aside: it is not a
/// successor that takes them away, and doing it all again would only cost its server.
const MAX_FILES_GONE: u32 = 3;
/// How often rank 0 says a word to every rank.
const WORD_INTERVAL: Duration = Duration::from_secs(5);

/// Everything the loop keeps.
struct RankZero<'a> {
    coordinator: Coordinator,
    lending: Lending,
    lease_timeout: Duration,
    run: RunRow,
    counts: DispositionCounts,
    servers: Tally,
    outbox: Outbox,
    jobs: std::sync::mpsc::Sender<Job>,
    settings: String,
    set_aside: Vec<(String, String)>,
    /// Whether the catalog has failed: it is not asked for anything more.
    catalog_failed: bool,
    /// How often a partition's files have vanished under a current claim.
    files_gone: HashMap<PartitionKey, u32>,
    /// Ticks that the ranks still have to say goodbye, once the end has begun.
    goodbye_ticks: u32,
    started: Instant,
    num_ranks: u32,
    /// Partitions of this run.
    num_partitions: u64,
    observe: &'a mut (dyn FnMut(&PublishedStatus) + Send),
}

/// Tells every rank to leave, for rank 0 has closed the catalog, or never opened it.
pub fn dismiss(outbox: &Outbox, num_ranks: u32, lost_ranks: bool) {
    tell_all(outbox, num_ranks, &ToWorker::Dismissed { lost_ranks });
}

/// Says a word to every rank from time to time, for ever. Workers know by it that rank 0 lives, also while
/// it opens a large catalog.
pub async fn keep_in_touch(outbox: Outbox, num_ranks: u32) {
    let mut interval = tokio::time::interval(WORD_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        tell_all(&outbox, num_ranks, &ToWorker::Alive);
    }
}

fn tell_all(outbox: &Outbox, num_ranks: u32, message: &ToWorker) {
    for rank in 0..num_ranks {
        if let Err(error) = send(outbox, rank, message) {
            tracing::debug!(rank, %error, "cannot be told");
        }
    }
}

fn send(outbox: &Outbox, rank: Rank, message: &ToWorker) -> Result<(), DispatchError> {
    Ok(outbox.send(rank, wire::encode(&super::worker::Packet::ToWorker(message.clone()))?)?)
}

/// Runs the coordinator until every partition is finished or set aside, or the run is to stop, and every rank has
/// said goodbye; closes the catalog, and dismisses the ranks.
/// `inbox` carries the ranks' messages. `observe` is shown the status about twice a second.
///
/// # Errors
/// When the catalog fails or a rank cannot go on; everything committed stays committed.
pub async fn coordinate(
    context: RunContext,
    outbox: Outbox,
    inbox: mpsc::UnboundedReceiver<(Rank, ToCoordinator)>,
    shutdown: Shutdown,
    observe: &mut (dyn FnMut(&PublishedStatus) + Send),
) -> Result<RunReport, DispatchError> {
    coordinate_at(TICK, context, outbox, inbox, shutdown, observe).await
}

/// As [`coordinate`], in a time whose ticks may be shorter.
async fn coordinate_at(
    tick: Duration,
    context: RunContext,
    outbox: Outbox,
    inbox: mpsc::UnboundedReceiver<(Rank, ToCoordinator)>,
    shutdown: Shutdown,
    observe: &mut (dyn FnMut(&PublishedStatus) + Send),
) -> Result<RunReport, DispatchError> {
    let num_ranks = context.num_ranks;
    let mut num_not_gone = 0;
    let result = run_to_end(tick, context, outbox.clone(), inbox, shutdown, observe, &mut num_not_gone).await;
    dismiss(&outbox, num_ranks, num_not_gone > 0);
    result
}

async fn run_to_end(
    tick: Duration,
    context: RunContext,
    outbox: Outbox,
    mut inbox: mpsc::UnboundedReceiver<(Rank, ToCoordinator)>,
    shutdown: Shutdown,
    observe: &mut (dyn FnMut(&PublishedStatus) + Send),
    num_not_gone: &mut usize,
) -> Result<RunReport, DispatchError> {
    let RunContext { work, catalog, options, mut run, settings, status_folder, num_ranks, budget_of } =
        context;
    let leases = match work {
        Work::Download => catalog.expire_leases(now_ms())?,
        Work::Tool(_) => Vec::new(),
    };
    // Their limits have gone with the units.
    let leased_servers: HashSet<ServerId> = leases.iter().map(|(key, _)| key.server_id).collect();
    let until = leases.iter().map(|(_, lease)| lease.expires_at).max().unwrap_or_default();
    let mut leased = Leased { until, ..Leased::default() };
    let view = catalog.view()?;
    let mut servers = Tally::of(view.servers()?);
    let mut counts = DispositionCounts::default();
    let mut partitions = Vec::new();
    view.for_each_partition(|key, row| {
        counts += row.counts;
        if matches!(work, Work::Download) {
            if row.needs_work() && leased_servers.contains(&key.server_id) {
                leased.partitions += 1;
                leased.records += row.counts.pending;
                return;
            }
            servers.count_pending(key.server_id, row.counts.pending);
            if row.needs_work() {
                partitions.push(key);
            }
        }
    })?;
    let tool = match work {
        Work::Download => None,
        Work::Tool(tool) => {
            let scheduled = view.tool_partitions(&tool.name)?;
            partitions.extend(scheduled.iter().filter(|(_, row)| row.done.is_none()).map(|(key, _)| *key));
            Some(tool)
        }
    };
    drop(view);
    run.run_id = catalog.start_run(run.clone())?;
    tracing::info!(
        run_id = run.run_id,
        num_ranks,
        partitions = partitions.len(),
        pending = counts.pending,
        "coordinating the run"
    );
    let (jobs, mut results, committer) = committer::start(catalog.clone(), tool)
        .map_err(|error| DispatchError::CatalogThread { message: error.to_string() })?;
    let mut publisher = Publisher::new(status_folder, options.status_interval);
    let goodbye_ticks = num_ticks(options.stop_grace + GOODBYE_TIMEOUT);
    let lease_timeout = options.lease_timeout;
    let num_partitions = partitions.len() as u64;
    let coordinator = Coordinator::new(options, run.run_id, num_ranks, partitions).with_budgets(|id| {
        let server = servers.get(id).filter(|server| !server.shared)?;
        Some(budget_of(&server.folder))
    });
    let mut state = RankZero {
        num_partitions,
        lending: Lending::new(budget_of, jobs.clone(), now_ms(), tick),
        lease_timeout,
        coordinator,
        run,
        counts,
        servers,
        outbox,
        jobs,
        settings,
        set_aside: Vec::new(),
        catalog_failed: false,
        files_gone: HashMap::new(),
        goodbye_ticks,
        started: Instant::now(),
        num_ranks,
        observe,
    };

    let mut failure: Option<DispatchError> = None;
    let mut stop_told = false;
    let mut tick = tokio::time::interval(tick);
    // Ticks are rank 0's measure of others' silence: those that it slept through never were.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !state.coordinator.is_over() && state.goodbye_ticks > 0 {
        let event = tokio::select! {
            Some((from, message)) = inbox.recv() => state.on_message(from, message),
            Some(result) = results.recv() => state.on_result(result),
            _ = tick.tick() => {
                let status = state.status("running");
                (state.observe)(&status);
                publisher.offer(status);
                state.on_tick(&mut inbox)
            }
            _ = shutdown.wait(), if !stop_told => {
                stop_told = true;
                state.decide(0, CoordinatorEvent::StopAsked)
            }
        };
        if let Err(error) = event {
            tracing::error!(%error, "ending the run");
            failure.get_or_insert(error);
            stop_told = true;
            let _ = state.decide(0, CoordinatorEvent::StopAsked);
        }
    }

    let ending = match (state.coordinator.is_finished(), state.coordinator.num_unfinished()) {
        (true, 0) if leased.partitions == 0 => RunEnding::Done,
        (true, _) => RunEnding::Incomplete,
        (false, _) => RunEnding::Stopped,
    };
    let state_name = if failure.is_some() { "failed" } else { ending.as_str() };
    *num_not_gone = state.coordinator.num_not_gone();
    let status = state.status(state_name);
    (state.observe)(&status);
    publisher.finish(status).await;
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
    let _ = state.lending.flush();
    drop((state.jobs, state.lending));
    let is_sound = !state.catalog_failed;
    let recorded = tokio::task::spawn_blocking(move || {
        let _ = committer.join();
        if !is_sound {
            return Ok::<_, CatalogError>(());
        }
        catalog.end_run(&run_at_end)?;
        // A run that was asked to stop has no time for it.
        if ending != RunEnding::Stopped
            && let Err(error) = catalog.forget_stale_facts(now_ms())
        {
            tracing::warn!(%error, "what is out of date of servers is kept");
        }
        Ok(())
    })
    .await;
    if let Some(failure) = failure {
        return Err(failure);
    }
    recorded.map_err(|panic| DispatchError::CatalogThread { message: panic.to_string() })??;
    Ok(RunReport {
        run_id: state.run.run_id,
        ending,
        counts: state.counts,
        success: state.run.success,
        failed: state.run.failed,
        skipped: state.run.skipped,
        image_bytes: state.run.image_bytes,
        elapsed: state.started.elapsed(),
        lost_ranks: *num_not_gone,
        set_aside: state.set_aside,
        leased,
    })
}

impl RankZero<'_> {
    /// Leases are judged by all that has arrived, not by what happened to be read.
    fn on_tick(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<(Rank, ToCoordinator)>,
    ) -> Result<(), DispatchError> {
        for _ in 0..inbox.len() {
            if let Ok((from, message)) = inbox.try_recv() {
                self.on_message(from, message)?;
            }
        }
        if self.coordinator.is_ending() {
            self.goodbye_ticks = self.goodbye_ticks.saturating_sub(1);
        }
        let orders = self.lending.on_tick()?;
        self.give(orders)?;
        self.decide(0, CoordinatorEvent::Tick)
    }

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
                let (run_id, settings) = (self.run.run_id, self.settings.clone());
                let lease_timeout = self.lease_timeout;
                self.send(from, &ToWorker::Welcome { run_id, settings, lease_timeout })?;
                self.decide(from, CoordinatorEvent::Hello)
            }
            ToCoordinator::Ready { max_open_partitions } => {
                self.decide(from, CoordinatorEvent::Ready { max_open_partitions })
            }
            ToCoordinator::Alive { progress, said_at } => {
                self.decide(from, CoordinatorEvent::Alive(progress))?;
                self.send(from, &ToWorker::Heard { said_at })
            }
            ToCoordinator::Servers(words) => {
                self.decide(from, CoordinatorEvent::Hello)?;
                let orders = self.lending.on_words(from, words)?;
                self.give(orders)
            }
            ToCoordinator::Part(report) => self.on_report(from, report.part.part.epoch, Report::Part(report)),
            ToCoordinator::Compacted(report) => self.on_report(from, report.epoch, Report::Compacted(report)),
            ToCoordinator::Finished { partition, epoch } => {
                self.on_report(from, epoch, Report::Finished(partition))
            }
            ToCoordinator::Tool(report) => self.on_report(from, report.piece.epoch, Report::Tool(report)),
            ToCoordinator::Release { partition, epoch, trouble: None } => {
                self.decide(from, CoordinatorEvent::Release { partition, epoch })
            }
            ToCoordinator::Release { partition, epoch, trouble: Some(trouble) } => {
                self.set_aside(from, partition, epoch, trouble)
            }
            ToCoordinator::FilesGone { partition, epoch, detail } => {
                self.on_files_gone(from, partition, epoch, detail)
            }
            ToCoordinator::StopAsked { reason } => {
                tracing::info!(rank = from, reason, "a rank was asked to stop");
                self.decide(from, CoordinatorEvent::StopAsked)
            }
            ToCoordinator::Failed { claim: Some((partition, epoch)), message }
                if !self.coordinator.is_current(partition, epoch) =>
            {
                tracing::warn!(rank = from, %epoch, message, "a claim that was lost has failed");
                self.decide(from, CoordinatorEvent::Hello)
            }
            ToCoordinator::Failed { message, .. } => Err(DispatchError::Rank { rank: from, message }),
            ToCoordinator::Bye => {
                let orders = self.lending.on_lost(from);
                self.give(orders)?;
                self.decide(from, CoordinatorEvent::Bye)
            }
        }
    }

    fn give(&self, orders: Orders) -> Result<(), DispatchError> {
        orders.into_iter().try_for_each(|(rank, orders)| self.send(rank, &ToWorker::Servers(orders)))
    }

    fn set_aside(
        &mut self,
        from: Rank,
        partition: PartitionKey,
        epoch: Epoch,
        trouble: String,
    ) -> Result<(), DispatchError> {
        if self.coordinator.is_current(partition, epoch) {
            let name = self.name_of(partition);
            tracing::error!(partition = name, %trouble, "partition set aside");
            self.set_aside.push((name, trouble));
        }
        self.decide(from, CoordinatorEvent::SetAside { partition, epoch })
    }

    fn on_files_gone(
        &mut self,
        from: Rank,
        partition: PartitionKey,
        epoch: Epoch,
        detail: String,
    ) -> Result<(), DispatchError> {
        tracing::warn!(rank = from, partition = self.name_of(partition), %epoch, detail, "claim lost");
        if self.coordinator.is_current(partition, epoch) {
            let times = self.files_gone.entry(partition).or_default();
            *times += 1;
            if *times >= MAX_FILES_GONE {
                return self.set_aside(from, partition, epoch, detail);
            }
        }
        self.decide(from, CoordinatorEvent::Release { partition, epoch })
    }

    /// Reports of void claims are refused here; the others go to the catalog.
    fn on_report(&mut self, from: Rank, epoch: Epoch, report: Report) -> Result<(), DispatchError> {
        let (partition, to) = answer_key(&report);
        self.goodbye_ticks = self.goodbye_ticks.max(num_ticks(GOODBYE_TIMEOUT));
        self.decide(from, CoordinatorEvent::Hello)?;
        let origin = Origin { rank: from, partition, epoch, to };
        if self.coordinator.is_current(partition, epoch) {
            self.submit(Job::Commit { origin, report })
        } else {
            self.answer(origin, Some("the claim has ended"))
        }
    }

    fn answer(&self, origin: Origin, refusal: Option<&str>) -> Result<(), DispatchError> {
        let Origin { rank, partition, epoch, to } = origin;
        self.send(rank, &ToWorker::Answer { partition, epoch, to, refusal: refusal.map(str::to_owned) })
    }

    fn on_result(&mut self, result: JobResult) -> Result<(), DispatchError> {
        match result {
            JobResult::Failed(error) => {
                self.catalog_failed = true;
                let told = self.decide(0, CoordinatorEvent::CatalogFailed);
                if let Err(error) = told {
                    tracing::warn!(%error, "not all ranks could be told to stop");
                }
                Err(error)
            }
            JobResult::NotCommitted { origin } => self.answer(origin, Some("the catalog has failed")),
            JobResult::Recalled { rank, server, facts } => {
                let orders = self.lending.on_facts(rank, server, facts);
                self.give(orders)
            }
            JobResult::Loaded { rank, claim } => {
                // It may have been lost while it was read.
                if self.coordinator.is_current(claim.partition, claim.epoch) {
                    self.send(rank, &ToWorker::Claims(vec![*claim]))?;
                }
                Ok(())
            }
            JobResult::Unusable { rank, partition, epoch, detail } => {
                // It may have been lost while it was read, and then so is the rank.
                if self.coordinator.is_current(partition, epoch) {
                    self.set_aside(rank, partition, epoch, detail)?;
                }
                Ok(())
            }
            JobResult::Committed { origin, report, answer } => {
                if answer.is_ok() {
                    self.count(&report);
                }
                let refusal = answer.as_ref().err().map(ToString::to_string);
                self.answer(origin, refusal.as_deref())?;
                match (report, answer) {
                    (Report::Finished(partition) | Report::Tool(ToolReport { partition, .. }), Ok(())) => {
                        self.decide(origin.rank, CoordinatorEvent::Finished { partition })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn count(&mut self, report: &Report) {
        let part = match report {
            Report::Part(part) => part,
            Report::Tool(report) => {
                self.run.success += report.piece.num_images;
                return;
            }
            Report::Compacted(_) | Report::Finished(_) => return,
        };
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
        self.servers.count_done(part.partition.server_id, part.outcomes.len() as u64);
    }

    fn decide(&mut self, from: Rank, event: CoordinatorEvent) -> Result<(), DispatchError> {
        for action in self.coordinator.on_event(from, event) {
            match action {
                Action::Grant { rank, partition, epoch } => {
                    let Some(server) = self.servers.get(partition.server_id) else {
                        let trouble = "the catalog does not have its server".to_owned();
                        self.set_aside(rank, partition, epoch, trouble)?;
                        continue;
                    };
                    let (folder, shared) = (server.folder.clone(), server.shared);
                    self.submit(Job::Load { rank, partition, epoch, folder, shared })?;
                }
                Action::Revoke { rank, partition, epoch } => {
                    self.send(rank, &ToWorker::Revoked { partition, epoch })?;
                }
                Action::Stop { rank } => self.send(rank, &ToWorker::Stop)?,
                Action::Done { rank } => self.send(rank, &ToWorker::Done)?,
                Action::Lost { rank, claims } => {
                    tracing::warn!(rank, claims, "rank fell silent; its claims go to others");
                    let orders = self.lending.on_lost(rank);
                    self.give(orders)?;
                }
                Action::Back { rank } => {
                    let number = self.lending.number_of_nothing();
                    self.send(rank, &ToWorker::LoansVoid { number })?;
                }
            }
        }
        Ok(())
    }

    fn submit(&self, job: Job) -> Result<(), DispatchError> {
        self.jobs.send(job).map_err(|_| DispatchError::CoordinatorGone)
    }

    fn send(&self, rank: Rank, message: &ToWorker) -> Result<(), DispatchError> {
        send(&self.outbox, rank, message)
    }

    fn name_of(&self, partition: PartitionKey) -> String {
        let folder = self.servers.get(partition.server_id).map(|server| server.folder.to_string());
        format!("server_name={}/partition_id={}", folder.unwrap_or_default(), partition.partition_id)
    }

    fn status(&self, state: &str) -> PublishedStatus {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        PublishedStatus {
            run_id: self.run.run_id,
            kind: self.run.kind.clone(),
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
            partitions: self.num_partitions,
            slowest_servers: self.servers.slowest(seconds),
            paused_servers: self.lending.paused_servers(),
        }
    }
}

fn answer_key(report: &Report) -> (PartitionKey, AnswerTo) {
    match report {
        Report::Part(report) => (report.partition, AnswerTo::Part(report.part.part)),
        Report::Compacted(report) => (report.partition, AnswerTo::Compacted),
        Report::Finished(partition) => (*partition, AnswerTo::Finished),
        Report::Tool(report) => (report.partition, AnswerTo::Tool),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[cfg(test)]
mod tests;
