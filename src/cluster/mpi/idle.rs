//! When the MPI thread sleeps, and for how long.
//!
//! A blocking MPI receive spins at a full core, and nothing that arrives by MPI wakes a sleeping
//! thread. So the thread looks again and again: at once after work (answers come within microseconds
//! of a request), then with naps that double.

use std::thread;
use std::time::{Duration, Instant};

/// How long after the last work to look without sleeping: about two round trips.
const EAGER: Duration = Duration::from_micros(50);
const FIRST_NAP: Duration = Duration::from_micros(20);
/// Longest nap while a transfer is under way. Large messages go in pieces, each moved by a look from
/// both sides, so a nap costs throughput; 100 us still moves a 64 KiB piece at 600 MB/s.
const TRANSFER_NAP: Duration = Duration::from_micros(100);
/// A transfer without progress for this long is one to a frozen or lost rank: not worth short naps.
const STALE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Idle {
    last_work: Instant,
    nap: Duration,
    longest_nap: Duration,
}

impl Idle {
    pub(super) fn new(longest_nap: Duration) -> Self {
        Self { last_work: Instant::now(), nap: FIRST_NAP, longest_nap: longest_nap.max(FIRST_NAP) }
    }

    /// Something was done: stay awake.
    pub(super) fn worked(&mut self) {
        self.last_work = Instant::now();
        self.nap = FIRST_NAP;
    }

    /// Nothing was done: give the core away for a while. `unpark` ends a nap.
    pub(super) fn rest(&mut self, transferring: bool) {
        match self.next_nap(self.last_work.elapsed(), transferring) {
            None => thread::yield_now(),
            Some(nap) => thread::park_timeout(nap),
        }
    }

    fn next_nap(&mut self, idle_for: Duration, transferring: bool) -> Option<Duration> {
        if idle_for < EAGER {
            return None;
        }
        let longest = if transferring && idle_for < STALE {
            self.longest_nap.min(TRANSFER_NAP)
        } else {
            self.longest_nap
        };
        let nap = self.nap.min(longest);
        self.nap = (nap * 2).min(longest);
        Some(nap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn naps_double_up_to_the_longest_and_start_over_after_work() {
        let mut idle = Idle::new(us(150));
        assert_eq!(idle.next_nap(us(49), false), None);
        let naps: Vec<_> = (0..6).map(|_| idle.next_nap(us(60), false).unwrap()).collect();
        assert_eq!(naps, [us(20), us(40), us(80), us(150), us(150), us(150)]);
        idle.worked();
        assert_eq!(idle.next_nap(us(60), false), Some(us(20)));
    }

    #[test]
    fn transfers_keep_naps_short_until_they_are_stale() {
        let mut idle = Idle::new(us(1_000));
        for _ in 0..10 {
            assert!(idle.next_nap(us(500), true).unwrap() <= TRANSFER_NAP);
        }
        let naps: Vec<_> = (0..10).map(|_| idle.next_nap(STALE, true).unwrap()).collect();
        assert_eq!(naps.last(), Some(&us(1_000)));
    }
}
