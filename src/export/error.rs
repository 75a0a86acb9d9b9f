//! What can go wrong with an export.

use std::io;
use std::path::PathBuf;

use crate::query::QueryError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot tell a format from the name `{}`", path.display())]
    UnknownFormat { path: PathBuf },
    #[error("`{}` belongs to the dataset and is not written over", path.display())]
    OwnFile { path: PathBuf },
    #[error("the tool `{tool}` has not been run")]
    ToolNotRun { tool: String },
    #[error("the tool `{tool}` has not gone through all images yet")]
    ToolIncomplete { tool: String },
    #[error("the images have changed since the tool `{tool}` was run")]
    ToolStale { tool: String },
    #[error("an export follows {max} tools at most")]
    TooManyTools { max: usize },
    #[error("the lists have no column `{name}`")]
    NoColumn { name: String },
    #[error("`{pattern}` is no pattern of a name")]
    Pattern { pattern: String },
    #[error("{validation} for validation and {test} for tests are no shares of the images")]
    Shares { validation: f64, test: f64 },
    #[error("`{}` is not in a folder that has the dataset's images", path.display())]
    NotAbove { path: PathBuf },
    #[error("`{}` has other files", path.display())]
    NotEmpty { path: PathBuf },
    #[error("`{}` has another export, or one of other images", path.display())]
    OtherExport { path: PathBuf },
    #[error("another process writes to `{}`", path.display())]
    InUse { path: PathBuf },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read `{}`: {detail}", path.display())]
    Unreadable { path: PathBuf, detail: String },
    #[error("`{}` is no manifest: it has no column `{column}`", path.display())]
    NoManifest { path: PathBuf, column: &'static str },
    /// What goes into a pipe or a device cannot be taken back.
    #[error("`{}` has got a part of the rows only: {source}", path.display())]
    InPart { path: PathBuf, source: Box<ExportError> },
}

impl ExportError {
    /// Whether the same export over a fresh view of the catalog may do.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        matches!(self, Self::Query(error) if error.is_moved())
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Query(error) => error.hint(),
            Self::UnknownFormat { .. } => Some(
                "use `.parquet`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.ndjson`, text also with `.gz`; \
                 `ddl query` takes `--format` with any name"
                    .into(),
            ),
            Self::OwnFile { .. } => Some("choose another place, such as `exports/` in the dataset".into()),
            Self::Storage(error) => error.hint(),
            Self::InPart { .. } => Some("write to a file: it is replaced whole, or not at all".into()),
            Self::ToolNotRun { tool } => {
                Some(format!("`ddl tool {tool}` first; `SELECT * FROM tools` lists what ran"))
            }
            Self::ToolIncomplete { tool } | Self::ToolStale { tool } => {
                Some(format!("`ddl tool {tool}` goes on; `--allow-stale` follows what it has said so far"))
            }
            Self::NoColumn { .. } => Some("`DESCRIBE urls` lists the columns".into()),
            Self::Pattern { .. } => Some(
                "`{segment[-2]}` is the last but one part of a URL's path; there are also `{segment_first}`, \
                 `{segment_parent}`, `{segment_last}`, `{ext}` and `{key}`"
                    .into(),
            ),
            Self::Shares { .. } => Some("each is from 0 to 1, and so are both together".into()),
            Self::NotAbove { .. } => {
                Some("a description names files by paths from its own folder: put it into the dataset's".into())
            }
            Self::NotEmpty { .. } => Some("choose a folder that is empty or not there".into()),
            Self::OtherExport { .. } => Some(
                "choose another folder, or delete this one: only what was exported from the same images with the same \
                 options is gone on with"
                    .into(),
            ),
            Self::InUse { .. } => Some("wait for it, or choose another folder".into()),
            Self::NoManifest { .. } => Some("`ddl export manifest` writes one".into()),
            Self::TooManyTools { .. } | Self::Write { .. } | Self::Unreadable { .. } => None,
        }
    }
}
