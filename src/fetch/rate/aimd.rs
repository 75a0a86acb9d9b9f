//! FLOW-DC's older token bucket, one per server instead of one for all.
//!
//! Every refusal or server error takes 30 % of the rate at once, so ten of them leave 3 %. Every 5 s:
//!
//! | phase | what happens | leaves to |
//! |---|---|---|
//! | exploring | after 3 intervals without an error the rate gains `max(10, 10 %)` | converged, after 10 intervals |
//! | converged | nothing, for 10 intervals | probing |
//! | probing | of the last 100 results, over 97 % good: explore; under 80 %: 30 % off, explore | else converged |
//!
//! FLOW-DC's bucket starts full and saves up `max(100, 2 * rate)` requests of idle time; ours saves up
//! nothing, so it is the more polite of the two. An interval ends with the first result after its 5 s.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::options::AimdOptions;
use super::{Observation, RateController, ServerLimit, Verdict, gap_from_rate};

const INTERVAL: Duration = Duration::from_secs(5);
const CLEAN_INTERVALS: u32 = 3;
const PHASE_INTERVALS: u32 = 10;
const DECREASE: f64 = 0.7;
const RECENT: usize = 100;

/// The controller of the token bucket.
#[derive(Debug)]
pub struct Aimd {
    enabled: bool,
    concurrent_downloads: usize,
    share: f64,
    initial_rate: f64,
    rate: f64,
    phase: Phase,
    /// Intervals in this phase.
    intervals: u32,
    clean_intervals: u32,
    interval_from: Option<Instant>,
    interval_has_error: bool,
    /// Whether each of the last results was good.
    recent: VecDeque<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Exploring,
    Converged,
    Probing,
}

impl Aimd {
    #[must_use]
    pub fn new(options: &AimdOptions) -> Self {
        Self {
            enabled: options.enable_rate_limiting,
            concurrent_downloads: options.concurrent_downloads.max(1),
            share: 1.0,
            initial_rate: options.rate_limit.max(1.0),
            rate: options.rate_limit.max(1.0),
            phase: Phase::Exploring,
            intervals: 0,
            clean_intervals: 0,
            interval_from: None,
            interval_has_error: false,
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    fn end_interval(&mut self) {
        self.intervals += 1;
        self.clean_intervals = if self.interval_has_error { 0 } else { self.clean_intervals + 1 };
        self.interval_has_error = false;
        match self.phase {
            Phase::Exploring => {
                if self.clean_intervals >= CLEAN_INTERVALS {
                    self.clean_intervals = 0;
                    let gain = (self.rate / 10.0).max(10.0);
                    let cap = self.concurrent_downloads as f64 * 1.1;
                    self.rate = (self.rate + gain).min(cap.max(self.rate));
                }
                if self.intervals >= PHASE_INTERVALS {
                    self.enter(Phase::Converged);
                }
            }
            Phase::Converged if self.intervals >= PHASE_INTERVALS => self.enter(Phase::Probing),
            Phase::Converged => {}
            Phase::Probing => self.judge(),
        }
    }

    fn judge(&mut self) {
        let good = self.recent.iter().filter(|&&good| good).count() as f64 / self.recent.len().max(1) as f64;
        if good < 0.80 {
            self.rate = (self.rate * DECREASE).max(10.0).min(self.rate);
        }
        self.enter(if (0.80..=0.97).contains(&good) { Phase::Converged } else { Phase::Exploring });
    }

    fn enter(&mut self, phase: Phase) {
        (self.phase, self.intervals, self.clean_intervals) = (phase, 0, 0);
    }
}

impl RateController for Aimd {
    fn on_observation(&mut self, seen: Observation, now: Instant) {
        let good = match seen.verdict {
            Verdict::Success => true,
            Verdict::Refused | Verdict::Failed => false,
            Verdict::Answered | Verdict::Local => return,
        };
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(good);
        if !good {
            self.interval_has_error = true;
            self.rate = (self.rate * DECREASE).max(1.0);
        }
        let from = *self.interval_from.get_or_insert(now);
        if now.saturating_duration_since(from) >= INTERVAL {
            self.interval_from = Some(now);
            self.end_interval();
        }
    }

    fn limit(&self) -> ServerLimit {
        ServerLimit {
            max_in_flight: self.concurrent_downloads,
            min_gap: if self.enabled { gap_from_rate(self.rate) } else { Duration::ZERO },
            embargo_until: None,
        }
    }

    fn set_share(&mut self, fraction: f64) {
        self.rate *= fraction / self.share;
        self.share = fraction;
    }

    fn is_slowed(&self) -> bool {
        self.rate < self.initial_rate * self.share
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, success};
    use super::*;

    /// One result per interval, from its first to its `intervals`-th end.
    fn run(aimd: &mut Aimd, intervals: u32, start: Instant) -> Instant {
        for interval in 0..=intervals {
            let now = start + interval * INTERVAL;
            aimd.on_observation(success(now, 1), now);
        }
        start + intervals * INTERVAL
    }

    #[test]
    fn it_explores_rests_and_explores_again() {
        let mut aimd = Aimd::new(&AimdOptions::default());
        let at = run(&mut aimd, 10, Instant::now());
        assert_eq!((aimd.rate.round(), aimd.phase), (133.0, Phase::Converged));
        let at = run(&mut aimd, 10, at);
        assert_eq!((aimd.rate.round(), aimd.phase), (133.0, Phase::Probing));
        run(&mut aimd, 1, at);
        assert_eq!(aimd.phase, Phase::Exploring);
    }

    #[test]
    fn every_error_counts() {
        let now = Instant::now();
        let mut aimd = Aimd::new(&AimdOptions::default());
        for _ in 0..10 {
            aimd.on_observation(refused(now, 1), now);
        }
        assert!((aimd.rate - 2.82).abs() < 0.01, "{}", aimd.rate);
        for _ in 0..10 {
            aimd.on_observation(refused(now, 1), now);
        }
        assert_eq!(aimd.limit().min_gap, Duration::from_secs(1));
    }

    #[test]
    fn switched_off_it_only_bounds_requests_under_way() {
        let aimd = Aimd::new(&AimdOptions { enable_rate_limiting: false, ..AimdOptions::default() });
        assert_eq!((aimd.limit().min_gap, aimd.limit().max_in_flight), (Duration::ZERO, 1000));
    }
}
