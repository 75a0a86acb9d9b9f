//! What the user may set about exports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}

#[derive(Clone, Debug, PartialEq)]
pub struct AnswerOptions {
    /// The file to write.
    pub output: PathBuf,
    /// Told by the file's name, if none is given.
    pub format: Option<OutputFormat>,
}
