//! What can go wrong between ranks.

use crate::model::Rank;

/// Why a message could not be sent or read, or a cluster not be joined.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The destination is not a rank of this cluster.
    #[error("no rank {to} in a cluster of {size}")]
    NoSuchRank { to: Rank, size: u32 },

    /// One message is larger than any message may be.
    #[error("a message of {bytes} bytes to rank {to} is over the limit of {max_bytes}")]
    MessageTooLarge { to: Rank, bytes: u64, max_bytes: u64 },

    /// Too much waits to be delivered: the receiver has stopped reading.
    #[error("{queued_bytes} bytes wait to be delivered already, so a message to rank {to} was refused")]
    Congested { to: Rank, queued_bytes: u64 },

    /// This rank has left the cluster, or its transport has failed (which was logged).
    #[error("this rank has left the cluster")]
    Left,

    /// The bytes of a message are not one of ours.
    #[error("received {bytes} bytes that are not a `ddl` message")]
    NotAMessage { bytes: usize },

    /// The ranks run different builds.
    #[error(
        "received a message of protocol version {theirs}, but this `ddl` speaks {ours}: start all ranks from the same binary"
    )]
    ProtocolVersion { theirs: u16, ours: u16 },

    /// A message could not be turned into bytes.
    #[error("cannot encode a message")]
    Encode(#[source] postcard::Error),

    /// The frame is ours, its contents are damaged or of another type.
    #[error("cannot decode a message of {bytes} bytes")]
    Decode {
        bytes: usize,
        #[source]
        source: postcard::Error,
    },

    /// Bytes follow the end of a message.
    #[error("{bytes} bytes follow the end of a message")]
    TrailingBytes { bytes: usize },

    /// A launcher's variable does not hold a number of processes.
    #[error("the variable `{variable}` should hold the number of processes, but holds `{value}`")]
    LauncherVariable { variable: &'static str, value: String },

    /// Several processes were started, and none can know of the others.
    #[error(
        "{processes} (`{variable}`), but this `ddl` was built without MPI, so each would work alone on the same dataset: \
         build it with `--features mpi`, or start one process",
        processes = started(*.size)
    )]
    BuiltWithoutMpi { variable: &'static str, size: Option<u32> },

    /// MPI was asked for, and this build has none.
    #[error(
        "the MPI transport was asked for, but this `ddl` was built without it: build it with `--features mpi`"
    )]
    NoMpi,

    /// The launcher and the MPI library belong to different worlds.
    #[error(
        "the launcher started {launched} processes (`{variable}`), but MPI sees {joined}: start `ddl` with the launcher of \
         the MPI it was built with (OpenMPI: its own `mpirun` or `srun --mpi=pmix`; MPICH: its own `mpiexec` or \
         `srun --mpi=pmi2`)"
    )]
    SizeMismatch { variable: &'static str, launched: u32, joined: u32 },

    /// MPI can be joined once in the life of a process.
    #[error("this process has joined MPI before")]
    JoinedBefore,

    /// The MPI library grants less than one thread that talks to it beside others that do not.
    #[error("the MPI library does not allow a process with several threads (level {provided})")]
    ThreadLevel { provided: i32 },

    /// A call of the MPI library failed.
    #[error("`{call}` failed: {message}")]
    Mpi { call: &'static str, message: String },

    /// The MPI thread could not be started.
    #[error("cannot start the MPI thread")]
    Thread(#[source] std::io::Error),
}

impl ClusterError {
    /// What the user can do about it, where the text does not say so.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ThreadLevel { .. } => Some(
                "use an MPI that was built with `MPI_THREAD_FUNNELED` or more, as OpenMPI and MPICH are"
                    .into(),
            ),
            Self::LauncherVariable { variable, .. } => {
                Some(format!("start `ddl` with `mpirun` or `srun`, or unset `{variable}` to work alone"))
            }
            Self::Left | Self::Congested { .. } | Self::Mpi { .. } => {
                Some("what was committed is safe; run the same command again".into())
            }
            _ => None,
        }
    }
}

fn started(size: Option<u32>) -> String {
    match size {
        Some(size) => format!("a launcher started {size} processes"),
        None => "a launcher started this process".to_owned(),
    }
}
