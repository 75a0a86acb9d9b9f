//! What a check found, for people and for programs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::catalog::{DispositionCounts, PartitionStage};
use crate::model::ServerName;

/// The rule that does not hold. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreachKind {
    /// A value of the catalog is missing or does not decode.
    CatalogEntry,
    /// Counts, manifest, states and URL keys give different numbers of records.
    RecordCount,
    /// The counts per disposition are not those of the states.
    StateCount,
    /// A stage that the partition cannot be in: complete with records pending, or with parts.
    Stage,
    /// There are fewer records than the ingests have added.
    IngestTotals,
    /// A server's numbers of partitions and records are not the sums over its partitions.
    ServerTotals,
    /// Two records of a server have the same URL key.
    DuplicateUrl,
    /// A file that the catalog names is not there.
    MissingFile,
    /// A file does not have the length that the catalog states.
    WrongLength,
    /// A file cannot be read, is not Parquet, or is damaged inside.
    Unreadable,
    /// A column or a fact that every such file has is missing or of another type.
    WrongSchema,
    /// A file's footer states another number of rows than the catalog.
    WrongRowCount,
    /// The manifest's column `record` does not count 0, 1, 2 ... in file order.
    RecordOrder,
    /// A URL of the manifest is not the one whose key the catalog has.
    UrlKey,
    /// A success or a failure by the catalog that no file holds.
    LostRecord,
    /// A row of a record that is something else by the catalog, or that the partition does not have.
    StrayRecord,
    /// A record has more than one row.
    RepeatedRecord,
    /// A row's uuid or identifier is not that of its manifest record.
    WrongRecord,
    /// `hashsum_original` is not the digest that the catalog has.
    Digest,
    /// The stored images have not as many bytes as the catalog says.
    ImageBytes,
    /// A row of a file of errors gives another cause, code or number of attempts than the catalog.
    WrongError,
    /// A finished partition without its `completed` marker.
    MissingMarker,
    /// A `completed` marker in a partition that is not complete.
    StrayMarker,
    /// Deep: a file's bytes are not those that were written.
    Checksum,
    /// Deep: the stored bytes do not give `hashsum_resized`.
    ImageDigest,
    /// Deep: the stored bytes are not as many as `image_bytes` says.
    ImageLength,
    /// Deep: the stored bytes are not an image of the format that `image_format` and the size that
    /// `resized_size` names.
    BrokenImage,
    /// A file that a tool has made of a partition is not there or not as it was committed.
    ToolPiece,
}

impl BreachKind {
    /// The name, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// A few words for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::CatalogEntry => ("catalog_entry", "unusable catalog entry"),
            Self::RecordCount => ("record_count", "numbers of records disagree"),
            Self::StateCount => ("state_count", "counts are not those of the states"),
            Self::Stage => ("stage", "impossible stage"),
            Self::IngestTotals => ("ingest_totals", "records are missing"),
            Self::ServerTotals => ("server_totals", "totals of the server disagree"),
            Self::DuplicateUrl => ("duplicate_url", "the same URL twice"),
            Self::MissingFile => ("missing_file", "file is missing"),
            Self::WrongLength => ("wrong_length", "file has another length"),
            Self::Unreadable => ("unreadable", "file cannot be read"),
            Self::WrongSchema => ("wrong_schema", "file lacks a column or a fact"),
            Self::WrongRowCount => ("wrong_row_count", "file has another number of rows"),
            Self::RecordOrder => ("record_order", "manifest is out of order"),
            Self::UrlKey => ("url_key", "manifest has another URL"),
            Self::LostRecord => ("lost_record", "record has no row"),
            Self::StrayRecord => ("stray_record", "row that should not be"),
            Self::RepeatedRecord => ("repeated_record", "record has several rows"),
            Self::WrongRecord => ("wrong_record", "row belongs to another record"),
            Self::Digest => ("digest", "digest differs from the catalog's"),
            Self::ImageBytes => ("image_bytes", "bytes of images differ from the catalog's"),
            Self::WrongError => ("wrong_error", "error differs from the catalog's"),
            Self::MissingMarker => ("missing_marker", "`completed` marker is missing"),
            Self::StrayMarker => ("stray_marker", "`completed` marker should not be"),
            Self::Checksum => ("checksum", "file has other bytes"),
            Self::ImageDigest => ("image_digest", "image has other bytes"),
            Self::ImageLength => ("image_length", "image has another length"),
            Self::BrokenImage => ("broken_image", "not the image it should be"),
            Self::ToolPiece => ("tool_piece", "what a tool has made is damaged"),
        }
    }
}

impl fmt::Display for BreachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.meaning())
    }
}

