//! When refusals are more than strays, and what they say about a limiter.
//!
//! A cumulative sum: each refusal adds 1 and each answer takes off a little, so one refusal in ten thousand
//! never adds up and one in a thousand does. How much is too much depends on the server: where answers come
//! slowly one refusal says enough, where they come by the hundred a few more are no harm and make sure.
//! A refusal with a Retry-After is meant, and its wait costs more than what else is made of it.
//!
//! A limiter that refuses has nothing left. Between two such moments it accepts what it saves up meanwhile, so
//! the count between them over the time between them is its rate, where a pause counts only as far as a
//! limiter saves up requests for it.

use std::time::{Duration, Instant};

use super::super::{Observation, Verdict};

/// Part of answers that may be refusals.
const STRAYS: f64 = 0.0007;
/// Answers/s per further refusal that is needed, and the most that are.
const PER_REFUSAL: f64 = 50.0;
const MOST_NEEDED: f64 = 4.0;
/// Pause after a finding for which the server has not asked: what is under way comes back, and buckets fill.
const PAUSE: Duration = Duration::from_secs(1);
/// Requests that limiters save up, in seconds of their rate.
const BUCKET: f64 = 1.0;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    sum: f64,
    /// Least number under way at which one was refused, of those in the sum.
    in_flight: Option<usize>,
    /// When the last finding was made: requests sent before it say nothing new.
    found_at: Option<Instant>,
    /// End of the wait that the last finding came with.
    wait_until: Option<Instant>,
    /// What was accepted of those sent since the last finding.
    accepted: u32,
    /// Acceptances in the second that is going on and in the one before.
    second_from: Option<Instant>,
    this_second: f64,
    last_second: f64,
}

/// Refusals that call for something to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding {
    /// Acceptances since the last finding.
    pub accepted: u32,
    /// Least number under way at which one was refused.
    pub in_flight: usize,
    /// How long to leave the server alone.
    pub wait: Duration,
    /// Acceptances/s lately.
    pub recent_rate: f64,
    /// What a limiter is set to, if that is what refuses.
    pub limiter_rate: Option<f64>,
}

impl Refusals {
    pub(super) fn add(&mut self, seen: &Observation, now: Instant) -> Option<Finding> {
        if seen.verdict != Verdict::Refused {
            self.accept(seen, now);
            return None;
        }
        if self.found_at.is_some_and(|at| seen.sent_at <= at) {
            let asked = seen.retry_after.and_then(|wait| now.checked_add(wait));
            self.wait_until = self.wait_until.max(asked);
            return None;
        }
        self.sum += 1.0;
        let in_flight = self.in_flight.map_or(seen.in_flight, |least| least.min(seen.in_flight));
        self.in_flight = Some(in_flight);
        let recent_rate = self.recent_rate(now);
        let needed = (1.0 + recent_rate / PER_REFUSAL).floor().min(MOST_NEEDED);
        if self.sum < needed && seen.retry_after.is_none() {
            return None;
        }
        Some(self.find(seen, in_flight, recent_rate, now))
    }

    fn accept(&mut self, seen: &Observation, now: Instant) {
        self.accepted += u32::from(self.found_at.is_none_or(|at| seen.sent_at > at));
        self.sum = (self.sum - STRAYS).max(0.0);
        if self.sum == 0.0 {
            self.in_flight = None;
        }
        let from = *self.second_from.get_or_insert(now);
        let since = now.saturating_duration_since(from);
        if since >= Duration::from_secs(1) {
            self.last_second = self.this_second / since.as_secs_f64();
            self.this_second = 0.0;
            self.second_from = Some(now);
        }
        self.this_second += 1.0;
    }

    fn recent_rate(&self, now: Instant) -> f64 {
        let since = self.second_from.map_or(0.0, |from| now.saturating_duration_since(from).as_secs_f64());
        (self.last_second + self.this_second) / (1.0 + since)
    }

    fn find(&mut self, seen: &Observation, in_flight: usize, recent_rate: f64, now: Instant) -> Finding {
        let accepted = self.accepted;
        let saved_up = self.found_at.map(|found_at| {
            let active_from = self.wait_until.map_or(found_at, |until| until.max(found_at));
            let waited = active_from.saturating_duration_since(found_at).as_secs_f64();
            seen.sent_at.saturating_duration_since(active_from).as_secs_f64() + waited.min(BUCKET)
        });
        let enough = |time: &f64| *time >= 1.0 && accepted >= 20;
        let limiter_rate = saved_up.filter(enough).map(|time| f64::from(accepted) / time);
        let wait = seen.retry_after.unwrap_or_default().max(PAUSE);
        *self = Self {
            found_at: Some(now),
            wait_until: now.checked_add(wait),
            second_from: self.second_from,
            this_second: self.this_second,
            last_second: self.last_second,
            ..Self::default()
        };
        Finding { accepted, in_flight, wait, recent_rate, limiter_rate }
    }
}
