//! A rate that somebody has set, halved while the server refuses.
//!
//! distributed-downloader's names with a sound law. Its own (`r += 1/r - latency` within a band around the
//! rate) has no meaning and sits at the lower end of the band; the band's upper half exceeds what was asked
//! for. Here the rate is an upper limit. A burst of refusals halves it once, never below
//! `r * (1 - rate_multiplier)`, and what was lost is gained back evenly within two minutes.

use std::time::{Duration, Instant};

use super::embargo::Embargo;
use super::options::FixedOptions;
use super::{Observation, RateController, ServerLimit, Verdict, gap_from_rate};

/// Slowest rate to which refusals alone bring a server, in requests/s.
const FLOOR: f64 = 0.1;
/// Time in which half of the rate is gained back.
const RECOVERY: Duration = Duration::from_secs(60);
/// A longer silence counts as this much recovery: what nobody tried is not known to work.
const MAX_RECOVERY_STEP: Duration = Duration::from_secs(1);

/// The controller of a set rate.
#[derive(Debug)]
pub struct Fixed {
    /// Requests/s; infinite without a limit, which then cannot be halved either.
    ceiling: f64,
    floor: f64,
    rate: f64,
    max_in_flight: usize,
    embargo: Embargo,
    refused_at: Option<Instant>,
    recovered_at: Option<Instant>,
}

impl Fixed {
    #[must_use]
    pub fn new(options: &FixedOptions) -> Self {
        let ceiling =
            if options.default_rate_limit > 0.0 { options.default_rate_limit } else { f64::INFINITY };
        let floor = (ceiling * (1.0 - options.rate_multiplier.clamp(0.0, 1.0))).max(FLOOR);
        Self {
            ceiling,
            // Infinity times zero is no number, and `max` then gives `FLOOR`.
            floor: floor.min(ceiling),
            rate: ceiling,
            max_in_flight: options.max_in_flight.max(1),
            embargo: Embargo::default(),
            refused_at: None,
            recovered_at: None,
        }
    }

    fn recover(&mut self, now: Instant) {
        if self.rate < self.ceiling {
            let since =
                now.saturating_duration_since(self.recovered_at.unwrap_or(now)).min(MAX_RECOVERY_STEP);
            let gain = self.ceiling / 2.0 * since.as_secs_f64() / RECOVERY.as_secs_f64();
            self.rate = (self.rate + gain).min(self.ceiling);
            self.recovered_at = Some(now);
        }
    }
}

impl RateController for Fixed {
    fn on_observation(&mut self, seen: Observation, now: Instant) {
        if let Some(wait) = seen.retry_after {
            self.embargo.extend(wait, now);
        }
        if self.refused_at.is_some_and(|at| seen.sent_at <= at) {
            return;
        }
        match seen.verdict {
            Verdict::Refused => {
                self.refused_at = Some(now);
                self.recovered_at = None;
                self.rate = (self.rate / 2.0).clamp(self.floor, self.ceiling);
            }
            Verdict::Success | Verdict::Answered => self.recover(now),
            Verdict::Failed | Verdict::Local => {}
        }
    }

    fn limit(&self) -> ServerLimit {
        ServerLimit {
            max_in_flight: self.max_in_flight,
            min_gap: gap_from_rate(self.rate),
            embargo_until: self.embargo.until(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, success};
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn rate(fixed: &Fixed) -> f64 {
        1.0 / fixed.limit().min_gap.as_secs_f64()
    }

    #[test]
    fn a_burst_of_refusals_halves_once_and_is_forgotten_in_time() {
        let start = Instant::now();
        let mut fixed = Fixed::new(&FixedOptions::default());
        for _ in 0..10 {
            fixed.on_observation(refused(start, 1), start + S);
        }
        assert!((rate(&fixed) - 5.0).abs() < 1e-6);
        for second in 2..63 {
            fixed.on_observation(success(start + second * S, 1), start + second * S);
        }
        assert!((rate(&fixed) - 10.0).abs() < 1e-6, "{}", rate(&fixed));
    }

    #[test]
    fn the_multiplier_bounds_slowing_down() {
        let check = |default_rate_limit: f64, rate_multiplier: f64, floor: f64| {
            let options = FixedOptions { default_rate_limit, rate_multiplier, ..FixedOptions::default() };
            let mut fixed = Fixed::new(&options);
            let mut now = Instant::now();
            for _ in 0..30 {
                now += S;
                fixed.on_observation(refused(now, 1), now);
            }
            assert!(
                (rate(&fixed) - floor).abs() < 1e-6,
                "{default_rate_limit} {rate_multiplier}: {}",
                rate(&fixed)
            );
        };
        check(10.0, 0.5, 5.0);
        check(10.0, 0.0, 10.0);
        check(10.0, 1.0, FLOOR);
        check(0.05, 1.0, 0.05);
    }

    #[test]
    fn no_rate_is_no_gap() {
        let fixed = Fixed::new(&FixedOptions { default_rate_limit: 0.0, ..FixedOptions::default() });
        assert_eq!(fixed.limit().min_gap, Duration::ZERO);
    }
}
