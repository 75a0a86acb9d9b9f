//! A catalog's file that is never written to, for looking at copies: what redb writes, to repair or to check, stays in
//! memory.
//!
//! redb checks the checksums of all pages only as it opens a file for writing, and that commits. A copy may be on a
//! medium that cannot be written, and a look at the one catalog should change nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// Bytes of one block that was written; a page of redb.
const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    file_bytes: u64,
    over: Mutex<Written>,
}

/// What stands before the file.
#[derive(Debug)]
struct Written {
    len: u64,
    /// Bytes of the file from here on no longer show: it was shortened to so much once.
    file_end: u64,
    blocks: HashMap<u64, Vec<u8>>,
}

impl Overlay {
    pub(super) fn new(file: FileBackend) -> io::Result<Self> {
        let file_bytes = file.len()?;
        let over = Written { len: file_bytes, file_end: file_bytes, blocks: HashMap::new() };
        Ok(Self { file, file_bytes, over: Mutex::new(over) })
    }

    fn over(&self) -> MutexGuard<'_, Written> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file has; zeros beyond it.
    fn read_file(&self, file_end: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = file_end.min(self.file_bytes).saturating_sub(offset).min(out.len() as u64) as usize;
        out[there..].fill(0);
        if there > 0 { self.file.read(offset, &mut out[..there]) } else { Ok(()) }
    }
}

/// The blocks that a range of bytes touches: each with the part of it that is in the range, and where that is in the
/// range.
fn blocks(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let (from, to) = (offset.max(block * BLOCK), end.min((block + 1) * BLOCK));
        let within = |base: u64| (from - base) as usize..(to - base) as usize;
        (block, within(block * BLOCK), within(offset))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset + out.len() as u64 > over.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(over.file_end, offset, out)?;
        for (block, in_block, in_range) in blocks(offset, out.len()) {
            if let Some(bytes) = over.blocks.get(&block) {
                out[in_range].copy_from_slice(&bytes[in_block]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        over.file_end = over.file_end.min(len);
        over.blocks.retain(|&block, _| block * BLOCK < len);
        if let Some(last) = over.blocks.get_mut(&(len / BLOCK)) {
            last[(len % BLOCK) as usize..].fill(0);
        }
        over.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        let file_end = over.file_end;
        for (block, in_block, in_range) in blocks(offset, data.len()) {
            let bytes = match over.blocks.entry(block) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let mut bytes = vec![0; BLOCK as usize];
                    self.read_file(file_end, block * BLOCK, &mut bytes)?;
                    new.insert(bytes)
                }
            };
            bytes[in_block].copy_from_slice(&data[in_range]);
        }
        over.len = over.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (0..20_000_u64, proptest::collection::vec(any::<u8>(), 0..9000)).prop_map(|(at, b)| Act::Write(at, b)),
            1 => (0..30_000_u64).prop_map(Act::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_reads_as_a_file_that_was_written_to_and_the_file_stays(
            start in proptest::collection::vec(any::<u8>(), 0..15_000),
            acts in proptest::collection::vec(act(), 0..12),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            std::fs::write(&path, &start).unwrap();
            let overlay = Overlay::new(FileBackend::new(File::open(&path).unwrap()).unwrap()).unwrap();
            let mut model = start.clone();
            for act in acts {
                match act {
                    Act::Write(at, bytes) => {
                        let end = at as usize + bytes.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&bytes);
                        overlay.write(at, &bytes).unwrap();
                    }
                    Act::SetLen(len) => {
                        model.resize(len as usize, 0);
                        overlay.set_len(len).unwrap();
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), model.len() as u64);
                let mut found = vec![1; model.len()];
                overlay.read(0, &mut found).unwrap();
                prop_assert!(found == model);
            }
            prop_assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
            prop_assert_eq!(std::fs::read(&path).unwrap(), start);
        }
    }
}
