//! What can go wrong with near-duplicates.

use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::{Shutdown, StopReason};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NearError {
    #[error("cannot {action} temporary files in `{}`: {source}", folder.display())]
    Io { action: &'static str, folder: PathBuf, source: io::Error },
    #[error("a distance of {distance} bits is more than {most}, the most that is searched")]
    DistanceTooLarge { distance: u32, most: u32 },
    #[error("shard {index} of {count} does not exist")]
    NoSuchShard { index: u32, count: u32 },
    /// A caller's mistake: records are numbered from 0 without gaps.
    #[error("record {record} is not one of {num_records}")]
    NoSuchRecord { record: u64, num_records: u64 },
    /// A caller's mistake: pairs and copies must come as this room sorts them.
    #[error("pairs or copies are not in order: something of record {record} comes after record {after}")]
    NotInOrder { record: u64, after: u64 },
    #[error("stopped before all pairs were found")]
    Stopped(StopReason),
}

impl NearError {
    pub(super) fn io(action: &'static str, folder: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let folder = folder.to_owned();
        move |source| Self::Io { action, folder, source }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("this needs up to 120 bytes of disk for each image; name a folder with more room".into())
            }
            Self::DistanceTooLarge { .. } => Some(
                "far below that distance different pictures begin to match; see docs/BENCHMARKS.md".into(),
            ),
            _ => None,
        }
    }
}

/// An error once somebody has asked to stop.
pub(super) fn keep_going(shutdown: &Shutdown) -> Result<(), NearError> {
    shutdown.requested().map_or(Ok(()), |reason| Err(NearError::Stopped(reason)))
}
