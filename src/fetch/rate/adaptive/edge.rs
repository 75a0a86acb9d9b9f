//! A bound beyond which a server refuses: remembered, kept away from, asked about again.
//!
//! | state | bound | leaves to |
//! |---|---|---|
//! | resting | `good`; a rate drifts up to it | probing, when `hold` is over and the bound is what holds requests back |
//! | probing | a rate grows by the second, a level by what is accepted beyond it | forgotten, when it is far beyond |
//! | refused while probing | back to `good`, which may turn out higher than it was | resting, for twice the `hold` |
//! | refused while resting | `good` was wrong and is lowered | resting |

use std::time::{Duration, Instant};

/// No server is asked more slowly than this by a controller's own doing, in requests/s.
pub(super) const MIN_RATE: f64 = 0.1;
/// First, and longest, time between two probes: each failed one doubles it.
const FIRST_HOLD: Duration = Duration::from_secs(5);
const LONGEST_HOLD: Duration = Duration::from_secs(1200);
/// A longer silence counts as this much, in seconds: what nobody tried is not known to work.
const MAX_STEP: f64 = 1.0;
/// Where a rate is taken up again after a refusal.
const REST: f64 = 0.9;
/// What is left of a rate that was refused: at least, at most, and when nothing more is known.
const LEAST: f64 = 0.4;
const SURE: f64 = 0.97;
const DOUBTFUL: f64 = 0.75;
/// Drift towards what is good: 63 % of the way in this time.
const DRIFT: f64 = 5.0;

/// Growth of a rate per second while probing, as a part of it: up to `CAUTION` times what is good, and beyond or
/// as long as that is a guess. So slow that the bucket of a limiter is empty before the rate is forgotten.
const SLOW: f64 = 0.015;
const FAST: f64 = 0.1;
const CAUTION: f64 = 1.15;
const FORGET_RATE: f64 = 2.0;
const FORGET_LEVEL: f64 = 1.5;
/// A rate that was only suspected is forgotten when it has not mattered for so many seconds.
const IDLE: f64 = 10.0;
/// Acceptances beyond a level before it is probed further: a server counts only what has arrived, so at first
/// few of those beyond are refused.
const ACCEPTED: u32 = 50;
/// How much further, as a part of what is good.
const LEVEL_STEP: f64 = 0.1;
/// Requests, at what is good, between two probes at least.
const HOLD_REQUESTS: f64 = 40.0;

#[derive(Debug)]
pub(super) struct Edge {
    kind: EdgeKind,
    /// What is believed to be accepted for ever.
    good: f64,
    bound: f64,
    hold: Duration,
    probe_at: Option<Instant>,
    probing: bool,
    /// Whether a probe has ever failed: what was first found is a guess, and may be the wrong one of two.
    confirmed: bool,
    /// Whether it was what held requests back in the last round.
    binding: bool,
    /// Acceptances beyond what is good, since that has last changed.
    beyond: u32,
    /// Seconds for which something else has held requests back.
    idle: f64,
    /// How often in a row it was refused while resting.
    lowered: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EdgeKind {
    /// Requests/s. A bucket of saved-up requests hides it for a while.
    Rate,
    /// Requests under way: whole numbers.
    Level,
}

impl Edge {
    pub(super) fn of_rate(good: f64) -> Self {
        let good = good.max(MIN_RATE);
        Self::new(EdgeKind::Rate, good, REST * good)
    }

    pub(super) fn of_level(good: f64) -> Self {
        Self::new(EdgeKind::Level, good, good)
    }

    fn new(kind: EdgeKind, good: f64, bound: f64) -> Self {
        Self {
            kind,
            good,
            bound,
            hold: FIRST_HOLD,
            probe_at: None,
            probing: false,
            confirmed: false,
            binding: false,
            beyond: 0,
            idle: 0.0,
            lowered: 0,
        }
    }

    /// Refusals at a rate of which `good` may be accepted.
    pub(super) fn found_rate(good: f64, now: Instant) -> Self {
        let mut edge = Self::of_rate(good);
        edge.rest(now);
        edge
    }

    pub(super) fn found_level(level: f64, now: Instant) -> Self {
        let mut edge = Self::of_level(level);
        edge.rest(now);
        edge
    }

