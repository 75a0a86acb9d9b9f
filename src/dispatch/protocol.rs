//! Messages between workers and rank 0: the only types that cross a transport.

use serde::{Deserialize, Serialize};

use crate::catalog::{CompactionReport, PartReport};
use crate::model::{Epoch, PartId, PartRow, PartitionKey, RecordIndex, RecordState, RunId, ServerName};

/// From a worker to rank 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToCoordinator {
    /// First word. Ranks of different builds must not share a catalog.
    Hello {
        ddl_version: String,
    },
    /// The rank may have so many partitions open at once; rank 0 keeps it supplied.
    Ready {
        max_open_partitions: u32,
    },
    Part(PartReport),
    Compacted(CompactionReport),
    Finished {
        partition: PartitionKey,
        epoch: Epoch,
    },
    /// The rank gives a claim back. With trouble, the partition is set aside for this run.
    Release {
        partition: PartitionKey,
        epoch: Epoch,
        trouble: Option<String>,
    },
    /// The claim's own files have vanished under it, as a successor's sweep would make them. The rank gives the
    /// claim back.
    FilesGone {
        partition: PartitionKey,
        epoch: Epoch,
        detail: String,
    },
    /// A sign of life, with what has happened since the rank began.
    Alive(RankProgress),
    /// The rank was told to stop by a signal or its deadline: so shall all.
    StopAsked {
        reason: String,
    },
    /// The rank cannot go on (a full disk, say). Under a claim that is void this means only that the claim is
    /// lost: its files may have been swept.
    Failed {
        claim: Option<(PartitionKey, Epoch)>,
        message: String,
    },
    /// Last word: nothing is open. The rank waits to be dismissed.
    Bye,
}

/// From rank 0 to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The run has begun. `settings` is what rank 0 resolved, so that all ranks agree.
    Welcome {
        run_id: RunId,
        settings: String,
    },
    Claims(Vec<Claim>),
    Answer {
        partition: PartitionKey,
        epoch: Epoch,
        to: AnswerTo,
        refusal: Option<String>,
    },
    /// The claim is void: drop it, whatever it was at.
    Revoked {
        partition: PartitionKey,
        epoch: Epoch,
    },
    /// A sign of life.
    Alive,
    /// Seal, report, release, and say goodbye.
    Stop,
    /// Nothing is left to do: say goodbye.
    Done,
    /// Last word: the catalog is closed, leave at once. With lost ranks, without waiting for the others.
    Dismissed {
        lost_ranks: bool,
    },
}

/// The report that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnswerTo {
    Part(PartId),
    Compacted,
    Finished,
}

/// Leave to work on a partition, as long as the rank shows signs of life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub partition: PartitionKey,
    pub folder: ServerName,
    /// Whether the records are of many small servers.
    pub shared: bool,
    pub epoch: Epoch,
    /// This rank's part of the server's limits, above 0 and at most 1.
    pub share: f64,
    /// Names of the manifest files in the partition's folder, in record order.
    pub manifest_files: Vec<String>,
    /// States of all records as runs: (state byte, count).
    pub states: Vec<(u8, u32)>,
    /// Parts that are committed already.
    pub parts: Vec<PartRow>,
    /// Whether `successes.parquet` stands, and only the marker and the sweep are left.
    pub compacted: bool,
}

impl Claim {
    /// Records with their states, in order.
    pub fn records(&self) -> impl Iterator<Item = (RecordIndex, RecordState)> + '_ {
        self.states
            .iter()
            .flat_map(|&(byte, count)| std::iter::repeat_n(byte, count as usize))
            .enumerate()
            .map(|(record, byte)| {
                // The catalog has checked the byte; an unknown one is left alone as if it were done.
                (record as RecordIndex, RecordState::from_byte(byte).unwrap_or(RecordState::Success))
            })
    }
}

/// States as runs, for a claim.
#[must_use]
pub fn runs_of(states: impl IntoIterator<Item = RecordState>) -> Vec<(u8, u32)> {
    let mut runs: Vec<(u8, u32)> = Vec::new();
    for state in states {
        match runs.last_mut() {
            Some((byte, count)) if *byte == state.to_byte() => *count += 1,
            _ => runs.push((state.to_byte(), 1)),
        }
    }
    runs
}

/// What a rank has done since it began. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankProgress {
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Bytes of bodies received.
    pub received_bytes: u64,
    pub requests: u64,
    /// Requests under way now.
    pub in_flight: u32,
    pub open_partitions: u32,
}
