//! Any error of any room, with what the user can do about it.

use crate::catalog::CatalogError;
use crate::check::CheckError;
use crate::cluster::ClusterError;
use crate::config::ConfigError;
use crate::dispatch::DispatchError;
use crate::download::ProfileError;
use crate::export::ExportError;
use crate::ingest::IngestError;
use crate::query::QueryError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot {action}: {source}")]
    Io { action: String, source: std::io::Error },
}

impl PipelineError {
    /// The next step, where there is an obvious one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let safe =
            || Some("what was committed is safe; mend the cause and run the same command again".to_owned());
        match self {
            Self::Config(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::Dispatch(DispatchError::Catalog(error)) => error.hint().or_else(safe),
            Self::Query(error) => error.hint(),
            Self::Export(error) => error.hint(),
            Self::Check(CheckError::Catalog(error)) => error.hint(),
            Self::Dispatch(_) => safe(),
            _ => None,
        }
    }
}
