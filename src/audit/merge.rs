//! All ranks' requests in the order in which they left.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{Rank, RequestEntry, RobotsPolicy, RunId};
use crate::storage::{LedgerEnd, LedgerReader, StorageError};

/// Files hold requests as they ended; one that took long stands behind others that left later. So each file is
/// read twice: once for how early the requests of each batch and all after it left, and then batch by batch, where
/// what left before anything that is still unread is next.
pub(super) struct Merge {
    sources: Vec<Source>,
    /// Read, and not given out yet; the number tells requests of the same moment apart.
    read: BTreeMap<(i64, u64), (usize, RequestEntry)>,
    num_read: u64,
}

/// Who sent a request, and how its run treats robots.txt (`None` where a file was cut off before it says).
pub(super) struct Sender<'a> {
    pub run: RunId,
    pub rank: Rank,
    pub robots_policy: Option<&'a RobotsPolicy>,
}

struct Source {
    run: RunId,
    rank: Rank,
    reader: LedgerReader,
    /// When the first request of the next batch, or of one behind it, left; for the batches still to read, last
    /// first.
    earliest: Vec<i64>,
}

impl Merge {
    pub fn open(files: &[(RunId, Rank, PathBuf)]) -> Result<Self, StorageError> {
        let mut sources = Vec::with_capacity(files.len());
        for (run, rank, path) in files {
            let mut first_pass = LedgerReader::open(path)?;
            let mut earliest = Vec::new();
            while let Some(batch) = first_pass.next_batch()? {
                earliest.push(batch.iter().map(|entry| entry.sent_at).min().unwrap_or(i64::MAX));
            }
            earliest.reverse();
            for later in 1..earliest.len() {
                earliest[later] = earliest[later].min(earliest[later - 1]);
            }
            sources.push(Source { run: *run, rank: *rank, reader: LedgerReader::open(path)?, earliest });
        }
        Ok(Self { sources, read: BTreeMap::new(), num_read: 0 })
    }

    pub fn next(&mut self) -> Result<Option<(Sender<'_>, RequestEntry)>, StorageError> {
        let Some((source, entry)) = self.next_of_all()? else { return Ok(None) };
        let Source { run, rank, reader, .. } = &self.sources[source];
        Ok(Some((Sender { run: *run, rank: *rank, robots_policy: reader.robots_policy() }, entry)))
    }

    /// The next request, with the position of its source.
    fn next_of_all(&mut self) -> Result<Option<(usize, RequestEntry)>, StorageError> {
        loop {
            let unread = self.sources.iter().enumerate();
            let unread = unread.filter_map(|(at, source)| Some((*source.earliest.last()?, at)));
            let Some((earliest, at)) = unread.min() else {
                return Ok(self.read.pop_first().map(|(_, entry)| entry));
            };
            if let Some(first) = self.read.first_entry()
                && first.key().0 <= earliest
            {
                return Ok(Some(first.remove()));
            }
            let source = &mut self.sources[at];
            source.earliest.pop();
            // A ledger that is still written may have more batches now; it has no fewer.
            for entry in source.reader.next_batch()?.unwrap_or_default() {
                self.num_read += 1;
                self.read.insert((entry.sent_at, self.num_read), (at, entry));
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
