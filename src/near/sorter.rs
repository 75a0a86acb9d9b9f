//! Sorting more rows than fit into memory: sorted runs on disk, merged as they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};
use std::vec;

use super::error::NearError;
use super::spill::{Row, SpillReader, SpillWriter, Spilled};

/// Runs that are merged at once: each is an open file with a buffer of its own.
const MAX_RUNS: usize = 64;

/// Takes rows in any order.
#[derive(Debug)]
pub(super) struct Sorter<R> {
    folder: PathBuf,
    waiting: Vec<R>,
    max_waiting: usize,
    runs: Vec<Spilled<R>>,
}

impl<R: Row> Sorter<R> {
    /// Sorts in `memory_bytes`, beside the buffers of a merge ([`MAX_RUNS`] times a quarter of a MiB at most).
    pub(super) fn new(folder: &Path, memory_bytes: u64) -> Self {
        let max_waiting = (memory_bytes / size_of::<R>() as u64).max(16) as usize;
        Self { folder: folder.to_owned(), waiting: Vec::new(), max_waiting, runs: Vec::new() }
    }

    pub(super) fn push(&mut self, row: R) -> Result<(), NearError> {
        if self.waiting.len() == self.waiting.capacity() {
            if self.waiting.len() >= self.max_waiting {
                self.spill()?;
            } else {
                // Doubling at the very end would take half as much again while it copies.
                let all = self.waiting.len() >= self.max_waiting / 8;
                let capacity = if all { self.max_waiting } else { (2 * self.waiting.len()).max(16) };
                self.waiting.reserve_exact(capacity - self.waiting.len());
            }
        }
        self.waiting.push(row);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), NearError> {
        self.waiting.sort_unstable();
        let mut run = SpillWriter::create(&self.folder)?;
        self.waiting.drain(..).try_for_each(|row| run.push(&row))?;
        self.runs.push(run.finish()?);
        if self.runs.len() == MAX_RUNS {
            let mut merged = SpillWriter::create(&self.folder)?;
            Merge::new(std::mem::take(&mut self.runs))?.try_for_each(|row| merged.push(&row?))?;
            self.runs.push(merged.finish()?);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Sorted<R>, NearError> {
        if self.runs.is_empty() {
            self.waiting.sort_unstable();
            return Ok(Sorted::InMemory(self.waiting.into_iter()));
        }
        self.spill()?;
        drop(self.waiting);
        Merge::new(self.runs).map(Sorted::Merged)
    }
}

/// The rows in order.
#[derive(Debug)]
pub(super) enum Sorted<R> {
    InMemory(vec::IntoIter<R>),
    Merged(Merge<R>),
}

impl<R: Row> Iterator for Sorted<R> {
    type Item = Result<R, NearError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::InMemory(rows) => rows.next().map(Ok),
            Self::Merged(merge) => merge.next(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Merge<R> {
    runs: Vec<SpillReader<R>>,
    /// The next row of each run, and the run's place.
    heads: BinaryHeap<Reverse<(R, usize)>>,
    failed: Option<NearError>,
}

impl<R: Row> Merge<R> {
    fn new(runs: Vec<Spilled<R>>) -> Result<Self, NearError> {
        let mut runs: Vec<_> = runs.iter().map(Spilled::rows).collect();
        let heads = runs.iter_mut().enumerate().filter_map(|(place, run)| Some((run.next()?, place)));
        let heads = heads.map(|(row, place)| Ok(Reverse((row?, place)))).collect::<Result<_, NearError>>()?;
        Ok(Self { runs, heads, failed: None })
    }
}

impl<R: Row> Iterator for Merge<R> {
    type Item = Result<R, NearError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heads.clear();
            return Some(Err(error));
        }
        let mut head = self.heads.peek_mut()?;
        let Reverse((row, place)) = *head;
        match self.runs[place].next() {
            Some(Ok(next)) => head.0.0 = next,
            Some(Err(error)) => self.failed = Some(error),
            None => {
                std::collections::binary_heap::PeekMut::pop(head);
            }
        }
        Some(Ok(row))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Row for u64 {
        const BYTES: usize = 8;

        fn encode(&self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.to_le_bytes());
        }

        fn decode(bytes: &[u8]) -> Self {
            super::super::spill::number(bytes, 0)
        }
    }

    proptest! {
        /// 16 rows at a time, so that there are up to 190 runs, and runs of merged runs.
        #[test]
        fn sorted_on_disk_as_in_memory(
            mut rows in proptest::collection::vec(0..2_000_u64, 0..3_000),
            memory_bytes in prop_oneof![Just(0), Just(400), Just(1 << 20)],
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), memory_bytes);
            rows.iter().try_for_each(|&row| sorter.push(row)).unwrap();
            let sorted: Vec<u64> = sorter.finish().unwrap().map(Result::unwrap).collect();
            rows.sort_unstable();
            prop_assert_eq!(sorted, rows);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
