//! The steady gap between the requests to one server: `governor`'s cell-rate limiter (GCRA) with a burst of one.
//!
//! Time is passed in through the limiter's clock. A wake-up that comes late is not made up for: with tokio's
//! timer, which is up to a millisecond late, 10 requests/s become 9.9, and no second ever sees more than the limit.

use std::cell::Cell;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// A limiter counts nanoseconds in 64 bits; nobody waits this long for a request anyway.
const LONGEST_SECONDS: f64 = 366.0 * 24.0 * 3600.0;

type Limiter = RateLimiter<NotKeyed, InMemoryState, PassedIn, NoOpMiddleware<Instant>>;

/// A clock that shows what it was set to.
#[derive(Debug)]
struct PassedIn(Cell<Instant>);

impl Clock for PassedIn {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// When the rate alone lets the next request go.
#[derive(Debug)]
pub(super) struct Gap {
    /// `None` without a limit.
    limiter: Option<Limiter>,
    taken_at: Option<Instant>,
    next_at: Option<Instant>,
}

impl Gap {
    /// A gap for `rate` requests/s; infinite is no gap.
    pub fn new(rate: f64, now: Instant) -> Self {
        let mut gap = Self { limiter: None, taken_at: None, next_at: None };
        gap.set_rate(rate, now);
        gap
    }

    /// Makes a new limiter, in which the last request has been taken just now: it gives none away, and the next
    /// one is due a new gap after the last.
    pub fn set_rate(&mut self, rate: f64, now: Instant) {
        let period = Duration::from_secs_f64((1.0 / rate).min(LONGEST_SECONDS));
        let clock = PassedIn(Cell::new(self.taken_at.unwrap_or(now)));
        self.limiter = Quota::with_period(period).map(|quota| RateLimiter::direct_with_clock(quota, clock));
        self.next_at = None;
        if let Some(taken_at) = self.taken_at {
            self.try_take(taken_at);
        }
    }

    /// Earliest time of the next request, as far as it is known to be after the last.
    pub fn next_at(&self) -> Option<Instant> {
        self.next_at
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        if let Some(limiter) = &self.limiter {
            limiter.clock().0.set(now);
            if limiter.check().is_err() {
                return false;
            }
            // A second one at the same moment is refused, and the refusal says when it is due.
            self.next_at = limiter.check().err().map(|refusal| refusal.earliest_possible());
        }
        self.taken_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    #[test]
    fn requests_are_a_gap_apart_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut gap = Gap::new(10.0, start);
        assert!(gap.try_take(start));
        assert!(!gap.try_take(start + 99 * MS));
        assert_eq!(gap.next_at(), Some(start + 100 * MS));
        assert!(gap.try_take(start + 60 * S));
        assert!(!gap.try_take(start + 60 * S + 99 * MS));
        assert!(gap.try_take(start + 60 * S + 100 * MS));
    }

    #[test]
    fn no_limit_means_no_gap() {
        let now = Instant::now();
        let mut gap = Gap::new(f64::INFINITY, now);
        assert!((0..1000).all(|_| gap.try_take(now)));
        assert_eq!(gap.next_at(), None);
        gap.set_rate(10.0, now);
        assert_eq!(gap.next_at(), Some(now + 100 * MS), "the last request counts");
    }

    #[test]
    fn waking_up_a_millisecond_late_costs_a_percent() {
        let start = Instant::now();
        let mut gap = Gap::new(10.0, start);
        let mut now = start;
        for _ in 0..1000 {
            assert!(gap.try_take(now));
            now = gap.next_at().unwrap() + MS;
        }
        let rate = 1000.0 / (now - start).as_secs_f64();
        assert!((9.8..=10.0).contains(&rate), "{rate}");
    }

    #[test]
    fn rates_at_the_ends_are_gaps() {
        let now = Instant::now();
        for rate in [1e-12, 1e-6, 1e9, 1e12] {
            let mut gap = Gap::new(rate, now);
            assert!(gap.try_take(now), "{rate}");
        }
    }

    proptest! {
        /// Whatever the rate is changed to and when: two requests are never closer than the gap that holds at
        /// the second, and a request is due a gap after the last, not later.
        #[test]
        fn changes_give_nothing_away(
            steps in prop::collection::vec((0.1..1000f64, 0u64..2_000_000), 1..200),
        ) {
            let mut now = Instant::now();
            let mut gap = Gap::new(1.0, now);
            let mut last = None;
            for (rate, micros) in steps {
                now += Duration::from_micros(micros);
                gap.set_rate(rate, now);
                let due = last.is_none_or(|at| now >= at + Duration::from_secs_f64(1.0 / rate));
                prop_assert_eq!(gap.try_take(now), due);
                if due {
                    last = Some(now);
                }
            }
        }
    }
}
