//! What an ingest did, and how far it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// How many malformed lines are shown; all are counted.
pub const MAX_MALFORMED_EXAMPLES: usize = 20;

/// What an ingest did.
///
/// `rows_read = new + known + duplicates + filtered`; malformed lines are not rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IngestReport {
    /// Rows that the readers could read.
    pub rows_read: u64,
    /// Records that the catalog did not have.
    pub records_new: u64,
    /// Records of the list that the catalog had already.
    pub records_known: u64,
    /// Records of the catalog that this list does not have. They stay.
    pub records_gone: u64,
    /// Rows that repeat an earlier row of the same list.
    pub duplicates: u64,
    /// New records that are skipped, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Rows that the kind of list leaves out, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Rows whose `uuid` is no UUID; their records have one made from the URL.
    pub bad_uuids: u64,
    /// Lines that could not be read.
    pub malformed: u64,
    /// The first of them, in order.
    pub malformed_examples: Vec<MalformedLine>,
    /// Servers of the list.
    pub servers: u64,
    /// Partitions written.
    pub partitions: u64,
    /// Manifest files written.
    pub files: u64,
    /// Where the duplicates are listed, if there are any: the file of an earlier ingest of the same list, or a new one.
    pub duplicates_file: Option<PathBuf>,
    pub seconds: f64,
}

/// A line that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MalformedLine {
    pub path: PathBuf,
    /// From 1, the header included.
    pub line: u64,
    pub reason: String,
}

/// What an ingest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestStage {
    /// Lists are read; nothing is committed yet.
    Reading,
    /// Partitions are written and committed.
    Writing,
}

/// How far an ingest is. Handed to a callback a few times per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestProgress {
    pub stage: IngestStage,
    /// Rows read, or (writing) rows dealt with of those.
    pub rows: u64,
    /// Rows to be dealt with; `None` while lists are read.
    pub rows_total: Option<u64>,
    /// Bytes of the input files read so far, as they lie on disk.
    pub bytes_read: u64,
    /// Of all of them together; `None` with standard input.
    pub bytes_total: Option<u64>,
}
