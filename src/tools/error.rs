//! What can go wrong with a tool.

use std::path::PathBuf;

use crate::catalog::CatalogError;
use crate::near::NearError;
use crate::query::QueryError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A tool cannot be added under this name.
    #[error("no tool can be called `{name}`: {reason}")]
    Name { name: String, reason: String },
    /// The `filter` of a tool's file.
    #[error("{}: `filter`: {source}", path.display())]
    Condition { path: PathBuf, source: QueryError },
    /// The command of a tool, which no partition can be gone through with.
    #[error("cannot start `{program}`: {source}")]
    Start { program: String, source: std::io::Error },
    /// The command of a tool has written to what it was to read.
    #[error("the command has changed `{}`, a file of the dataset", path.display())]
    Overwritten { path: PathBuf },
    /// A file of the partition was missing or damaged, and is there again.
    #[error("its files could not be read when the filter was run; the same command runs it again")]
    LeftOut,
    #[error(transparent)]
    Near(#[from] NearError),
    #[error("there is no tool `{name}`{}", nearest.as_ref().map_or(String::new(), |nearest| format!("; is `{nearest}` meant?")))]
    Unknown { name: String, nearest: Option<String>, known: Vec<String> },
    #[error("the filter of `{tool}` has not been run")]
    NotFiltered { tool: String },
    #[error("the images have changed since the filter of `{tool}` was run")]
    Changed { tool: String },
    /// A file of a partition; other partitions can be gone through.
    #[error("cannot read `{}`: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("told to stop")]
    Stopped,
    /// What a tool itself says.
    #[error("{0}")]
    Failed(String),
}

impl ToolError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Catalog(error) => error.hint(),
            Self::Query(error) | Self::Condition { source: error, .. } => error.hint(),
            Self::Storage(error) => error.hint(),
            Self::Near(error) => error.hint(),
            Self::Unknown { known, .. } => {
                Some(format!("there are {}; `ddl tool --list` says what they do", known.join(", ")))
            }
            Self::NotFiltered { tool } | Self::Changed { tool } => {
                Some(format!("`ddl tool {tool}` goes through all stages"))
            }
            Self::Damaged { .. } => Some("`ddl check --deep` says what is damaged".into()),
            Self::Start { .. } => {
                Some("a bare name is looked for in PATH, a path from the tool's file on".into())
            }
            Self::Overwritten { .. } => Some(
                "it is to write to `{output}` only; `ddl check --deep` says what is lost of the images"
                    .into(),
            ),
            Self::Name { .. } | Self::LeftOut | Self::Stopped | Self::Failed(_) => None,
        }
    }
}
