//! What keeps a report from being made.

use arrow::error::ArrowError;

use crate::query::QueryError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the answer to a query is not of the kind that was asked for")]
    Column(#[from] ArrowError),
}

impl ReportError {
    /// Whether files have moved under it, so that it may do over a fresh view of the catalog.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        matches!(self, Self::Query(error) if error.is_moved())
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Query(error) => error.hint(),
            Self::Storage(error) => error.hint(),
            Self::Column(_) => None,
        }
    }
}
