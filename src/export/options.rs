//! What the user may set about exports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::clean::{CleanOptions, Removals};
use super::target::ExportReport;
use crate::query::OutputFormat;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManifestOptions {
    /// The file to write. Its name ends in `.parquet`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.ndjson`; text may also be
    /// compressed (`.csv.gz`).
    pub output: PathBuf,
    /// Which images: a condition over the columns of the table `images`. All, if none is given.
    #[serde(rename = "where")]
    pub where_sql: Option<String>,
    /// Leaves out what tools remove.
    #[serde(skip)]
    pub clean: CleanOptions,
    /// Leaves out what depends on the order of the list and of the downloads (`partition_id`, `record`, `file`, `row`),
    /// and orders all rows by server, `uuid`, URL and hash.
    #[serde(skip)]
    pub portable: bool,
    /// A CSV file to write beside: images by licence and rights holder.
    #[serde(skip)]
    pub attribution: Option<PathBuf>,
    /// A CSV file to write beside: images by `datasetKey`, for GBIF.
    #[serde(skip)]
    pub derived_dataset: Option<PathBuf>,
}

/// What an export of a manifest did.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestReport {
    pub file: ExportReport,
    pub removals: Removals,
    /// Tools whose verdicts or images were taken, and what these were made with.
    pub tools: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AnswerOptions {
    /// The file to write.
    pub output: PathBuf,
    /// Told by the file's name, if none is given.
    pub format: Option<OutputFormat>,
}
