//! Files that are either whole or not there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::StorageError;

/// What stands between a file's own name and its writer's in a temporary name.
const TEMPORARY: &str = ".tmp-";

/// Whether a file of this name was never committed.
pub(super) fn is_temporary(name: &str) -> bool {
    name.contains(TEMPORARY)
}

/// A file under a temporary name until [`AtomicFile::commit`]. Dropped before, it is removed.
pub struct AtomicFile {
    file: Option<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will be `path`. Its folder is made, durably, if it is missing.
    ///
    /// `writer` tells writers of the same path apart: it ends the temporary name.
    ///
    /// # Errors
    /// When the folder or file cannot be made.
    pub fn create(path: &Path, writer: &str) -> Result<Self, StorageError> {
        let temporary = prepare(path, writer)?;
        let file = File::create_new(&temporary).map_err(StorageError::io("create", &temporary))?;
        Ok(Self { file: Some(file), temporary, path: path.to_owned() })
    }

    /// Starts as a second name of a file that is whole already: nothing is copied. None where that cannot be,
    /// as on filesystems without hard links.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub(super) fn link(existing: &Path, path: &Path, writer: &str) -> Result<Option<Self>, StorageError> {
        let temporary = prepare(path, writer)?;
        let linked = fs::hard_link(existing, &temporary).and_then(|()| File::open(&temporary));
        Ok(linked.ok().map(|file| Self { file: Some(file), temporary, path: path.to_owned() }))
    }

    /// A second handle to the file, for writers that want to own one.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn handle(&self) -> Result<File, StorageError> {
        let file = self.file.as_ref().expect("present until commit");
        file.try_clone().map_err(StorageError::io("open", &self.temporary))
    }

    /// The name under which the file exists until it is committed.
    #[must_use]
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Syncs the file, gives it its name and syncs the folder. Returns its length.
    ///
    /// # Errors
    /// When any of this fails: then the file is removed, and nothing stands under its name that did not before.
    pub fn commit(mut self) -> Result<u64, StorageError> {
        let file = self.file.take().expect("committed once");
        let result = file
            .sync_all()
            .and_then(|()| file.metadata())
            .map_err(StorageError::io("sync", &self.temporary))
            .and_then(|meta| {
                fs::rename(&self.temporary, &self.path).map_err(StorageError::io("rename", &self.path))?;
                // Where both names are already one file (a link that was made before a kill), a rename does nothing.
                let _ = fs::remove_file(&self.temporary);
                sync_folder(&self.path)?;
                Ok(meta.len())
            });
        if result.is_err() {
            let _ = fs::remove_file(&self.temporary);
        }
        result
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().expect("present until commit").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Many small files in one folder and those below it. Each is whole or not there; [`AtomicBatch::sync`] makes them durable
/// together, since a sync for each would cost more than all of their bytes.
pub struct AtomicBatch {
    root: PathBuf,
    writer: String,
    /// Folders that are known to be there.
    folders: HashSet<PathBuf>,
}

impl AtomicBatch {
    /// `writer` as in [`AtomicFile::create`].
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(root: &Path, writer: &str) -> Result<Self, StorageError> {
        create_folder(root)?;
        Ok(Self { root: root.to_owned(), writer: writer.to_owned(), folders: HashSet::new() })
    }

    /// Writes a file, in the place of one that may be there. It may be empty, or gone, after a power failure before the
    /// next [`AtomicBatch::sync`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let path = self.root.join(name);
        let folder = folder_of(&path);
        if !self.folders.contains(folder) {
            fs::create_dir_all(folder).map_err(StorageError::io("create", folder))?;
            self.folders.insert(folder.to_owned());
        }
        let mut temporary = path.file_name().unwrap_or_default().to_owned();
        temporary.push(format!("{TEMPORARY}{}", self.writer));
        let temporary = path.with_file_name(temporary);
        fs::write(&temporary, bytes).map_err(StorageError::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(StorageError::io("rename", &path))
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), StorageError> {
        let folder = File::open(&self.root).map_err(StorageError::io("open", &self.root))?;
        rustix::fs::syncfs(folder).map_err(|error| StorageError::io("sync", &self.root)(error.into()))
    }
}

/// Makes room for a temporary file. What has its name must not be written to: it may be a second name of another.
fn prepare(path: &Path, writer: &str) -> Result<PathBuf, StorageError> {
    create_folder(folder_of(path))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{TEMPORARY}{writer}"));
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", &temporary)(error))
        }
        _ => Ok(temporary),
    }
}

