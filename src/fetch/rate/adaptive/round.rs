//! What the requests sent since the last decision say: those before it still show the old limits.

use std::time::{Duration, Instant};

use super::super::Observation;

/// A decision needs this many latencies, and half as many again as there are requests under way.
const MIN_SAMPLES: usize = 24;
const MAX_SAMPLES: usize = 400;
/// A server that is slow, or of which nothing is known yet, is judged on fewer.
const SLOW: Duration = Duration::from_secs(3);
const SLOW_SAMPLES: usize = 8;
const FIRST_SAMPLES: usize = 5;
const FIRST_ROUNDS: u32 = 8;
/// Near servers answer in no time, but an unknown limiter should not be overrun in no time.
const SHORTEST: Duration = Duration::from_millis(250);
/// A latency is not known to less than this part of it, however alike a few samples are.
const LEAST_SPREAD: f64 = 0.05;

#[derive(Debug, Default)]
pub(super) struct Round {
    started: Option<Instant>,
    first_at: Option<Instant>,
    latencies: Vec<f64>,
    needed: usize,
    /// Answers since the first that was sent in this round, this one not counted.
    answers: u32,
    in_flight: usize,
    rounds: u32,
}

/// The yield of a round. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub median: f64,
    /// Standard error of the median.
    pub error: f64,
    /// Answers/s.
    pub goodput: f64,
    /// Mean number of requests under way when one was sent.
    pub in_flight: f64,
}

impl Round {
    pub(super) fn restart(&mut self, in_flight: f64, now: Instant) {
        self.started = Some(now);
        self.first_at = None;
        self.latencies.clear();
        self.answers = 0;
        self.in_flight = 0;
        let least = if self.rounds < FIRST_ROUNDS { FIRST_SAMPLES } else { MIN_SAMPLES };
        self.needed = ((in_flight * 1.5) as usize).clamp(least, MAX_SAMPLES);
    }

    /// Notes an answer; the yield, if that makes enough of them.
    pub(super) fn add(&mut self, seen: &Observation, now: Instant) -> Option<Measured> {
        let started = *self.started.get_or_insert(seen.sent_at);
        self.answers += u32::from(self.first_at.is_some());
        if seen.sent_at < started {
            return None;
        }
        self.first_at.get_or_insert(now);
        self.in_flight += seen.in_flight;
        self.latencies.push(now.saturating_duration_since(seen.sent_at).as_secs_f64());
        let took = now.saturating_duration_since(started);
        let needed = self.needed.max(FIRST_SAMPLES);
        let needed = if took >= SLOW { needed.min(SLOW_SAMPLES) } else { needed };
        (self.latencies.len() >= needed && took >= SHORTEST).then(|| self.measure(now))
    }

    fn measure(&mut self, now: Instant) -> Measured {
        self.rounds = self.rounds.saturating_add(1);
        self.latencies.sort_by(f64::total_cmp);
        let count = self.latencies.len();
        let median = self.latencies[count / 2].max(1e-6);
        let spread = self.latencies[count * 3 / 4] - self.latencies[count / 4];
        let in_flight = self.in_flight as f64 / count as f64;
        let mean = self.latencies.iter().sum::<f64>() / count as f64;
        let took = self.first_at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        // Answers in bunches make the count too high, idle time between requests makes Little's law so.
        let counted = f64::from(self.answers) / took.max(1e-6);
        Measured {
            median,
            // For a normal distribution: 1.253 deviations, of which a quartile distance has 1.349.
            error: 0.93 * spread.max(LEAST_SPREAD * median) / (count as f64).sqrt(),
            goodput: counted.min(in_flight / mean.max(1e-6)),
            in_flight,
        }
    }
}
