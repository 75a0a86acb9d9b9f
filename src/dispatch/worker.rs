//! A rank's side: asks for partitions, runs them, passes reports on and answers back.
//!
//! A claim that rank 0 revokes is dropped on the spot, and a new claim of the same partition waits until the
//! old one is gone. Silence of rank 0 is counted in this rank's own ticks, as rank 0 counts ours: a rank that
//! slept does not blame the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

use super::DispatchError;
use super::protocol::{AnswerTo, Claim, RankProgress, ToCoordinator, ToWorker};
use super::server_line::{ServerDesk, ServerLine, boot_ms};
use crate::catalog::{CompactionReport, PartReport, ToolReport};
use crate::cluster::{Inbox, Outbox, wire};
use crate::model::{Embargo, Epoch, Loan, PartitionKey, Rank, RunId, ServerKnowledge, ServerName};
use crate::runtime::{Shutdown, StopReason};

/// How often a rank shows a sign of life: many times per lease.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Without a word from rank 0 for so many of its own ticks, a rank gives up. Rank 0 says one every few seconds, also while it
/// opens the catalog; a filesystem that stalls the whole process for minutes is to be survived.
const MAX_SILENT_TICKS: u64 = 600;
/// With parked partitions a rank opens others in their place, up to so many times its `max_open_partitions`.
const MAX_CAPACITY_FACTOR: u32 = 4;

/// What crosses the transport: rank 0 is coordinator and worker at once and sorts its mail by this.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Packet {
    ToCoordinator(ToCoordinator),
    ToWorker(ToWorker),
}

/// Does the work of one claim: downloads a partition, or runs a tool over it.
pub trait Executor: Send + Sync + 'static {
    /// Works on the claim until it is finished, or until `claim.stop` asks to stop: then it reports what it
    /// has and returns [`ClaimEnding::Released`].
    fn run(
        self: Arc<Self>,
        claim: Claim,
        handle: ClaimHandle,
    ) -> BoxFuture<'static, Result<ClaimEnding, ExecutorError>>;

    /// What this rank has done so far.
    fn progress(&self) -> RankProgress;

    /// Partitions that may be open at once.
    fn max_open_partitions(&self) -> u32;

    /// Open partitions that wait for a server that is dead or has asked for a pause: they cost nothing, so
    /// others are opened beside them.
    fn num_parked(&self) -> u32 {
        0
    }

    /// What this rank may ask of a server from now on, and with the first loan what is known of the server. Must not
    /// wait.
    fn lend(&self, _server: &ServerName, _loan: Loan, _knowledge: Option<ServerKnowledge>) {}

    /// Another rank was asked to leave a server alone. Must not wait.
    fn embargo(&self, _server: &ServerName, _embargo: Embargo) {}

    /// No claim will come any more: the last moment for words about servers. Must not wait.
    fn leave(&self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEnding {
    Finished,
    Released,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The claim has ended: another rank has the partition.
    #[error("report refused: {0}")]
    Refused(String),
    /// The claim's own files have vanished: most likely a successor has swept them.
    #[error("{0}")]
    FilesGone(String),
    /// This partition cannot be worked on; others can.
    #[error("{0}")]
    Partition(String),
    /// The rank cannot go on.
    #[error("{0}")]
    Fatal(String),
}

/// Where an executor reports to.
#[derive(Clone)]
pub struct ClaimHandle {
    partition: PartitionKey,
    epoch: Epoch,
    requests: mpsc::UnboundedSender<Request>,
    pub stop: Shutdown,
}

struct Request {
    message: ToCoordinator,
    to: (PartitionKey, Epoch, AnswerTo),
    answer: oneshot::Sender<Result<(), String>>,
}

impl ClaimHandle {
    /// Reports a sealed part; returns when it is committed.
    ///
    /// # Errors
    /// `Refused` when the claim has ended.
    pub async fn report_part(&self, report: PartReport) -> Result<(), ExecutorError> {
        let to = AnswerTo::Part(report.part.part);
        self.request(ToCoordinator::Part(report), to).await
    }

    /// Reports that the partition's files replace its parts.
    ///
    /// # Errors
    /// `Refused` when the claim has ended.
    pub async fn report_compaction(&self, report: CompactionReport) -> Result<(), ExecutorError> {
        self.request(ToCoordinator::Compacted(report), AnswerTo::Compacted).await
    }

    /// Reports that the partition is finished.
    ///
    /// # Errors
    /// `Refused` when the claim has ended.
    pub async fn report_finished(&self) -> Result<(), ExecutorError> {
        let message = ToCoordinator::Finished { partition: self.partition, epoch: self.epoch };
        self.request(message, AnswerTo::Finished).await
    }

    /// Reports what a tool made of the partition; returns when it is committed, and the claim has ended.
    ///
    /// # Errors
    /// `Refused` when the claim has ended before.
    pub async fn report_tool(&self, report: ToolReport) -> Result<(), ExecutorError> {
        self.request(ToCoordinator::Tool(report), AnswerTo::Tool).await
    }

    async fn request(&self, message: ToCoordinator, to: AnswerTo) -> Result<(), ExecutorError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { message, to: (self.partition, self.epoch, to), answer };
        let gone = || ExecutorError::Refused("rank 0 is gone".into());
        self.requests.send(request).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map_err(ExecutorError::Refused)
    }
}

