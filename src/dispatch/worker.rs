//! A rank's side: asks for partitions, runs them, passes reports on and answers back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::DispatchError;
use super::protocol::{AnswerTo, Claim, RankProgress, ToCoordinator, ToWorker};
use crate::catalog::{CompactionReport, PartReport};
use crate::cluster::{Inbox, Outbox, wire};
use crate::model::{Epoch, PartitionKey, Rank};
use crate::runtime::{Shutdown, StopReason};

/// How often a rank shows a sign of life: many times per lease.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

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

/// Works until rank 0 says that nothing is left or that it is time to stop. `make_executor` gets the
/// settings that rank 0 resolved.
///
/// # Errors
/// When the transport fails or rank 0 vanishes.
pub async fn work<E: Executor>(
    outbox: Outbox,
    mut inbox: mpsc::UnboundedReceiver<ToWorker>,
    shutdown: Shutdown,
    make_executor: impl FnOnce(&str) -> Result<Arc<E>, String>,
) -> Result<(), DispatchError> {
    let send = |message: ToCoordinator| -> Result<(), DispatchError> {
        Ok(outbox.send(0, wire::encode(&Packet::ToCoordinator(message))?)?)
    };
    send(ToCoordinator::Hello { ddl_version: env!("CARGO_PKG_VERSION").into() })?;
    let executor = loop {
        match inbox.recv().await {
            Some(ToWorker::Welcome { run_id, settings }) => match make_executor(&settings) {
                Ok(executor) => {
                    tracing::info!(run_id, "run begins");
                    break executor;
                }
                Err(message) => {
                    send(ToCoordinator::Failed { message })?;
                    send(ToCoordinator::Bye)?;
                    return Ok(());
                }
            },
            Some(ToWorker::Stop | ToWorker::Done) => return send(ToCoordinator::Bye),
            Some(_) => {}
            None => return Err(DispatchError::CoordinatorGone),
        }
    };

    let (requests, mut request_queue) = mpsc::unbounded_channel::<Request>();
    let mut waiting: HashMap<(PartitionKey, Epoch, AnswerTo), oneshot::Sender<Result<(), String>>> =
        HashMap::new();
    let mut open: JoinSet<(PartitionKey, Epoch, Result<ClaimEnding, ExecutorError>)> = JoinSet::new();
    let stop = Shutdown::new();
    let mut stop_told = false;
    let mut ending = false;
    let mut alive = tokio::time::interval(ALIVE_INTERVAL);
    send(ToCoordinator::Ready { max_open_partitions: executor.max_open_partitions() })?;

    while !(ending && open.is_empty()) {
        tokio::select! {
            message = inbox.recv() => match message {
                None => return Err(DispatchError::CoordinatorGone),
                Some(ToWorker::Claims(claims)) => for claim in claims {
                    let (partition, epoch) = (claim.partition, claim.epoch);
                    if ending {
                        send(ToCoordinator::Release { partition, epoch, trouble: None })?;
                        continue;
                    }
                    tracing::debug!(folder = %claim.folder, partition.partition_id, %epoch, "partition claimed");
                    let handle = ClaimHandle { partition, epoch, requests: requests.clone(), stop: stop.clone() };
                    let run = executor.clone().run(claim, handle);
                    open.spawn(async move { (partition, epoch, run.await) });
                },
                Some(ToWorker::Answer { partition, epoch, to, refusal }) => {
                    if let Some(answer) = waiting.remove(&(partition, epoch, to)) {
                        drop(answer.send(refusal.map_or(Ok(()), Err)));
                    }
                }
                Some(ToWorker::Stop) => {
                    tracing::info!("told to stop");
                    ending = true;
                    stop.request(StopReason::Terminate);
                }
                Some(ToWorker::Done) => ending = true,
                Some(ToWorker::Welcome { .. }) => {}
            },
            Some(request) = request_queue.recv() => {
                waiting.insert(request.to, request.answer);
                send(request.message)?;
            }
            Some(done) = open.join_next() => {
                match done {
                    Ok((_, _, Ok(ClaimEnding::Finished))) => {}
                    Ok((partition, epoch, Ok(ClaimEnding::Released))) => {
                        send(ToCoordinator::Release { partition, epoch, trouble: None })?;
                    }
                    Ok((partition, epoch, Err(ExecutorError::Refused(reason)))) => {
                        tracing::warn!(?partition, %epoch, reason, "claim lost; dropping the partition");
                    }
                    Ok((partition, epoch, Err(ExecutorError::Partition(trouble)))) => {
                        send(ToCoordinator::Release { partition, epoch, trouble: Some(trouble) })?;
                    }
                    Ok((partition, epoch, Err(ExecutorError::Fatal(message)))) => {
                        send(ToCoordinator::Release { partition, epoch, trouble: None })?;
                        send(ToCoordinator::Failed { message })?;
                    }
                    Err(panic) => send(ToCoordinator::Failed { message: format!("a task failed: {panic}") })?,
                }
            }
            _ = alive.tick() => send(ToCoordinator::Alive(executor.progress()))?,
            reason = shutdown.wait(), if !stop_told => {
                stop_told = true;
                send(ToCoordinator::StopAsked { reason: format!("{reason:?}") })?;
            }
        }
    }
    let progress = executor.progress();
    let RankProgress { success, failed, skipped, received_bytes, .. } = progress;
    tracing::info!(images = success, failed, skipped, received_bytes, "run ends for this rank");
    send(ToCoordinator::Alive(progress))?;
    send(ToCoordinator::Bye)
}
