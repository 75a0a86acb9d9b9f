//! What the user may set about near-duplicates.

use serde::{Deserialize, Serialize};

/// The largest distance that is searched. Drawings of different colours are as near as that (`docs/BENCHMARKS.md`), and
/// a search among ten million takes some thirty times as long as at 10 (estimated).
pub const MAX_DISTANCE: u32 = 40;

/// How near-duplicates are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NearOptions {
    /// Two pictures are near when at most this many of the 256 bits of their hashes differ. 16 finds what was coded or
    /// scaled again, and no two different photos: `docs/BENCHMARKS.md` has what other distances find.
    pub distance: u32,
    /// What hashes and pairs may take in memory, in bytes; more goes to disk. Tables of keys come on top, of up to 64 MiB
    /// for each thread and set.
    pub memory_bytes: u64,
    /// Hashes that agree in the same slot are compared each with each if they are at most this many. Beyond, they are
    /// left out of that slot, and counted: 10,000 take 0.2 s, a million would take half an hour.
    pub max_bucket: u32,
    /// Threads that compare; 0 means one per core.
    pub threads: usize,
}

impl Default for NearOptions {
    fn default() -> Self {
        Self { distance: 16, memory_bytes: 1 << 30, max_bucket: 10_000, threads: 0 }
    }
}
