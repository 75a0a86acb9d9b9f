//! What a user may set about the cluster.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the message passing between ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterOptions {
    /// How ranks find each other.
    pub transport: TransportChoice,
    /// Longest nap of an idle MPI thread, hence about the longest delay of a message that finds its
    /// receiver idle. 1 ms costs about 2 % of a core per rank (measured); the MPI libraries at hand
    /// offer no way to be woken up.
    pub poll_interval: Duration,
    /// How long leaving may take before the MPI job is left without `MPI_Finalize`. Long enough for the
    /// slowest rank to seal its last part on a busy filesystem.
    pub finish_timeout: Duration,
    /// Bytes that may wait in one queue (those a rank has yet to hand over, and those it has yet to
    /// read). The protocol above keeps a few messages per rank under way, so reaching this means that
    /// a receiver has stopped.
    pub max_queued_bytes: u64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            transport: TransportChoice::Auto,
            poll_interval: Duration::from_millis(1),
            finish_timeout: Duration::from_secs(60),
            max_queued_bytes: 1 << 30,
        }
    }
}

/// How ranks find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportChoice {
    /// MPI when a launcher (`mpirun`, `srun`) started more than one process, else alone.
    #[default]
    Auto,
    /// Alone, whatever started this process. For launchers used to run unrelated datasets side by side.
    Local,
    /// MPI, also when no launcher can be recognised.
    Mpi,
}
