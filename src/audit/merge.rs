//! All ranks' requests in the order in which they left.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{Rank, RequestEntry, RunId};
use crate::storage::{LedgerEnd, LedgerReader, StorageError};

/// Files hold requests as they ended; one that took long stands behind others that left later. So each file is
/// read twice: once for how early the requests of each batch and all after it left, and then batch by batch, where
/// what left before anything that is still unread is next.
pub(super) struct Merge {
    sources: Vec<Source>,
    /// Read, and not given out yet; the number tells requests of the same moment apart.
    read: BTreeMap<(i64, u64), (Rank, RequestEntry)>,
    num_read: u64,
}

struct Source {
    rank: Rank,
    reader: LedgerReader,
    /// When the first request of the next batch, or of one behind it, left; for the batches still to read, last
    /// first.
    earliest: Vec<i64>,
}

impl Merge {
    pub fn open(files: &[(RunId, Rank, PathBuf)]) -> Result<Self, StorageError> {
        let mut sources = Vec::with_capacity(files.len());
        for (_, rank, path) in files {
            let mut first_pass = LedgerReader::open(path)?;
            let mut earliest = Vec::new();
            while let Some(batch) = first_pass.next_batch()? {
                earliest.push(batch.iter().map(|entry| entry.sent_at).min().unwrap_or(i64::MAX));
            }
            earliest.reverse();
            for later in 1..earliest.len() {
                earliest[later] = earliest[later].min(earliest[later - 1]);
            }
            sources.push(Source { rank: *rank, reader: LedgerReader::open(path)?, earliest });
        }
        Ok(Self { sources, read: BTreeMap::new(), num_read: 0 })
    }

    pub fn next(&mut self) -> Result<Option<(Rank, RequestEntry)>, StorageError> {
        loop {
            let unread =
                self.sources.iter_mut().filter_map(|source| Some((*source.earliest.last()?, source)));
            let Some((earliest, source)) = unread.min_by_key(|(earliest, _)| *earliest) else {
                return Ok(self.read.pop_first().map(|(_, entry)| entry));
            };
            if let Some(first) = self.read.first_entry()
                && first.key().0 <= earliest
            {
                return Ok(Some(first.remove()));
            }
            source.earliest.pop();
            // A ledger that is still written may have more batches now; it has no fewer.
            for entry in source.reader.next_batch()?.unwrap_or_default() {
                self.num_read += 1;
                self.read.insert((entry.sent_at, self.num_read), (source.rank, entry));
            }
        }
    }

    /// What is missing in each file, in the order of the files. Whole after the last request.
    pub fn ends(&mut self) -> Vec<LedgerEnd> {
        self.sources
            .iter_mut()
            .map(|source| {
                // Sees the end.
                while let Ok(Some(_)) = source.reader.next_batch() {}
                source.reader.end()
            })
            .collect()
    }
}
