//! What readers hand on, and the log of what they could not read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;

use super::error::IngestError;
use super::report::{MAX_MALFORMED_EXAMPLES, MalformedLine};

/// Rows of one batch at most. Cutting by rows and content, never by what a read returned, makes
/// every later step independent of how the bytes arrived.
pub(super) const BATCH_ROWS: usize = 8192;

/// A batch also ends when its values have this many bytes.
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// Rows as a reader found them, columns Utf8, Int64, Float64 or Boolean.
///
/// Later batches of one input have the columns of earlier ones at the same places, and perhaps more.
#[derive(Debug)]
pub(super) struct RawBatch {
    pub(super) rows: RecordBatch,
    /// Line (text) or row (Parquet) in the file, from 1.
    pub(super) positions: Vec<u64>,
    /// Cells (row, column) whose text was not UTF-8; they hold replacement characters.
    pub(super) invalid_text: Vec<(u32, u32)>,
}

/// What readers need to know.
#[derive(Clone, Debug)]
pub(super) struct ReadContext {
    pub(super) max_row_bytes: usize,
    pub(super) memory_bytes: u64,
    /// Exists only once somebody spills.
    pub(super) temp_folder: PathBuf,
    /// Counts bytes of input files as they lie on disk.
    pub(super) bytes_read: Arc<AtomicU64>,
    /// Columns wanted of an archive's core table beside the usual ones.
    pub(super) wanted_columns: Vec<String>,
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
