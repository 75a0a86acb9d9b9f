//! Rows of a fixed size on disk.
//!
//! The files have no name, so a killed process leaves nothing behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::NearError;

/// A row of a fixed size, and its order.
pub(super) trait Row: Copy + Ord {
    const BYTES: usize;

    fn encode(&self, bytes: &mut [u8]);

    fn decode(bytes: &[u8]) -> Self;
}

/// The number at `at` of a row's bytes.
pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// What one reader or writer buffers. Large, as disks of clusters want it; small, as there may be a hundred.
pub(super) const BUFFER_BYTES: usize = 1 << 18;

/// Rows being written.
#[derive(Debug)]
pub(super) struct SpillWriter<R> {
    file: File,
    folder: PathBuf,
    waiting: Vec<u8>,
    num_rows: u64,
    rows: PhantomData<R>,
}

impl<R: Row> SpillWriter<R> {
    pub(super) fn create(folder: &Path) -> Result<Self, NearError> {
        let file = fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
        let file = file.map_err(NearError::io("make", folder))?;
        let waiting = Vec::with_capacity(BUFFER_BYTES + R::BYTES);
        Ok(Self { file, folder: folder.to_owned(), waiting, num_rows: 0, rows: PhantomData })
    }

    pub(super) fn push(&mut self, row: &R) -> Result<(), NearError> {
        let start = self.waiting.len();
        self.waiting.resize(start + R::BYTES, 0);
        row.encode(&mut self.waiting[start..]);
        self.num_rows += 1;
        if self.waiting.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), NearError> {
        self.file.write_all(&self.waiting).map_err(NearError::io("write", &self.folder))?;
        self.waiting.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Spilled<R>, NearError> {
        self.flush()?;
        let Self { file, folder, num_rows, .. } = self;
        Ok(Spilled { file: Arc::new(file), folder, num_rows, rows: PhantomData })
    }
}

/// Rows on disk; may be read any number of times, by several threads at once. The disk's room is given back when the
/// last reader is dropped.
#[derive(Clone, Debug)]
pub(super) struct Spilled<R> {
    file: Arc<File>,
    folder: PathBuf,
    num_rows: u64,
    rows: PhantomData<R>,
}

impl<R: Row> Spilled<R> {
    pub(super) fn num_rows(&self) -> u64 {
        self.num_rows
    }

    pub(super) fn rows(&self) -> SpillReader<R> {
        SpillReader { spilled: self.clone(), left: 0..self.num_rows, buffer: Vec::new(), at: 0 }
    }
}

/// Rows as they were written.
#[derive(Debug)]
pub(super) struct SpillReader<R> {
    spilled: Spilled<R>,
    /// What is not in `buffer` yet.
    left: Range<u64>,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: Row> SpillReader<R> {
    fn fill(&mut self) -> io::Result<()> {
        let num_rows = ((BUFFER_BYTES / R::BYTES) as u64).min(self.left.end - self.left.start);
        self.buffer.resize(num_rows as usize * R::BYTES, 0);
        self.at = 0;
        self.spilled.file.read_exact_at(&mut self.buffer, self.left.start * R::BYTES as u64)?;
        self.left.start += num_rows;
        Ok(())
    }
}

impl<R: Row> Iterator for SpillReader<R> {
    type Item = Result<R, NearError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.buffer.len() {
            if self.left.is_empty() {
                return None;
            }
            if let Err(error) = self.fill() {
                // There is no going on behind it.
                (self.left, self.buffer, self.at) = (0..0, Vec::new(), 0);
                return Some(Err(NearError::io("read", &self.spilled.folder)(error)));
            }
        }
        let row = R::decode(&self.buffer[self.at..self.at + R::BYTES]);
        self.at += R::BYTES;
        Some(Ok(row))
    }
}
