//! Small numbers with a meaning of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A rank of the cluster; rank 0 coordinates. A lone process is rank 0 of one.
pub type Rank = u32;

/// Position of a record in its partition, from 0, in manifest order. Stored as column `record`.
pub type RecordIndex = u32;

/// One `ddl download` (or tool) run; counts up from 1 in one catalog.
pub type RunId = u32;

/// A server's number in the catalog, given in order of first ingest and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerId(pub u32);

/// A partition: at most `batch_size` records of one server. Also its key in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionKey {
    pub server_id: ServerId,
    pub partition_id: u32,
}

/// Fencing token of a claim: the run in the high half, a counter of that run in the low half.
///
/// Unique in the life of a catalog, so a report or a file of an older claim can always be told
/// from that of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    #[must_use]
    pub fn new(run: RunId, counter: u32) -> Self {
        Self(u64::from(run) << 32 | u64::from(counter))
    }

    #[must_use]
    pub fn run(self) -> RunId {
        (self.0 >> 32) as RunId
    }
}

impl fmt::Display for Epoch {
    /// `run-counter`, as it appears in the names of parts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A part of a partition: the claim that wrote it and its number within that claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    pub epoch: Epoch,
    pub sequence: u32,
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}
