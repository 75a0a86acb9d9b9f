//! What holds for every controller, and what the default promises.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::simulator::{Kind, Outcome, SCENARIOS, Scenario, contenders, run};
use super::{
    Adaptive, AdaptiveOptions, AimdOptions, FixedOptions, LearntLimit, Observation, PaarcOptions,
    RateControl, RateController, RateOptions, Verdict, controller,
};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

pub(super) fn seen(verdict: Verdict, sent_at: Instant, in_flight: usize) -> Observation {
    Observation { sent_at, first_byte: Some(50 * MS), verdict, retry_after: None, in_flight }
}

pub(super) fn success(sent_at: Instant, in_flight: usize) -> Observation {
    seen(Verdict::Success, sent_at, in_flight)
}

pub(super) fn refused(sent_at: Instant, in_flight: usize) -> Observation {
    seen(Verdict::Refused, sent_at, in_flight)
}

fn adaptive(learnt: LearntLimit) -> impl Fn(u64) -> Box<dyn RateController> {
    move |seed| Box::new(Adaptive::new(&AdaptiveOptions::default(), learnt, seed))
}

fn scenario(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.name.starts_with(name)).expect("a scenario of that name")
}

/// Runs the scenarios of a kind and compares the means over some seeds with what is promised.
fn check(kind: Kind, least_goodput: f64, most_refused: f64) {
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.kind == kind) {
        // The big server alone makes more requests than all others.
        let seeds = if scenario.best_goodput(0.0) > 1000.0 { 1 } else { 4 };
        let outcomes: Vec<Outcome> =
            (1..=seeds).map(|seed| run(scenario, seed, adaptive(LearntLimit::default()))).collect();
        let mean =
            |measure: fn(&Outcome) -> f64| outcomes.iter().map(measure).sum::<f64>() / outcomes.len() as f64;
        let (goodput, refused) = (mean(|one| one.goodput), mean(|one| one.refused));
        assert!(goodput >= least_goodput, "{}: goodput {goodput:.3}", scenario.name);
        assert!(refused <= most_refused, "{}: {refused:.2} refusals per 1,000", scenario.name);
        assert_eq!(mean(|one| one.embargo_violations as f64), 0.0, "{}", scenario.name);
    }
}

#[test]
fn steady_servers_are_used_to_the_full() {
    check(Kind::Steady, 0.95, 0.0);
}

#[test]
fn limiters_are_hardly_ever_overrun() {
    check(Kind::Limited, 0.85, 1.0);
}

#[test]
fn changes_and_faults_cost_little() {
    check(Kind::Unsteady, 0.85, f64::INFINITY);
}

#[test]
fn what_cannot_be_known_is_met_with_caution() {
    check(Kind::Hard, 0.6, 4.0);
}

#[test]
fn no_standing_queue() {
    for (name, overshoot, latency) in
        [("near", 2.0, 1.5), ("steady", 2.0, 1.5), ("small", 3.0, 2.0), ("4 ranks, 20", 2.5, 2.0)]
    {
        let outcome = run(scenario(name), 1, adaptive(LearntLimit::default()));
        assert!(outcome.overshoot <= overshoot && outcome.latency <= latency, "{name}: {outcome:?}");
    }
}

