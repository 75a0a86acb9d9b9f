//! The two ends of message passing that a rank holds, whatever the transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::ClusterError;
use crate::model::Rank;

/// Largest single message. MPI counts in `int`, and a message is held in memory at both ends.
pub const MAX_MESSAGE_BYTES: u64 = 1 << 30;

/// A rank's place in the cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// This rank; rank 0 coordinates.
    pub rank: Rank,
    /// Number of ranks, at least 1.
    pub size: u32,
    pub outbox: Outbox,
    pub inbox: Inbox,
}

/// A message that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub from: Rank,
    pub payload: Vec<u8>,
}

/// Sends messages; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Outbox {
    size: u32,
    route: Route,
}

#[derive(Clone, Debug)]
enum Route {
    /// Straight into the inboxes, one per rank.
    Local { from: Rank, inboxes: Arc<[Delivery]> },
    /// Through the MPI thread.
    #[cfg(feature = "mpi")]
    Mpi(super::mpi::Submission),
}

impl Outbox {
    pub(super) fn local(from: Rank, inboxes: Arc<[Delivery]>) -> Self {
        Self { size: inboxes.len() as u32, route: Route::Local { from, inboxes } }
    }

    #[cfg(feature = "mpi")]
    pub(super) fn mpi(size: u32, submission: super::mpi::Submission) -> Self {
        Self { size, route: Route::Mpi(submission) }
    }

    /// Queues `payload` for rank `to`, which may be this rank, and returns at once.
    ///
    /// Success means queued: a message to a rank that has died or left is lost silently. Messages to
    /// one rank arrive in the order of these calls; those to different ranks know no order.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchRank`], [`ClusterError::MessageTooLarge`] (over [`MAX_MESSAGE_BYTES`]),
    /// [`ClusterError::Congested`] when too much waits already, [`ClusterError::Left`] after the end.
    pub fn send(&self, to: Rank, payload: Vec<u8>) -> Result<(), ClusterError> {
        if to >= self.size {
            return Err(ClusterError::NoSuchRank { to, size: self.size });
        }
        let bytes = payload.len() as u64;
        if bytes > MAX_MESSAGE_BYTES {
            return Err(ClusterError::MessageTooLarge { to, bytes, max_bytes: MAX_MESSAGE_BYTES });
        }
        match &self.route {
            Route::Local { from, inboxes } => {
                let inbox = &inboxes[to as usize];
                inbox.backlog.admit(to, bytes)?;
                inbox.deliver(Envelope { from: *from, payload });
                Ok(())
            }
            #[cfg(feature = "mpi")]
            Route::Mpi(submission) => submission.submit(to, payload),
        }
    }
}

/// Receives messages; one per rank.
#[derive(Debug)]
pub struct Inbox {
    arrived: mpsc::UnboundedReceiver<Envelope>,
    backlog: Arc<Backlog>,
}

impl Inbox {
    /// The next message; `None` once no more can come: the transport has ended, or every outbox of a
    /// local cluster (this rank's own included) has been dropped.
    ///
    /// Cancel safe: a message is either returned or still there.
    pub async fn recv(&mut self) -> Option<Envelope> {
        let envelope = self.arrived.recv().await?;
        self.backlog.release(envelope.payload.len() as u64);
        Some(envelope)
    }
}

/// The sending half of an inbox. The channel itself knows no bound; the backlog is its bound.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    arrived: mpsc::UnboundedSender<Envelope>,
    pub(super) backlog: Arc<Backlog>,
}

impl Delivery {
    /// Hands over a message that `backlog` has counted already. A dropped inbox loses it silently.
    pub(super) fn deliver(&self, envelope: Envelope) {
        if let Err(mpsc::error::SendError(lost)) = self.arrived.send(envelope) {
            self.backlog.release(lost.payload.len() as u64);
        }
    }
}

/// An inbox and its sending half.
pub(super) fn inbox(max_queued_bytes: u64) -> (Delivery, Inbox) {
    let backlog = Arc::new(Backlog::new(max_queued_bytes));
    let (sender, arrived) = mpsc::unbounded_channel();
    (Delivery { arrived: sender, backlog: backlog.clone() }, Inbox { arrived, backlog })
}

/// Counts the bytes that wait in one queue and refuses more than its limit.
///
/// An empty queue takes any message, so a limit below [`MAX_MESSAGE_BYTES`] makes nothing impossible.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Bytes waiting. Only a count: the queue's own synchronisation publishes the messages.
    queued: AtomicU64,
    max_queued_bytes: u64,
}

/// Memory that a queued message takes beside its payload, so that empty messages count too.
const MESSAGE_OVERHEAD_BYTES: u64 = 64;

impl Backlog {
    pub(super) fn new(max_queued_bytes: u64) -> Self {
        Self { queued: AtomicU64::new(0), max_queued_bytes }
    }

    /// Counts a message in, or refuses it.
    pub(super) fn admit(&self, to: Rank, bytes: u64) -> Result<(), ClusterError> {
        let cost = bytes + MESSAGE_OVERHEAD_BYTES;
        self.queued
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
                (queued == 0 || queued + cost <= self.max_queued_bytes).then_some(queued + cost)
            })
            .map(drop)
            .map_err(|queued_bytes| ClusterError::Congested { to, queued_bytes })
    }

    /// Counts a message in without asking, for one that has to be taken.
    #[cfg(feature = "mpi")]
    pub(super) fn add(&self, bytes: u64) {
        self.queued.fetch_add(bytes + MESSAGE_OVERHEAD_BYTES, Ordering::Relaxed);
    }

    /// Counts a message out.
    pub(super) fn release(&self, bytes: u64) {
        self.queued.fetch_sub(bytes + MESSAGE_OVERHEAD_BYTES, Ordering::Relaxed);
    }

    #[cfg(feature = "mpi")]
    pub(super) fn is_full(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= self.max_queued_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_refuses_beyond_its_limit_but_never_an_empty_queues_first() {
        let backlog = Backlog::new(100);
        backlog.admit(0, 1_000).unwrap();
        assert!(matches!(backlog.admit(3, 0), Err(ClusterError::Congested { to: 3, queued_bytes: 1_064 })));
        backlog.release(1_000);
        backlog.admit(0, 30).unwrap();
        assert!(backlog.admit(0, 30).is_err(), "empty payloads count for what they take");
    }
}