    /// The part of the server that it is about has changed by this factor.
    pub(super) fn scale(&mut self, factor: f64) {
        let least = match self.kind {
            EdgeKind::Rate => MIN_RATE,
            EdgeKind::Level => 1.0,
        };
        self.good = (self.good * factor).max(least);
        self.bound = (self.bound * factor).max(least);
    }

    pub(super) fn good(&self) -> f64 {
        self.good
    }

    pub(super) fn bound(&self) -> f64 {
        self.bound
    }

    pub(super) fn is_probing(&self) -> bool {
        self.probing
    }

    /// One was accepted of so many under way.
    pub(super) fn accepted(&mut self, in_flight: usize) {
        if in_flight as f64 > self.good {
            self.beyond += 1;
            if self.beyond.is_multiple_of(ACCEPTED) {
                self.bound += (LEVEL_STEP * self.good).max(1.0);
            }
        }
    }

    /// Whether lowering it has helped little.
    pub(super) fn is_doubtful(&self) -> bool {
        self.lowered >= 2
    }

    /// Whether requests have just gone beyond what is known to be good.
    pub(super) fn is_pushed(&self) -> bool {
        self.probing && self.binding
    }

    /// Refused while probing; `is_alone`: nothing else was. A limiter that saves up one second's requests refuses
    /// that much too late.
    pub(super) fn refused(&mut self, limiter_rate: Option<f64>, is_alone: bool, now: Instant) {
        if self.kind == EdgeKind::Rate {
            let late = self.good * (2.0 * self.speed()).sqrt();
            self.good = self.good.max(self.bound - late).max(limiter_rate.unwrap_or(0.0).min(self.bound));
        }
        self.confirmed |= is_alone;
        self.lowered = 0;
        self.hold = (self.hold * 2).min(LONGEST_HOLD);
        self.rest(now);
    }

    /// Refused while resting at a rate.
    pub(super) fn overrun(&mut self, limiter_rate: Option<f64>, now: Instant) {
        let was_good = self.good.min(self.bound);
        let good = limiter_rate.unwrap_or(DOUBTFUL * was_good).clamp(LEAST * was_good, SURE * was_good);
        self.good = good.max(MIN_RATE);
        self.rest(now);
    }

    /// Refused while resting, at one more than `level` under way.
    pub(super) fn lower(&mut self, level: f64, now: Instant) {
        self.good = self.good.min(level);
        self.lowered += 1;
        self.rest(now);
    }

    fn speed(&self) -> f64 {
        if self.confirmed && self.bound < CAUTION * self.good { SLOW } else { FAST }
    }

    fn rest(&mut self, now: Instant) {
        self.probing = false;
        self.beyond = 0;
        let (bound, least) = match self.kind {
            EdgeKind::Rate => (REST * self.good, HOLD_REQUESTS / self.good),
            EdgeKind::Level => (self.good, 0.0),
        };
        self.bound = bound;
        self.probe_at = Some(now + self.hold.max(Duration::from_secs_f64(least)));
    }

    /// A round without refusals; `false` when there is no edge here any more.
    pub(super) fn advance(
        &mut self,
        is_binding: bool,
        may_probe: bool,
        elapsed: Duration,
        now: Instant,
    ) -> bool {
        let elapsed = elapsed.as_secs_f64().min(MAX_STEP);
        self.binding = is_binding;
        self.idle = if is_binding { 0.0 } else { self.idle + elapsed };
        if !self.probing {
            self.bound += (self.good - self.bound) * (1.0 - (-elapsed / DRIFT).exp());
            let probe_at = *self.probe_at.get_or_insert(now + self.hold);
            if is_binding && may_probe && now >= probe_at {
                self.probing = true;
                self.bound = match self.kind {
                    EdgeKind::Rate => self.good * 1.01,
                    EdgeKind::Level => self.good + 1.0,
                };
            }
        } else if is_binding && self.kind == EdgeKind::Rate {
            self.bound += self.bound * self.speed() * elapsed;
        }
        match self.kind {
            EdgeKind::Rate => self.bound <= FORGET_RATE * self.good && (self.confirmed || self.idle < IDLE),
            EdgeKind::Level => self.bound <= FORGET_LEVEL * self.good.max(2.0),
        }
    }
}
