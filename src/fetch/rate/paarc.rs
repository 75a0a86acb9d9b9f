//! PAARC, the Policy-Aware Adaptive Request Controller of FLOW-DC, as its `download_batch` had it in 2026.
//!
//! Kept as it is, for those who know it and to be compared with: its weaknesses (one error halves it, it
//! forgets where the overload began, latency never lowers it) are what [`Adaptive`](super::Adaptive) is for.
//! `C` is the number of requests under way; all its values are cut to whole numbers in `C_min..=C_max`.
//!
//! ```text
//! INIT -> STARTUP -> PROBE_BW <-> PROBE_RTT ;  any -> BACKOFF on overload -> PROBE_BW
//! ```
//! | state | overload in the interval | none |
//! |---|---|---|
//! | INIT | ceiling = C, BACKOFF | after 100 latencies: pacing begins, STARTUP |
//! | STARTUP | ceiling = C·β, C = ceiling·μ, BACKOFF | latency or `C_max`: ceiling = C, C = ceiling·μ, PROBE_BW; else C + 30 |
//! | PROBE_BW | ceiling·β, C = ceiling·μ, BACKOFF | probe due: C / 2, PROBE_RTT. Latency: hold. C above ceiling: ceiling = C, C = ceiling·μ. Weak: ceiling - 1 %. Then C + 10 |
//! | PROBE_RTT | ceiling·β, BACKOFF | the 1st interval is discarded; then half of what is missing, each time; PROBE_BW |
//! | BACKOFF | long since the last reduction: C·β, ceiling·β | cooldown over: C = ceiling·μ, PROBE_BW |
//!
//! FLOW-DC wakes up at the end of an interval; here the first request to end after it ends it. Intervals
//! without any request take no step in either.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::embargo::Embargo;
use super::options::PaarcOptions;
use super::{Observation, RateController, ServerLimit, Verdict};

const INIT_SAMPLES: usize = 100;
const PROBE_SAMPLES: usize = 100;
/// Requests that an interval should see.
const INTERVAL_REQUESTS: f64 = 50.0;
/// Shortest interval, and how many `RTprop` it lasts: while starting up or backing off, and otherwise.
const QUICK: (f64, f64) = (4.0, 0.1);
const STEADY: (f64, f64) = (8.0, 0.2);
const UNKNOWN_RTPROP: f64 = 0.2;
const MIN_RTPROP: f64 = 0.001;
/// An interval with fewer latencies has no percentiles.
const MIN_SAMPLES: usize = 5;
const STABLE_INTERVALS: u32 = 1;
const PROBE_FACTOR: f64 = 0.5;
const WEAK_GOODPUT: f64 = 0.5;
const WEAK_INTERVALS: u32 = 5;
const REVISION: f64 = 0.99;

/// The controller of FLOW-DC.
#[derive(Debug)]
pub struct Paarc {
    options: PaarcOptions,
    state: State,
    c: u32,
    ceiling: Option<u32>,
    operating: u32,
    /// `C` before the probe for `RTprop`.
    saved: u32,
    /// Whether that probe has seen its first interval. An overload leaves it set: the next probe then
    /// trusts its first interval, as in FLOW-DC.
    restoring: bool,
    stable: u32,
    weak: u32,
    init_samples: usize,
    samples_since_probe: usize,
    paced: bool,
    cooldown_until: Option<Instant>,
    reduced_at: Option<Instant>,
    probed_at: Option<Instant>,
    latency: Latency,
    interval: Interval,
    interval_from: Option<Instant>,
    goodput: f64,
    embargo: Embargo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Init,
    Startup,
    ProbeBw,
    ProbeRtt,
    Backoff,
}

/// What one control interval has seen.
#[derive(Debug, Default)]
struct Interval {
    successes: u32,
    errors: u32,
    /// Times to the first byte, in seconds.
    samples: Vec<f64>,
    retry_after: Duration,
}

/// Averages of the latency, and its minimum over a window.
#[derive(Debug, Default)]
struct Latency {
    p50: Option<f64>,
    p95: Option<f64>,
    /// 10th percentiles of intervals that count for the minimum.
    lows: VecDeque<(Instant, f64)>,
    /// The minimum; outlives the window that it came from.
    rtprop: Option<f64>,
}

