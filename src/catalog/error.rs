//! What can go wrong with a catalog.

use std::path::PathBuf;

use super::lock::LockHolder;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    #[error("there is no catalog at `{}`", path.display())]
    NotFound { path: PathBuf },
    #[error("catalog `{}` is in use by {holder}", path.display())]
    InUse { path: PathBuf, holder: Box<LockHolder> },
    #[error("catalog `{}` is held by another process", path.display())]
    HeldElsewhere { path: PathBuf },
    /// The lock beside the catalog is another's now: this process must not write any more.
    #[error("catalog `{}` is no longer held by this process: its lock {}", path.display(), match holder {
        Some(holder) => format!("was taken over by {holder}"),
        None => "has been removed".into(),
    })]
    LockLost { path: PathBuf, holder: Option<Box<LockHolder>> },
    /// Without file locks a reader cannot keep its pages from being used again.
    #[error("catalog `{}` cannot be read while {holder} writes it: its filesystem has no file locks", path.display())]
    NoFileLocks { path: PathBuf, holder: Box<LockHolder> },
    /// A writer was killed; the next one repairs it as it opens it. Readers cannot.
    #[error("catalog `{}` was not closed and must be opened for writing once", path.display())]
    NeedsRepair { path: PathBuf },
    /// Of an older format; the next writer upgrades it as it opens it. Readers cannot.
    #[error("catalog `{}` has an older format and must be opened for writing once", path.display())]
    NeedsUpgrade { path: PathBuf },
    /// Pages that another process still reads cannot be moved.
    #[error("catalog `{}` is being read by another process", path.display())]
    BeingRead { path: PathBuf },
    /// A newer ddl has added it, without raising the format number: a copy would lose it.
    #[error("the catalog has a table `{table}` that this ddl does not know")]
    UnknownTable { table: String },
    #[error("catalog `{}` is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("catalog `{}` has format {found}, this ddl reads up to {known}", path.display())]
    TooNew { path: PathBuf, found: u32, known: u32 },
    #[error("this dataset's digests are {settled}, the configuration asks for {asked}")]
    HashAlgorithm { settled: String, asked: &'static str },
    /// A rule of `docs/catalog-format.md` does not hold: a fault of ddl, never of its input.
    #[error("catalog is inconsistent: {0}")]
    Inconsistent(String),
    #[error("cannot {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("a page of the catalog is damaged: {0}")]
    Corrupted(String),
    #[error("catalog storage failed")]
    Store(#[source] Box<redb::Error>),
    #[error("cannot read or write the catalog")]
    StoreIo(#[source] std::io::Error),
}

impl CatalogError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some("make one with `ddl ingest LIST`, or name its folder with `-c FILE` or `--set path_to_output_folder=DIR`".into()),
            Self::InUse { path, .. } => Some(format!(
                "read it while it runs with `ddl status` or `ddl query`; if that process is gone, remove `{}.lock`",
                path.display()
            )),
            Self::HeldElsewhere { .. } => Some("wait for it to end, or read on with `ddl status` and `ddl query`".into()),
            Self::LockLost { .. } => Some(
                "what was committed is safe; see with `ddl status` who is at work. If this process was only slow, raise `catalog_parameters.lock_timeout` and run the same command again".into(),
            ),
            Self::NoFileLocks { .. } => Some(
                "use `ddl status`, which reads what the run publishes, or wait for it to end; a mount with file locks (Lustre: `flock`) lets readers in".into(),
            ),
            Self::Damaged { .. } | Self::Corrupted(_) => Some(
                "restore a copy of the catalog (`ddl download` then goes on from it, and downloads again what is newer than the copy); without one, move it away, run `ddl ingest` again, and the images are downloaded anew".into(),
            ),
            Self::HashAlgorithm { settled, .. } => {
                Some(format!("set `hash_algorithm: {settled}`, or start a new dataset"))
            }
            Self::TooNew { .. } | Self::UnknownTable { .. } => {
                Some("use the ddl that wrote it, or a newer one".into())
            }
            Self::BeingRead { .. } => Some("wait for queries and exports to end, then try again".into()),
            _ => None,
        }
    }

    pub(super) fn inconsistent(detail: impl Into<String>) -> Self {
        Self::Inconsistent(detail.into())
    }
}

macro_rules! from_redb {
    ($($error:ty),+) => { $(impl From<$error> for CatalogError {
        fn from(error: $error) -> Self {
            match redb::Error::from(error) {
                redb::Error::Io(source) => Self::StoreIo(source),
                redb::Error::Corrupted(detail) => Self::Corrupted(detail),
                error => Self::Store(Box::new(error)),
            }
        }
    })+ };
}
from_redb!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CompactionError,
    redb::SetDurabilityError
);
