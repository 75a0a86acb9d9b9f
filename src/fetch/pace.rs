//! When the next request may leave for one server: a pure state machine, `now` is passed in.
//!
//! Three things hold a request back, and the latest counts:
//! - the *gap*: a cell-rate limit (GCRA) with a burst of one, so 10 requests/s are 100 ms apart;
//! - a *pause* that the server asked for (429, 503): its `Retry-After`, else 1 s doubling to 60 s;
//! - a *pause of a dead server*: after 20 requests in a row without any response, 15 s doubling to 5 min.
//!
//! A throttling answer also halves the rate, not below the floor; from then on the rate grows back by a
//! constant amount per second of successes (additive increase, multiplicative decrease: the shares of many
//! clients converge). Answers to requests that left before the last such event tell nothing new and change
//! nothing, so one burst of 429s counts once.
//!
//! The limit is kept here and not by `governor`: halving, sharing and asking without taking need a limiter
//! whose rate changes while it keeps its state, and GCRA with a burst of one is a single instant.

use std::time::{Duration, Instant};

use crate::model::FailureCause;

/// Slowest rate to which throttling alone brings a server, in requests/s.
const FLOOR: f64 = 0.1;
/// tokio's timer wakes up to 1 ms late, and a loaded machine later: the next gap makes up for this much.
const SLACK: Duration = Duration::from_millis(2);
/// Time in which half of the rate is gained back.
const RECOVERY: Duration = Duration::from_secs(60);
/// A longer silence counts as this much recovery: what nobody tried is not known to work.
const MAX_RECOVERY_STEP: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Failures to get any response, in a row, after which a server counts as dead.
const DEAD_AFTER: u32 = 20;
const FIRST_DEAD_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_DEAD_PAUSE: Duration = Duration::from_secs(300);

/// Why a server is paused, to be told of a URL that finds it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PauseReason {
    pub cause: FailureCause,
    pub http_status: Option<u16>,
}

/// The pace of one server.
#[derive(Debug)]
pub(super) struct Pace {
    /// The most requests/s; infinite when there is no limit.
    ceiling: f64,
    floor: f64,
    /// Requests/s now, between floor and ceiling; infinite until a server without a limit first throttles.
    rate: f64,
    /// What `rate` gains per second of successes.
    recovery_per_second: f64,
    recovered_at: Option<Instant>,
    /// Earliest time of the next request by the rate alone.
    next_at: Option<Instant>,
    paused_until: Option<(Instant, PauseReason)>,
    throttled_at: Option<Instant>,
    throttled_in_a_row: u32,
    dead_at: Option<Instant>,
    unanswered: u32,
    dead_pauses: u32,
    /// Successes since `counted_from`: the rate that a server without a limit has been given.
    counted: u32,
    counted_from: Option<Instant>,
}

impl Pace {
    /// A pace of at most `limit` requests/s (0: no limit), slowed down to `limit * (1 - multiplier)` at most.
    pub fn new(limit: f64, multiplier: f64) -> Self {
        let mut pace = Self {
            ceiling: f64::INFINITY,
            floor: FLOOR,
            rate: f64::INFINITY,
            recovery_per_second: 0.0,
            recovered_at: None,
            next_at: None,
            paused_until: None,
            throttled_at: None,
            throttled_in_a_row: 0,
            dead_at: None,
            unanswered: 0,
            dead_pauses: 0,
            counted: 0,
            counted_from: None,
        };
        pace.set_limit(limit, multiplier);
        pace.rate = pace.ceiling;
        pace
    }

    /// Changes the limit; a server that is slowed down stays slowed down in proportion.
    pub fn set_limit(&mut self, limit: f64, multiplier: f64) {
        let ceiling = if limit > 0.0 { limit } else { f64::INFINITY };
        if self.ceiling.is_finite() && ceiling.is_finite() {
            self.rate *= ceiling / self.ceiling;
            self.recovery_per_second *= ceiling / self.ceiling;
        }
        self.ceiling = ceiling;
        self.floor =
            if ceiling.is_finite() { (limit * (1.0 - multiplier)).max(FLOOR).min(limit) } else { FLOOR };
        self.rate = self.rate.clamp(self.floor, ceiling);
    }

    /// Requests/s at present; infinite without a limit.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Earliest time of the next request, never before `now`.
    pub fn ready_at(&self, now: Instant) -> Instant {
        let pause = self.paused_until.map(|(until, _)| until);
        self.next_at.into_iter().chain(pause).fold(now, Instant::max)
    }

    /// The pause that holds at `now`, and why.
    pub fn pause(&self, now: Instant) -> Option<(Instant, PauseReason)> {
        self.paused_until.filter(|&(until, _)| until > now)
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        if self.ready_at(now) > now {
            return false;
        }
        if self.rate.is_finite() {
            let due = self.next_at.map_or(now, |at| at.max(now.checked_sub(SLACK).unwrap_or(now)));
            self.next_at = Some(due + Duration::from_secs_f64(1.0 / self.rate));
        } else {
            self.next_at = None;
        }
        true
    }