/// A rule that does not hold in one place. What many records of one file share is one breach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The server, or the folder that small servers share; empty for the dataset as a whole.
    pub server_name: ServerName,
    /// `None` when it concerns the server as a whole.
    pub partition_id: Option<u32>,
    /// `None` when it concerns the catalog, or all files of a partition together.
    #[serde(serialize_with = "path_or_null")]
    pub file: Option<PathBuf>,
    pub kind: BreachKind,
    /// What was found; of many records the first, and how many more there are.
    pub detail: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server_name.as_str() {
            "" => f.write_str("dataset")?,
            name => write!(f, "`{name}`")?,
        }
        if let Some(partition_id) = self.partition_id {
            write!(f, " partition {partition_id}")?;
        }
        write!(f, ": {}: {}", self.kind, self.detail)?;
        match &self.file {
            Some(file) => write!(f, " (`{}`)", file.display()),
            None => Ok(()),
        }
    }
}

/// Partitions by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageCounts {
    pub open: u64,
    pub compacted: u64,
    pub finished: u64,
}

impl StageCounts {
    pub(super) fn add(&mut self, stage: PartitionStage) {
        *match stage {
            PartitionStage::Open => &mut self.open,
            PartitionStage::Compacted => &mut self.compacted,
            PartitionStage::Finished => &mut self.finished,
        } += 1;
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckProgress {
    pub partitions_done: u64,
    pub num_partitions: u64,
}

/// What a check found. The same dataset gives the same report, whatever the number of threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Records per disposition, as the partitions count them.
    pub counts: DispositionCounts,
    pub num_records: u64,
    pub partitions: StageCounts,
    /// Named files that are there, and their bytes.
    pub num_files: u64,
    pub file_bytes: u64,
    /// Rows of the files of successes that could be read.
    pub num_images: u64,
    /// The same of new images that tools have made.
    pub num_tool_images: u64,
    /// Image bytes that were hashed again (deep), those of tools too.
    pub hashed_bytes: u64,
    /// The first `max_breaches`, by server and partition; duplicate URLs and server totals come last.
    pub breaches: Vec<Breach>,
    pub num_breaches: u64,
    /// The first `max_breaches`, those of unknown folders last.
    #[serde(serialize_with = "paths")]
    pub orphans: Vec<PathBuf>,
    pub num_orphans: u64,
    pub orphan_bytes: u64,
    /// Who was at work on the dataset meanwhile. Orphans are then not told: a file that is being written looks
    /// like one.
    pub in_use_by: Option<String>,
}

impl CheckReport {
    /// Whether every rule holds. Orphans do not count.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.num_breaches == 0
    }

    /// Takes back what was said of orphans, for a writer was at work.
    pub fn set_in_use_by(&mut self, writer: String) {
        self.in_use_by = Some(writer);
        self.orphans.clear();
        (self.num_orphans, self.orphan_bytes) = (0, 0);
    }
}

// Orphans may have any name; serde refuses paths that are not UTF-8.
fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

fn path_or_null<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(Path::to_string_lossy).serialize(serializer)
}

/// What one job adds to the report.
#[derive(Debug)]
pub(super) struct Findings {
    pub report: CheckReport,
    server_name: ServerName,
    partition_id: Option<u32>,
    max_listed: usize,
}

impl Findings {
    pub(super) fn new(server_name: ServerName, partition_id: Option<u32>, max_listed: usize) -> Self {
        Self { report: CheckReport::default(), server_name, partition_id, max_listed }
    }

    pub(super) fn breach(&mut self, kind: BreachKind, file: Option<&Path>, detail: impl Into<String>) {
        self.report.num_breaches += 1;
        if self.report.breaches.len() < self.max_listed {
            self.report.breaches.push(Breach {
                server_name: self.server_name.clone(),
                partition_id: self.partition_id,
                file: file.map(Path::to_owned),
                kind,
                detail: detail.into(),
            });
        }
    }

    /// One breach for each kind of offence.
    pub(super) fn offences(&mut self, file: Option<&Path>, offences: Offences) {
        for (kind, first, more) in offences.0 {
            let detail = if more == 0 { first } else { format!("{first}, and {more} more") };
            self.breach(kind, file, detail);
        }
    }

    /// The same of a file that a tool has made.
    pub(super) fn tool_offences(&mut self, file: &Path, offences: Offences) {
        for (kind, first, more) in offences.0 {
            let more = if more == 0 { String::new() } else { format!(", and {more} more") };
            self.breach(BreachKind::ToolPiece, Some(file), format!("{kind}: {first}{more}"));
        }
    }

    pub(super) fn orphan(&mut self, path: PathBuf, bytes: u64) {
        self.report.num_orphans += 1;
        self.report.orphan_bytes += bytes;
        if self.report.orphans.len() < self.max_listed {
            self.report.orphans.push(path);
        }
    }
}

/// Records of one file that break rules: by kind the first, and how many followed it.
#[derive(Debug, Default)]
pub(super) struct Offences(Vec<(BreachKind, String, u64)>);

impl Offences {
    pub(super) fn add(&mut self, kind: BreachKind, detail: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, _, more)) => *more += 1,
            None => self.0.push((kind, detail(), 0)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