impl Latency {
    fn add(&mut self, samples: &mut [f64], always: bool, options: &PaarcOptions, now: Instant) {
        if samples.len() < MIN_SAMPLES {
            return;
        }
        samples.sort_by(f64::total_cmp);
        let alpha = options.alpha_ema;
        let averaged =
            |old: Option<f64>, new: f64| Some(old.map_or(new, |old| alpha * new + (1.0 - alpha) * old));
        self.p50 = averaged(self.p50, percentile(samples, 0.50));
        self.p95 = averaged(self.p95, percentile(samples, 0.95));
        let low = percentile(samples, 0.10);
        if always || self.rtprop.is_none_or(|rtprop| low < rtprop) {
            self.lows.push_back((now, low));
        }
        self.lows.retain(|&(at, _)| now.saturating_duration_since(at) <= options.rtprop_window);
        self.rtprop = self.lows.iter().map(|&(_, low)| low).reduce(f64::min).or(self.rtprop);
    }

    fn exceeds(&self, theta_50: f64, theta_95: f64) -> bool {
        let above = |value: Option<f64>, theta: f64| {
            value.zip(self.rtprop).is_some_and(|(value, rtprop)| value > theta * rtprop)
        };
        above(self.p50, theta_50) || above(self.p95, theta_95)
    }
}

/// By linear interpolation, as numpy's default.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let at = (sorted.len() - 1) as f64 * fraction;
    let below = at as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

impl Paarc {
    #[must_use]
    pub fn new(options: &PaarcOptions) -> Self {
        let mut options = options.clone();
        options.c_min = options.c_min.max(1);
        options.c_max = options.c_max.max(options.c_min);
        let c = if options.enable_paarc { options.c_init } else { options.c_max };
        let c = c.clamp(options.c_min, options.c_max);
        Self {
            options,
            state: State::Init,
            c,
            ceiling: None,
            operating: c,
            saved: c,
            restoring: false,
            stable: 0,
            weak: 0,
            init_samples: 0,
            samples_since_probe: 0,
            paced: false,
            cooldown_until: None,
            reduced_at: None,
            probed_at: None,
            latency: Latency::default(),
            interval: Interval::default(),
            interval_from: None,
            goodput: 0.0,
            embargo: Embargo::default(),
        }
    }

    fn rtprop(&self) -> f64 {
        self.latency.rtprop.unwrap_or(UNKNOWN_RTPROP)
    }

    fn interval_length(&self) -> Duration {
        let quick = matches!(self.state, State::Startup | State::Backoff);
        let (rtprops, floor) = if quick { QUICK } else { STEADY };
        let enough = if self.goodput > 0.0 { INTERVAL_REQUESTS / self.goodput } else { floor };
        seconds((rtprops * self.rtprop()).max(enough).max(floor))
    }

    /// One step at the end of an interval that lasted `elapsed`.
    fn step(&mut self, mut interval: Interval, elapsed: Duration, now: Instant) {
        self.goodput = f64::from(interval.successes) / elapsed.as_secs_f64().max(1e-9);
        let always = self.state == State::Init || (self.state == State::ProbeRtt && self.restoring);
        self.latency.add(&mut interval.samples, always, &self.options, now);
        self.samples_since_probe += interval.samples.len();
        if interval.errors > 0 {
            self.overloaded(&interval, now);
            return;
        }
        match self.state {
            State::Init => {
                self.init_samples += interval.samples.len();
                if self.init_samples >= INIT_SAMPLES {
                    self.paced = true;
                    self.state = State::Startup;
                }
            }
            State::Startup => self.start_up(now),
            State::ProbeBw => self.probe_bandwidth(now),
            State::ProbeRtt => self.probe_rtt(now),
            State::Backoff => self.leave_backoff(now),
        }
    }

    fn overloaded(&mut self, interval: &Interval, now: Instant) {
        let beta = self.options.beta;
        match self.state {
            State::Init => self.ceiling = Some(self.c),
            State::Startup => {
                self.ceiling = Some(self.scaled(self.c, beta));
                self.operate();
            }
            State::ProbeBw => match self.ceiling {
                Some(ceiling) => {
                    self.ceiling = Some(self.scaled(ceiling, beta));
                    self.operate();
                }
                None => {
                    self.operating = self.scaled(self.c, beta);
                    self.c = self.operating;
                }
            },
            State::ProbeRtt => {
                let ceiling = self.scaled(self.ceiling.unwrap_or(self.saved), beta);
                self.ceiling = Some(ceiling);
                self.operating = self.scaled(ceiling, self.options.mu);
            }
            State::Backoff => {
                let again = seconds((10.0 * self.rtprop()).max(3.0));
                if self.reduced_at.is_some_and(|at| now.saturating_duration_since(at) < again) {
                    self.leave_backoff(now);
                    return;
                }
                self.c = self.scaled(self.c, beta);
                self.ceiling = self.ceiling.map(|ceiling| self.scaled(ceiling, beta));
            }
        }
        let cooldown =
            seconds(5.0 * self.rtprop()).max(self.options.cooldown_floor).max(interval.retry_after);
        self.cooldown_until = now.checked_add(cooldown).or(self.cooldown_until);
        self.reduced_at = Some(now);
        self.state = State::Backoff;
    }

