//! Our own lock beside the catalog: who holds it, and since when.
//!
//! redb locks the file by itself, but goes on without a lock where the filesystem has none (some Lustre and
//! NFS mounts), and its refusal cannot say who holds it. So the writer also keeps `catalog.redb.lock`, a small
//! JSON file naming node, process and Slurm job, touched regularly as a sign of life.
//!
//! A lock is stale, and taken over, when its process is gone (same node), or when it has shown no sign of life
//! for `lock_timeout` (another node). It is made by hard-linking a finished file, which is atomic on NFS too.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::CatalogError;

/// The process that holds a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    pub node: String,
    pub pid: u32,
    /// Start of the process in clock ticks since boot: tells a process from a later one of the same number.
    pub process_start: u64,
    pub job: Option<String>,
    /// Seconds since 1970.
    pub since: u64,
}

impl LockHolder {
    /// This process. `job` is the batch job it runs in, if any.
    #[must_use]
    pub fn this_process(job: Option<String>) -> Self {
        let pid = std::process::id();
        Self {
            node: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid,
            process_start: process_start(pid).unwrap_or(0),
            job,
            since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        }
    }

    fn is_gone(&self, node: &str) -> bool {
        self.node == node && process_start(self.pid) != Some(self.process_start)
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(job) = &self.job {
            write!(f, "job {job}, ")?;
        }
        write!(f, "process {} on node {}", self.pid, self.node)
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)); `None` when there is no such process, or only its zombie.
fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A killed rank stays a zombie until its launcher looks; it holds nothing any more.
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// A held lock; released when dropped.
pub(super) struct CatalogLock {
    path: PathBuf,
    holder: LockHolder,
    /// Dropping the sender ends the thread that shows signs of life.
    stop: Option<mpsc::Sender<()>>,
    pulse: Option<JoinHandle<()>>,
}

impl CatalogLock {
    pub(super) fn acquire(
        catalog: &Path,
        job: Option<String>,
        lock_timeout: Duration,
    ) -> Result<Self, CatalogError> {
        let path = lock_path(catalog);
        let holder = LockHolder::this_process(job);
        let own = path.with_extension(format!("lock-{}-{}", holder.node, holder.pid));
        write_holder(&own, &holder)?;
        let result = take(&path, &own, &holder.node, lock_timeout, catalog);
        let _ = fs::remove_file(&own);
        result?;

        let (stop, stopped) = mpsc::channel();
        let pulse_path = path.clone();
        let interval = (lock_timeout / 6).max(Duration::from_millis(50));
        let pulse = std::thread::Builder::new()
            .name("catalog-lock".into())
            .spawn(move || {
                while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                    // Failing to touch it is not worth ending a run: the filesystem may be back in a moment.
                    let _ = fs::File::options()
                        .append(true)
                        .open(&pulse_path)
                        .and_then(|file| file.set_modified(SystemTime::now()));
                }
            })
            .map_err(|source| CatalogError::Io { action: "watch over", path: path.clone(), source })?;
        Ok(Self { path, holder, stop: Some(stop), pulse: Some(pulse) })
    }
}

impl Drop for CatalogLock {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(pulse) = self.pulse.take() {
            let _ = pulse.join();
        }
        // Taken over by another process, it is not ours to remove.
        if read_holder(&self.path).as_ref() == Some(&self.holder) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who holds the catalog at this path now, going by the lock file alone.
#[must_use]
pub fn lock_holder(catalog: &Path) -> Option<LockHolder> {
    read_holder(&lock_path(catalog))
}

/// Who holds the catalog and may still be alive: known for this node, believed of others until they have been
/// silent for `lock_timeout`.
#[must_use]
pub fn live_holder(catalog: &Path, lock_timeout: Duration) -> Option<LockHolder> {
    let path = lock_path(catalog);
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    read_holder(&path).filter(|holder| match holder.node == node {
        true => !holder.is_gone(&node),
        false => !is_silent(&path, lock_timeout),
    })
}

fn is_silent(path: &Path, lock_timeout: Duration) -> bool {
    fs::metadata(path)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|modified| modified.elapsed().ok())
        .is_some_and(|silence| silence > lock_timeout)
}

