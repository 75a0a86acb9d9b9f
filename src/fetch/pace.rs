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
mod tests;
