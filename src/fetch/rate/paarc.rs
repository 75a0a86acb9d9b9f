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
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// A controller in the given state, with an `RTprop` of 100 ms and a quiet latency, at time `at`.
    fn paarc(state: State, c: u32, ceiling: Option<u32>, at: Instant) -> Paarc {
        let mut paarc = Paarc::new(&PaarcOptions::default());
        paarc.latency.add(&mut [0.1; 5], true, &paarc.options, at);
        paarc.state = state;
        paarc.c = c;
        paarc.ceiling = ceiling;
        paarc.probed_at = Some(at);
        paarc
    }

    fn clean(num_samples: usize) -> Interval {
        Interval { successes: num_samples as u32, samples: vec![0.1; num_samples], ..Interval::default() }
    }

    fn overload() -> Interval {
        Interval { errors: 1, ..clean(9999) }
    }

    /// Steps once and compares state, C, ceiling and operating point.
    fn check(
        mut paarc: Paarc,
        seen: Interval,
        now: Instant,
        state: State,
        c: u32,
        ceiling: Option<u32>,
    ) -> Paarc {
        paarc.step(seen, S, now);
        assert_eq!((paarc.state, paarc.c, paarc.ceiling), (state, c, ceiling));
        paarc
    }

    #[test]
    fn init_overload_keeps_c_and_skips_startup() {
        let now = Instant::now();
        let after = check(paarc(State::Init, 4, None, now), overload(), now, State::Backoff, 4, Some(4));
        assert_eq!(after.cooldown_until, Some(now + 2 * S));
        assert!(!after.paced);
    }

    #[test]
    fn init_ends_after_a_hundred_latencies() {
        let now = Instant::now();
        let after = check(paarc(State::Init, 4, None, now), clean(99), now, State::Init, 4, None);
        let after = check(after, clean(1), now, State::Startup, 4, None);
        assert!(after.limit().min_gap == Duration::from_millis(25));
    }

    #[test]
    fn startup_overload_cuts_twice() {
        let now = Instant::now();
        let after =
            check(paarc(State::Startup, 64, None, now), overload(), now, State::Backoff, 27, Some(32));
        assert_eq!(after.operating, 27);
        check(paarc(State::Startup, 2, None, now), overload(), now, State::Backoff, 2, Some(2));
    }

    #[test]
    fn startup_grows_by_thirty_until_latency_or_the_maximum() {
        let now = Instant::now();
        check(paarc(State::Startup, 4, None, now), clean(50), now, State::Startup, 34, None);
        check(paarc(State::Startup, 9_990, None, now), clean(50), now, State::Startup, 10_000, None);
        check(paarc(State::Startup, 10_000, None, now), clean(50), now, State::ProbeBw, 8_500, Some(10_000));
        for (p50, p95) in [(0.31, 0.1), (0.1, 0.41)] {
            let mut degraded = paarc(State::Startup, 100, None, now);
            (degraded.latency.p50, degraded.latency.p95) = (Some(p50), Some(p95));
            let after = check(degraded, clean(0), now + S, State::ProbeBw, 85, Some(100));
            assert_eq!((after.probed_at, after.samples_since_probe), (Some(now + S), 0));
        }
    }

    #[test]
    fn probe_bw_overload_cuts_the_ceiling() {
        let now = Instant::now();
        check(paarc(State::ProbeBw, 100, Some(80), now), overload(), now, State::Backoff, 34, Some(40));
        check(paarc(State::ProbeBw, 100, None, now), overload(), now, State::Backoff, 50, None);
    }

    #[test]
    fn probe_bw_a_probes_when_time_and_samples_are_due() {
        let now = Instant::now();
        let due = now + 11 * S;
        let at_rest = || paarc(State::ProbeBw, 50, Some(80), now);
        let after = check(at_rest(), clean(101), due, State::ProbeRtt, 25, Some(80));
        assert_eq!(after.saved, 50);
        check(at_rest(), clean(100), due, State::ProbeBw, 60, Some(80));
        check(at_rest(), clean(101), now + 10 * S, State::ProbeBw, 60, Some(80));
    }

    #[test]
    fn probe_bw_b_holds_while_latency_is_degraded() {
        let now = Instant::now();
        let mut degraded = paarc(State::ProbeBw, 50, Some(80), now);
        (degraded.latency.p50, degraded.stable) = (Some(0.16), 7);
        let after = check(degraded, clean(0), now, State::ProbeBw, 50, Some(80));
        assert_eq!(after.stable, 0);
        let mut degraded = paarc(State::ProbeBw, 50, Some(80), now);
        degraded.latency.p95 = Some(0.21);
        check(degraded, clean(0), now, State::ProbeBw, 50, Some(80));
    }

    #[test]
    fn probe_bw_c_the_ceiling_follows() {
        let now = Instant::now();
        let after =
            check(paarc(State::ProbeBw, 90, Some(80), now), clean(50), now, State::ProbeBw, 86, Some(90));
        assert_eq!(after.operating, 76);
    }

    #[test]
    fn probe_bw_d_a_weak_goodput_lowers_the_ceiling() {
        let now = Instant::now();
        let mut weak = paarc(State::ProbeBw, 40, Some(80), now);
        weak.operating = 80;
        for interval in 1..=4 {
            weak = check(weak, clean(50), now, State::ProbeBw, 40 + 10 * interval, Some(80));
        }
        // 5th: 79 is the ceiling, 67 the operating point, and (e) adds 10.
        let after = check(weak, clean(50), now, State::ProbeBw, 77, Some(79));
        assert_eq!((after.operating, after.weak), (67, 0));
        let mut idle = paarc(State::ProbeBw, 40, Some(80), now);
        (idle.operating, idle.weak) = (80, 4);
        check(idle, clean(0), now, State::ProbeBw, 50, Some(80));
    }

    #[test]
    fn probe_bw_e_grows_by_ten() {
        let now = Instant::now();
        check(paarc(State::ProbeBw, 50, Some(80), now), clean(50), now, State::ProbeBw, 60, Some(80));
        check(
            paarc(State::ProbeBw, 10_000, Some(10_000), now),
            clean(50),
            now,
            State::ProbeBw,
            10_000,
            Some(10_000),
        );
    }

    #[test]
    fn probe_rtt_overload_keeps_c_and_the_mark() {
        let now = Instant::now();
        let mut probing = paarc(State::ProbeRtt, 25, Some(80), now);
        probing.restoring = true;
        let after = check(probing, overload(), now, State::Backoff, 25, Some(40));
        assert!(after.restoring);
        assert_eq!(after.operating, 34);
    }

    #[test]
    fn probe_rtt_restores_by_halves() {
        let now = Instant::now();
        let mut probing = paarc(State::ProbeRtt, 25, Some(80), now);
        probing.saved = 50;
        for c in [25, 37, 43, 46, 48, 49, 50] {
            probing = check(probing, clean(50), now, State::ProbeRtt, c, Some(80));
        }
        let after = check(probing, clean(50), now + S, State::ProbeBw, 50, Some(80));
        assert_eq!((after.probed_at, after.samples_since_probe, after.restoring), (Some(now + S), 0, false));
    }

    #[test]
    fn probe_rtt_trusts_latency_after_its_first_interval_only() {
        let now = Instant::now();
        let slow = || Interval { successes: 50, samples: vec![0.3; 50], ..Interval::default() };
        let mut probing = paarc(State::ProbeRtt, 25, Some(80), now);
        probing.saved = 50;
        probing.step(slow(), S, now + 30 * S);
        probing.step(clean(0), S, now + 40 * S);
        assert_eq!(probing.latency.rtprop, Some(0.1), "nothing new that would let the old expire");
        probing.step(slow(), S, now + 41 * S);
        assert_eq!(probing.latency.rtprop, Some(0.3));
    }

    #[test]
    fn backoff_cuts_again_if_the_last_cut_is_long_ago() {
        let now = Instant::now();
        let mut backing = paarc(State::Backoff, 34, Some(40), now);
        (backing.reduced_at, backing.cooldown_until) = (Some(now), Some(now + 2 * S));
        let after = check(backing, overload(), now + 3 * S, State::Backoff, 17, Some(20));
        assert_eq!(after.cooldown_until, Some(now + 5 * S));
    }

    #[test]
    fn backoff_ends_with_its_cooldown_errors_or_not() {
        let now = Instant::now();
        let backing = || {
            let mut backing = paarc(State::Backoff, 20, Some(40), now);
            (backing.reduced_at, backing.cooldown_until) = (Some(now), Some(now + 2 * S));
            backing
        };
        check(backing(), clean(9), now + S, State::Backoff, 20, Some(40));
        check(backing(), overload(), now + S, State::Backoff, 20, Some(40));
        check(backing(), clean(9), now + 2 * S, State::ProbeBw, 34, Some(40));
        check(backing(), overload(), now + 2 * S, State::ProbeBw, 34, Some(40));
    }

    #[test]
    fn retry_after_lengthens_the_cooldown() {
        let now = Instant::now();
        let seen = Interval { retry_after: 9 * S, ..overload() };
        let after = check(paarc(State::Startup, 64, None, now), seen, now, State::Backoff, 27, Some(32));
        assert_eq!(after.cooldown_until, Some(now + 9 * S));
    }

    #[test]
    fn intervals_wait_for_their_requests() {
        let now = Instant::now();
        let mut paarc = paarc(State::ProbeBw, 50, None, now);
        assert_eq!(paarc.interval_length(), Duration::from_millis(800));
        paarc.goodput = 10.0;
        assert_eq!(paarc.interval_length(), 5 * S);
        paarc.state = State::Startup;
        paarc.goodput = 1000.0;
        assert_eq!(paarc.interval_length(), Duration::from_millis(400));
    }
}