/// Writes a whole small file.
///
/// # Errors
/// As [`AtomicFile`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut file = AtomicFile::create(path, &std::process::id().to_string())?;
    file.write_all(bytes).map_err(StorageError::io("write", path))?;
    file.commit().map(drop)
}

/// Gives a file that is whole and synced another name in its folder, durably. False when it is not there.
///
/// # Errors
/// When it cannot be renamed.
pub fn rename_durably(from: &Path, to: &Path) -> Result<bool, StorageError> {
    match fs::rename(from, to) {
        Ok(()) => sync_folder(to).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io("rename", from)(error)),
    }
}

/// Removes a file, if there is one.
///
/// # Errors
/// When it is there and stays.
pub fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a folder, and those above it that are missing, so that a power failure does not take them away with
/// the files in them.
///
/// # Errors
/// When a folder cannot be made, or the one that it lies in cannot be synced.
pub fn create_folder(path: &Path) -> Result<(), StorageError> {
    create_folder_with(path, &mut |path| sync_folder(path))
}

/// `sync` gets each folder that was made.
fn create_folder_with(
    path: &Path,
    sync: &mut dyn FnMut(&Path) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_folder_with(above, sync)?;
    }
    match fs::create_dir(path) {
        Ok(()) => sync(path),
        // Another was faster.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(StorageError::io("create folder", path)(error)),
    }
}

/// The folder that a path lies in: the working folder for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the entries of a path's folder durable (a rename or a new file is one). Some filesystems cannot sync
/// a folder and say so: there is nothing more to do then.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> Result<(), StorageError> {
    let folder = folder_of(path);
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Err(StorageError::Io { action: "sync folder", path: folder.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_leaves_whole_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("new/root");
        let mut batch = AtomicBatch::new(&root, "w").unwrap();
        batch.write("a/b/1.jpg", b"one").unwrap();
        // What a killed process has left of the same file.
        fs::write(root.join("a/b/2.jpg.tmp-w"), "half").unwrap();
        batch.write("a/b/2.jpg", b"two").unwrap();
        batch.write("a/b/1.jpg", b"again").unwrap();
        batch.sync().unwrap();
        assert_eq!(fs::read(root.join("a/b/1.jpg")).unwrap(), b"again");
        assert_eq!(fs::read(root.join("a/b/2.jpg")).unwrap(), b"two");
        assert_eq!(fs::read_dir(root.join("a/b")).unwrap().count(), 2);
    }

    #[test]
    fn a_bare_name_lies_in_the_working_folder() {
        assert_eq!(folder_of(Path::new("images.csv")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/images.csv")), Path::new("a"));
    }

    #[test]
    fn every_new_folder_is_made_durable_and_no_old_one() {
        let root = tempfile::tempdir().unwrap();
        let parts = root.path().join("server_name=s/partition_id=0/_parts");
        let made = |path: &Path| {
            let mut made = Vec::new();
            let mut sync = |path: &Path| {
                made.push(path.strip_prefix(root.path()).unwrap().to_owned());
                Ok(())
            };
            create_folder_with(path, &mut sync).unwrap();
            made
        };
        let expected =
            ["server_name=s", "server_name=s/partition_id=0", "server_name=s/partition_id=0/_parts"];
        assert_eq!(made(&parts), expected.map(PathBuf::from));
        assert!(parts.is_dir());
        assert!(made(&parts).is_empty());
        fs::write(parts.join("file"), b"").unwrap();
        create_folder(&parts.join("file")).unwrap_err();
    }

    #[test]
    fn an_uncommitted_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        write_atomically(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path, "1").unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