#[test]
fn what_was_learnt_spares_the_next_run_its_refusals() {
    let scenario = scenario("rate limit 20/s, no Retry-After");
    let learnt = LearntLimit { max_rate: Some(19.5), max_in_flight: None };
    let outcome = run(scenario, 1, adaptive(learnt));
    assert!(outcome.refused <= 0.7 && outcome.goodput >= 0.95, "{outcome:?}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    let scenario = Scenario { seconds: 60.0, ..*scenario("heavy tail: Pareto") };
    for contender in contenders() {
        assert_eq!(run(&scenario, 7, contender.controller), run(&scenario, 7, contender.controller));
    }
}

#[test]
fn answers_without_a_body_are_work_too() {
    let mut adaptive = Adaptive::new(&AdaptiveOptions::default(), LearntLimit::default(), 1);
    let mut now = Instant::now();
    for _ in 0..2_000 {
        let limit = adaptive.limit();
        now += limit.min_gap.max(100 * MS / u32::try_from(limit.max_in_flight).unwrap());
        adaptive.on_observation(seen(Verdict::Answered, now - 100 * MS, limit.max_in_flight), now);
    }
    assert!(
        adaptive.limit().max_in_flight > 20 && adaptive.limit().min_gap < 5 * MS,
        "{:?}",
        adaptive.limit()
    );
}

/// A stretch in which every request takes 100 ms and all of `in_flight` are busy.
fn calm(controller: &mut dyn RateController, requests: u32, in_flight: usize, from: Instant) -> Instant {
    let gap = 100 * MS / u32::try_from(in_flight).expect("few");
    for request in 1..=requests {
        let sent_at = from + gap * request;
        controller.on_observation(success(sent_at, in_flight), sent_at + 100 * MS);
    }
    from + gap * requests + 100 * MS
}

#[test]
fn a_limit_that_is_not_reached_does_not_grow() {
    let mut adaptive = Adaptive::new(&AdaptiveOptions::default(), LearntLimit::default(), 1);
    calm(&mut adaptive, 5_000, 8, Instant::now());
    assert!((8..=16).contains(&adaptive.limit().max_in_flight), "{:?}", adaptive.limit());
}

#[test]
fn one_error_in_ten_thousand_changes_nothing() {
    for verdict in [Verdict::Refused, Verdict::Failed] {
        let mut adaptive = Adaptive::new(&AdaptiveOptions::default(), LearntLimit::default(), 1);
        let now = calm(&mut adaptive, 10_000, 20, Instant::now());
        let before = adaptive.limit();
        adaptive.on_observation(seen(verdict, now, 20), now + 100 * MS);
        assert_eq!(adaptive.limit(), before);
        assert_eq!(adaptive.learnt(), LearntLimit::default());
    }
}

#[test]
fn the_overload_point_is_remembered() {
    let mut adaptive = Adaptive::new(&AdaptiveOptions::default(), LearntLimit::default(), 1);
    let now = calm(&mut adaptive, 2_000, 20, Instant::now());
    for _ in 0..10 {
        adaptive.on_observation(refused(now, 21), now + 100 * MS);
    }
    assert_eq!(adaptive.learnt().max_in_flight, Some(20));
    assert!(adaptive.learnt().max_rate.is_some_and(|rate| (100.0..200.0).contains(&rate)));
    calm(&mut adaptive, 2_000, 20, now + 2 * S);
    assert!(adaptive.limit().max_in_flight <= 24, "{:?}", adaptive.limit());
}

#[test]
fn a_server_that_only_refuses_is_asked_ever_more_rarely() {
    let mut adaptive = Adaptive::new(&AdaptiveOptions::default(), LearntLimit::default(), 1);
    let start = Instant::now();
    let (mut now, mut requests) = (start, 0);
    while now < start + 3600 * S {
        now = now.max(adaptive.limit().embargo_until.unwrap_or(now)) + MS;
        adaptive.on_observation(refused(now, 1), now);
        requests += 1;
    }
    assert!((50..=100).contains(&requests), "{requests} in an hour");
    assert_eq!(adaptive.limit().max_in_flight, 1);
}

#[test]
fn options_have_the_names_of_flow_dc() {
    let options: PaarcOptions =
        serde_json::from_str(r#"{"C_init": 8, "C_min": 2, "C_max": 2000, "mu": 1.0, "enable_paarc": true}"#)
            .unwrap();
    assert_eq!((options.c_init, options.c_max, options.beta), (8, 2000, 0.5));
    let options: RateOptions = serde_json::from_str(r#"{"rate_control": "paarc"}"#).unwrap();
    assert_eq!(options.rate_control, RateControl::Paarc);
}

fn any_options() -> impl Strategy<Value = RateOptions> {
    (0..4usize, 0..40u32, 0..20u32, 0..200u32, -1.0..500.0f64, 0.0..=1.0f64, 0..300usize).prop_map(
        |(kind, c_init, c_min, c_max, rate, multiplier, in_flight)| RateOptions {
            rate_control: [RateControl::Adaptive, RateControl::Paarc, RateControl::Aimd, RateControl::Fixed]
                [kind],
            adaptive: AdaptiveOptions {
                initial_rate: rate,
                max_in_flight: in_flight,
                ..AdaptiveOptions::default()
            },
            paarc: PaarcOptions { c_init, c_min, c_max, ..PaarcOptions::default() },
            aimd: AimdOptions { rate_limit: rate, concurrent_downloads: in_flight, ..AimdOptions::default() },
            fixed: FixedOptions {
                default_rate_limit: rate.max(0.0),
                rate_multiplier: multiplier,
                max_in_flight: in_flight,
            },
        },
    )
}

fn most_in_flight(options: &RateOptions) -> usize {
    let most = match options.rate_control {
        RateControl::Adaptive => options.adaptive.max_in_flight,
        RateControl::Paarc => options.paarc.c_max.max(options.paarc.c_min) as usize,
        RateControl::Aimd => options.aimd.concurrent_downloads,
        RateControl::Fixed => options.fixed.max_in_flight,
    };
    most.max(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_controller_leaves_its_bounds_or_stops_for_ever(
        options in any_options(),
        learnt in (prop::option::of(-1.0..1e4f64), prop::option::of(0..500usize)),
        events in prop::collection::vec((0..5usize, 0..5_000u64, 0..100_000u64, 0..400usize, prop::option::of(0..90u64)), 0..300),
    ) {
        let learnt = LearntLimit { max_rate: learnt.0, max_in_flight: learnt.1 };
        let mut controller = controller(&options, learnt, 1);
        let (mut now, mut longest_wait) = (Instant::now(), 75 * S);
        for (verdict, step, took, in_flight, wait) in events {
            now += Duration::from_micros(100 * step);
            let verdicts =
                [Verdict::Success, Verdict::Answered, Verdict::Refused, Verdict::Failed, Verdict::Local];
            let sent_at = now.checked_sub(Duration::from_micros(10 * took)).unwrap_or(now);
            let retry_after = wait.map(Duration::from_secs).filter(|_| verdict > 0);
            longest_wait = longest_wait.max(retry_after.unwrap_or_default());
            controller.on_observation(Observation { retry_after, ..seen(verdicts[verdict], sent_at, in_flight) }, now);
            let limit = controller.limit();
            prop_assert!((1..=most_in_flight(&options)).contains(&limit.max_in_flight), "{limit:?}");
            prop_assert!(limit.min_gap <= 600 * S);
            prop_assert!(limit.embargo_until.is_none_or(|until| until <= now + longest_wait), "{limit:?}");
        }
        // A long calm brings every controller back to work.
        now += longest_wait;
        for _ in 0..500 {
            now += controller.limit().min_gap.max(MS);
            controller.on_observation(success(now, controller.limit().max_in_flight), now + 50 * MS);
            now += 50 * MS;
        }
        let limit = controller.limit();
        prop_assert!(limit.embargo_until.is_none_or(|until| until <= now));
        prop_assert!(limit.min_gap <= 10 * S || options.rate_control == RateControl::Fixed, "{limit:?}");
    }
}
