//! What keeps an audit from being done. What it finds is no error: see [`super::Violation`].

use std::path::PathBuf;

use crate::model::RunId;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(
        "there is no ledger of {} in `{}`",
        run.map_or("any run".to_owned(), |run| format!("run {run}")),
        folder.display()
    )]
    NoLedger { folder: PathBuf, run: Option<RunId> },
}

impl AuditError {
    /// The next step, where there is an obvious one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Storage(_) => None,
            Self::NoLedger { .. } => Some(
                "`ddl download` keeps one unless `downloader_parameters.request_ledger` is false; `ddl query \"SELECT run_id, kind FROM runs\"` lists the runs"
                    .into(),
            ),
        }
    }
}
