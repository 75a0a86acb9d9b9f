//! What the system grants this process: open files, cores, memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What this process may use, as found at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineLimits {
    /// Cores, with the affinity mask (Slurm, `taskset`) and the cgroup's quota taken into account.
    pub cores: usize,
    /// Bytes of memory: the machine's, or the cgroup's limit where that is lower. `None` where the
    /// system does not tell.
    pub memory_bytes: Option<u64>,
    /// Files and sockets that may be open now; `u64::MAX` for no limit.
    pub open_files: u64,
    /// What `open_files` could be raised to.
    pub max_open_files: u64,
}

impl MachineLimits {
    /// Asks the system.
    #[must_use]
    pub fn detect() -> Self {
        let files = getrlimit(Resource::Nofile);
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(Path::new("/proc"), Path::new("/sys/fs/cgroup")),
            open_files: files.current.unwrap_or(u64::MAX),
            max_open_files: files.maximum.unwrap_or(u64::MAX),
        }
    }
}

/// Raises the number of files this process may open to the most it is allowed; returns that number.
///
/// Shells give 1,024 for the sake of programs that use `select`; a thousand servers need more.
///
/// # Errors
/// When the system refuses, for example macOS above its own maximum. Nothing has changed then.
pub fn raise_open_files() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

fn memory_bytes(proc: &Path, cgroups: &Path) -> Option<u64> {
    let installed = fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let granted = fs::read_to_string(proc.join("self/cgroup"))
        .ok()
        .and_then(|text| text.lines().filter_map(|line| cgroup_limit(line, cgroups)).min());
    installed.into_iter().chain(granted).min()
}

/// The lowest limit on the way from a group to the root. `line` is one of `/proc/self/cgroup`:
/// `0::/path` for version 2, `9:memory:/path` for version 1. A container may see its own group as the
/// root, so folders that do not exist are skipped.
fn cgroup_limit(line: &str, cgroups: &Path) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (root, file): (PathBuf, _) = if controllers.is_empty() {
        (cgroups.to_owned(), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (cgroups.join("memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    let group = root.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|folder| folder.starts_with(&root))
        // "max" is no number, and so no limit.
        .filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_rise_to_the_maximum() {
        let most = raise_open_files().unwrap();
        let now = MachineLimits::detect();
        assert_eq!((now.open_files, now.max_open_files), (most, most));
        assert!(now.cores >= 1);
    }

    #[test]
    fn the_lowest_limit_of_memory_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, cgroups) = (dir.path().join("proc"), dir.path().join("cgroup"));
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || memory_bytes(&proc, &cgroups);
        assert_eq!(found(), None);

        write(proc.join("meminfo"), "MemTotal:        8000 kB\nMemFree:  1 kB\n");
        assert_eq!(found(), Some(8_192_000));

        write(proc.join("self/cgroup"), "0::/slurm/job_7/step_0\n");
        write(cgroups.join("slurm/job_7/step_0/memory.max"), "max\n");
        assert_eq!(found(), Some(8_192_000));
        write(cgroups.join("slurm/job_7/memory.max"), "4096000\n");
        assert_eq!(found(), Some(4_096_000), "a parent's limit binds its children");

        write(proc.join("self/cgroup"), "12:cpuset:/x\n9:hugetlb,memory:/docker/abc\n");
        assert_eq!(found(), Some(8_192_000));
        write(cgroups.join("memory/memory.limit_in_bytes"), "2048000");
        assert_eq!(found(), Some(2_048_000), "a container sees its group as the root");
    }
}