    /// Any response at all, whatever its status: the server lives.
    pub fn on_response(&mut self) {
        self.unanswered = 0;
        self.dead_pauses = 0;
    }

    /// A response that is no complaint, to a request that left at `sent_at`.
    pub fn on_success(&mut self, sent_at: Instant, now: Instant) {
        self.counted_from.get_or_insert(sent_at);
        self.counted = self.counted.saturating_add(1);
        if self.throttled_at.is_some_and(|at| sent_at <= at) {
            return;
        }
        self.throttled_in_a_row = 0;
        if self.rate < self.ceiling {
            let since =
                now.saturating_duration_since(self.recovered_at.unwrap_or(now)).min(MAX_RECOVERY_STEP);
            self.rate = (self.rate + self.recovery_per_second * since.as_secs_f64()).min(self.ceiling);
            self.recovered_at = Some(now);
        }
    }

    /// A 429 or 503 to a request that left at `sent_at`. `jitter` is a random number in `0.0..1.0`.
    ///
    /// A `retry_after` of zero says nothing and counts as none.
    pub fn on_throttled(
        &mut self,
        http_status: u16,
        retry_after: Option<Duration>,
        sent_at: Instant,
        now: Instant,
        jitter: f64,
    ) {
        let reason = PauseReason { cause: FailureCause::HttpStatus, http_status: Some(http_status) };
        let retry_after = retry_after.filter(|after| !after.is_zero());
        if self.throttled_at.is_some_and(|at| sent_at <= at) {
            if let Some(after) = retry_after {
                self.pause_until(now + after, reason);
            }
            return;
        }
        let pause = retry_after.unwrap_or_else(|| {
            let doubled = FIRST_PAUSE.saturating_mul(1 << self.throttled_in_a_row.min(10));
            doubled.min(LONGEST_PAUSE).mul_f64(0.75 + 0.5 * jitter)
        });
        let before = if self.rate.is_finite() { self.rate } else { self.observed_rate(now) };
        self.rate = (before / 2.0).clamp(self.floor, self.ceiling);
        // A server without a limit is measured by the best that it was seen to give.
        let full = if self.ceiling.is_finite() { self.ceiling } else { before };
        self.recovery_per_second = self.recovery_per_second.max(full / 2.0 / RECOVERY.as_secs_f64());
        self.recovered_at = None;
        self.throttled_at = Some(now);
        self.throttled_in_a_row = self.throttled_in_a_row.saturating_add(1);
        (self.counted, self.counted_from) = (0, None);
        self.pause_until(now + pause, reason);
    }

    /// No response to a request that left at `sent_at`, for the given cause.
    pub fn on_unanswered(&mut self, cause: FailureCause, sent_at: Instant, now: Instant, jitter: f64) {
        if self.dead_at.is_some_and(|at| sent_at <= at) {
            return;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered < DEAD_AFTER {
            return;
        }
        let doubled = FIRST_DEAD_PAUSE.saturating_mul(1 << self.dead_pauses.min(10));
        self.dead_pauses = self.dead_pauses.saturating_add(1);
        self.dead_at = Some(now);
        let pause = doubled.min(LONGEST_DEAD_PAUSE).mul_f64(0.75 + 0.5 * jitter);
        self.pause_until(now + pause, PauseReason { cause, http_status: None });
    }

    /// Whether a new pace would behave like this one: nothing learned, nothing pending.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.ready_at(now) == now && self.rate >= self.ceiling && self.unanswered == 0
    }

    fn pause_until(&mut self, until: Instant, reason: PauseReason) {
        if self.paused_until.is_none_or(|(known, _)| known < until) {
            self.paused_until = Some((until, reason));
        }
    }

