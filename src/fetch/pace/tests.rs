use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(900);
const REFUSED: Complaint = Complaint { cause: FailureCause::HttpStatus, http_status: Some(429) };
const NO_ANSWER: Complaint = Complaint { cause: FailureCause::Connect, http_status: None };

fn pace(limit: f64, now: Instant) -> Pace {
    Pace::new(limit, 1.0, PATIENCE, now)
}

#[test]
fn throttling_pauses_halves_and_recovers() {
    let start = Instant::now();
    let mut pace = pace(10.0, start);
    pace.on_throttled(REFUSED, Some(3 * S), start, start, 0.5);
    assert_eq!(pace.ready_at(start), Some(start + 3 * S));
    assert!((pace.rate() - 5.0).abs() < 1e-9);
    // The rest of the burst counts only for a longer pause.
    pace.on_throttled(REFUSED, None, start, start + S, 0.5);
    pace.on_throttled(REFUSED, Some(4 * S), start, start + S, 0.5);
    assert_eq!(pace.ready_at(start), Some(start + 5 * S));
    assert!((pace.rate() - 5.0).abs() < 1e-9);
    for step in 0..200 {
        let now = start + 10 * S + step * 500 * MS;
        pace.on_success(now, now);
    }
    assert!((pace.rate() - 10.0).abs() < 1e-9, "{}", pace.rate());
    assert!(pace.is_fresh(start + 200 * S));
}