fn lock_path(catalog: &Path) -> PathBuf {
    let mut name = catalog.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    catalog.with_file_name(name)
}

fn take(
    path: &Path,
    own: &Path,
    node: &str,
    lock_timeout: Duration,
    catalog: &Path,
) -> Result<(), CatalogError> {
    // Twice: a stale lock is moved away at most once, so two takers cannot chase each other for ever.
    for _ in 0..2 {
        match fs::hard_link(own, path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(CatalogError::Io { action: "create", path: path.to_owned(), source }),
        }
        let holder = read_holder(path);
        let silent = is_silent(path, lock_timeout);
        match holder {
            Some(holder) if !holder.is_gone(node) && (holder.node == node || !silent) => {
                return Err(CatalogError::InUse { path: catalog.to_owned(), holder: Box::new(holder) });
            }
            // A lock without a readable holder was torn by a crash; give its writer the same time to speak.
            None if path.exists() && !silent => {
                return Err(CatalogError::HeldElsewhere { path: catalog.to_owned() });
            }
            stale => {
                tracing::warn!(holder = ?stale, "taking over a stale lock on the catalog");
                let aside = own.with_extension("stale");
                if fs::rename(path, &aside).is_ok() {
                    let _ = fs::remove_file(&aside);
                }
            }
        }
    }
    Err(CatalogError::HeldElsewhere { path: catalog.to_owned() })
}

fn write_holder(path: &Path, holder: &LockHolder) -> Result<(), CatalogError> {
    let text = serde_json::to_vec(holder).expect("a holder is plain data");
    fs::File::create(path)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|source| CatalogError::Io { action: "write", path: path.to_owned(), source })
}

fn read_holder(path: &Path) -> Option<LockHolder> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn one_holder_at_a_time_and_the_refusal_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.redb");
        let lock = CatalogLock::acquire(&catalog, Some("81234".into()), TIMEOUT).unwrap();
        let error = CatalogLock::acquire(&catalog, None, TIMEOUT).err().unwrap().to_string();
        assert!(error.contains("in use by job 81234, process"), "{error}");
        drop(lock);
        assert_eq!(lock_holder(&catalog), None);
        CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
    }

    #[test]
    fn a_dead_process_of_this_node_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.redb");
        let mut dead = LockHolder::this_process(None);
        dead.process_start += 1;
        write_holder(&lock_path(&catalog), &dead).unwrap();
        assert_eq!(live_holder(&catalog, TIMEOUT), None);
        CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
    }

    #[test]
    fn a_zombie_holds_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // It is a zombie from its end until it is waited for.
        let deadline = std::time::Instant::now() + TIMEOUT;
        while process_start(child.id()).is_some() {
            assert!(std::time::Instant::now() < deadline, "a zombie must not count as alive");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists());
        child.wait().unwrap();
        assert!(process_start(std::process::id()).is_some());
    }

    #[test]
    fn another_node_is_believed_until_it_falls_silent() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.redb");
        let mut other = LockHolder::this_process(None);
        other.node = "elsewhere".into();
        write_holder(&lock_path(&catalog), &other).unwrap();
        assert!(CatalogLock::acquire(&catalog, None, TIMEOUT).is_err());
        assert_eq!(live_holder(&catalog, TIMEOUT), Some(other));
        let file = fs::File::options().append(true).open(lock_path(&catalog)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(61)).unwrap();
        assert_eq!(live_holder(&catalog, TIMEOUT), None);
        let lock = CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
        assert_eq!(lock_holder(&catalog).as_ref(), Some(&lock.holder));
    }
}
