//! What readers hand on, and the log of what they could not read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;

use super::error::IngestError;
use super::report::{MAX_MALFORMED_EXAMPLES, MalformedLine};
use crate::model::UrlKey;
use crate::runtime::Shutdown;

/// Rows of one batch at most. Cutting by rows and content, never by what a read returned, makes
/// every later step independent of how the bytes arrived.
pub(super) const BATCH_ROWS: usize = 8192;

/// A batch also ends when its values have this many bytes, `CELL_BYTES` for each cell included.
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// What a cell costs beside its value: where it ends.
pub(super) const CELL_BYTES: usize = 4;

/// Columns at most. Each costs some hundred bytes in every piece of a batch, however few its rows are;
/// with more, memory would hold nothing else. No kind of list that we know comes near.
pub(super) const MAX_COLUMNS: usize = 2000;

/// # Errors
/// When there are more than `MAX_COLUMNS`; `path` is the input that brings them.
pub(super) fn check_num_columns(path: &Path, num_columns: usize) -> Result<(), IngestError> {
    if num_columns <= MAX_COLUMNS {
        return Ok(());
    }
    Err(IngestError::TooManyColumns { path: path.to_owned(), num_columns, max: MAX_COLUMNS })
}

/// Rows as a reader found them, columns Utf8, Int64, Float64 or Boolean.
///
/// Later batches of one input have the columns of earlier ones at the same places, and perhaps more.
#[derive(Debug)]
pub(super) struct RawBatch {
    pub(super) rows: RecordBatch,
    /// Line (text) or row (Parquet) in the file, from 1.
    pub(super) positions: Vec<u64>,
    pub(super) invalid_text: Vec<InvalidCell>,
}

/// A cell whose text was not UTF-8; it holds replacement characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidCell {
    pub(super) row: u32,
    pub(super) column: u32,
    /// Of the bytes that it had: by these it is told from others with the same replacements.
    pub(super) key: UrlKey,
}

/// What readers need to know.
#[derive(Clone, Debug)]
pub(super) struct ReadContext {
    pub(super) max_row_bytes: usize,
    pub(super) memory_bytes: u64,
    /// Exists only once somebody spills.
    pub(super) temp_folder: PathBuf,
    pub(super) meter: Arc<ReadMeter>,
    /// Columns wanted of an archive's core table beside the usual ones.
    pub(super) wanted_columns: Vec<String>,
}

/// What all reading of input files goes through: it counts, and it ends when asked to stop, also where no batch
/// comes for a long time (the core table of an archive).
#[derive(Debug, Default)]
pub(super) struct ReadMeter {
    /// Bytes of input files as they lie on disk.
    bytes: AtomicU64,
    shutdown: Shutdown,
}

impl ReadMeter {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        Self { bytes: AtomicU64::new(0), shutdown }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// # Errors
    /// When asked to stop.
    pub(super) fn keep_reading(&self) -> io::Result<()> {
        match self.shutdown.requested() {
            Some(_) => Err(io::Error::other("stopped")),
            None => Ok(()),
        }
    }
}

/// Lines that could not be read: all counted, the first ones kept.
#[derive(Debug, Default)]
pub(super) struct MalformedLog {
    pub(super) strict: bool,
    pub(super) count: u64,
    pub(super) examples: Vec<MalformedLine>,
}

impl MalformedLog {
    /// # Errors
    /// When `strict` is set.
    pub(super) fn note(&mut self, path: &Path, line: u64, reason: String) -> Result<(), IngestError> {
        let path = path.to_owned();
        if self.strict {
            return Err(IngestError::Malformed { path, line, reason });
        }
        self.count += 1;
        if self.examples.len() < MAX_MALFORMED_EXAMPLES {
            self.examples.push(MalformedLine { path, line, reason });
        }
        Ok(())
    }
}
