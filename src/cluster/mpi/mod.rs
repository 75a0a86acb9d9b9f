//! The cluster of the processes that an MPI launcher started.
//!
//! One thread of its own makes every MPI call (`thread`); the rest of the process sees channels.
//! `ffi` holds all unsafe code. Of MPI's two failure modes only one is visible: a call may return an
//! error, which ends the transport (logged; [`Inbox::recv`](super::Inbox::recv) then gives `None`); the
//! death of a rank shows in no call, and only heartbeats notice it.
//!
//! # Ending
//! [`MpiGuard::finish`] sends what is queued, waits until every rank has done so, and finalizes. Sends
//! are synchronous ones (`MPI_Issend`), so "sent" means "taken by the receiver", and no message is left
//! that anybody could wait for. With a rank lost `MPI_Finalize` would hang, so it is not called.

#[allow(unsafe_code, reason = "calls the C interface of MPI")]
mod ffi;
mod idle;
mod peer;
mod thread;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::endpoint::{self, Backlog};
use super::{ClusterError, ClusterOptions, Ending, Endpoint, Outbox};
use crate::model::Rank;
use thread::Command;

/// How the MPI library names itself.
#[must_use]
pub fn library_version() -> Option<String> {
    ffi::library_version()
}

/// Joins the ranks that the launcher started, on a new thread `mpi`; once in the life of a process.
///
/// # Errors
/// [`ClusterError::JoinedBefore`], [`ClusterError::ThreadLevel`], [`ClusterError::Mpi`],
/// [`ClusterError::Thread`]. Some MPI libraries end the process instead when they cannot start at all.
pub fn join(options: &ClusterOptions) -> Result<(Endpoint, MpiGuard), ClusterError> {
    let (delivery, inbox) = endpoint::inbox(options.max_queued_bytes);
    let outgoing = Arc::new(Backlog::new(options.max_queued_bytes));
    let (commands, command_queue) = mpsc::channel();
    let (joined_sender, joined) = mpsc::sync_channel(1);
    let (ended_sender, ended) = mpsc::sync_channel(1);
    let thread = {
        let outgoing = outgoing.clone();
        let poll_interval = options.poll_interval;
        std::thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(move || {
                let world = match ffi::World::join() {
                    Ok(world) => world,
                    Err(error) => return drop(joined_sender.send(Err(error))),
                };
                let _ = joined_sender.send(Ok((world.rank, world.size)));
                let ending =
                    thread::MpiThread::new(world, command_queue, outgoing, delivery, poll_interval).run();
                let _ = ended_sender.send(ending);
            })
            .map_err(ClusterError::Thread)?
    };
    let (rank, size) = joined.recv().unwrap_or(Err(ClusterError::Left))?;
    let outbox = Outbox::mpi(
        size,
        Submission { commands: commands.clone(), outgoing, thread: thread.thread().clone() },
    );
    let guard = MpiGuard { commands, ended, thread, finish_timeout: options.finish_timeout };
    Ok((Endpoint { rank, size, outbox, inbox }, guard))
}

/// Holds the process's place in the MPI job; see [`MpiGuard::finish`].
#[derive(Debug)]
#[must_use]
pub struct MpiGuard {
    commands: Sender<Command>,
    /// Says how the MPI thread ended.
    ended: Receiver<Ending>,
    thread: JoinHandle<()>,
    finish_timeout: Duration,
}

impl MpiGuard {
    /// Leaves the job; blocks until that is done or `finish_timeout` is over.
    ///
    /// Without lost ranks: sends what is queued, waits for all ranks to arrive here, and calls
    /// `MPI_Finalize`. With lost ranks, or when time is over: flushes what it can (two seconds at most)
    /// and leaves without it; the caller then ends the process by `_exit`.
    pub fn finish(self, lost_ranks: bool) -> Ending {
        if self.commands.send(Command::Finish { lost_ranks }).is_err() {
            return self.ended.recv().unwrap_or(Ending::Abandoned);
        }
        self.thread.thread().unpark();
        let ending = self.ended.recv_timeout(self.finish_timeout).unwrap_or(Ending::Abandoned);
        if ending == Ending::Finished {
            // It is past its last MPI call; the join only lets its memory go before ours.
            let _ = self.thread.join();
        }
        ending
    }
}

/// Hands messages to the MPI thread.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    commands: Sender<Command>,
    outgoing: Arc<Backlog>,
    thread: Thread,
}

impl Submission {
    pub(super) fn submit(&self, to: Rank, payload: Vec<u8>) -> Result<(), ClusterError> {
        self.outgoing.admit(to, payload.len() as u64)?;
        self.commands.send(Command::Send { to, payload }).map_err(|_| ClusterError::Left)?;
        // Cheap when it is awake: the system is asked only if the thread sleeps.
        self.thread.unpark();
        Ok(())
    }
}
