//! The catalog's file as redb opens it: with byte-range locks, or without where the filesystem has none.
//!
//! Locks are what tells the writer which old pages the readers beside it still need, so redb refuses the
//! `SingleWriter` mode without them. It is then opened as if nobody else could (`ExclusiveWriter`, and no lock
//! taken): [`super::lock`] alone keeps a second writer out, and readers stay away from a live writer.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, StorageBackend, StorageError,
};

use super::lock::live_holder;
use super::overlay::Overlay;
use super::{CatalogError, CatalogOptions};
use crate::runtime::catch_panic;

/// Opens the file at `path` for writing, or makes an empty one. Only under the catalog's lock.
pub(super) fn open_writer(path: &Path, options: &CatalogOptions) -> Result<Database, CatalogError> {
    if let Some(db) = open_writer_with_locks(path, options)? {
        return Ok(db);
    }
    tracing::warn!(path = %path.display(), "no file locks here: the catalog cannot be read while it is written");
    create_alone(path, options)
}

/// As [`open_writer`], but `None` where the filesystem has no locks.
pub(super) fn open_writer_with_locks(
    path: &Path,
    options: &CatalogOptions,
) -> Result<Option<Database>, CatalogError> {
    with_locks(path, options, |builder| builder.create(path))
}

/// Opens a file that nobody else has, or makes one, without locks.
pub(super) fn create_alone(path: &Path, options: &CatalogOptions) -> Result<Database, CatalogError> {
    guard(path, || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        builder(options, ConcurrencyMode::ExclusiveWriter).create_with_backend(Unlocked::new(file)?)
    })
}

/// Opens a file that nobody writes without writing to it, and checks all its pages.
pub(super) fn open_overlaid(path: &Path, options: &CatalogOptions) -> Result<Database, CatalogError> {
    guard(path, || {
        let overlay = Overlay::new(FileBackend::new(File::open(path)?)?)?;
        builder(options, ConcurrencyMode::ExclusiveWriter)
            .set_check_integrity_on_open(true)
            .create_with_backend(overlay)
    })
}

/// Opens the file at `path` for reading. Says also whether file locks protect it from a writer.
pub(super) fn open_reader(
    path: &Path,
    options: &CatalogOptions,
) -> Result<(ReadOnlyDatabase, bool), CatalogError> {
    if let Some(db) = with_locks(path, options, |builder| builder.open_read_only(path))? {
        return Ok((db, true));
    }
    // First of all: a header that is being written would pass for damage.
    refuse_beside_writer(path, options)?;
    let db = guard(path, || {
        builder(options, ConcurrencyMode::ExclusiveWriter)
            .open_read_only_with_backend(Unlocked::new(File::open(path)?)?)
    })?;
    Ok((db, false))
}

/// Where no file locks keep its pages, a reader must not meet a writer.
pub(super) fn refuse_beside_writer(path: &Path, options: &CatalogOptions) -> Result<(), CatalogError> {
    match live_holder(path, options.lock_timeout).map(Box::new) {
        Some(holder) => Err(CatalogError::NoFileLocks { path: path.to_owned(), holder }),
        None => Ok(()),
    }
}

/// Opens the file with byte-range locks; `None` where the filesystem has none.
fn with_locks<T>(
    path: &Path,
    options: &CatalogOptions,
    open: impl FnOnce(Builder) -> Result<T, DatabaseError>,
) -> Result<Option<T>, CatalogError> {
    if !options.file_locks {
        return Ok(None);
    }
    guard(path, || match open(builder(options, ConcurrencyMode::SingleWriter)) {
        Err(error) if lacks_locks(&error) => Ok(None),
        opened => opened.map(Some),
    })
}

fn builder(options: &CatalogOptions, mode: ConcurrencyMode) -> Builder {
    let mut builder = Builder::new();
    builder.set_concurrency_mode(mode).set_cache_size(options.cache_bytes);
    builder
}

/// `ENOLCK` is what NFS says without its lock daemon.
fn lacks_locks(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Unsupported) => true,
        DatabaseError::Storage(StorageError::Io(error)) => error.raw_os_error() == Some(libc::ENOLCK),
        _ => false,
    }
}

/// A file whose locks redb does not even ask for: those of [`StorageBackend`] all answer `Unsupported`.
#[derive(Debug)]
struct Unlocked(FileBackend);

impl Unlocked {
    fn new(file: File) -> Result<Self, DatabaseError> {
        FileBackend::new(file).map(Self)
    }
}

impl StorageBackend for Unlocked {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// Runs an opening call of redb and turns what it may do on a damaged file, panics included, into an error.
fn guard<T>(path: &Path, open: impl FnOnce() -> Result<T, DatabaseError>) -> Result<T, CatalogError> {
    let damaged = |detail: String| CatalogError::Damaged { path: path.to_owned(), detail };
    match catch_panic(open) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            Err(CatalogError::HeldElsewhere { path: path.to_owned() })
        }
        Ok(Err(DatabaseError::RepairAborted)) => Err(CatalogError::NeedsRepair { path: path.to_owned() }),
        Ok(Err(DatabaseError::Storage(StorageError::Io(source)))) => match source.kind() {
            io::ErrorKind::NotFound => Err(CatalogError::NotFound { path: path.to_owned() }),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Err(damaged(source.to_string())),
            _ => Err(CatalogError::Io { action: "open", path: path.to_owned(), source }),
        },
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("its pages do not hang together".into())),
    }
}