/// Sorts a rank's mail: to its worker, and on rank 0 to the coordinator.
pub async fn sort_mail(
    mut inbox: Inbox,
    to_worker: mpsc::UnboundedSender<ToWorker>,
    to_coordinator: Option<mpsc::UnboundedSender<(Rank, ToCoordinator)>>,
) -> Result<(), DispatchError> {
    while let Some(envelope) = inbox.recv().await {
        // A receiver that is gone has said its last word.
        match (wire::decode::<Packet>(&envelope.payload)?, &to_coordinator) {
            (Packet::ToWorker(message), _) => drop(to_worker.send(message)),
            (Packet::ToCoordinator(message), Some(coordinator)) => {
                drop(coordinator.send((envelope.from, message)));
            }
            (Packet::ToCoordinator(message), None) => {
                tracing::warn!(from = envelope.from, ?message, "message for rank 0 came here");
            }
        }
    }
    Ok(())
}

/// How a rank is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Some ranks are gone: nobody must wait for all.
    pub lost_ranks: bool,
}

/// Works until rank 0 says that nothing is left or that it is time to stop, and then until it dismisses the
/// rank. `make_executor` gets the run, the settings that rank 0 resolved, and the line by which it borrows servers.
///
/// # Errors
/// When the transport fails or rank 0 vanishes.
pub async fn work<E: Executor>(
    outbox: Outbox,
    inbox: mpsc::UnboundedReceiver<ToWorker>,
    shutdown: Shutdown,
    make_executor: impl FnOnce(RunId, &str, ServerLine) -> Result<Arc<E>, String>,
) -> Result<Farewell, DispatchError> {
    work_at(ALIVE_INTERVAL, outbox, inbox, shutdown, make_executor).await
}

/// As [`work`], in a time whose ticks may be shorter.
async fn work_at<E: Executor>(
    tick: Duration,
    outbox: Outbox,
    inbox: mpsc::UnboundedReceiver<ToWorker>,
    shutdown: Shutdown,
    make_executor: impl FnOnce(RunId, &str, ServerLine) -> Result<Arc<E>, String>,
) -> Result<Farewell, DispatchError> {
    let mut line = Line::new(tick, outbox, inbox);
    let said_at = boot_ms();
    line.send(ToCoordinator::Hello { ddl_version: env!("CARGO_PKG_VERSION").into() })?;
    let (executor, mut desk) = loop {
        match line.next().await? {
            Word::Message(ToWorker::Welcome { run_id, settings, lease_timeout }) => {
                let desk = ServerDesk::new(lease_timeout, said_at);
                match make_executor(run_id, &settings, desk.line()) {
                    Ok(executor) => {
                        tracing::info!(run_id, "run begins");
                        break (executor, desk);
                    }
                    Err(message) => {
                        line.send(ToCoordinator::Failed { claim: None, message })?;
                        return line.say_goodbye().await;
                    }
                }
            }
            Word::Message(ToWorker::Stop | ToWorker::Done) => return line.say_goodbye().await,
            Word::Message(ToWorker::Dismissed { lost_ranks }) => return Ok(Farewell { lost_ranks }),
            Word::Message(_) | Word::Tick => {}
        }
    };

    let (requests, mut request_queue) = mpsc::unbounded_channel::<Request>();
    let mut waiting: HashMap<(PartitionKey, Epoch, AnswerTo), oneshot::Sender<Result<(), String>>> =
        HashMap::new();
    let mut claims = OpenClaims::new(executor.clone(), requests);
    let mut stop_told = false;
    let mut ending = false;
    let mut capacity = 0;

    while !(ending && claims.tasks.is_empty()) {
        let wanted = capacity_of(&*executor);
        if capacity != wanted {
            capacity = wanted;
            line.send(ToCoordinator::Ready { max_open_partitions: capacity })?;
        }
        tokio::select! {
            word = line.next() => match word? {
                Word::Tick => line.say_alive(executor.progress())?,
                Word::Message(ToWorker::Claims(granted)) => for claim in granted {
                    if ending {
                        let (partition, epoch) = (claim.partition, claim.epoch);
                        line.send(ToCoordinator::Release { partition, epoch, trouble: None })?;
                    } else {
                        claims.open(claim);
                    }
                },
                Word::Message(ToWorker::Answer { partition, epoch, to, refusal }) => {
                    if let Some(answer) = waiting.remove(&(partition, epoch, to)) {
                        drop(answer.send(refusal.map_or(Ok(()), Err)));
                    }
                }
                Word::Message(ToWorker::Revoked { partition, epoch }) => claims.revoke(partition, epoch),
                Word::Message(ToWorker::Stop) => {
                    tracing::info!("told to stop");
                    ending = true;
                    claims.stop.request(StopReason::Terminate);
                }
                Word::Message(ToWorker::Done) => ending = true,
                Word::Message(ToWorker::Dismissed { lost_ranks }) => return Ok(Farewell { lost_ranks }),
                Word::Message(ToWorker::Heard { said_at }) => desk.heard(said_at),
                Word::Message(ToWorker::Servers(orders)) => {
                    line.pass_on(&mut desk)?;
                    for (server, order) in orders {
                        desk.follow(&server, order, &*executor);
                    }
                }
                Word::Message(ToWorker::LoansVoid { number }) => {
                    line.pass_on(&mut desk)?;
                    desk.void(number, &*executor);
                }
                Word::Message(ToWorker::Welcome { .. } | ToWorker::Alive) => {}
            },
            words = desk.next_words() => line.send(ToCoordinator::Servers(words))?,
            Some(request) = request_queue.recv() => {
                waiting.insert(request.to, request.answer);
                line.send(request.message)?;
            }
            Some(done) = claims.tasks.join_next() => {
                if let Some(message) = claims.close(done) {
                    line.send(message)?;
                }
            }
            reason = shutdown.wait(), if !stop_told => {
                stop_told = true;
                line.send(ToCoordinator::StopAsked { reason: format!("{reason:?}") })?;
            }
        }
    }
    let progress = executor.progress();
    let RankProgress { success, failed, skipped, received_bytes, .. } = progress;
    tracing::info!(images = success, failed, skipped, received_bytes, "run ends for this rank");
    executor.leave();
    line.pass_on(&mut desk)?;
    line.say_alive(progress)?;
    line.say_goodbye().await
}

