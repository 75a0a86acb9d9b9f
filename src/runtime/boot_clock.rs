//! A clock that counts while the machine sleeps, too.

use std::time::Duration;

/// Time since the machine was started. Unlike that of [`std::time::Instant`], it has the time of a suspension in it;
/// and nobody can set it.
#[must_use]
pub fn time_since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into `time` and nowhere else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    debug_assert_eq!(failed, 0, "Linux has had this clock since 2.6.39");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let before = time_since_boot();
        std::thread::sleep(Duration::from_millis(2));
        assert!(time_since_boot() >= before + Duration::from_millis(2));
    }
}
