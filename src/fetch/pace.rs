//! When the next request may leave for one server: a pure state machine, `now` is passed in.
//!
//! Four things hold a request back, and the latest counts:
//! - the *gap* of the rate ([`Gap`]): 10 requests/s are 100 ms apart;
//! - a *pause* that the server asked for (429, 503, `Retry-After`): as long as that says, else 1 s doubling to 60 s;
//! - a *pause of a parked server*: from the 20th complaint in a row on, 15 s doubling to 5 min;
//! - a *probe*: when a pause is over, one request goes out and the others wait until it is answered.
//!
//! A *complaint* is an answer, or none, that says that the server is in trouble and not the URL. Complaints
//! without a success in between are a *streak*, and a pause that begins when the streak is older than
//! `server_patience` and three pauses have not ended it *gives the server up*: during it nobody has to wait, for
//! nothing good is to be expected. Giving up is no state of its own: when the pause is over there is a probe, and
//! a success ends the streak and all that came of it. The condition on pauses lets an hour's `Retry-After` be
//! obeyed three times.
//!
//! A request to pause also halves the rate, not below the floor; from then on the rate grows back by a constant
//! amount per second of successes (additive increase, multiplicative decrease: the shares of many clients
//! converge). What comes of requests that left before the last pause tells nothing new and changes nothing, so
//! one burst of 429s counts once.

use std::time::{Duration, Instant};

use super::gap::Gap;
use crate::model::FailureCause;

/// Slowest rate to which throttling alone brings a server, in requests/s.
const FLOOR: f64 = 0.1;
/// Time in which half of the rate is gained back.
const RECOVERY: Duration = Duration::from_secs(60);
/// A longer silence counts as this much recovery: what nobody tried is not known to work.
const MAX_RECOVERY_STEP: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Complaints in a row from which on the server is parked.
const PARK_AFTER: u32 = 20;
const FIRST_PARKING: Duration = Duration::from_secs(15);
const LONGEST_PARKING: Duration = Duration::from_secs(300);
/// Pauses of a streak that are tried before the server is given up.
const MIN_PAUSES: u32 = 3;

/// A time in which a server is sent nothing, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Its end. A `Retry-After` that comes late may move it further away.
    pub until: Instant,
    /// What the complaint that led to it is called.
    pub cause: FailureCause,
    pub http_status: Option<u16>,
    /// Since when every answer, or none, has been a complaint.
    pub since: Instant,
    /// That is longer than `server_patience`: URLs of this server fail at once until the pause is over.
    pub given_up: bool,
}

/// What a server, as opposed to a URL, has to complain about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub cause: FailureCause,
    pub http_status: Option<u16>,
}

/// Complaints without a success in between.
#[derive(Clone, Copy, Debug)]
struct Streak {
    since: Instant,
    complaints: u32,
    pauses: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    NotNeeded,
    /// The next request is one.
    Due,
    UnderWay,
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
    gap: Gap,
    patience: Duration,
    streak: Option<Streak>,
    /// The last pause, over or not.
    pause: Option<Pause>,
    /// When it began.
    paused_at: Option<Instant>,
    probe: Probe,
    /// Successes since `counted_from`: the rate that a server without a limit has been given.
    counted: u32,
    counted_from: Option<Instant>,
}

impl Pace {
    /// A pace of at most `limit` requests/s (0: no limit), slowed down to `limit * (1 - multiplier)` at most.
    pub fn new(limit: f64, multiplier: f64, patience: Duration, now: Instant) -> Self {
        let mut pace = Self {
            ceiling: f64::INFINITY,
            floor: FLOOR,
            rate: f64::INFINITY,
            recovery_per_second: 0.0,
            recovered_at: None,
            gap: Gap::new(f64::INFINITY, now),
            patience,
            streak: None,
            pause: None,
            paused_at: None,
            probe: Probe::NotNeeded,
            counted: 0,
            counted_from: None,
        };
        pace.set_limit(limit, multiplier, now);
        pace
    }