#[test]
fn pauses_double_up_to_a_minute_until_a_success() {
    let mut now = Instant::now();
    let mut pace = pace(10.0, now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        now += 200 * S;
        pace.on_throttled(REFUSED, None, now, now, 0.5);
        pauses.push((pace.pause(now).unwrap().until - now).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    now += 200 * S;
    pace.on_success(now, now);
    pace.on_throttled(REFUSED, None, now + S, now + S, 0.5);
    assert_eq!(pace.pause(now + S).unwrap().until, now + 2 * S);
}

#[test]
fn the_multiplier_bounds_slowing_down() {
    let check = |limit: f64, multiplier: f64, floor: f64| {
        let mut now = Instant::now();
        let mut pace = Pace::new(limit, multiplier, PATIENCE, now);
        for _ in 0..30 {
            now += S;
            pace.on_throttled(REFUSED, None, now, now, 0.0);
        }
        assert!((pace.rate() - floor).abs() < 1e-9, "{limit} {multiplier}: {}", pace.rate());
    };
    check(10.0, 0.5, 5.0);
    check(10.0, 0.0, 10.0);
    check(10.0, 1.0, FLOOR);
    check(0.05, 1.0, 0.05);
}

#[test]
fn a_server_without_limit_learns_one_from_its_first_429() {
    let start = Instant::now();
    let mut pace = pace(0.0, start);
    for step in 0..80 {
        pace.on_success(start + step * 25 * MS, start + step * 25 * MS);
    }
    pace.on_throttled(REFUSED, None, start + 2 * S, start + 2 * S, 0.5);
    assert!((15.0..=25.0).contains(&pace.rate()), "{}", pace.rate());
}

#[test]
fn a_share_scales_the_present_rate() {
    let now = Instant::now();
    let mut pace = pace(10.0, now);
    pace.on_throttled(REFUSED, None, now, now, 0.5);
    pace.set_limit(5.0, 1.0, now);
    assert!((pace.rate() - 2.5).abs() < 1e-9);
    pace.set_limit(10.0, 1.0, now);
    assert!((pace.rate() - 5.0).abs() < 1e-9);
}

#[test]
fn the_twentieth_complaint_parks_and_then_one_request_decides() {
    let mut now = Instant::now();
    let mut pace = pace(0.0, now);
    for _ in 1..PARK_AFTER {
        now += MS;
        pace.on_complaint(NO_ANSWER, now, now, 0.5);
        assert_eq!(pace.ready_at(now), Some(now));
    }
    let stale = now;
    now += MS;
    pace.on_complaint(NO_ANSWER, now, now, 0.5);
    let pause = pace.pause(now).unwrap();
    assert_eq!((pause.until, pause.cause, pause.given_up), (now + 15 * S, FailureCause::Connect, false));
    pace.on_success(stale, now + S);
    assert!(!pace.try_take(now + S), "an old answer changes nothing");

    now = pause.until;
    assert!(pace.try_take(now));
    assert!(!pace.try_take(now + 60 * S), "the others wait for the probe");
    assert_eq!((pace.ready_at(now), pace.pause(now)), (None, None));
    pace.on_nothing(stale);
    assert!(!pace.try_take(now));
    pace.on_nothing(now);
    now += S;
    assert!(pace.try_take(now), "nothing was learned, so the next is the probe");
    pace.on_complaint(NO_ANSWER, now, now, 0.5);
    assert_eq!(pace.pause(now).unwrap().until, now + 30 * S);

    now += 30 * S;
    assert!(pace.try_take(now));
    pace.on_answer(now);
    assert!(pace.try_take(now), "a response has begun");
    pace.on_success(now, now + S);
    pace.on_complaint(NO_ANSWER, now + S, now + S, 0.5);
    assert_eq!(pace.pause(now + S), None, "the count begins anew");
}

#[test]
fn an_hours_retry_after_is_obeyed_three_times() {
    let start = Instant::now();
    let mut now = start;
    let mut pace = pace(0.0, now);
    for hour in 0..4 {
        assert!(pace.try_take(now));
        pace.on_throttled(REFUSED, Some(3600 * S), now, now, 0.5);
        let pause = pace.pause(now).unwrap();
        assert_eq!((pause.given_up, pause.since), (hour == 3, start), "{hour}");
        // One that left before the pause and asks for more: it is given up all the same.
        pace.on_throttled(REFUSED, Some(3601 * S), start, now, 0.5);
        let longer = pace.pause(now).unwrap();
        assert_eq!((longer.given_up, longer.until), (hour == 3, pause.until + S));
        now = longer.until;
    }
    assert!(pace.try_take(now));
    pace.on_success(now, now);
    pace.on_throttled(REFUSED, None, now + S, now + S, 0.5);
    assert!(!pace.pause(now + S).unwrap().given_up, "a success takes everything back");
}

/// What a server of the simulation makes of a request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Success,
    Complaint,
    Throttled(Option<Duration>),
}

#[derive(Debug, Default)]
struct Course {
    requests: u32,
    successes: u32,
    /// When the server was given up.
    given_up: Option<Duration>,
    /// When a server that comes back was first found so.
    found_well: Option<Duration>,
}

/// Sends without end, up to `connections` at once, to a server that answers after `latency` until it is given
/// up or has answered well a hundred times.
fn simulate(
    mut pace: Pace,
    start: Instant,
    connections: usize,
    latency: Duration,
    jitter: f64,
    mut answer: impl FnMut(Duration) -> Answer,
) -> Course {
    let mut now = start;
    let mut under_way = std::collections::VecDeque::new();
    let mut course = Course::default();
    while course.given_up.is_none() && course.successes < 100 {
        while under_way.len() < connections && pace.try_take(now) {
            under_way.push_back(now);
            course.requests += 1;
        }
        let next_answer = under_way.front().map(|&sent_at| sent_at + latency);
        let next_request = pace.ready_at(now).filter(|_| under_way.len() < connections);
        if next_request.is_some_and(|at| next_answer.is_none_or(|answer| at < answer)) {
            now = next_request.unwrap();
            continue;
        }
        now = next_answer.expect("nothing is under way and nothing may be sent: it would hang");
        let sent_at = under_way.pop_front().unwrap();
        match answer(sent_at - start) {
            Answer::Success => {
                pace.on_success(sent_at, now);
                course.successes += 1;
                course.found_well.get_or_insert(now - start);
            }
            Answer::Complaint => pace.on_complaint(NO_ANSWER, sent_at, now, jitter),
            Answer::Throttled(after) => pace.on_throttled(REFUSED, after, sent_at, now, jitter),
        }
        if pace.pause(now).is_some_and(|pause| pause.given_up) {
            course.given_up = Some(now - start);
        }
    }
    course
}

fn complaint() -> impl Strategy<Value = Answer> {
    let after = (1u64..7200).prop_map(Duration::from_secs);
    prop_oneof![
        4 => Just(Answer::Complaint),
        1 => prop::option::of(after).prop_map(Answer::Throttled),
    ]
}

#[test]
fn a_refusing_server_is_given_up_after_some_twenty_minutes_and_thirty_requests() {
    let start = Instant::now();
    let course = simulate(pace(10.0, start), start, 4, 100 * MS, 0.5, |_| Answer::Complaint);
    let minutes = course.given_up.unwrap().as_secs() / 60;
    assert!((15..=20).contains(&minutes) && course.requests <= 35, "{course:?}");
    let course = simulate(pace(10.0, start), start, 4, 100 * MS, 0.5, |_| Answer::Throttled(None));
    let minutes = course.given_up.unwrap().as_secs() / 60;
    assert!((15..=20).contains(&minutes) && course.requests <= 35, "{course:?}");
}

proptest! {
    #[test]
    fn a_server_without_any_success_costs_few_requests_and_is_given_up(
        limit in prop_oneof![Just(0.0), 0.1..1000f64],
        connections in 1usize..16,
        latency_ms in 1u64..120_000,
        jitter in 0.0..1f64,
        patience_s in 0u64..20_000,
        complaints in prop::collection::vec(complaint(), 1..20),
    ) {
        let (patience, latency) = (Duration::from_secs(patience_s), Duration::from_millis(latency_ms));
        let start = Instant::now();
        let pace = Pace::new(limit, 1.0, patience, start);
        let mut next = complaints.iter().copied().cycle();
        let course = simulate(pace, start, connections, latency, jitter, |_| next.next().unwrap());
        let asked = complaints.iter().map(|answer| match answer {
            Answer::Throttled(Some(after)) => *after,
            _ => LONGEST_PARKING.mul_f64(1.25),
        });
        let longest = asked.max().unwrap();
        let end = course.given_up.unwrap();
        // Up to the parking; the pauses, one of which ends it after the patience, but not before the third.
        let parking = (latency + 10 * S) * (PARK_AFTER + 1);
        prop_assert!(end <= parking + (longest + latency + 10 * S) * 4 + patience + longest, "{end:?}");
        // A pause is at least 0.75 s, one from the seventh on at least 45 s, unless it was asked to be shorter.
        let shortest = complaints.iter().filter_map(|answer| match answer {
            Answer::Throttled(Some(after)) => Some(*after),
            _ => None,
        }).min().unwrap_or(45 * S);
        let probes = 8 + patience.div_duration_f64(shortest.min(45 * S)).ceil() as u32;
        // What is under way when a pause begins is not counted as a complaint.
        let uncounted = PARK_AFTER * connections as u32;
        prop_assert!(course.requests <= PARK_AFTER + uncounted + probes + MIN_PAUSES, "{course:?}");
    }

    /// Bad from the start or after some time, well again later: then it is used again at once after one probe.
    #[test]
    fn a_server_that_comes_back_is_found_at_the_end_of_its_pause(
        limit in prop_oneof![Just(0.0), 1.0..1000f64],
        connections in 1usize..16,
        latency_ms in 1u64..30_000,
        jitter in 0.0..1f64,
        back_after_s in 0u64..800,
        complaint in prop_oneof![Just(Answer::Complaint), Just(Answer::Throttled(None))],
    ) {
        let (latency, back) = (Duration::from_millis(latency_ms), Duration::from_secs(back_after_s));
        let start = Instant::now();
        let course = simulate(pace(limit, start), start, connections, latency, jitter, |sent_at| {
            if sent_at >= back { Answer::Success } else { complaint }
        });
        prop_assert_eq!(course.given_up, None);
        prop_assert_eq!(course.successes, 100);
        let longest = LONGEST_PARKING.mul_f64(1.25) + 2 * latency + 10 * S;
        prop_assert!(course.found_well.unwrap() <= back + longest, "{course:?}");
    }

    #[test]
    fn the_rate_stays_within_its_bounds_and_nobody_waits_for_ever(
        limit in prop_oneof![Just(0.0), 0.001..1e6f64],
        multiplier in 0.0..=1.0f64,
        events in prop::collection::vec((0u8..6, 0u64..100_000), 0..200),
    ) {
        let mut now = Instant::now();
        let mut pace = Pace::new(limit, multiplier, PATIENCE, now);
        let ceiling = if limit > 0.0 { limit } else { f64::INFINITY };
        let mut probe = now;
        for (event, ms) in events {
            let sent_at = now;
            now += Duration::from_millis(ms);
            match event {
                0 => pace.on_success(sent_at, now),
                1 => pace.on_throttled(REFUSED, Some(Duration::from_millis(ms)), sent_at, now, 0.9),
                2 => pace.on_complaint(NO_ANSWER, sent_at, now, 0.1),
                3 => pace.on_answer(sent_at),
                4 => pace.set_limit(limit, multiplier, now),
                _ => if pace.try_take(now) { probe = now },
            }
            prop_assert!(pace.rate() <= ceiling && pace.rate() >= FLOOR.min(ceiling) * (1.0 - 1e-9));
            match pace.ready_at(now) {
                Some(at) => {
                    let gap = Duration::from_secs_f64(1.0 / FLOOR.min(ceiling));
                    prop_assert!(at - now <= Duration::from_secs(400).max(gap * 2));
                }
                None => {
                    pace.on_nothing(probe);
                    prop_assert!(pace.ready_at(now).is_some(), "the last request was the probe");
                }
            }
        }
    }
}
