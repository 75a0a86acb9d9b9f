//! What can go wrong with files.

use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is not a readable Parquet file: {source}", path.display())]
    Parquet { path: PathBuf, source: ParquetError },
    #[error("`{}` does not hold what the catalog says: {detail}", path.display())]
    Unexpected { path: PathBuf, detail: String },
}

impl StorageError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A Parquet call that failed to `read` or `write`; an I/O error within keeps its kind.
    pub(super) fn parquet(action: &'static str, path: &Path) -> impl Fn(ParquetError) -> Self + use<> {
        let path = path.to_owned();
        move |error| match error {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(source) => Self::Io { action, path: path.clone(), source: *source },
                Err(inner) => Self::Parquet { path: path.clone(), source: ParquetError::External(inner) },
            },
            source => Self::Parquet { path: path.clone(), source },
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("give the user who runs `ddl` the right to write there".into())
            }
            Self::Io { .. } => None,
            Self::Parquet { .. } | Self::Unexpected { .. } => {
                Some("`ddl check` compares the catalog with the files".into())
            }
        }
    }
}