    /// Changes the limit; a server that is slowed down stays slowed down in proportion.
    pub fn set_limit(&mut self, limit: f64, multiplier: f64, now: Instant) {
        let ceiling = if limit > 0.0 { limit } else { f64::INFINITY };
        let mut rate = self.rate;
        if self.ceiling.is_finite() && ceiling.is_finite() {
            rate *= ceiling / self.ceiling;
            self.recovery_per_second *= ceiling / self.ceiling;
        }
        self.ceiling = ceiling;
        self.floor =
            if ceiling.is_finite() { (limit * (1.0 - multiplier)).max(FLOOR).min(limit) } else { FLOOR };
        self.set_rate(rate, now);
    }

    /// Requests/s at present; infinite without a limit.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Earliest time of the next request, never before `now`; `None` while that depends on a probe.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let pause = self.pause.map(|pause| pause.until);
        let ready_at = || self.gap.next_at().into_iter().chain(pause).fold(now, Instant::max);
        (self.probe != Probe::UnderWay).then(ready_at)
    }

    /// The pause that holds at `now`.
    pub fn pause(&self, now: Instant) -> Option<Pause> {
        self.pause.filter(|pause| pause.until > now)
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        if self.ready_at(now) != Some(now) || !self.gap.try_take(now) {
            return false;
        }
        if self.probe == Probe::Due {
            self.probe = Probe::UnderWay;
        }
        true
    }

    /// A response that may yet become a success has begun: no reason to hold others back.
    pub fn on_answer(&mut self, sent_at: Instant) {
        if !self.is_stale(sent_at) {
            self.probe = Probe::NotNeeded;
        }
    }

    /// Nothing was learned from a request: if it was the probe, another has to be.
    pub fn on_nothing(&mut self, sent_at: Instant) {
        if self.probe == Probe::UnderWay && !self.is_stale(sent_at) {
            self.probe = Probe::Due;
        }
    }

    /// A response that is no complaint, to a request that left at `sent_at`.
    pub fn on_success(&mut self, sent_at: Instant, now: Instant) {
        self.counted_from.get_or_insert(sent_at);
        self.counted = self.counted.saturating_add(1);
        if self.is_stale(sent_at) {
            return;
        }
        self.probe = Probe::NotNeeded;
        self.streak = None;
        if self.rate < self.ceiling {
            let since =
                now.saturating_duration_since(self.recovered_at.unwrap_or(now)).min(MAX_RECOVERY_STEP);
            self.set_rate(self.rate + self.recovery_per_second * since.as_secs_f64(), now);
            self.recovered_at = Some(now);
        }
    }

    /// The request that left at `sent_at` came to a complaint. `jitter` is a random number in `0.0..1.0`.
    pub fn on_complaint(&mut self, complaint: Complaint, sent_at: Instant, now: Instant, jitter: f64) {
        if self.is_stale(sent_at) {
            return;
        }
        self.probe = Probe::NotNeeded;
        let streak = self.complain(now);
        if streak.complaints >= PARK_AFTER {
            let length = doubled(FIRST_PARKING, LONGEST_PARKING, streak.pauses, jitter);
            self.start_pause(length, complaint, streak, now);
        }
    }

    /// A complaint with which the server asked to be left alone: for `retry_after`, or as we think best.
    pub fn on_throttled(
        &mut self,
        complaint: Complaint,
        retry_after: Option<Duration>,
        sent_at: Instant,
        now: Instant,
        jitter: f64,
    ) {
        if self.is_stale(sent_at) {
            if let Some(after) = retry_after {
                self.extend_pause(now + after, complaint, now);
            }
            return;
        }
        let before = if self.rate.is_finite() { self.rate } else { self.observed_rate(now) };
        self.set_rate(before / 2.0, now);
        // A server without a limit is measured by the best that it was seen to give.
        let full = if self.ceiling.is_finite() { self.ceiling } else { before };
        self.recovery_per_second = self.recovery_per_second.max(full / 2.0 / RECOVERY.as_secs_f64());
        self.recovered_at = None;
        (self.counted, self.counted_from) = (0, None);
        let streak = self.complain(now);
        let length =
            retry_after.unwrap_or_else(|| doubled(FIRST_PAUSE, LONGEST_PAUSE, streak.pauses, jitter));
        self.start_pause(length, complaint, streak, now);
    }

    /// Whether a new pace would behave like this one: nothing learned, nothing pending.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.ready_at(now) == Some(now)
            && self.rate >= self.ceiling
            && self.streak.is_none()
            && self.probe == Probe::NotNeeded
    }

    fn set_rate(&mut self, rate: f64, now: Instant) {
        self.rate = rate.clamp(self.floor, self.ceiling);
        self.gap.set_rate(self.rate, now);
    }

    fn is_stale(&self, sent_at: Instant) -> bool {
        self.paused_at.is_some_and(|at| sent_at <= at)
    }

    /// Counts a complaint.
    fn complain(&mut self, now: Instant) -> Streak {
        let streak = self.streak.get_or_insert(Streak { since: now, complaints: 0, pauses: 0 });
        streak.complaints = streak.complaints.saturating_add(1);
        *streak
    }

    fn start_pause(&mut self, length: Duration, complaint: Complaint, streak: Streak, now: Instant) {
        let Complaint { cause, http_status } = complaint;
        let Streak { since, pauses, .. } = streak;
        let given_up = pauses >= MIN_PAUSES && now.saturating_duration_since(since) >= self.patience;
        self.streak = Some(Streak { pauses: pauses.saturating_add(1), ..streak });
        self.pause = Some(Pause { until: now + length, cause, http_status, since, given_up });
        self.paused_at = Some(now);
        self.probe = Probe::Due;
    }

    /// A late answer asks for more time than the pause has.
    fn extend_pause(&mut self, until: Instant, Complaint { cause, http_status }: Complaint, now: Instant) {
        let (known, since, given_up) =
            self.pause(now).map_or((now, now, false), |pause| (pause.until, pause.since, pause.given_up));
        if until > known {
            self.pause = Some(Pause { until, cause, http_status, since, given_up });
        }
    }

    fn observed_rate(&self, now: Instant) -> f64 {
        let since = self.counted_from.map_or(Duration::ZERO, |from| now.saturating_duration_since(from));
        // Under a second of counting is no rate yet.
        f64::from(self.counted) / since.as_secs_f64().max(1.0)
    }
}