    fn observed_rate(&self, now: Instant) -> f64 {
        let since = self.counted_from.map_or(Duration::ZERO, |from| now.saturating_duration_since(from));
        // Under a second of counting is no rate yet.
        f64::from(self.counted) / since.as_secs_f64().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    #[test]
    fn requests_are_a_gap_apart() {
        let start = Instant::now();
        let mut pace = Pace::new(10.0, 1.0);
        assert!(pace.try_take(start));
        assert!(!pace.try_take(start + 99 * MS));
        assert_eq!(pace.ready_at(start), start + 100 * MS);
        // A late wake-up is made up for, but idle time is not saved up.
        assert!(pace.try_take(start + 101 * MS));
        assert_eq!(pace.ready_at(start), start + 200 * MS);
        let later = start + 60 * S;
        assert!(pace.try_take(later));
        assert!(!pace.try_take(later + 97 * MS));
    }

    #[test]
    fn no_limit_means_no_gap() {
        let now = Instant::now();
        let mut pace = Pace::new(0.0, 1.0);
        assert!((0..1000).all(|_| pace.try_take(now)));
    }

    #[test]
    fn throttling_pauses_halves_and_recovers() {
        let start = Instant::now();
        let mut pace = Pace::new(10.0, 1.0);
        pace.on_throttled(429, Some(3 * S), start, start, 0.5);
        assert_eq!(pace.ready_at(start), start + 3 * S);
        assert!((pace.rate() - 5.0).abs() < 1e-9);
        // The rest of the burst counts only for a longer pause.
        pace.on_throttled(429, None, start, start + S, 0.5);
        pace.on_throttled(503, Some(4 * S), start, start + S, 0.5);
        assert_eq!(pace.ready_at(start), start + 5 * S);
        assert!((pace.rate() - 5.0).abs() < 1e-9);
        for step in 0..200 {
            let now = start + 10 * S + step * 500 * MS;
            pace.on_success(now, now);
        }
        assert!((pace.rate() - 10.0).abs() < 1e-9, "{}", pace.rate());
    }

    #[test]
    fn pauses_double_up_to_a_minute_until_a_success() {
        let mut now = Instant::now();
        let mut pace = Pace::new(10.0, 1.0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            now += 200 * S;
            pace.on_throttled(503, Some(Duration::ZERO), now, now, 0.5);
            pauses.push((pace.ready_at(now) - now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        now += 200 * S;
        pace.on_success(now, now);
        pace.on_throttled(503, None, now + S, now + S, 0.5);
        assert_eq!(pace.ready_at(now + S) - now - S, S);
    }

    #[test]
    fn the_multiplier_bounds_slowing_down() {
        let check = |limit: f64, multiplier: f64, floor: f64| {
            let mut now = Instant::now();
            let mut pace = Pace::new(limit, multiplier);
            for _ in 0..30 {
                now += S;
                pace.on_throttled(429, None, now, now, 0.0);
            }
            assert!((pace.rate() - floor).abs() < 1e-9, "{limit} {multiplier}: {}", pace.rate());
        };
        check(10.0, 0.5, 5.0);
        check(10.0, 0.0, 10.0);
        check(10.0, 1.0, FLOOR);
        check(0.05, 1.0, 0.05);
    }

    #[test]
    fn a_server_without_limit_learns_one_from_its_first_429() {
        let start = Instant::now();
        let mut pace = Pace::new(0.0, 1.0);
        for step in 0..80 {
            pace.on_success(start + step * 25 * MS, start + step * 25 * MS);
        }
        pace.on_throttled(429, None, start + 2 * S, start + 2 * S, 0.5);
        assert!((15.0..=25.0).contains(&pace.rate()), "{}", pace.rate());
    }

    #[test]
    fn a_dead_server_costs_few_requests() {
        let mut now = Instant::now();
        let mut pace = Pace::new(0.0, 1.0);
        let mut requests = 0;
        let end = now + 3600 * S;
        while now < end {
            now = pace.ready_at(now);
            if pace.try_take(now) {
                requests += 1;
                pace.on_unanswered(FailureCause::Connect, now, now, 0.5);
                now += MS;
            }
        }
        assert!((30..=36).contains(&requests), "{requests} requests in an hour");
        pace.on_response();
        pace.on_unanswered(FailureCause::Connect, now, now, 0.5);
        assert!(pace.pause(now + 301 * S).is_none());
    }

    #[test]
    fn a_share_scales_the_present_rate() {
        let now = Instant::now();
        let mut pace = Pace::new(10.0, 1.0);
        pace.on_throttled(429, None, now, now, 0.5);
        pace.set_limit(5.0, 1.0);
        assert!((pace.rate() - 2.5).abs() < 1e-9);
        pace.set_limit(10.0, 1.0);
        assert!((pace.rate() - 5.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_rate_stays_within_its_bounds(
            limit in prop_oneof![Just(0.0), 0.001..1e6f64],
            multiplier in 0.0..=1.0f64,
            events in prop::collection::vec((0u8..5, 0u64..100_000), 0..200),
        ) {
            let mut now = Instant::now();
            let mut pace = Pace::new(limit, multiplier);
            let ceiling = if limit > 0.0 { limit } else { f64::INFINITY };
            for (event, ms) in events {
                let sent_at = now;
                now += Duration::from_millis(ms);
                match event {
                    0 => pace.on_success(sent_at, now),
                    1 => pace.on_throttled(429, Some(Duration::from_millis(ms)), sent_at, now, 0.9),
                    2 => pace.on_unanswered(FailureCause::Dns, sent_at, now, 0.1),
                    3 => pace.on_response(),
                    _ => { pace.try_take(now); }
                }
                prop_assert!(pace.rate() <= ceiling && pace.rate() >= FLOOR.min(ceiling) * (1.0 - 1e-9));
                let wait = pace.ready_at(now) - now;
                prop_assert!(wait <= Duration::from_secs(400).max(Duration::from_secs_f64(1.0 / FLOOR.min(ceiling)) * 2));
            }
        }
    }
}
