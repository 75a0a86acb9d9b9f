//! Why an ingest could not be done.

use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use parquet::errors::ParquetError;
use thiserror::Error;

use super::report::MalformedLine;
use crate::catalog::CatalogError;
use crate::runtime::Shutdown;
use crate::storage::{ServerTableError, StorageError};

/// Of a name that somebody else has given.
const MAX_SHOWN_CHARS: usize = 80;

/// Situations in which `ingest` stops. Nothing in the catalog is then half done: running it again
/// after the cause is mended ends where an undisturbed ingest would have ended.
#[derive(Debug, Error)]
pub enum IngestError {
    #[error("no input was given")]
    NoInput,
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    /// Compressed data end early: a download or a copy that did not finish.
    #[error("`{path}` is truncated: its compressed data end too early; nothing of it was ingested")]
    Truncated { path: PathBuf },
    #[error("`{path}` is damaged: {reason}; nothing of it was ingested")]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the format of `{path}` is not known; say it with `input_format` (parquet, csv, tsv, jsonl, excel, xml, txt or dwca)"
    )]
    UnknownFormat { path: PathBuf },
    #[error("the folder `{path}` holds no list (Parquet, CSV, TSV, JSON lines, Excel, XML or TXT)")]
    NothingToRead { path: PathBuf },
    /// All inputs together hold not a single row.
    #[error("`{path}` {what}; there is nothing to ingest")]
    NoRows { path: PathBuf, what: &'static str },
    /// There are lines, but all inputs together have none that could be read.
    #[error("no row could be read of {malformed} lines; the first, line {} of `{}`: {}", .first.line, .first.path.display(), .first.reason)]
    AllMalformed { malformed: u64, first: MalformedLine },
    #[error("`{path}` brings the number of columns to {num_columns}; at most {max} are taken")]
    TooManyColumns { path: PathBuf, num_columns: usize, max: usize },
    #[error("the first line of `{path}` is not a usable header: {reason}")]
    BadHeader { path: PathBuf, reason: String },
    #[error("no URL column in `{path}`; its columns are {columns}{}", name_it(.nearest))]
    MissingUrlColumn { path: PathBuf, columns: String, nearest: Option<String> },
    #[error("`{path}` has no column `{column}`, which {wanted_by}; its columns are {columns}{}", did_you_mean(.nearest))]
    MissingColumn {
        path: PathBuf,
        column: String,
        wanted_by: String,
        columns: String,
        nearest: Option<String>,
    },
    #[error("line {line} of `{path}` is malformed: {reason} (`strict` is set)")]
    Malformed { path: PathBuf, line: u64, reason: String },
    #[error("`{path}` is not a usable Darwin Core Archive: {reason}")]
    Archive { path: PathBuf, reason: String },
    /// Not what its name or its first bytes say, or beyond what is read of such files.
    #[error("`{path}` is not usable as {what}: {reason}; nothing of it was ingested")]
    Unusable { path: PathBuf, what: &'static str, reason: String },
    #[error("`{name}` is no kind of list; known are {known}{}", did_you_mean(.nearest))]
    UnknownSource { name: String, known: String, nearest: Option<String> },
    #[error("`{initializer_type}` needs `{option}`")]
    MissingOption { initializer_type: &'static str, option: &'static str },
    #[error("`{option}` must be {must}")]
    BadOption { option: &'static str, must: &'static str },
    #[error("cannot read `{path}` as Parquet")]
    Parquet { path: PathBuf, source: ParquetError },
    #[error("cannot write `{path}` as Parquet")]
    WriteParquet { path: PathBuf, source: ParquetError },
    /// A step on columns that could only fail by a fault of ours.
    #[error("rows could not be converted")]
    Arrow(#[from] ArrowError),
    /// What is committed stays; the same ingest goes on from there.
    #[error("stopped early, as asked")]
    Stopped,
    #[error(transparent)]
    ServerTable(#[from] ServerTableError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the catalog refused")]
    Catalog(#[from] CatalogError),
}

impl IngestError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::MissingUrlColumn { nearest, .. } => {
                let column = nearest.as_deref().unwrap_or("NAME");
                return Some(format!(
                    "name it with `--url-column {column}`, or as `columns.url` in the configuration"
                ));
            }
            Self::Catalog(error) => return error.hint(),
            Self::ServerTable(error) => return error.hint(),
            Self::Storage(error) => return error.hint(),
            Self::NoInput => "name the lists: `ddl ingest list.csv`, or `path_to_input` in the configuration",
            Self::Read { .. } => "paths are relative to the working folder; `-` reads stdin",
            Self::Truncated { .. } | Self::Damaged { .. } => {
                "fetch the list again, then run the same command"
            }
            Self::UnknownFormat { .. } => "`--format csv`, say, holds for all inputs, whatever their names",
            Self::MissingColumn { .. } => {
                "set or unset it under `columns`, or with `--url-column` and its like"
            }
            Self::Malformed { .. } => {
                "mend the line, or leave out `--strict`: such lines are then counted and left out"
            }
            Self::UnknownSource { .. } => "`generic` is any table with a column of URLs",
            Self::Unusable { .. } => {
                "is it whole? `--format` says what it is, whatever its name; CSV has no such limits"
            }
            Self::Parquet { .. } => "is it Parquet? `--format` says otherwise",
            Self::Write { .. } | Self::WriteParquet { .. } => {
                "make room or grant the right to write there, then run the same command again"
            }
            _ => return None,
        };
        Some(hint.into())
    }

    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            // What flate2 reports for a stream that ends or lies; plain files never give these.
            io::ErrorKind::UnexpectedEof => Self::Truncated { path: path.to_owned() },
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Self::Damaged { path: path.to_owned(), reason: source.to_string() }
            }
            _ => Self::Read { path: path.to_owned(), source },
        }
    }

    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    pub(super) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self + '_ {
        move |source| Self::Parquet { path: path.to_owned(), source }
    }

    pub(super) fn write_parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self + '_ {
        move |source| Self::WriteParquet { path: path.to_owned(), source }
    }
}

/// # Errors
/// `Stopped` when asked to stop.
pub(super) fn keep_going(shutdown: &Shutdown) -> Result<(), IngestError> {
    match shutdown.requested() {
        Some(_) => Err(IngestError::Stopped),
        None => Ok(()),
    }
}

fn name_it(nearest: &Option<String>) -> String {
    let name = nearest.as_deref().map_or_else(|| "NAME".to_owned(), printable);
    format!("{}: name it with `--url-column {name}`", did_you_mean(nearest))
}

/// Text from outside, safe to show: what is no character for the eye is escaped, and what is long cut.
pub(super) fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let shown: String = text.chars().take(MAX_SHOWN_CHARS).map(escaped).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() { shown + "…" } else { shown }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" (nearest: `{}`)", printable(name)))
}
