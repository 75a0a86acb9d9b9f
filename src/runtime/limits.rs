//! What the system grants this process: open files, cores.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Cores that this process may use: the affinity mask (Slurm, `taskset`) and the cgroup's quota count.
#[must_use]
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Cores of the machine, whoever may use them.
#[must_use]
pub fn machine_cores() -> usize {
    // SAFETY: the call reads a number of the system and touches nothing of ours.
    let found = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(found).unwrap_or(1).max(1)
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

/// Files that this process may open.
#[must_use]
pub fn max_open_files() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_rise_to_the_maximum() {
        let most = raise_open_files().unwrap();
        assert_eq!(max_open_files() as u64, most);
    }
}
