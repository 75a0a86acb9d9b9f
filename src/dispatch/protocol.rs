//! Messages between workers and rank 0: the only types that cross a transport.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::{CompactionReport, PartReport, ToolPartition, ToolReport};
use crate::model::{
    Embargo, Epoch, Loan, PartId, PartRow, PartitionKey, RecordIndex, RecordState, RunId, ServerKnowledge,
    ServerName, ServerNews,
};

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
    /// A tool has gone through the partition, which ends the claim.
    Tool(ToolReport),
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
    /// A sign of life, with what has happened since the rank began. Rank 0 sends `said_at` back.
    Alive {
        progress: RankProgress,
        /// By the rank's own clock.
        said_at: u64,
    },
    /// Words about servers, in order.
    Servers(Vec<(ServerName, ServerWord)>),
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
        /// Rank 0 takes a rank for lost that it has not heard for so long.
        lease_timeout: Duration,
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
    /// Rank 0 has heard what the rank said at this time of the rank's clock: its lease counts from then.
    Heard {
        said_at: u64,
    },
    /// Orders about servers, in order.
    Servers(Vec<(ServerName, ServerOrder)>),
    /// The rank was taken for lost. What it was lent is others' now: it has nothing, under this loan number, and
    /// borrows anew.
    LoansVoid {
        number: u64,
    },
    /// Seal, report, release, and say goodbye.
    Stop,
    /// Nothing is left to do: say goodbye.
    Done,
    /// Last word: the catalog is closed, leave at once. With lost ranks, without waiting for the others.
    Dismissed {
        lost_ranks: bool,
    },
}

/// What a rank says of a server, as [`crate::fetch::Landlord`] has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ServerWord {
    Borrow {
        /// The rank's number of this word. Loans that answer an older one are of no account: they have crossed it.
        borrow: u64,
        received: u64,
    },
    Accept {
        number: u64,
        rest: Duration,
    },
    GiveBack {
        received: u64,
        rest: Duration,
    },
    News(ServerNews),
    /// A robots.txt whose text is too long to be passed on.
    CrawlDelay {
        is_https: bool,
        delay: Duration,
    },
}

/// What rank 0 says of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ServerOrder {
    Lend {
        /// Of the word that it answers, or the last one.
        borrow: u64,
        loan: Loan,
        /// With the first loan of a server.
        knowledge: Option<Box<ServerKnowledge>>,
    },
    Embargo(Embargo),
}

/// The report that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnswerTo {
    Part(PartId),
    Compacted,
    Finished,
    Tool,
}

/// Leave to work on a partition, as long as the rank shows signs of life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub partition: PartitionKey,
    pub folder: ServerName,
    /// Whether the records are of many small servers.
    pub shared: bool,
    pub epoch: Epoch,
    /// Names of the manifest files in the partition's folder, in record order.
    pub manifest_files: Vec<String>,
    /// States of all records as runs: (state byte, count).
    pub states: Vec<(u8, u32)>,
    /// Parts that are committed already.
    pub parts: Vec<PartRow>,
    /// Whether `successes.parquet` stands, and only the marker and the sweep are left.
    pub compacted: bool,
    /// What a tool has to do here.
    pub scheduled: Option<ToolPartition>,
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
