//! Finds how hard a server can be worked without making it wait or complain. The default.
//!
//! A server is one of two kinds, and may be both. One has a *knee*: beyond it more requests under way only
//! stand in line, and each takes longer. The other has an *edge*: beyond it requests are refused. A knee is
//! seen from its near side, by the delay, so the controller may stay right at it. An edge is seen only from
//! beyond, so it is remembered, kept away from, and asked about again ever more rarely.
//!
//! | part | watches | decides |
//! |---|---|---|
//! | [`Round`] | the requests sent since the last decision | when there is enough to decide on |
//! | [`Knee`] | median latency against that of the idle server | requests under way = rate x idle latency, and a few |
//! | [`Edge`] of the rate | refusals | requests/s, under what was refused |
//! | [`Edge`] of the level | refusals | requests under way, likewise |
//! | growth | goodput | at most 1.5 times the goodput in requests/s: from 10/s it takes 2 s to 100/s and 5 s to 3,000/s |
//! | embargo | Retry-After, refusals | no request before a time |
//!
//! Each bound grows only while it is the one that holds requests back: what a client cannot use (its own
//! bandwidth, a short list, another bound) is not known to work. Most decisions fall at the end of a round:
//!
//! | seen | requests under way | requests/s |
//! |---|---|---|
//! | latency as when idle, limit reached | a few more; half as much again from the fourth round on | - |
//! | latency as when idle, limit not reached | - | growth follows the goodput |
//! | latency of a queue of q | q less, and a few; no less than half | - |
//! | the same, and two deep cuts shortened nothing | back to before them: the idle latency is a new one | - |
//! | every 30 s at the limit | half for one round: what is the idle latency? | - |
//! | refused beyond the level that was good | that level, probed half as often; without an edge of the rate, it gets one | - |
//! | refused beyond the rate that was good | - | that rate, or what the probe says of the limiter; probed half as often |
//! | refused while there is a queue | under the level of the refused, and 0.7 of the knee | - |
//! | refused otherwise, for the first time | under the level of the refused | 0.7 of what was accepted |
//! | refused otherwise | under the level of the refused, if it was reached | less, if it was reached |
//! | nothing but refusals | 1, after pauses of 2, 4, ... 60 s | - |
//! | many failures where there were few | 0.7 of the knee | - |
//!
//! Every finding of refusals also pauses requests for a second, or for what the server asks. What makes a
//! finding of refusals, and what are strays, is in [`refusals`].
//!
//! Known weakness: behind a limiter that saves up nothing at all it cannot tell the rate from the number under
//! way, and settles for two thirds of what it could have.

mod edge;
mod knee;
mod refusals;
mod round;

use std::time::{Duration, Instant};

use fastrand::Rng;

use self::edge::{Edge, MIN_RATE};
use self::knee::Knee;
use self::refusals::{Finding, Refusals};
use self::round::{Measured, Round};
use super::embargo::Embargo;
use super::options::AdaptiveOptions;
use super::{LearntLimit, Observation, RateController, ServerLimit, Verdict, gap_from_rate};

/// How much faster than its goodput a server may be asked, which is the growth per round; and more from round
/// to round where it does not grow, because a gap between requests that is felt costs goodput.
const HEADROOM: f64 = 1.5;
const MORE_HEADROOM: f64 = 0.25;
/// The same where refusals are known.
const CAUTIOUS_HEADROOM: f64 = 1.15;
const MOST_HEADROOM: f64 = 3.0;
/// What of the accepted rate is good, if the rate is to blame, and if the level is more likely to be.
const BLAMED: f64 = 0.7;
const SUSPECT: f64 = 0.85;
/// What is left of the best goodput after each round with a lesser one.
const GOODPUT_MEMORY: f64 = 0.95;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Failures count as load when this share of the last 20 answers or so failed, and four times what is usual.
const MANY_FAILURES: f64 = 0.25;
const UNUSUAL: f64 = 4.0;

/// The controller of this module.
#[derive(Debug)]
pub struct Adaptive {
    max_in_flight: f64,
    max_rate: f64,
    initial_rate: f64,
    share: f64,
    rng: Rng,
    knee: Knee,
    rate_edge: Option<Edge>,
    level_edge: Option<Edge>,
    refusals: Refusals,
    embargo: Embargo,
    round: Round,
    round_ended: Option<Instant>,
    best_goodput: f64,
    /// Of the last ten successes or so, in seconds.
    latency: f64,
    headroom: f64,
    has_refused: bool,
    /// Shares of failures among the last answers, and usually.
    failures: f64,
    usual_failures: f64,
    failed_at: Option<Instant>,
    /// Refusals in a row of all that was asked.
    barren: u32,
}

