//! Room, writing and locks of the filesystems.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Check, Finding, Folder, clock};
use crate::catalog::{CatalogError, CatalogOptions, FileLocks, LockProbe, seen_from_elsewhere};

/// Below this a run ends before it has begun.
const LEAST_BYTES: u64 = 100 << 20;
/// Below this it will not get far, whatever it is.
const FEW_BYTES: u64 = 1 << 30;
/// A partition that is being worked on has some ten files.
const LEAST_INODES: u64 = 1_000;
const FEW_INODES: u64 = 10_000;
/// What is written as a try.
const TRIED_BYTES: usize = 1 << 20;
/// A file that another node has written may take seconds to show: NFS clients remember names that were not there.
const LOOKS_AGAIN: Duration = Duration::from_millis(500);

/// Looks at one folder. A folder that is not there yet is looked at where it will be made.
pub(super) fn look(folder: &Folder, catalog: Option<&CatalogOptions>) -> Vec<Finding> {
    let Some(place) = nearest(&folder.path) else {
        let message = format!("{} does not exist, nor any folder above it", name(folder));
        return vec![Finding::failure(Check::Writing, message, "make it, or name another")];
    };
    let mut findings = room(folder, &place);
    match write_and_remove(&place) {
        Ok(ahead) => {
            findings.push(Finding::ok(
                Check::Writing,
                format!("{}: a file was written and synced", name(folder)),
            ));
            findings.extend(
                catalog.and_then(|catalog| clock::of_filesystem(&name(folder), ahead, catalog.lock_timeout)),
            );
            findings.extend(catalog.map(|catalog| locks(&place, catalog)));
        }
        Err(error) => findings.push(cannot_write(folder, &place, &error)),
    }
    findings
}

/// The folder, or the nearest above it that is there.
fn nearest(path: &Path) -> Option<PathBuf> {
    let whole = std::path::absolute(path).ok()?;
    whole.ancestors().find(|folder| folder.exists()).map(Path::to_owned)
}

fn name(folder: &Folder) -> String {
    format!("`{}` (`{}`)", folder.path.display(), folder.key)
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

fn room(folder: &Folder, place: &Path) -> Vec<Finding> {
    let stat = match rustix::fs::statvfs(place) {
        Ok(stat) => stat,
        Err(error) => {
            return vec![Finding::failure(
                Check::Space,
                format!("{}: {}", name(folder), io::Error::from(error)),
                "is it mounted on this node?",
            )];
        }
    };
    let mut findings = vec![space(folder, stat.f_bavail.saturating_mul(stat.f_frsize))];
    // Btrfs and some network filesystems have no number of inodes.
    if stat.f_files > 0 {
        findings.push(inodes(folder, stat.f_favail));
    }
    findings
}

fn space(folder: &Folder, free: u64) -> Finding {
    let (check, advice) = (Check::Space, format!("free some, or point `{}` elsewhere", folder.key));
    let message = format!("{}: {} free", name(folder), gigabytes(free));
    match folder.needed_bytes {
        _ if free < LEAST_BYTES => Finding::failure(check, message, advice),
        Some(needed) if free < needed => Finding::warning(
            check,
            format!("{message}, but what is pending needs some {} by the images so far", gigabytes(needed)),
            format!("{advice}; smaller images (`image_size`) need less"),
        ),
        _ if free < FEW_BYTES => Finding::warning(check, message, advice),
        _ => Finding::ok(check, message),
    }
}

fn inodes(folder: &Folder, free: u64) -> Finding {
    let message = format!("{}: {free} free", name(folder));
    let advice = format!("remove files, or point `{}` elsewhere", folder.key);
    if free < LEAST_INODES {
        Finding::failure(Check::Inodes, message, advice)
    } else if free < FEW_INODES {
        Finding::warning(Check::Inodes, message, advice)
    } else {
        Finding::ok(Check::Inodes, message)
    }
}

/// How far the filesystem's clock is ahead of this node's, in seconds, with what it may be wrong by.
fn write_and_remove(folder: &Path) -> io::Result<clock::Offset> {
    let path = folder.join(passing_name("tmp"));
    let before = SystemTime::now();
    let written = File::create_new(&path).and_then(|mut file| {
        // No zeros: some filesystems keep those for nothing.
        let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(TRIED_BYTES).collect();
        file.write_all(&bytes)?;
        file.sync_all()?;
        let modified = file.metadata()?.modified()?;
        Ok(clock::Offset::between(before, modified, SystemTime::now()))
    });
    let removed = fs::remove_file(&path);
    written.and_then(|offset| removed.map(|()| offset))
}

/// A name that no two have at once.
pub(super) fn passing_name(ending: &str) -> String {
    format!(".ddl-doctor-{:016x}.{ending}", fastrand::u64(..))
}

fn cannot_write(folder: &Folder, place: &Path, error: &io::Error) -> Finding {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull => "free space, or point it elsewhere",
        io::ErrorKind::QuotaExceeded => {
            "your quota is used up: `quota -s`, or `lfs quota -h .`, has the figures"
        }
        io::ErrorKind::PermissionDenied => "you may not write there: `ls -ld` says who may",
        io::ErrorKind::ReadOnlyFilesystem => {
            "it is mounted read-only on this node; compute nodes often mount homes so"
        }
        io::ErrorKind::NotADirectory => "something above it is a file",
        _ => "ask who looks after this filesystem",
    };
    let at = if place == folder.path { String::new() } else { format!(" in `{}`", place.display()) };
    Finding::failure(Check::Writing, format!("{}: cannot write{at}: {error}", name(folder)), advice)
}

