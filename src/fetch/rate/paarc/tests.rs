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
    let after = check(paarc(State::Startup, 64, None, now), overload(), now, State::Backoff, 27, Some(32));
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
    let after = check(paarc(State::ProbeBw, 90, Some(80), now), clean(50), now, State::ProbeBw, 86, Some(90));
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
