//! A rate that somebody has set, halved while the server refuses.
//!
//! distributed-downloader's names with a sound law. Its own (`r += 1/r - latency` within a band around the
//! rate) has no meaning and sits at the lower end of the band; the band's upper half exceeds what was asked
//! for. Here the rate is an upper limit. A burst of refusals halves it once, never below
//! `r * (1 - rate_multiplier)`; from then on it grows back by a constant amount per second of successes, half of
//! it in a minute (additive increase, multiplicative decrease: the shares of many clients converge). A server
//! without a rate gets one when it first refuses: half of what it was seen to give.

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
    options: FixedOptions,
    /// The most requests/s; infinite when there is no limit.
    ceiling: f64,
    floor: f64,
    /// Between floor and ceiling; infinite until a server without a limit first refuses.
    rate: f64,
    /// What `rate` gains per second of successes.
    recovery_per_second: f64,
    recovered_at: Option<Instant>,
    refused_at: Option<Instant>,
    /// Successes since `counted_from`: the rate that a server without a limit has been given.
    counted: u32,
    counted_from: Option<Instant>,
    embargo: Embargo,
}

impl Fixed {
    #[must_use]
    pub fn new(options: &FixedOptions) -> Self {
        let mut fixed = Self {
            options: options.clone(),
            ceiling: f64::INFINITY,
            floor: FLOOR,
            rate: f64::INFINITY,
            recovery_per_second: 0.0,
            recovered_at: None,
            refused_at: None,
            counted: 0,
            counted_from: None,
            embargo: Embargo::default(),
        };
        fixed.set_share(1.0);
        fixed
    }

    fn recover(&mut self, now: Instant) {
        if self.rate < self.ceiling {
            let since =
                now.saturating_duration_since(self.recovered_at.unwrap_or(now)).min(MAX_RECOVERY_STEP);
            self.rate = (self.rate + self.recovery_per_second * since.as_secs_f64()).min(self.ceiling);
            self.recovered_at = Some(now);
        }
    }

    fn halve(&mut self, now: Instant) {
        let before = if self.rate.is_finite() { self.rate } else { self.observed_rate(now) };
        self.rate = (before / 2.0).clamp(self.floor, self.ceiling);
        // A server without a limit is measured by the best that it was seen to give.
        let full = if self.ceiling.is_finite() { self.ceiling } else { before };
        self.recovery_per_second = self.recovery_per_second.max(full / 2.0 / RECOVERY.as_secs_f64());
        (self.refused_at, self.recovered_at) = (Some(now), None);
        (self.counted, self.counted_from) = (0, None);
    }

    fn observed_rate(&self, now: Instant) -> f64 {
        let since = self.counted_from.map_or(Duration::ZERO, |from| now.saturating_duration_since(from));
        // Under a second of counting is no rate yet.
        f64::from(self.counted) / since.as_secs_f64().max(1.0)
    }
}

impl RateController for Fixed {
    fn on_observation(&mut self, seen: Observation, now: Instant) {
        if let Some(wait) = seen.retry_after {
            self.embargo.extend(wait, now);
        }
        let is_success = matches!(seen.verdict, Verdict::Success | Verdict::Answered);
        if is_success {
            self.counted_from.get_or_insert(seen.sent_at);
            self.counted = self.counted.saturating_add(1);
        }
        if self.refused_at.is_some_and(|at| seen.sent_at <= at) {
            return;
        }
        if is_success {
            self.recover(now);
        } else if seen.verdict == Verdict::Refused {
            self.halve(now);
        }
    }

    fn limit(&self) -> ServerLimit {
        ServerLimit {
            max_in_flight: self.options.max_in_flight.max(1),
            min_gap: gap_from_rate(self.rate),
            embargo_until: self.embargo.until(),
        }
    }

    /// A server that is slowed down stays slowed down in proportion.
    fn set_share(&mut self, fraction: f64) {
        let limit = self.options.default_rate_limit * fraction;
        let ceiling = if limit > 0.0 { limit } else { f64::INFINITY };
        if self.ceiling.is_finite() && ceiling.is_finite() {
            self.rate *= ceiling / self.ceiling;
            self.recovery_per_second *= ceiling / self.ceiling;
        }
        self.ceiling = ceiling;
        let multiplier = self.options.rate_multiplier.clamp(0.0, 1.0);
        self.floor = if limit > 0.0 { (limit * (1.0 - multiplier)).max(FLOOR).min(limit) } else { FLOOR };
        self.rate = self.rate.clamp(self.floor, self.ceiling);
    }

    fn is_slowed(&self) -> bool {
        self.rate < self.ceiling
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
    fn a_server_without_a_rate_learns_one_from_its_first_refusal() {
        let start = Instant::now();
        let mut fixed = Fixed::new(&FixedOptions { default_rate_limit: 0.0, ..FixedOptions::default() });
        assert_eq!(fixed.limit().min_gap, Duration::ZERO);
        for step in 0..80 {
            let now = start + step * Duration::from_millis(25);
            fixed.on_observation(success(now, 1), now);
        }
        assert!(!fixed.is_slowed());
        fixed.on_observation(refused(start + 2 * S, 1), start + 2 * S);
        assert!((15.0..=25.0).contains(&rate(&fixed)), "{}", rate(&fixed));
        assert!(fixed.is_slowed());
    }

    #[test]
    fn a_share_scales_the_present_rate() {
        let now = Instant::now();
        let mut fixed = Fixed::new(&FixedOptions::default());
        fixed.set_share(0.5);
        assert!((rate(&fixed) - 5.0).abs() < 1e-9);
        fixed.on_observation(refused(now, 1), now);
        assert!((rate(&fixed) - 2.5).abs() < 1e-9);
        fixed.set_share(1.0);
        assert!((rate(&fixed) - 5.0).abs() < 1e-9);
    }
}