/// Tries the locks that the catalog takes.
fn locks(folder: &Path, options: &CatalogOptions) -> Finding {
    match LockProbe::hold(folder, &passing_name("redb"), options).and_then(|probe| probe.file_locks()) {
        Ok(found) => judge_locks(found, "on this node"),
        Err(error) => cannot_lock(&error),
    }
}

fn cannot_lock(error: &CatalogError) -> Finding {
    let mut message = format!("a catalog cannot be kept here: {error}");
    if let Some(source) = std::error::Error::source(error) {
        message += &format!(": {source}");
    }
    Finding::failure(Check::Locks, message, "point `path_to_output_folder` to another filesystem")
}

fn judge_locks(found: FileLocks, whence: &str) -> Finding {
    match found {
        FileLocks::Work => Finding::ok(Check::Locks, format!("our own lock and file locks work {whence}")),
        FileLocks::Missing => Finding::warning(
            Check::Locks,
            "this filesystem has no file locks: our own lock works, but nothing can read the catalog beside its writer",
            "a run needs nothing more, and `ddl status` works; for `ddl query` beside it ask for a mount with locks \
             (Lustre: `flock`; NFS: without `nolock`)",
        ),
        FileLocks::NotSeen => Finding::warning(
            Check::Locks,
            format!(
                "file locks are not seen {whence}: our own lock keeps a second writer out, but readers are not safe"
            ),
            "query the catalog on the node of rank 0 only; ask for a mount whose locks hold for the cluster (Lustre: \
             `flock`, not `localflock`)",
        ),
    }
}

/// Holds the locks of a catalog for other ranks to look at.
pub(super) fn hold_for_others(folder: &Folder, options: &CatalogOptions) -> Result<LockProbe, CatalogError> {
    let place = nearest(&folder.path).unwrap_or_else(|| folder.path.clone());
    LockProbe::hold(&place, &passing_name("redb"), options)
}

/// Looks at what rank 0 holds at `path`, from another rank, where it may take a while to show.
pub(super) fn look_at_held(path: &Path, options: &CatalogOptions, shows_within: Duration) -> Vec<Finding> {
    let mut waited = Duration::ZERO;
    loop {
        match seen_from_elsewhere(path, options) {
            Err(CatalogError::NotFound { .. }) if waited < shows_within => {
                std::thread::sleep(LOOKS_AGAIN);
                waited += LOOKS_AGAIN;
            }
            Err(CatalogError::NotFound { .. }) => {
                return vec![Finding::failure(
                    Check::SharedFolder,
                    format!("`{}`, which rank 0 has written, is not there", path.display()),
                    "all ranks need the output folder on a filesystem that all nodes share, under the same path",
                )];
            }
            seen => {
                let shared = Finding::ok(Check::SharedFolder, "what rank 0 writes is seen here");
                let locks = seen
                    .map_or_else(|error| cannot_lock(&error), |found| judge_locks(found, "from this rank"));
                return vec![shared, locks];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn folder(needed_bytes: Option<u64>) -> Folder {
        Folder { key: "path_to_output_folder", path: "out".into(), needed_bytes }
    }

    #[test]
    fn room_is_judged_by_what_is_pending_where_that_is_known() {
        let gb = 1_u64 << 30;
        let level = |needed, free| space(&folder(needed), free).level;
        assert_eq!(level(None, 2 * gb), Level::Ok);
        assert_eq!(level(None, gb / 2), Level::Warning);
        assert_eq!(level(Some(50 * gb), 20 * gb), Level::Warning);
        assert_eq!(level(Some(5 * gb), 20 * gb), Level::Ok);
        assert_eq!(level(Some(1), 50 << 20), Level::Failure);
        assert_eq!(
            [10, 5000, 1 << 20].map(|free| inodes(&folder(None), free).level),
            [Level::Failure, Level::Warning, Level::Ok]
        );
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_looked_at_above_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder { path: root.path().join("a/b"), ..folder(None) };
        let findings = look(&folder, Some(&CatalogOptions::default()));
        let level =
            |check| findings.iter().find(|finding| finding.check == check).map(|finding| finding.level);
        assert_eq!(
            (level(Check::Writing), level(Check::Locks)),
            (Some(Level::Ok), Some(Level::Ok)),
            "{findings:?}"
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_do_not_see_is_told() {
        let own = tempfile::tempdir().unwrap();
        let findings = look_at_held(
            &own.path().join("held.redb"),
            &CatalogOptions::default(),
            Duration::from_millis(600),
        );
        assert_eq!((findings[0].check, findings[0].level), (Check::SharedFolder, Level::Failure));
    }

    #[test]
    fn what_cannot_be_written_says_why() {
        let below_a_file = Folder { path: "/proc/version/x".into(), ..folder(None) };
        let findings = look(&below_a_file, None);
        let writing = findings.iter().find(|finding| finding.check == Check::Writing).unwrap();
        assert_eq!(writing.level, Level::Failure);
        assert!(writing.message.contains("cannot write in `/proc/version`"), "{writing:?}");
    }
}
