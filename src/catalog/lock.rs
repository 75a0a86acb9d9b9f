//! Our own lock beside the catalog: who holds it, and since when.
//!
//! redb locks the file by itself where the filesystem can, but its refusal cannot say who holds it, and some
//! Lustre and NFS mounts have no locks at all. So the writer also keeps `catalog.redb.lock`, a small JSON file
//! naming node, process and Slurm job, touched regularly as a sign of life.
//!
//! It is made by hard-linking a finished file, which is atomic on NFS too; where there are no hard links
//! (exFAT, SMB, some FUSE) by creating it exclusively.
//!
//! A lock is stale, and taken over, when its process is gone (same node), or when it has shown no sign of life
//! for `lock_timeout` (another node). Of many who find it stale one takes it over: whoever makes
//! `catalog.redb.lock-takeover`, the only one who may remove a lock that is not his own, and who first looks
//! again whether it still is the stale one. A holder that was only asleep finds another's name in the lock, or
//! none, and never writes again: it looks before every transaction.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
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
    /// Random: tells two locks of one process apart.
    #[serde(default)]
    pub token: u64,
}

impl LockHolder {
    /// This process. `job` is the batch job it runs in, if any.
    #[must_use]
    pub fn this_process(job: Option<String>) -> Self {
        let pid = std::process::id();
        Self {
            node: this_node(),
            pid,
            process_start: process_start(pid).unwrap_or(0),
            job,
            since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            token: fastrand::u64(..),
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

fn this_node() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
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

/// How one file gets a second name: [`hard_link`], except in tests.
type Link = fn(&Path, &Path) -> io::Result<()>;

fn hard_link(file: &Path, name: &Path) -> io::Result<()> {
    fs::hard_link(file, name)
}

/// A held lock; released when dropped.
pub(super) struct CatalogLock {
    held: Arc<Held>,
    /// Dropping the sender ends the thread that shows signs of life.
    stop: Option<mpsc::Sender<()>>,
    pulse: Option<JoinHandle<()>>,
}

/// What the holder and its pulse share.
struct Held {
    path: PathBuf,
    holder: LockHolder,
    /// Set once the lock was found to be another's, and never cleared: what happened since is not known.
    lost: AtomicBool,
}

impl Held {
    /// Whether the lock still is ours. While the filesystem cannot tell, nobody can have taken it.
    fn is_ours(&self) -> bool {
        let ours = match fs::read(&self.path) {
            Ok(bytes) => parse_holder(&bytes).as_ref() == Some(&self.holder),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if !ours {
            self.lost.store(true, Ordering::Relaxed);
        }
        !self.lost.load(Ordering::Relaxed)
    }

    fn show_life(&self) {
        if self.is_ours() {
            // Failing to touch it is not worth ending a run: the filesystem may be back in a moment.
            let _ = fs::File::options()
                .append(true)
                .open(&self.path)
                .and_then(|file| file.set_modified(SystemTime::now()));
        }
    }
}

impl CatalogLock {
    pub(super) fn acquire(
        catalog: &Path,
        job: Option<String>,
        lock_timeout: Duration,
    ) -> Result<Self, CatalogError> {
        Self::acquire_with(hard_link, catalog, job, lock_timeout)
    }

    fn acquire_with(
        link: Link,
        catalog: &Path,
        job: Option<String>,
        lock_timeout: Duration,
    ) -> Result<Self, CatalogError> {
        let path = lock_path(catalog);
        let holder = LockHolder::this_process(job);
        Taking { link, path: &path, holder: &holder, lock_timeout, catalog }.take()?;
        sweep(&path, lock_timeout);

        let (stop, stopped) = mpsc::channel();
        let held = Arc::new(Held { path: path.clone(), holder, lost: AtomicBool::new(false) });
        let pulse_held = held.clone();
        let interval = (lock_timeout / 6).max(Duration::from_millis(50));
        let pulse = std::thread::Builder::new()
            .name("catalog-lock".into())
            .spawn(move || {
                while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                    pulse_held.show_life();
                }
            })
            .map_err(|source| CatalogError::Io { action: "watch over", path, source })?;
        Ok(Self { held, stop: Some(stop), pulse: Some(pulse) })
    }

    /// Refuses once the lock has been taken over or removed: another process may be writing.
    pub(super) fn confirm(&self, catalog: &Path) -> Result<(), CatalogError> {
        if self.held.is_ours() {
            return Ok(());
        }
        let holder = read_holder(&self.held.path).map(Box::new);
        Err(CatalogError::LockLost { path: catalog.to_owned(), holder })
    }
}

impl Drop for CatalogLock {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(pulse) = self.pulse.take() {
            let _ = pulse.join();
        }
        if self.held.is_ours() {
            let _ = remove_only(hard_link, &self.held.path, Some(&self.held.holder));
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
    match judge(&lock_path(catalog), lock_timeout) {
        Judgement::Held(holder) => holder,
        Judgement::Free | Judgement::Stale(_) => None,
    }
}

fn lock_path(catalog: &Path) -> PathBuf {
    beside(catalog, ".lock")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// What a lock file says at one moment. Without a readable holder it was torn by a crash.
enum Judgement {
    Free,
    Held(Option<LockHolder>),
    Stale(Option<LockHolder>),
}

fn judge(path: &Path, lock_timeout: Duration) -> Judgement {
    let holder = match fs::read(path) {
        Ok(bytes) => parse_holder(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Judgement::Free,
        Err(_) => None,
    };
    let node = this_node();
    let stale = match &holder {
        Some(holder) if holder.node == node => holder.is_gone(&node),
        // A torn lock's writer gets the same time to speak.
        _ => fs::metadata(path)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok())
            .is_some_and(|silence| silence > lock_timeout),
    };
    if stale { Judgement::Stale(holder) } else { Judgement::Held(holder) }
}

/// One attempt to get the lock.
struct Taking<'a> {
    link: Link,
    path: &'a Path,
    holder: &'a LockHolder,
    lock_timeout: Duration,
    catalog: &'a Path,
}

impl Taking<'_> {
    fn take(&self) -> Result<(), CatalogError> {
        // A lock may go between two looks at it, and a dead taker's mark has to be removed first.
        for _ in 0..8 {
            if self.place(self.path)? {
                return Ok(());
            }
            match judge(self.path, self.lock_timeout) {
                Judgement::Free => {}
                Judgement::Held(holder) => return Err(self.in_use(holder)),
                Judgement::Stale(_) if self.take_over()? => return Ok(()),
                Judgement::Stale(_) => {}
            }
        }
        Err(self.in_use(None))
    }

    /// Removes a stale lock and takes its place, unless another is about to.
    fn take_over(&self) -> Result<bool, CatalogError> {
        let mark = beside(self.path, "-takeover");
        if !self.place(&mark)? {
            return match judge(&mark, self.lock_timeout) {
                Judgement::Free => Ok(false),
                Judgement::Held(taker) => Err(self.in_use(taker)),
                Judgement::Stale(dead) => {
                    self.io("remove", &mark, remove_only(self.link, &mark, dead.as_ref())).map(|()| false)
                }
            };
        }
        let taken = match judge(self.path, self.lock_timeout) {
            Judgement::Free => self.place(self.path),
            Judgement::Held(_) => Ok(false),
            Judgement::Stale(stale) => {
                let holder = stale.as_ref().map_or("somebody unknown".to_owned(), ToString::to_string);
                tracing::warn!(holder, "taking over the lock that a process left behind, as after a kill");
                self.io("remove", self.path, remove_only(self.link, self.path, stale.as_ref()))
                    .and_then(|()| self.place(self.path))
            }
        };
        let _ = remove_only(self.link, &mark, Some(self.holder));
        taken
    }

    fn place(&self, path: &Path) -> Result<bool, CatalogError> {
        self.io("create", path, place(self.link, path, self.holder))
    }

    fn in_use(&self, holder: Option<LockHolder>) -> CatalogError {
        let path = self.catalog.to_owned();
        match holder.map(Box::new) {
            Some(holder) => CatalogError::InUse { path, holder },
            None => CatalogError::HeldElsewhere { path },
        }
    }

    fn io<T>(&self, action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, CatalogError> {
        result.map_err(|source| CatalogError::Io { action, path: path.to_owned(), source })
    }
}

/// A name for a moment, beside a lock or the mark of a takeover.
fn passing_name(path: &Path) -> PathBuf {
    beside(path, &format!("-{:016x}", fastrand::u64(..)))
}

/// Removes what kills have left under passing names: each names its owner, who is judged as that of a lock is.
fn sweep(path: &Path, lock_timeout: Duration) {
    let (Some(folder), Some(lock)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_passing = |name: &str| {
        let ending = name.strip_prefix(lock).map(|ending| ending.strip_prefix("-takeover").unwrap_or(ending));
        let hex = ending.and_then(|ending| ending.strip_prefix('-'));
        hex.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    // Whatever is left is for the next writer.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_passing)
            && matches!(judge(&entry.path(), lock_timeout), Judgement::Stale(_))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes a file that names the holder, whole from its first moment. False when there is one already.
fn place(link: Link, path: &Path, holder: &LockHolder) -> io::Result<bool> {
    let own = passing_name(path);
    let text = serde_json::to_vec(holder).expect("a holder is plain data");
    let write = |mut file: fs::File| file.write_all(&text).and_then(|()| file.sync_all());
    let result = fs::File::create_new(&own).and_then(write).and_then(|()| match link(&own, path) {
        Ok(()) => Ok(true),
        // An NFS server's answer may be lost and the repeated call refused: the file itself knows better.
        Err(_) if fs::metadata(&own).is_ok_and(|meta| meta.nlink() == 2) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) if lacks_hard_links(&error) => match fs::File::create_new(path) {
            Ok(file) => write(file).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    });
    let _ = fs::remove_file(&own);
    result
}

/// Linux says EPERM where a filesystem has no hard links, others ENOTSUP, EOPNOTSUPP or ENOSYS.
fn lacks_hard_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

/// Removes the file that names this holder and no other: what is there is moved away, looked at, and put back
/// if it is another's.
fn remove_only(link: Link, path: &Path, judged: Option<&LockHolder>) -> io::Result<()> {
    let aside = passing_name(path);
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    let moved = read_holder(&aside);
    // Where a third has taken the name meanwhile, the one moved away finds that out by itself.
    if moved.as_ref() != judged
        && link(&aside, path).is_err_and(|error| lacks_hard_links(&error))
        && let Some(holder) = &moved
    {
        place(link, path, holder)?;
    }
    match fs::remove_file(&aside) {
        // A new holder has swept it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn read_holder(path: &Path) -> Option<LockHolder> {
    parse_holder(&fs::read(path).ok()?)
}

fn parse_holder(bytes: &[u8]) -> Option<LockHolder> {
    serde_json::from_slice(bytes).ok()
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
        leave_stale_lock(&catalog);
        CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
    }

    fn write_holder(path: &Path, holder: &LockHolder) {
        fs::write(path, serde_json::to_vec(holder).unwrap()).unwrap();
    }

    /// A lock beside `catalog` whose process is gone.
    fn leave_stale_lock(catalog: &Path) -> LockHolder {
        let mut dead = LockHolder::this_process(None);
        dead.process_start += 1;
        write_holder(&lock_path(catalog), &dead);
        dead
    }

    fn files_in(folder: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    /// A filesystem without hard links.
    fn no_links(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    /// An NFS server whose answer is lost: the call is sent again, and refused.
    fn answer_lost(own: &Path, path: &Path) -> io::Result<()> {
        fs::hard_link(own, path)?;
        Err(io::Error::from_raw_os_error(libc::EEXIST))
    }

    #[test]
    fn of_many_who_race_for_a_stale_lock_one_wins() {
        for link in [hard_link as Link, no_links, answer_lost] {
            for _ in 0..100 {
                let folder = tempfile::tempdir().unwrap();
                let catalog = folder.path().join("catalog.redb");
                leave_stale_lock(&catalog);
                let start = std::sync::Barrier::new(8);
                let locks: Vec<_> = std::thread::scope(|scope| {
                    let race = || {
                        start.wait();
                        CatalogLock::acquire_with(link, &catalog, None, TIMEOUT).ok()
                    };
                    let racers: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
                    racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
                });
                assert_eq!(locks.len(), 1);
                locks[0].confirm(&catalog).unwrap();
                assert_eq!(files_in(folder.path()), ["catalog.redb.lock"]);
            }
        }
    }

    #[test]
    fn a_lock_that_is_not_the_judged_one_is_put_back() {
        for link in [hard_link as Link, no_links] {
            let folder = tempfile::tempdir().unwrap();
            let catalog = folder.path().join("catalog.redb");
            let judged = leave_stale_lock(&catalog);
            // Another taker is faster.
            let lock = CatalogLock::acquire_with(link, &catalog, None, TIMEOUT).unwrap();
            remove_only(link, &lock.held.path, Some(&judged)).unwrap();
            lock.confirm(&catalog).unwrap();
            assert_eq!(files_in(folder.path()), ["catalog.redb.lock"]);
        }
    }

    #[test]
    fn a_taker_that_died_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.redb");
        let dead = leave_stale_lock(&catalog);
        write_holder(&beside(&lock_path(&catalog), "-takeover"), &dead);
        let _lock = CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
        assert_eq!(files_in(folder.path()), ["catalog.redb.lock"]);
    }

    #[test]
    fn what_kills_leave_under_passing_names_is_swept_once_it_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.redb");
        let lock = lock_path(&catalog);
        let alive = LockHolder::this_process(None);
        let dead = LockHolder { process_start: alive.process_start + 1, ..alive.clone() };
        let elsewhere = LockHolder { node: "elsewhere".into(), ..alive.clone() };
        let put = |path: &Path, ending: &str, holder: &LockHolder, silence: Duration| {
            let path = beside(path, ending);
            write_holder(&path, holder);
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - silence).unwrap();
            path
        };
        let (now, long) = (Duration::ZERO, TIMEOUT + Duration::from_secs(1));
        let goes = [
            put(&lock, "-0123456789abcdef", &dead, now),
            put(&beside(&lock, "-takeover"), "-0123456789abcdef", &dead, now),
            put(&lock, "-1123456789abcdef", &elsewhere, long),
        ];
        let stays = [
            put(&lock, "-2123456789abcdef", &alive, long),
            put(&lock, "-3123456789abcdef", &elsewhere, now),
            // Names that are not ours.
            put(&lock, "-notes", &dead, long),
            put(&catalog, "-0123456789abcdef", &dead, long),
        ];
        let _lock = CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
        assert!(!goes.iter().any(|path| path.exists()));
        assert!(stays.iter().all(|path| path.exists()));
    }

    #[test]
    fn a_holder_that_slept_leaves_its_successor_alone() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.redb");
        let lock = CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
        let mut successor = LockHolder::this_process(Some("81235".into()));
        successor.node = "elsewhere".into();
        write_holder(&lock.held.path, &successor);
        let long_ago = SystemTime::now() - TIMEOUT;
        fs::File::options().append(true).open(&lock.held.path).unwrap().set_modified(long_ago).unwrap();

        lock.held.show_life();
        assert_eq!(fs::metadata(&lock.held.path).unwrap().modified().unwrap(), long_ago, "not renewed");
        let error = lock.confirm(&catalog).unwrap_err();
        assert!(error.to_string().contains("job 81235"), "{error}");
        // It may have written and gone again: what this process knows of the catalog is old for ever.
        write_holder(&lock.held.path, &lock.held.holder);
        lock.confirm(&catalog).unwrap_err();
        write_holder(&lock.held.path, &successor);
        drop(lock);
        assert_eq!(lock_holder(&catalog), Some(successor));
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
        write_holder(&lock_path(&catalog), &other);
        assert!(CatalogLock::acquire(&catalog, None, TIMEOUT).is_err());
        assert_eq!(live_holder(&catalog, TIMEOUT), Some(other));
        let file = fs::File::options().append(true).open(lock_path(&catalog)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(61)).unwrap();
        assert_eq!(live_holder(&catalog, TIMEOUT), None);
        let lock = CatalogLock::acquire(&catalog, None, TIMEOUT).unwrap();
        assert_eq!(lock_holder(&catalog).as_ref(), Some(&lock.held.holder));
    }
}
