//! Sharing the work: claims, leases, reports, commits.
//!
//! Rank 0 runs the [`Coordinator`], the only one that knows the catalog; every rank, rank 0 too, runs a
//! worker ([`work`]). They speak [`protocol`] over a [`crate::cluster::Endpoint`], in one process or over MPI alike.
//!
//! ```text
//! worker                            rank 0
//!   Ready{n}         ------------>   picks partitions of servers that have room
//!                    <------------   Claims: partition, epoch, share of the server's limits, lease
//!   downloads, seals a part
//!   Part             ------------>   one catalog commit for all parts that wait
//!                    <------------   Answer: committed, or refused (then drop the partition)
//!   compacts         ------------>   Compacted, Finished
//!   Alive            ------------>   leases go on; silence lets them expire
//! ```
//! Whatever a worker does is undone by doing nothing: files that no commit names are swept.

mod committer;
mod coordinator;
mod error;
mod options;
pub mod protocol;
mod publish;
mod rank_zero;
mod worker;

pub use coordinator::{Action, Coordinator, CoordinatorEvent};
pub use error::DispatchError;
pub use options::DispatchOptions;
pub use publish::{PublishedStatus, ServerProgress, read_published};
pub use rank_zero::{RunContext, RunEnding, RunReport, coordinate};
#[cfg(test)]
pub(crate) use worker::Reports;
pub use worker::{ClaimEnding, ClaimHandle, Executor, ExecutorError, sort_mail, work};
