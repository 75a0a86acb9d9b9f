//! The loop of the one thread that talks to MPI.
//!
//! Each round: take commands, collect finished sends, collect and start receives, and if none of that
//! did anything, rest ([`Idle`]). Nothing in it waits for another rank, so a rank that is frozen or dead
//! delays nobody else: its messages stay in its own [`Peer`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::super::endpoint::{Backlog, Delivery};
use super::super::{ClusterError, Ending, Envelope};
use super::ffi::{Transfers, World};
use super::idle::Idle;
use super::peer::Peer;
use crate::model::Rank;

/// How long to go on sending when ranks were lost: the others answer within milliseconds.
const LOST_FLUSH: Duration = Duration::from_secs(2);
/// Messages taken in before the thread looks at its other duties.
const RECEIVE_BATCH: usize = 64;

/// What the rest of the process asks of the MPI thread.
#[derive(Debug)]
pub(super) enum Command {
    Send { to: Rank, payload: Vec<u8> },
    Finish { lost_ranks: bool },
}

/// How far the thread is with leaving.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Working,
    /// No new messages; those queued go out, for as long as it takes.
    Flushing,
    /// As `Flushing`, but not beyond that instant, for some will never be taken.
    FlushingUntil(Instant),
    /// All our messages were taken; waiting until the same holds for all ranks.
    Waiting,
}

pub(super) struct MpiThread {
    world: World,
    commands: Receiver<Command>,
    /// Bytes that wait in `commands` and `peers`, or are being sent.
    outgoing: Arc<Backlog>,
    delivery: Delivery,
    peers: Vec<Peer>,
    sends: Transfers<Rank>,
    receives: Transfers<(Rank, u64)>,
    barrier: Transfers<()>,
    idle: Idle,
    stage: Stage,
}

impl MpiThread {
    pub(super) fn new(
        world: World,
        commands: Receiver<Command>,
        outgoing: Arc<Backlog>,
        delivery: Delivery,
        poll_interval: Duration,
    ) -> Self {
        let peers = (0..world.size).map(|_| Peer::default()).collect();
        Self {
            world,
            commands,
            outgoing,
            delivery,
            peers,
            sends: Transfers::new(),
            receives: Transfers::new(),
            barrier: Transfers::new(),
            idle: Idle::new(poll_interval),
            stage: Stage::Working,
        }
    }

    /// Works until told to finish, then leaves the job.
    pub(super) fn run(mut self) -> Ending {
        let all_arrived = match self.work() {
            Ok(all_arrived) => all_arrived,
            Err(error) => {
                tracing::error!(%error, "message passing between ranks has failed");
                false
            }
        };
        if !all_arrived {
            return Ending::Abandoned;
        }
        match self.world.finalize() {
            Ok(()) => Ending::Finished,
            Err(error) => {
                tracing::warn!(%error, "leaving without MPI_Finalize");
                Ending::Abandoned
            }
        }
    }

    /// The loop; true when all ranks have arrived at the end.
    fn work(&mut self) -> Result<bool, ClusterError> {
        loop {
            let mut worked = self.take_commands()?;
            worked |= self.collect_sends()?;
            worked |= self.receive()?;
            match self.stage {
                Stage::Working => {}
                Stage::FlushingUntil(deadline) => {
                    if !self.has_unsent() || Instant::now() >= deadline {
                        return Ok(false);
                    }
                }
                Stage::Flushing => {
                    if !self.has_unsent() {
                        self.world.barrier((), &mut self.barrier)?;
                        self.stage = Stage::Waiting;
                    }
                }
                Stage::Waiting => {
                    if self.barrier.collect(|_, ()| {})? {
                        return Ok(true);
                    }
                }
            }
            if worked {
                self.idle.worked();
            } else {
                self.idle.rest(!self.sends.is_empty() || !self.receives.is_empty());
            }
        }
    }

    fn take_commands(&mut self) -> Result<bool, ClusterError> {
        let mut worked = false;
        loop {
            match self.commands.try_recv() {
                Ok(Command::Send { to, payload }) => self.send(to, payload)?,
                Ok(Command::Finish { lost_ranks }) => {
                    self.stage = if lost_ranks {
                        Stage::FlushingUntil(Instant::now() + LOST_FLUSH)
                    } else {
                        Stage::Flushing
                    };
                }
                Err(TryRecvError::Empty) => return Ok(worked),
                // The guard and all outboxes were dropped: the process ends by an error, or forgot us.
                Err(TryRecvError::Disconnected) => {
                    if self.stage == Stage::Working {
                        self.stage = Stage::FlushingUntil(Instant::now() + LOST_FLUSH);
                    }
                    return Ok(worked);
                }
            }
            worked = true;
        }
    }

    fn send(&mut self, to: Rank, payload: Vec<u8>) -> Result<(), ClusterError> {
        if to == self.world.rank {
            self.outgoing.release(payload.len() as u64);
            self.delivery.backlog.add(payload.len() as u64);
            self.delivery.deliver(Envelope { from: to, payload });
            return Ok(());
        }
        if self.stage == Stage::Waiting {
            // Too late: after the barrier nobody takes it. The sender has been told that it is leaving.
            self.outgoing.release(payload.len() as u64);
            return Ok(());
        }
        self.peers[to as usize].push(payload);
        self.start_sends(to)
    }

    fn start_sends(&mut self, to: Rank) -> Result<(), ClusterError> {
        while let Some(payload) = self.peers[to as usize].start_send() {
            self.world.send(to, payload, to, &mut self.sends)?;
        }
        Ok(())
    }

    fn collect_sends(&mut self) -> Result<bool, ClusterError> {
        let mut ready: Vec<Rank> = Vec::new();
        let worked = self.sends.collect(|payload, to| {
            self.outgoing.release(payload.len() as u64);
            self.peers[to as usize].sent();
            ready.push(to);
        })?;
        for to in ready {
            self.start_sends(to)?;
        }
        Ok(worked)
    }

    /// Starts what has arrived and delivers what is complete. A full inbox takes nothing more, which
    /// its senders notice by their own queues; a leaving rank reads on, so that nobody waits for it.
    fn receive(&mut self) -> Result<bool, ClusterError> {
        let mut num_started = 0;
        let leaving = self.stage != Stage::Working;
        while num_started < RECEIVE_BATCH && (leaving || !self.delivery.backlog.is_full()) {
            let Some(matched) = self.world.probe()? else { break };
            let from = matched.from;
            self.delivery.backlog.add(matched.bytes as u64);
            let number = self.peers[from as usize].start_receive();
            self.world.receive(matched, (from, number), &mut self.receives)?;
            num_started += 1;
        }
        let (peers, delivery) = (&mut self.peers, &self.delivery);
        let completed = self.receives.collect(|payload, (from, number)| {
            let peer = &mut peers[from as usize];
            peer.received(number, payload);
            while let Some(payload) = peer.next_received() {
                delivery.deliver(Envelope { from, payload });
            }
        })?;
        Ok(num_started > 0 || completed)
    }

    fn has_unsent(&self) -> bool {
        self.peers.iter().any(Peer::has_unsent)
    }
}