/// Partitions that the rank wants open now.
fn capacity_of(executor: &impl Executor) -> u32 {
    let max = executor.max_open_partitions();
    max.saturating_add(executor.num_parked()).min(max.saturating_mul(MAX_CAPACITY_FACTOR))
}

/// The line to rank 0.
struct Line {
    outbox: Outbox,
    inbox: mpsc::UnboundedReceiver<ToWorker>,
    ticks: Interval,
    /// Ticks since rank 0 was last heard.
    silent_ticks: u64,
}

enum Word {
    Message(ToWorker),
    /// It is time for a sign of life.
    Tick,
}

impl Line {
    fn new(tick: Duration, outbox: Outbox, inbox: mpsc::UnboundedReceiver<ToWorker>) -> Self {
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { outbox, inbox, ticks, silent_ticks: 0 }
    }

    fn send(&self, message: ToCoordinator) -> Result<(), DispatchError> {
        Ok(self.outbox.send(0, wire::encode(&Packet::ToCoordinator(message))?)?)
    }

    fn say_alive(&self, progress: RankProgress) -> Result<(), DispatchError> {
        self.send(ToCoordinator::Alive { progress, said_at: boot_ms() })
    }

    /// Sends what the fetcher has said so far.
    fn pass_on(&self, desk: &mut ServerDesk) -> Result<(), DispatchError> {
        while let Some(words) = desk.waiting_words() {
            self.send(ToCoordinator::Servers(words))?;
        }
        Ok(())
    }

    /// What comes next. Cancel safe.
    async fn next(&mut self) -> Result<Word, DispatchError> {
        tokio::select! {
            message = self.inbox.recv() => {
                self.silent_ticks = 0;
                message.map(Word::Message).ok_or(DispatchError::CoordinatorGone)
            }
            _ = self.ticks.tick() => {
                self.silent_ticks += 1;
                if self.silent_ticks > MAX_SILENT_TICKS {
                    let minutes = MAX_SILENT_TICKS * ALIVE_INTERVAL.as_secs() / 60;
                    return Err(DispatchError::CoordinatorSilent { minutes });
                }
                Ok(Word::Tick)
            }
        }
    }

    /// Says the last word and waits to be dismissed.
    async fn say_goodbye(&mut self) -> Result<Farewell, DispatchError> {
        self.send(ToCoordinator::Bye)?;
        loop {
            if let Word::Message(ToWorker::Dismissed { lost_ranks }) = self.next().await? {
                return Ok(Farewell { lost_ranks });
            }
        }
    }
}

