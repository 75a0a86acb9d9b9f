//! What keeps a check from being done. What a check finds is no error: see [`super::Breach`].

use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::CatalogError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// Every file would be an orphan by the catalog of another dataset.
    #[error("catalog `{}` is not that of the dataset `{}`", catalog.display(), dataset.display())]
    OtherDataset { catalog: PathBuf, dataset: PathBuf },
    #[error("nothing is repaired: `{}` is not what the catalog names", path.display())]
    OtherLists { path: PathBuf },
    /// By an older copy of the catalog, what was committed since would be orphans.
    #[error("nothing is repaired: there are files that are newer than the catalog: {evidence}")]
    OlderCatalog { evidence: String },
}

impl CheckError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