    fn start_up(&mut self, now: Instant) {
        let options = &self.options;
        if self.latency.exceeds(options.startup_theta_50, options.startup_theta_95) || self.c >= options.c_max
        {
            self.ceiling = Some(self.c);
            self.operate();
            self.begin_probe_bandwidth(now);
        } else {
            self.c = self.bounded(self.c.saturating_add(options.startup_additive_increase));
        }
    }

    fn probe_bandwidth(&mut self, now: Instant) {
        let since_probe = self.probed_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if since_probe > self.options.probe_rtt_period && self.samples_since_probe > PROBE_SAMPLES {
            self.saved = self.c;
            self.c = self.scaled(self.c, PROBE_FACTOR);
            self.state = State::ProbeRtt;
            return;
        }
        if self.latency.exceeds(self.options.theta_50, self.options.theta_95) {
            self.stable = 0;
            return;
        }
        if self.ceiling.is_some_and(|ceiling| self.c > ceiling) {
            self.ceiling = Some(self.c);
            self.operate();
        }
        self.revise_ceiling();
        self.stable += 1;
        if self.stable >= STABLE_INTERVALS && self.c < self.options.c_max {
            self.c = self.bounded(self.c.saturating_add(self.options.probe_bw_additive_increase));
            self.stable = 0;
        }
    }

    fn revise_ceiling(&mut self) {
        let Some(ceiling) = self.ceiling.filter(|_| self.goodput >= 1.0) else {
            return;
        };
        let expected = f64::from(self.operating) / self.rtprop();
        self.weak = if self.goodput < WEAK_GOODPUT * expected { self.weak + 1 } else { 0 };
        if self.weak >= WEAK_INTERVALS {
            self.weak = 0;
            self.ceiling = Some(self.scaled(ceiling, REVISION).min(ceiling - 1).max(self.options.c_min));
            self.operate();
        }
    }

    fn probe_rtt(&mut self, now: Instant) {
        if !self.restoring {
            self.restoring = true;
        } else if self.c >= self.saved {
            self.restoring = false;
            self.begin_probe_bandwidth(now);
        } else {
            self.c = self.bounded(self.c + ((self.saved - self.c) / 2).max(1));
        }
    }

    fn leave_backoff(&mut self, now: Instant) {
        if self.cooldown_until.is_none_or(|until| now >= until) {
            self.operate();
            self.begin_probe_bandwidth(now);
        }
    }

    /// To the operating point below the ceiling.
    fn operate(&mut self) {
        if let Some(ceiling) = self.ceiling {
            self.operating = self.scaled(ceiling, self.options.mu);
        }
        self.c = self.bounded(self.operating);
    }

    fn begin_probe_bandwidth(&mut self, now: Instant) {
        self.probed_at = Some(now);
        self.samples_since_probe = 0;
        self.state = State::ProbeBw;
    }

    fn scaled(&self, c: u32, factor: f64) -> u32 {
        self.bounded((f64::from(c) * factor) as u32)
    }

    fn bounded(&self, c: u32) -> u32 {
        c.clamp(self.options.c_min, self.options.c_max)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl RateController for Paarc {
    fn on_observation(&mut self, seen: Observation, now: Instant) {
        if let Some(wait) = seen.retry_after {
            self.embargo.extend(wait, now);
            self.interval.retry_after = self.interval.retry_after.max(wait);
        }
        match seen.verdict {
            Verdict::Success => {
                self.interval.successes += 1;
                let ttfb = seen.first_byte.map(|ttfb| ttfb.as_secs_f64());
                self.interval.samples.extend(ttfb.filter(|&ttfb| ttfb > 0.0));
            }
            Verdict::Refused | Verdict::Failed => self.interval.errors += 1,
            Verdict::Answered | Verdict::Local => {}
        }
        let from = *self.interval_from.get_or_insert(seen.sent_at);
        let elapsed = now.saturating_duration_since(from);
        if elapsed >= self.interval_length() {
            self.interval_from = Some(now);
            let interval = std::mem::take(&mut self.interval);
            if self.options.enable_paarc {
                self.step(interval, elapsed, now);
            }
        }
    }

    fn limit(&self) -> ServerLimit {
        let gap = seconds(self.rtprop().max(MIN_RTPROP) / f64::from(self.c.max(1)));
        ServerLimit {
            max_in_flight: self.c as usize,
            min_gap: if self.paced { gap } else { Duration::ZERO },
            embargo_until: self.embargo.until(),
        }
    }

    fn is_slowed(&self) -> bool {
        self.reduced_at.is_some()
    }
}

#[cfg(test)]
mod tests;
