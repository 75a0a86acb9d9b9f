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
    /// Which columns became what, as the inputs differ in it.
    pub columns: Vec<ColumnUse>,
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

/// Which columns of an input became what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ColumnUse {
    /// The first input that is taken so.
    pub path: PathBuf,
    /// How many there are.
    pub num_inputs: u64,
    /// The URL is the first of these that is not empty.
    pub url: Vec<String>,
    pub id: Option<String>,
    pub label: Option<String>,
    /// A text that stands for all rows is in quotes.
    pub license: Option<String>,
    pub source: Option<String>,
    pub title: Option<String>,
    pub uuid: Option<String>,
    /// The others, as they are carried along.
    pub carried: Vec<String>,
}

impl ColumnUse {
    /// Counts an input to those that are taken alike.
    pub(super) fn join(self, all: &mut Vec<Self>) {
        let apart = |one: &Self| Self { path: PathBuf::new(), num_inputs: 0, ..one.clone() };
        let of_this = apart(&self);
        match all.iter_mut().find(|other| apart(other) == of_this) {
            Some(alike) => alike.num_inputs += self.num_inputs,
            None => all.push(self),
        }
    }
}

/// What is in a list (`ddl ingest --inspect`).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Inspection {
    pub num_inputs: u64,
    /// Rows that the readers could read.
    pub rows_read: u64,
    pub columns: Vec<ColumnUse>,
    /// Rows that repeat an earlier one.
    pub duplicates: u64,
    /// Other rows that would be skipped, by reason: mostly for want of a usable URL.
    pub skipped: BTreeMap<String, u64>,
    /// Rows that the kind of list leaves out, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Rows whose `uuid` is no UUID.
    pub bad_uuids: u64,
    pub malformed: u64,
    /// The first of them, in order.
    pub malformed_examples: Vec<MalformedLine>,
    /// Rows of each server, those that repeat others included, most first.
    pub servers: Vec<Count>,
    /// Records of each label, most first; `None` where there are too many to be classes.
    pub labels: Option<Vec<Count>>,
    pub seconds: f64,
}

/// How often something occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    pub name: String,
    pub count: u64,
}

impl Count {
    /// Most frequent first, then by name.
    pub(super) fn most_first(counts: impl IntoIterator<Item = (String, u64)>) -> Vec<Self> {
        let mut counts: Vec<_> = counts.into_iter().map(|(name, count)| Self { name, count }).collect();
        counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        counts
    }
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
