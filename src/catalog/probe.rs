//! What a filesystem does for a catalog: tried on small files of our own.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, TableDefinition};

use super::lock::CatalogLock;
use super::{CatalogError, CatalogOptions, store};

const TABLE: TableDefinition<&str, u64> = TableDefinition::new("probe");

/// What its file locks are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLocks {
    /// They keep others out, and let readers follow.
    Work,
    /// There are none: a catalog cannot be read beside its writer.
    Missing,
    /// They are granted twice: who asks on another node, or by another descriptor, does not see them.
    NotSeen,
}

/// A catalog's locks, held in a folder for as long as this lives; its files go with it.
pub struct LockProbe {
    /// Closed before its file goes.
    db: Option<Database>,
    _lock: CatalogLock,
    path: PathBuf,
    options: CatalogOptions,
    has_file_locks: bool,
}

impl LockProbe {
    /// Takes the locks that a catalog called `name` in this folder would have. The folder must be there.
    ///
    /// # Errors
    /// As when a catalog is made.
    pub fn hold(folder: &Path, name: &str, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let path = folder.join(name);
        let lock = CatalogLock::acquire(&path, options.job.clone(), options.lock_timeout)?;
        let locked = store::open_writer_with_locks(&path, options)?;
        let mut probe = Self {
            has_file_locks: locked.is_some(),
            db: None,
            _lock: lock,
            path: path.clone(),
            options: options.clone(),
        };
        let db = match locked {
            Some(db) => db,
            None => store::create_alone(&path, options)?,
        };
        let txn = db.begin_write()?;
        txn.open_table(TABLE)?.insert("written", 1)?;
        probe.db = Some(db);
        txn.commit()?;
        Ok(probe)
    }

    /// What this process sees of its own locks.
    ///
    /// # Errors
    /// When the file cannot be opened for another reason than a lock.
    pub fn file_locks(&self) -> Result<FileLocks, CatalogError> {
        if self.has_file_locks {
            seen_from_elsewhere(&self.path, &self.options)
        } else {
            Ok(FileLocks::Missing)
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LockProbe {
    fn drop(&mut self) {
        drop(self.db.take());
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the locks of a [`LockProbe`] at `path` hold here: in another process, on another node.
///
/// # Errors
/// When the file cannot be opened for another reason than a lock; `NotFound` when it does not show here.
pub fn seen_from_elsewhere(path: &Path, options: &CatalogOptions) -> Result<FileLocks, CatalogError> {
    if !path.exists() {
        return Err(CatalogError::NotFound { path: path.to_owned() });
    }
    match store::open_writer_with_locks(path, options) {
        Err(CatalogError::HeldElsewhere { .. }) => {}
        Ok(None) => return Ok(FileLocks::Missing),
        Ok(Some(_)) => return Ok(FileLocks::NotSeen),
        Err(error) => return Err(error),
    }
    let (db, protected) = store::open_reader(path, options)?;
    if !protected {
        return Ok(FileLocks::Missing);
    }
    let written = db.begin_read()?.open_table(TABLE)?.get("written")?.map(|value| value.value());
    if written == Some(1) { Ok(FileLocks::Work) } else { Ok(FileLocks::NotSeen) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_that_work_keep_others_out_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let options = CatalogOptions::default();
        let probe = LockProbe::hold(folder.path(), "probe.redb", &options).unwrap();
        assert_eq!(probe.file_locks().unwrap(), FileLocks::Work);
        assert!(matches!(
            LockProbe::hold(folder.path(), "probe.redb", &options),
            Err(CatalogError::InUse { .. })
        ));
        drop(probe);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let without = CatalogOptions { file_locks: false, ..options };
        let probe = LockProbe::hold(folder.path(), "probe.redb", &without).unwrap();
        assert_eq!(probe.file_locks().unwrap(), FileLocks::Missing);
    }
}