impl Adaptive {
    #[must_use]
    pub fn new(options: &AdaptiveOptions, learnt: LearntLimit, seed: u64) -> Self {
        Self {
            max_in_flight: options.max_in_flight.max(1) as f64,
            max_rate: options.max_rate.max(MIN_RATE),
            initial_rate: options.initial_rate.max(MIN_RATE),
            share: 1.0,
            rng: Rng::with_seed(seed),
            knee: Knee::default(),
            rate_edge: rate_edge(learnt),
            level_edge: level_edge(learnt),
            refusals: Refusals::default(),
            embargo: Embargo::default(),
            round: Round::default(),
            round_ended: None,
            best_goodput: 0.0,
            latency: 0.0,
            headroom: HEADROOM,
            has_refused: false,
            failures: 0.0,
            usual_failures: 0.0,
            failed_at: None,
            barren: 0,
        }
    }

    fn in_flight(&self) -> f64 {
        if self.barren > 0 {
            return 1.0;
        }
        let edge = self.level_edge.as_ref().map_or(f64::INFINITY, Edge::bound);
        self.knee.limit().min(edge).min(self.max_in_flight).max(1.0)
    }

    fn rate(&self) -> f64 {
        let is_probing = self.level_edge.as_ref().is_some_and(Edge::is_probing);
        let headroom = if is_probing { CAUTIOUS_HEADROOM } else { self.headroom };
        let growth = (headroom * self.best_goodput).max(self.initial_rate * self.share);
        let edge = self.rate_edge.as_ref().map_or(f64::INFINITY, Edge::bound);
        growth.min(edge).min(self.max_rate).max(MIN_RATE)
    }

    fn on_refusals(&mut self, finding: Finding, now: Instant) {
        if finding.accepted == 0 {
            self.barren += 1;
            let doubled = Duration::from_secs(1 << self.barren.min(6));
            self.embargo.extend(doubled.min(LONGEST_PAUSE).mul_f64(0.75 + 0.5 * self.rng.f64()), now);
            return;
        }
        self.embargo.extend(finding.wait, now);
        self.has_refused = true;
        // Who goes beyond what is known to be good has gone too far.
        let level = self.level_edge.as_mut().filter(|edge| finding.in_flight as f64 > edge.good());
        let is_beyond_level = level.is_some();
        if let Some(edge) = level {
            edge.refused(None, true, now);
            // More under way may only have made the rate too high: if so, that shows at the next probe.
            self.rate_edge.get_or_insert_with(|| Edge::found_rate(SUSPECT * finding.recent_rate, now));
        }
        if let Some(edge) = self.rate_edge.as_mut().filter(|edge| edge.is_pushed()) {
            edge.refused(finding.limiter_rate, !is_beyond_level, now);
        } else if is_beyond_level {
            // Nobody else is to blame.
        } else if self.knee.is_queue(self.latency) {
            self.lower_level(finding, now);
            self.knee.shrink();
        } else {
            self.blame(finding, now);
        }
        self.start_round(now);
    }

    /// Lowers what may have been too high: the level if it was reached, the rate if it was, and both as long as
    /// neither is known.
    fn blame(&mut self, finding: Finding, now: Instant) {
        let is_reached = |edge: &Edge| finding.in_flight as f64 >= 0.9 * edge.bound().floor();
        let is_at_level = finding.in_flight > 1 && self.level_edge.as_ref().is_some_and(is_reached);
        let is_doubtful = self.level_edge.as_ref().is_some_and(Edge::is_doubtful);
        let is_at_rate = finding.recent_rate >= 0.7 * self.rate();
        match &mut self.rate_edge {
            Some(edge) if is_at_rate || !is_at_level => edge.overrun(finding.limiter_rate, now),
            None if !is_at_level || is_doubtful => {
                self.rate_edge = Some(Edge::found_rate(BLAMED * finding.recent_rate, now))
            }
            _ => {}
        }
        if is_at_level || (finding.in_flight > 1 && self.level_edge.is_none()) {
            self.lower_level(finding, now);
        }
    }

    fn lower_level(&mut self, finding: Finding, now: Instant) {
        let below = (finding.in_flight as f64 - 1.0).max(1.0);
        self.knee.cap(below + 1.0);
        match &mut self.level_edge {
            Some(edge) => edge.lower(below, now),
            None => self.level_edge = Some(Edge::found_level(below, now)),
        }
    }

