//! What ends a run early.

use crate::catalog::CatalogError;
use crate::cluster::ClusterError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DispatchError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("rank {rank} failed: {message}")]
    Rank { rank: u32, message: String },
    /// The thread that writes the catalog has panicked or could not be started.
    #[error("the catalog's thread failed: {message}")]
    CatalogThread { message: String },
    #[error("rank 0 is gone")]
    CoordinatorGone,
    #[error("nothing was heard of rank 0 for {minutes} minutes: it has died, or its node is cut off")]
    CoordinatorSilent { minutes: u64 },
}
