//! The time between the requests to one server.
//!
//! Two gaps hold at once. The *least* one is what the configuration asks for: no two requests are ever closer. The
//! *wanted* one is what the rate controller thinks best; it holds on average: a wake-up that comes up to
//! [`LATENESS`] late is made up for, because tokio's timer is up to a millisecond late and would make 700
//! requests/s of a gap for 1,000. Idle time is saved up in neither.

use std::cell::Cell;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// How much later than it was due a request may leave without the next one being put off.
const LATENESS: Duration = Duration::from_millis(2);
/// Nobody waits this long for a request anyway, and an `Instant` has an end.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// When the gaps let the next request go.
#[derive(Debug, Default)]
pub(super) struct Gap {
    least: Limit,
    wanted: Duration,
    /// When the last request was due, which is at most [`LATENESS`] before it left.
    due_at: Option<Instant>,
    /// No request leaves before, whatever was sent.
    held_until: Option<Instant>,
}

/// The gap of a rate in requests/s; infinite is none.
pub(super) fn gap_of(rate: f64) -> Duration {
    Duration::try_from_secs_f64(1.0 / rate).unwrap_or(LONGEST).min(LONGEST)
}

impl Gap {
    /// What holds from now on, also for the time since the last request.
    pub fn set_least(&mut self, least: Duration) {
        self.least.set_period(least.min(LONGEST));
    }

    pub fn set_wanted(&mut self, wanted: Duration) {
        self.wanted = wanted.min(LONGEST);
    }

    /// Lets nothing go before `at`.
    pub fn hold_until(&mut self, at: Instant) {
        self.held_until = self.held_until.max(Some(at));
    }

    /// The time between two requests.
    pub fn length(&self) -> Duration {
        self.least.period.max(self.wanted)
    }

    /// Earliest time of the next request; `None` before the first, unless it is held.
    pub fn next_at(&self) -> Option<Instant> {
        self.least.next_at.max(self.due_at.map(|at| at + self.wanted)).max(self.held_until)
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        let next_at = self.next_at();
        if next_at.is_some_and(|at| at > now) || !self.least.try_take(now) {
            return false;
        }
        let late = next_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        // After idle time nothing was due.
        self.due_at = if late <= LATENESS { next_at.or(Some(now)) } else { Some(now) };
        true
    }
}

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

/// The limit that is set: `governor`'s cell-rate limiter (GCRA) with a burst of one. What comes late is not made up
/// for, so that no second ever sees more than the limit.
#[derive(Debug, Default)]
struct Limit {
    period: Duration,
    /// Made with the first request under this period; `None` also without a limit.
    limiter: Option<Limiter>,
    taken_at: Option<Instant>,
    next_at: Option<Instant>,
}

impl Limit {
    /// Makes a new limiter, in which the last request has been taken: the next one is due a new period after it.
    fn set_period(&mut self, period: Duration) {
        (self.period, self.limiter, self.next_at) = (period, None, None);
        if let Some(taken_at) = self.taken_at {
            self.try_take(taken_at);
        }
    }

    fn try_take(&mut self, now: Instant) -> bool {
        if self.limiter.is_none() {
            let limiter = |quota| RateLimiter::direct_with_clock(quota, PassedIn(Cell::new(now)));
            self.limiter = Quota::with_period(self.period).map(limiter);
        }
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

    fn gap(least: f64, wanted: f64) -> Gap {
        let mut gap = Gap::default();
        gap.set_least(gap_of(least));
        gap.set_wanted(gap_of(wanted));
        gap
    }

    #[test]
    fn requests_are_a_gap_apart_and_idle_time_is_not_saved_up() {
        for (least, wanted) in [(10.0, f64::INFINITY), (f64::INFINITY, 10.0), (10.0, 100.0)] {
            let start = Instant::now();
            let mut gap = gap(least, wanted);
            assert!(gap.try_take(start));
            assert!(!gap.try_take(start + 99 * MS));
            assert_eq!(gap.next_at(), Some(start + 100 * MS));
            assert!(gap.try_take(start + 60 * S));
            assert!(!gap.try_take(start + 60 * S + 99 * MS));
            assert!(gap.try_take(start + 60 * S + 100 * MS));
        }
    }

    #[test]
    fn no_limit_means_no_gap() {
        let now = Instant::now();
        let mut gap = gap(f64::INFINITY, f64::INFINITY);
        assert!((0..1000).all(|_| gap.try_take(now)));
        gap.set_least(100 * MS);
        assert_eq!(gap.next_at(), Some(now + 100 * MS), "the last request counts");
    }

    /// A gap of a millisecond that is slept for takes two.
    #[test]
    fn a_late_wake_up_is_made_up_for_in_the_wanted_gap_alone() {
        let check = |least: f64, wanted: f64, expect: f64| {
            let start = Instant::now();
            let mut gap = gap(least, wanted);
            let mut now = start;
            for _ in 0..1000 {
                assert!(gap.try_take(now));
                now = now.max(gap.next_at().unwrap()) + MS;
            }
            let rate = 1000.0 / (now - start).as_secs_f64();
            assert!((0.98 * expect..=1.01 * expect).contains(&rate), "{least} {wanted}: {rate}");
        };
        check(f64::INFINITY, 1000.0, 1000.0);
        check(1000.0, f64::INFINITY, 500.0);
        check(10.0, 10.0, 9.9);
    }

    #[test]
    fn rates_at_the_ends_are_gaps() {
        let now = Instant::now();
        for rate in [0.0, 1e-300, 1e-6, 1e9, 1e12] {
            let mut gap = gap(rate, rate);
            assert!(gap.try_take(now), "{rate}");
            assert!(gap.next_at().is_some_and(|at| at >= now), "{rate}");
        }
    }

    proptest! {
        /// Whatever the gaps are changed to and when: two requests are never closer than the least gap that holds
        /// at the second, nor than the wanted one by more than the lateness, and a request is due a gap after the
        /// last, not later.
        #[test]
        fn changes_give_nothing_away(
            steps in prop::collection::vec((0.1..1000f64, 0.1..1000f64, 0u64..2_000_000), 1..200),
        ) {
            let mut now = Instant::now();
            let mut gap = Gap::default();
            let mut last: Option<Instant> = None;
            for (least, wanted, micros) in steps {
                now += Duration::from_micros(micros);
                let (least, wanted) = (gap_of(least), gap_of(wanted));
                gap.set_least(least);
                gap.set_wanted(wanted);
                let since = last.map(|at| now - at);
                let taken = gap.try_take(now);
                if since.is_none_or(|since| since >= least.max(wanted)) {
                    prop_assert!(taken);
                }
                if let Some(since) = since.filter(|_| taken) {
                    prop_assert!(since >= least && since + LATENESS >= wanted);
                }
                if taken {
                    last = Some(now);
                }
            }
        }
    }
}
