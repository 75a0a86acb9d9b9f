//! What can go wrong with an export.

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
                "use `.parquet`, `.csv`, `.tsv`, `.jsonl` or `.ndjson`; text may end in `.gz` as well".into(),
            ),
            Self::Storage(_) => None,
        }
    }
}
