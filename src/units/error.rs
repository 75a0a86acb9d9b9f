//! What keeps a unit from being made, done or taken back.

use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::CatalogError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is no work unit: {detail}", path.display())]
    NotAUnit { path: PathBuf, detail: String },
    #[error("`{}` is no result of a work unit: {detail}", path.display())]
    NotAResult { path: PathBuf, detail: String },
    /// Units of an earlier export, which may be at work, or files of somebody else.
    #[error("nothing is exported: `{}` has partitions already, such as `{name}`", folder.display())]
    InTheWay { folder: PathBuf, name: String },
    #[error("`{}` is of another unit", path.display())]
    OtherUnit { path: PathBuf },
    /// The unit's own dataset cannot be opened.
    #[error("cannot work in `{}`: {detail}", folder.display())]
    Work { folder: PathBuf, detail: String },
    #[error("the lease of `{}` has expired: its partitions are others' now", path.display())]
    Expired { path: PathBuf },
    #[error("partition {partition_id} of `{server_name}` is not finished, so there is no result")]
    Unfinished { server_name: String, partition_id: u32 },
    #[error("this unit needs `{key}`, which was left out of it because it may hold a secret")]
    Needs { key: String, variable: String },
}

impl UnitError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path: path.clone(), source }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Catalog(error) => error.hint(),
            Self::Storage(error) => error.hint(),
            Self::NotAResult { .. } => {
                Some("run the unit again, or get the result again from where it was made".into())
            }
            Self::InTheWay { .. } => {
                Some("choose another folder; files of an export that was killed there can be removed".into())
            }
            Self::OtherUnit { .. } => Some("choose another `-o`, or another `--work`".into()),
            Self::Expired { .. } => Some(
                "`ddl unit export` makes new units of what is left; `--lease` gives them more time".into(),
            ),
            Self::Unfinished { .. } => Some("run the same command again".into()),
            Self::Needs { variable, .. } => {
                Some(format!("set the variable `{variable}` where the unit runs"))
            }
            Self::Io { .. } | Self::NotAUnit { .. } | Self::Work { .. } => None,
        }
    }
}
