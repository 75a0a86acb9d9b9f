//! Sharing the work: claims, leases, reports, commits.
//!
//! Rank 0 runs the [`Coordinator`], the only one that knows the catalog; every rank, rank 0 too, runs a
//! worker ([`work`]). They speak [`protocol`] over a [`crate::cluster::Endpoint`], in one process or over MPI alike.
//!
//! ```text
//! worker                            rank 0
//!   Ready{n}         ------------>   picks partitions of servers that have room
//!                    <------------   Claims: partition, epoch
//!   downloads, seals a part
//!   Part             ------------>   one catalog commit for all parts that wait
//!                    <------------   Answer: committed, or refused (then drop the partition)
//!   compacts         ------------>   Compacted, Finished; of a tool: Tool, which ends the claim
//!   Borrow: a server ------------>   asks the catalog what is known of it
//!                    <------------   Lend: a part of its limits; less than before, when others come
//!   Accept, GiveBack ------------>   lends to others what is free
//!   News of a server ------------>   the other ranks, and the catalog
//!   Alive            ------------>   leases go on; silence lets them expire
//!                    <------------   Revoked: the claim has expired, drop it at once
//!                    <------------   Alive: a worker that hears nothing for long gives up
//!                    <------------   Stop, or Done
//!   Bye              ------------>   when all have left or are lost: closes the catalog
//!                    <------------   Dismissed: leave, together or (a rank was lost) each alone
//! ```
//! A rank that was frozen finds `Revoked` before anything else when it wakes, and goes on with new claims. Until
//! it has read that, its reports are refused, and its failures are those of void claims: another rank has swept
//! its files. What it was lent is void, too (`LoansVoid`); [`ServerLine`] says how it knows before it is told.
//!
//! Whatever a worker does is undone by doing nothing: files that no commit names are swept.

mod committer;
mod coordinator;
mod error;
mod landlord;
mod lending;
mod options;
pub mod protocol;
mod publish;
mod rank_zero;
mod server_line;
mod tally;
mod worker;

pub use coordinator::{Action, Coordinator, CoordinatorEvent};
pub use error::DispatchError;
pub use landlord::num_seats;
pub use lending::BudgetOf;
pub use options::DispatchOptions;
pub use publish::{PausedServer, PublishedStatus, ServerProgress, read_published};
pub use rank_zero::{
    RunContext, RunEnding, RunReport, Settle, ToolWork, Work, coordinate, dismiss, keep_in_touch,
};
pub use server_line::ServerLine;
#[cfg(test)]
pub(crate) use worker::Reports;
pub use worker::{ClaimEnding, ClaimHandle, Executor, ExecutorError, Farewell, sort_mail, work};
