//! Message passing between the ranks of a cluster: bytes in, bytes out, in order.
//!
//! A rank holds one [`Endpoint`]: an [`Outbox`] that never blocks and an [`Inbox`] that waits. Two
//! transports give the same endpoint: [`local`] joins the tasks of one process, `mpi` (cargo feature
//! `mpi`) the processes that `mpirun` or `srun` started. [`launch`] chooses. What messages mean is not
//! known here; [`wire`] only frames them.
//!
//! What both transports promise, and [`conformance`] checks on both:
//! - messages from one rank to another arrive in the order they were sent, whole, and once;
//! - a rank may send to itself;
//! - sending never waits, and what waits to be delivered is bounded
//!   ([`ClusterOptions::max_queued_bytes`]): beyond it a send is refused, not delayed.
//!
//! What neither promises: that a lost rank is noticed. A message to a rank that is gone is accepted and
//! lost. MPI reports no death, so the protocol above needs heartbeats and leases anyway, and the local
//! transport keeps the same silence so that tests in one process see what a cluster would do.

#[doc(hidden)]
pub mod conformance;
mod endpoint;
mod error;
mod launcher;
pub mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
mod options;
pub mod wire;

pub use endpoint::{Endpoint, Envelope, Inbox, MAX_MESSAGE_BYTES, Outbox};
pub use error::ClusterError;
pub use launcher::{Cluster, Ending, Membership, launch, launched_rank, launcher};
pub use options::{ClusterOptions, TransportChoice};

/// The MPI that this build uses, as it names itself; `None` where it uses none.
#[must_use]
pub fn mpi_library() -> Option<String> {
    #[cfg(feature = "mpi")]
    return mpi::library_version();
    #[cfg(not(feature = "mpi"))]
    None
}
