//! Any error of any room, with what the user can do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use super::submit::SubmitError;
use crate::audit::AuditError;
use crate::catalog::CatalogError;
use crate::check::CheckError;
use crate::cluster::ClusterError;
use crate::config::ConfigError;
use crate::dispatch::DispatchError;
use crate::export::ExportError;
use crate::fetch::FetchError;
use crate::ingest::IngestError;
use crate::query::QueryError;
use crate::report::ReportError;
use crate::slurm::SlurmError;
use crate::storage::{ServerTableError, StorageError};
use crate::tools::ToolError;
use crate::units::UnitError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Slurm(#[from] SlurmError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error(transparent)]
    ServerTable(#[from] ServerTableError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("`{}` {}", path.display(), if *.is_own { "is the catalog itself" } else { "is there already" })]
    FileThere { path: PathBuf, is_own: bool },
    #[error("nothing is restored: `{}` is the catalog of another dataset, for `{}` is not what it names", file.display(), list.display())]
    OtherCatalog { file: PathBuf, list: PathBuf },
    #[error("cannot {action}: {source}")]
    Io { action: String, source: std::io::Error },
}

impl PipelineError {
    /// Whether files have moved under a query, so that it may do over a fresh view of the catalog.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        match self {
            Self::Query(error) => error.is_moved(),
            Self::Export(error) => error.is_moved(),
            Self::Report(error) => error.is_moved(),
            _ => false,
        }
    }

    /// The next step, where there is an obvious one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if is_disk_full(self) {
            return Some(
                "free space or point `path_to_output_folder` elsewhere, then run the same command again; what was committed is safe".into(),
            );
        }
        let safe =
            || Some("what was committed is safe; mend the cause and run the same command again".to_owned());
        match self {
            Self::Config(error) => error.hint(),
            Self::Catalog(error) | Self::Check(CheckError::Catalog(error)) => error.hint(),
            Self::Query(error) => error.hint(),
            Self::Export(error) => error.hint(),
            Self::Report(error) => error.hint(),
            Self::Audit(error) => error.hint(),
            Self::Tool(error) => error.hint(),
            Self::Slurm(error) => error.hint(),
            Self::Submit(error) => error.hint(),
            Self::Unit(error) => error.hint(),
            Self::Storage(error) | Self::Check(CheckError::Storage(error)) => error.hint(),
            Self::Ingest(error) => error.hint(),
            Self::Cluster(error) | Self::Dispatch(DispatchError::Cluster(error)) => error.hint(),
            Self::ServerTable(error) => error.hint(),
            Self::Dispatch(DispatchError::Catalog(error)) => error.hint().or_else(safe),
            Self::Dispatch(_) => safe(),
            Self::Check(CheckError::OtherDataset { .. }) => Some("`--dataset DIR` names the dataset".into()),
            Self::Check(CheckError::OtherLists { .. }) => Some(
                "is this the catalog of another dataset? Else `ddl check` names what differs: restore that first"
                    .into(),
            ),
            Self::Check(CheckError::OlderCatalog { .. }) => Some(
                "is this an older copy of the catalog? Then put the newest one back. Without a newer one, `ddl download` goes on from this one and downloads again what it does not know; `ddl check --repair --discard-newer` removes the files that are newer".into(),
            ),
            Self::Fetch(_) => Some("`ddl config show` says where each value comes from".into()),
            Self::FileThere { is_own, .. } => {
                Some(if *is_own { "name another file" } else { "`--force` replaces it" }.into())
            }
            Self::OtherCatalog { .. } => Some(
                "`--dataset DIR` names the dataset; where its lists are damaged, `--force` restores the catalog all the same"
                    .into(),
            ),
            Self::Check(_) | Self::Io { .. } => None,
        }
    }
}

/// Whether the disk or a quota is full, whichever room met it.
fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    let is_full =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    error.downcast_ref().is_some_and(is_full) || error.source().is_some_and(is_disk_full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_one_hint_wherever_it_is_met() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let errors: [PipelineError; 4] = [
            StorageError::Io { action: "write", path: "a".into(), source: full() }.into(),
            DispatchError::Storage(StorageError::Io { action: "write", path: "a".into(), source: full() })
                .into(),
            CatalogError::from(redb::StorageError::Io(full())).into(),
            IngestError::Write { path: "a".into(), source: full() }.into(),
        ];
        for error in errors {
            assert!(error.hint().is_some_and(|hint| hint.starts_with("free space")), "{error:?}");
        }
    }
}
