//! Pairs of near pictures, sorted.

use std::path::Path;

use super::error::NearError;
use super::sorter::{Sorted, Sorter};
use super::spill::{Row, number};

/// Two records whose hashes are near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Within one set the lower number; between two the record of the left one.
    pub first: u64,
    pub second: u64,
    /// In how many bits their hashes differ.
    pub distance: u32,
}

/// By the second record, then by the first: as [`stars`](super::stars) judges.
impl Ord for Pair {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |pair: &Self| (pair.second, pair.first, pair.distance);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Row for Pair {
    const BYTES: usize = 18;

    fn encode(&self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.second.to_le_bytes());
        // 256 at most.
        bytes[16..].copy_from_slice(&(self.distance as u16).to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let distance = u32::from(u16::from_le_bytes([bytes[16], bytes[17]]));
        Self { first: number(bytes, 0), second: number(bytes, 8), distance }
    }
}

/// Sorts pairs again that were found in several shards. What does not fit into memory goes to files without a name.
#[derive(Debug)]
pub struct PairSorter {
    sorter: Sorter<Pair>,
    num_pairs: u64,
}

impl PairSorter {
    #[must_use]
    pub fn new(folder: &Path, memory_bytes: u64) -> Self {
        Self { sorter: Sorter::new(folder, memory_bytes), num_pairs: 0 }
    }

    /// # Errors
    /// When there is no room on the disk.
    pub fn push(&mut self, pair: Pair) -> Result<(), NearError> {
        self.num_pairs += 1;
        self.sorter.push(pair)
    }

    /// Pairs so far.
    #[must_use]
    pub fn num_pairs(&self) -> u64 {
        self.num_pairs
    }

    /// # Errors
    /// When there is no room on the disk, or it cannot be read.
    pub fn finish(self) -> Result<SortedPairs, NearError> {
        self.sorter.finish().map(SortedPairs)
    }
}

/// Pairs in order of the second record, then of the first.
#[derive(Debug)]
pub struct SortedPairs(Sorted<Pair>);

impl Iterator for SortedPairs {
    type Item = Result<Pair, NearError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
