//! The hashes of a set of records, each once.

use std::path::{Path, PathBuf};

use super::bits::{Bits, is_flat};
use super::error::NearError;
use super::options::NearOptions;
use super::sorter::Sorter;
use super::spill::{Row, SpillWriter, Spilled, number};
use crate::model::PerceptualHash;

/// A record of the same hash as an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashCopy {
    /// The first record of that hash.
    pub first: u64,
    pub copy: u64,
}

impl Row for HashCopy {
    const BYTES: usize = 16;

    fn encode(&self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..].copy_from_slice(&self.copy.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self { first: number(bytes, 0), copy: number(bytes, 8) }
    }
}

/// A hash and the first record that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) bits: Bits,
    pub(super) record: u64,
}

impl Row for Entry {
    const BYTES: usize = 40;

    fn encode(&self, bytes: &mut [u8]) {
        let Bits([a, b, c, d]) = self.bits;
        for (place, number) in bytes.chunks_exact_mut(8).zip([a, b, c, d, self.record]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        Self { bits: Bits([0, 8, 16, 24].map(|at| number(bytes, at))), record: number(bytes, 32) }
    }
}

/// What became of the records that were put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashCounts {
    /// All.
    pub records: u64,
    /// Those whose hash is flat ([`is_flat`]): they are like nothing.
    pub flat: u64,
    /// Those that have the hash of an earlier record.
    pub copies: u64,
    /// Hashes that are left to compare. The three sum up to all.
    pub distinct: u64,
}

/// Collects the hashes of records, in any order.
#[derive(Debug)]
pub struct HashesBuilder {
    folder: PathBuf,
    memory_bytes: u64,
    sorter: Sorter<Entry>,
    counts: HashCounts,
}

impl HashesBuilder {
    /// What does not fit into memory lies in `folder`, in files without a name: 40 bytes for each record, twice.
    #[must_use]
    pub fn new(folder: &Path, options: &NearOptions) -> Self {
        let sorter = Sorter::new(folder, options.memory_bytes / 4 * 3);
        let (folder, memory_bytes) = (folder.to_owned(), options.memory_bytes);
        Self { folder, memory_bytes, sorter, counts: HashCounts::default() }
    }

    /// Adds a record by its number. Each number may be used once; of equal hashes the lowest stands for all.
    ///
    /// # Errors
    /// When there is no room on the disk.
    pub fn push(&mut self, record: u64, hash: &PerceptualHash) -> Result<(), NearError> {
        self.counts.records += 1;
        if is_flat(hash) {
            self.counts.flat += 1;
            return Ok(());
        }
        self.sorter.push(Entry { bits: Bits::new(hash), record })
    }

    /// Sorts out copies.
    ///
    /// # Errors
    /// When there is no room on the disk, or it cannot be read.
    pub fn finish(self) -> Result<Hashes, NearError> {
        let Self { folder, memory_bytes, sorter, mut counts } = self;
        let mut entries = SpillWriter::create(&folder)?;
        let mut copies = Sorter::new(&folder, memory_bytes / 8);
        let mut last: Option<Entry> = None;
        for entry in sorter.finish()? {
            let entry = entry?;
            match last {
                Some(first) if first.bits == entry.bits => {
                    copies.push(HashCopy { first: first.record, copy: entry.record })?;
                }
                _ => {
                    entries.push(&entry)?;
                    last = Some(entry);
                }
            }
        }
        let entries = entries.finish()?;
        let mut sorted = SpillWriter::create(&folder)?;
        copies.finish()?.try_for_each(|copy| sorted.push(&copy?))?;
        let copies = sorted.finish()?;
        counts.distinct = entries.num_rows();
        counts.copies = copies.num_rows();
        Ok(Hashes { entries, copies, counts })
    }
}

/// The hashes of a set of records, each once, on disk.
#[derive(Debug)]
pub struct Hashes {
    pub(super) entries: Spilled<Entry>,
    copies: Spilled<HashCopy>,
    counts: HashCounts,
}

impl Hashes {
    #[must_use]
    pub fn counts(&self) -> HashCounts {
        self.counts
    }

    /// Records that have the hash of an earlier one, in order of that one and then of their own number. May be
    /// asked for more than once.
    pub fn copies(&self) -> impl Iterator<Item = Result<HashCopy, NearError>> + use<> {
        self.copies.rows()
    }
}