    fn on_failures(&mut self, failed: bool, now: Instant) {
        let failed = f64::from(u8::from(failed));
        self.failures += (failed - self.failures) / 20.0;
        self.usual_failures += (failed - self.usual_failures) / 500.0;
        let many = self.failures > MANY_FAILURES.max(UNUSUAL * self.usual_failures);
        let again =
            self.failed_at.is_none_or(|at| now.saturating_duration_since(at) > Duration::from_secs(1));
        if failed > 0.0 && many && again {
            self.failed_at = Some(now);
            self.knee.shrink();
            self.start_round(now);
        }
    }

    fn on_round(&mut self, measured: &Measured, now: Instant) {
        let elapsed = self.round_ended.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.round_ended = Some(now);
        let is_at_level = measured.in_flight >= 0.8 * self.in_flight().floor();
        let is_at_rate = measured.goodput >= 0.85 * self.rate();
        let own_limit_holds = is_at_level && self.in_flight() >= self.knee.limit();
        // One at a time, or nobody knows which has gone too far.
        let is_pushed = |edge: &Option<Edge>| edge.as_ref().is_some_and(Edge::is_pushed);
        let (may_probe_rate, may_probe_level) = (!is_pushed(&self.level_edge), !is_pushed(&self.rate_edge));
        self.rate_edge.take_if(|edge| !edge.advance(is_at_rate, may_probe_rate, elapsed, now));
        self.level_edge.take_if(|edge| !edge.advance(is_at_level, may_probe_level, elapsed, now));
        if !self.knee.is_draining() {
            let has_grown = measured.goodput > 1.1 * self.best_goodput;
            let (least, most) =
                if self.has_refused { (CAUTIOUS_HEADROOM, HEADROOM) } else { (HEADROOM, MOST_HEADROOM) };
            self.headroom = if has_grown { least } else { (self.headroom + MORE_HEADROOM).min(most) };
            self.best_goodput = measured.goodput.max(GOODPUT_MEMORY * self.best_goodput);
        }
        self.knee.on_round(measured, own_limit_holds, now);
        self.start_round(now);
    }

    fn start_round(&mut self, now: Instant) {
        self.round.restart(self.in_flight(), now);
    }
}

fn rate_edge(learnt: LearntLimit) -> Option<Edge> {
    learnt.max_rate.filter(|&rate| rate > MIN_RATE).map(Edge::of_rate)
}

fn level_edge(learnt: LearntLimit) -> Option<Edge> {
    learnt.max_in_flight.filter(|&level| level > 0).map(|level| Edge::of_level(level as f64))
}

impl RateController for Adaptive {
    fn on_observation(&mut self, seen: Observation, now: Instant) {
        if let Some(wait) = seen.retry_after {
            self.embargo.extend(wait, now);
        }
        if seen.verdict == Verdict::Local {
            return;
        }
        self.on_failures(seen.verdict == Verdict::Failed, now);
        if let Some(finding) = self.refusals.add(&seen, now) {
            self.on_refusals(finding, now);
        }
        // A list of dead links is work as well.
        if matches!(seen.verdict, Verdict::Success | Verdict::Answered) {
            self.barren = 0;
            self.latency += (now.saturating_duration_since(seen.sent_at).as_secs_f64() - self.latency) / 10.0;
            if let Some(edge) = &mut self.level_edge {
                edge.accepted(seen.in_flight);
            }
            if let Some(measured) = self.round.add(&seen, now) {
                self.on_round(&measured, now);
            }
        }
    }

    fn limit(&self) -> ServerLimit {
        ServerLimit {
            max_in_flight: self.in_flight() as usize,
            min_gap: gap_from_rate(self.rate()),
            embargo_until: self.embargo.until(),
        }
    }

    fn set_share(&mut self, fraction: f64) {
        let factor = fraction / self.share;
        self.share = fraction;
        for edge in self.rate_edge.iter_mut().chain(&mut self.level_edge) {
            edge.scale(factor);
        }
    }

    fn learn(&mut self, learnt: LearntLimit) {
        self.rate_edge = self.rate_edge.take().or(rate_edge(learnt));
        self.level_edge = self.level_edge.take().or(level_edge(learnt));
    }

    fn learnt(&self) -> LearntLimit {
        LearntLimit {
            max_rate: self.rate_edge.as_ref().map(Edge::good),
            max_in_flight: self.level_edge.as_ref().map(|edge| edge.good() as usize),
        }
    }
}