/// `first`, doubled `times` times but at most `longest`, give or take a quarter.
fn doubled(first: Duration, longest: Duration, times: u32, jitter: f64) -> Duration {
    first.saturating_mul(1 << times.min(10)).min(longest).mul_f64(0.75 + 0.5 * jitter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(900);
    const REFUSED: Complaint = Complaint { cause: FailureCause::HttpStatus, http_status: Some(429) };
    const NO_ANSWER: Complaint = Complaint { cause: FailureCause::Connect, http_status: None };

    fn pace(limit: f64, now: Instant) -> Pace {
        Pace::new(limit, 1.0, PATIENCE, now)
    }

    #[test]
    fn throttling_pauses_halves_and_recovers() {
        let start = Instant::now();
        let mut pace = pace(10.0, start);
        pace.on_throttled(REFUSED, Some(3 * S), start, start, 0.5);
        assert_eq!(pace.ready_at(start), Some(start + 3 * S));
        assert!((pace.rate() - 5.0).abs() < 1e-9);
        // The rest of the burst counts only for a longer pause.
        pace.on_throttled(REFUSED, None, start, start + S, 0.5);
        pace.on_throttled(REFUSED, Some(4 * S), start, start + S, 0.5);
        assert_eq!(pace.ready_at(start), Some(start + 5 * S));
        assert!((pace.rate() - 5.0).abs() < 1e-9);
        for step in 0..200 {
            let now = start + 10 * S + step * 500 * MS;
            pace.on_success(now, now);
        }
        assert!((pace.rate() - 10.0).abs() < 1e-9, "{}", pace.rate());
        assert!(pace.is_fresh(start + 200 * S));
    }

    #[test]
    fn pauses_double_up_to_a_minute_until_a_success() {
        let mut now = Instant::now();
        let mut pace = pace(10.0, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            now += 200 * S;
            pace.on_throttled(REFUSED, None, now, now, 0.5);
            pauses.push((pace.pause(now).unwrap().until - now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        now += 200 * S;
        pace.on_success(now, now);
        pace.on_throttled(REFUSED, None, now + S, now + S, 0.5);
        assert_eq!(pace.pause(now + S).unwrap().until, now + 2 * S);
    }

    #[test]
    fn the_multiplier_bounds_slowing_down() {
        let check = |limit: f64, multiplier: f64, floor: f64| {
            let mut now = Instant::now();
            let mut pace = Pace::new(limit, multiplier, PATIENCE, now);
            for _ in 0..30 {
                now += S;
                pace.on_throttled(REFUSED, None, now, now, 0.0);
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
        let mut pace = pace(0.0, start);
        for step in 0..80 {
            pace.on_success(start + step * 25 * MS, start + step * 25 * MS);
        }
        pace.on_throttled(REFUSED, None, start + 2 * S, start + 2 * S, 0.5);
        assert!((15.0..=25.0).contains(&pace.rate()), "{}", pace.rate());
    }

    #[test]
    fn a_share_scales_the_present_rate() {
        let now = Instant::now();
        let mut pace = pace(10.0, now);
        pace.on_throttled(REFUSED, None, now, now, 0.5);
        pace.set_limit(5.0, 1.0, now);
        assert!((pace.rate() - 2.5).abs() < 1e-9);
        pace.set_limit(10.0, 1.0, now);
        assert!((pace.rate() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn the_twentieth_complaint_parks_and_then_one_request_decides() {
        let mut now = Instant::now();
        let mut pace = pace(0.0, now);
        for _ in 1..PARK_AFTER {
            now += MS;
            pace.on_complaint(NO_ANSWER, now, now, 0.5);
            assert_eq!(pace.ready_at(now), Some(now));
        }
        let stale = now;
        now += MS;
        pace.on_complaint(NO_ANSWER, now, now, 0.5);
        let pause = pace.pause(now).unwrap();
        assert_eq!((pause.until, pause.cause, pause.given_up), (now + 15 * S, FailureCause::Connect, false));
        pace.on_success(stale, now + S);
        assert!(!pace.try_take(now + S), "an old answer changes nothing");

        now = pause.until;
        assert!(pace.try_take(now));
        assert!(!pace.try_take(now + 60 * S), "the others wait for the probe");
        assert_eq!((pace.ready_at(now), pace.pause(now)), (None, None));
        pace.on_nothing(stale);
        assert!(!pace.try_take(now));
        pace.on_nothing(now);
        now += S;
        assert!(pace.try_take(now), "nothing was learned, so the next is the probe");
        pace.on_complaint(NO_ANSWER, now, now, 0.5);
        assert_eq!(pace.pause(now).unwrap().until, now + 30 * S);

        now += 30 * S;
        assert!(pace.try_take(now));
        pace.on_answer(now);
        assert!(pace.try_take(now), "a response has begun");
        pace.on_success(now, now + S);
        pace.on_complaint(NO_ANSWER, now + S, now + S, 0.5);
        assert_eq!(pace.pause(now + S), None, "the count begins anew");
    }

    #[test]
    fn an_hours_retry_after_is_obeyed_three_times() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = pace(0.0, now);
        for hour in 0..4 {
            assert!(pace.try_take(now));
            pace.on_throttled(REFUSED, Some(3600 * S), now, now, 0.5);
            let pause = pace.pause(now).unwrap();
            assert_eq!((pause.given_up, pause.since), (hour == 3, start), "{hour}");
            // One that left before the pause and asks for more: it is given up all the same.
            pace.on_throttled(REFUSED, Some(3601 * S), start, now, 0.5);
            let longer = pace.pause(now).unwrap();
            assert_eq!((longer.given_up, longer.until), (hour == 3, pause.until + S));
            now = longer.until;
        }
        assert!(pace.try_take(now));
        pace.on_success(now, now);
        pace.on_throttled(REFUSED, None, now + S, now + S, 0.5);
        assert!(!pace.pause(now + S).unwrap().given_up, "a success takes everything back");
    }

    /// What a server of the simulation makes of a request.
    #[derive(Clone, Copy, Debug)]
    enum Answer {
        Success,
        Complaint,
        Throttled(Option<Duration>),
    }

    #[derive(Debug, Default)]
    struct Course {
        requests: u32,
        successes: u32,
        /// When the server was given up.
        given_up: Option<Duration>,
        /// When a server that comes back was first found so.
        found_well: Option<Duration>,
    }

    /// Sends without end, up to `connections` at once, to a server that answers after `latency` until it is given
    /// up or has answered well a hundred times.
    fn simulate(
        mut pace: Pace,
        start: Instant,
        connections: usize,
        latency: Duration,
        jitter: f64,
        mut answer: impl FnMut(Duration) -> Answer,
    ) -> Course {
        let mut now = start;
        let mut under_way = std::collections::VecDeque::new();
        let mut course = Course::default();
        while course.given_up.is_none() && course.successes < 100 {
            while under_way.len() < connections && pace.try_take(now) {
                under_way.push_back(now);
                course.requests += 1;
            }
            let next_answer = under_way.front().map(|&sent_at| sent_at + latency);
            let next_request = pace.ready_at(now).filter(|_| under_way.len() < connections);
            if next_request.is_some_and(|at| next_answer.is_none_or(|answer| at < answer)) {
                now = next_request.unwrap();
                continue;
            }
            now = next_answer.expect("nothing is under way and nothing may be sent: it would hang");
            let sent_at = under_way.pop_front().unwrap();
            match answer(sent_at - start) {
                Answer::Success => {
                    pace.on_success(sent_at, now);
                    course.successes += 1;
                    course.found_well.get_or_insert(now - start);
                }
                Answer::Complaint => pace.on_complaint(NO_ANSWER, sent_at, now, jitter),
                Answer::Throttled(after) => pace.on_throttled(REFUSED, after, sent_at, now, jitter),
            }
            if pace.pause(now).is_some_and(|pause| pause.given_up) {
                course.given_up = Some(now - start);
            }
        }
        course
    }

    fn complaint() -> impl Strategy<Value = Answer> {
        let after = (1u64..7200).prop_map(Duration::from_secs);
        prop_oneof![
            4 => Just(Answer::Complaint),
            1 => prop::option::of(after).prop_map(Answer::Throttled),
        ]
    }

    #[test]
    fn a_refusing_server_is_given_up_after_some_twenty_minutes_and_thirty_requests() {
        let start = Instant::now();
        let course = simulate(pace(10.0, start), start, 4, 100 * MS, 0.5, |_| Answer::Complaint);
        let minutes = course.given_up.unwrap().as_secs() / 60;
        assert!((15..=20).contains(&minutes) && course.requests <= 35, "{course:?}");
        let course = simulate(pace(10.0, start), start, 4, 100 * MS, 0.5, |_| Answer::Throttled(None));
        let minutes = course.given_up.unwrap().as_secs() / 60;
        assert!((15..=20).contains(&minutes) && course.requests <= 35, "{course:?}");
    }

    proptest! {
        #[test]
        fn a_server_without_any_success_costs_few_requests_and_is_given_up(
            limit in prop_oneof![Just(0.0), 0.1..1000f64],
            connections in 1usize..16,
            latency_ms in 1u64..120_000,
            jitter in 0.0..1f64,
            patience_s in 0u64..20_000,
            complaints in prop::collection::vec(complaint(), 1..20),
        ) {
            let (patience, latency) = (Duration::from_secs(patience_s), Duration::from_millis(latency_ms));
            let start = Instant::now();
            let pace = Pace::new(limit, 1.0, patience, start);
            let mut next = complaints.iter().copied().cycle();
            let course = simulate(pace, start, connections, latency, jitter, |_| next.next().unwrap());
            let asked = complaints.iter().map(|answer| match answer {
                Answer::Throttled(Some(after)) => *after,
                _ => LONGEST_PARKING.mul_f64(1.25),
            });
            let longest = asked.max().unwrap();
            let end = course.given_up.unwrap();
            // Up to the parking; the pauses, one of which ends it after the patience, but not before the third.
            let parking = (latency + 10 * S) * (PARK_AFTER + 1);
            prop_assert!(end <= parking + (longest + latency + 10 * S) * 4 + patience + longest, "{end:?}");
            // A pause is at least 0.75 s, one from the seventh on at least 45 s, unless it was asked to be shorter.
            let shortest = complaints.iter().filter_map(|answer| match answer {
                Answer::Throttled(Some(after)) => Some(*after),
                _ => None,
            }).min().unwrap_or(45 * S);
            let probes = 8 + patience.div_duration_f64(shortest.min(45 * S)).ceil() as u32;
            // What is under way when a pause begins is not counted as a complaint.
            let uncounted = PARK_AFTER * connections as u32;
            prop_assert!(course.requests <= PARK_AFTER + uncounted + probes + MIN_PAUSES, "{course:?}");
        }

        /// Bad from the start or after some time, well again later: then it is used again at once after one probe.
        #[test]
        fn a_server_that_comes_back_is_found_at_the_end_of_its_pause(
            limit in prop_oneof![Just(0.0), 1.0..1000f64],
            connections in 1usize..16,
            latency_ms in 1u64..30_000,
            jitter in 0.0..1f64,
            back_after_s in 0u64..800,
            complaint in prop_oneof![Just(Answer::Complaint), Just(Answer::Throttled(None))],
        ) {
            let (latency, back) = (Duration::from_millis(latency_ms), Duration::from_secs(back_after_s));
            let start = Instant::now();
            let course = simulate(pace(limit, start), start, connections, latency, jitter, |sent_at| {
                if sent_at >= back { Answer::Success } else { complaint }
            });
            prop_assert_eq!(course.given_up, None);
            prop_assert_eq!(course.successes, 100);
            let longest = LONGEST_PARKING.mul_f64(1.25) + 2 * latency + 10 * S;
            prop_assert!(course.found_well.unwrap() <= back + longest, "{course:?}");
        }

        #[test]
        fn the_rate_stays_within_its_bounds_and_nobody_waits_for_ever(
            limit in prop_oneof![Just(0.0), 0.001..1e6f64],
            multiplier in 0.0..=1.0f64,
            events in prop::collection::vec((0u8..6, 0u64..100_000), 0..200),
        ) {
            let mut now = Instant::now();
            let mut pace = Pace::new(limit, multiplier, PATIENCE, now);
            let ceiling = if limit > 0.0 { limit } else { f64::INFINITY };
            let mut probe = now;
            for (event, ms) in events {
                let sent_at = now;
                now += Duration::from_millis(ms);
                match event {
                    0 => pace.on_success(sent_at, now),
                    1 => pace.on_throttled(REFUSED, Some(Duration::from_millis(ms)), sent_at, now, 0.9),
                    2 => pace.on_complaint(NO_ANSWER, sent_at, now, 0.1),
                    3 => pace.on_answer(sent_at),
                    4 => pace.set_limit(limit, multiplier, now),
                    _ => if pace.try_take(now) { probe = now },
                }
                prop_assert!(pace.rate() <= ceiling && pace.rate() >= FLOOR.min(ceiling) * (1.0 - 1e-9));
                match pace.ready_at(now) {
                    Some(at) => {
                        let gap = Duration::from_secs_f64(1.0 / FLOOR.min(ceiling));
                        prop_assert!(at - now <= Duration::from_secs(400).max(gap * 2));
                    }
                    None => {
                        pace.on_nothing(probe);
                        prop_assert!(pace.ready_at(now).is_some(), "the last request was the probe");
                    }
                }
            }
        }
    }
}