/// A claim's task and its name.
type Closed = (PartitionKey, Epoch, Result<ClaimEnding, ExecutorError>);

/// The claims that this rank works on.
struct OpenClaims<E> {
    executor: Arc<E>,
    requests: mpsc::UnboundedSender<Request>,
    stop: Shutdown,
    tasks: JoinSet<Closed>,
    newest: HashMap<PartitionKey, OpenClaim>,
}

struct OpenClaim {
    epoch: Epoch,
    /// Dropped to revoke the claim.
    hold: Option<oneshot::Sender<()>>,
    /// Resolves when the claim's task has let go of everything.
    gone: oneshot::Receiver<()>,
}

impl<E: Executor> OpenClaims<E> {
    fn new(executor: Arc<E>, requests: mpsc::UnboundedSender<Request>) -> Self {
        let (stop, tasks) = (Shutdown::new(), JoinSet::new());
        Self { executor, requests, stop, tasks, newest: HashMap::new() }
    }

    /// Starts work on a claim, once an older claim of the same partition is gone.
    fn open(&mut self, claim: Claim) {
        let (partition, epoch) = (claim.partition, claim.epoch);
        tracing::debug!(folder = %claim.folder, partition.partition_id, %epoch, "partition claimed");
        let (hold, revoked) = oneshot::channel::<()>();
        let (here, gone) = oneshot::channel::<()>();
        let older = self.newest.insert(partition, OpenClaim { epoch, hold: Some(hold), gone });
        let older_gone = older.map(|older| older.gone);
        let requests = self.requests.clone();
        let handle = ClaimHandle { partition, epoch, requests, stop: self.stop.clone() };
        let run = self.executor.clone().run(claim, handle);
        self.tasks.spawn(async move {
            let _here = here;
            let work = async {
                if let Some(gone) = older_gone {
                    let _ = gone.await;
                }
                run.await
            };
            let ending = tokio::select! {
                ending = work => ending,
                _ = revoked => {
                    tracing::info!(?partition, %epoch, "claim revoked; dropping the partition");
                    Ok(ClaimEnding::Released)
                }
            };
            (partition, epoch, ending)
        });
    }

    fn revoke(&mut self, partition: PartitionKey, epoch: Epoch) {
        if let Some(claim) = self.newest.get_mut(&partition)
            && claim.epoch == epoch
        {
            claim.hold = None;
        }
    }

    /// Takes note of a task's end; returns what rank 0 must know of it.
    fn close(&mut self, closed: Result<Closed, JoinError>) -> Option<ToCoordinator> {
        let (partition, epoch, ending) = match closed {
            Ok(closed) => closed,
            Err(panic) => {
                let message = format!("a task failed: {panic}");
                return Some(ToCoordinator::Failed { claim: None, message });
            }
        };
        if self.newest.get(&partition).is_some_and(|claim| claim.epoch == epoch) {
            self.newest.remove(&partition);
        }
        match ending {
            Ok(ClaimEnding::Finished) => None,
            Ok(ClaimEnding::Released) => Some(ToCoordinator::Release { partition, epoch, trouble: None }),
            Err(ExecutorError::Refused(reason)) => {
                tracing::warn!(?partition, %epoch, reason, "report refused; dropping the partition");
                // For a claim that is lost this concerns nobody. Under one that holds, the partition itself is
                // wrong, and nobody would ever finish it.
                Some(ToCoordinator::Release { partition, epoch, trouble: Some(reason) })
            }
            Err(ExecutorError::FilesGone(detail)) => {
                Some(ToCoordinator::FilesGone { partition, epoch, detail })
            }
            Err(ExecutorError::Partition(trouble)) => {
                Some(ToCoordinator::Release { partition, epoch, trouble: Some(trouble) })
            }
            Err(ExecutorError::Fatal(message)) => {
                Some(ToCoordinator::Failed { claim: Some((partition, epoch)), message })
            }
        }
    }
}

/// What a claim's handle is told, for tests of executors.
#[cfg(test)]
pub(crate) struct Reports(mpsc::UnboundedReceiver<Request>);

#[cfg(test)]
impl Reports {
    /// The next report, and where to answer it. `None` when every handle is gone.
    pub(crate) async fn next(&mut self) -> Option<(ToCoordinator, oneshot::Sender<Result<(), String>>)> {
        self.0.recv().await.map(|request| (request.message, request.answer))
    }
}

#[cfg(test)]
impl ClaimHandle {
    pub(crate) fn for_test(claim: &Claim) -> (Self, Reports) {
        let (requests, reports) = mpsc::unbounded_channel();
        let handle = Self { partition: claim.partition, epoch: claim.epoch, requests, stop: Shutdown::new() };
        (handle, Reports(reports))
    }
}

#[cfg(test)]
mod tests;
