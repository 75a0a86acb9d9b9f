use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(900);
const REFUSED: Complaint = Complaint { cause: FailureCause::HttpStatus, http_status: Some(429) };
const NO_ANSWER: Complaint = Complaint { cause: FailureCause::Connect, http_status: None };

#[test]
fn a_burst_of_refusals_is_one_pause() {
    let start = Instant::now();
    let mut pauses = Pauses::new(PATIENCE);
    pauses.on_throttled(REFUSED, Some(3 * S), start, start, 0.5);
    assert_eq!(pauses.ready_at(start), Some(start + 3 * S));
    // The rest of the burst counts only for a longer pause.
    pauses.on_throttled(REFUSED, None, start, start + S, 0.5);
    pauses.on_throttled(REFUSED, Some(4 * S), start, start + S, 0.5);
    assert_eq!(pauses.ready_at(start), Some(start + 5 * S));
    assert!(!pauses.is_fresh(start + 10 * S));
    pauses.on_success(start + 10 * S);
    assert!(pauses.is_fresh(start + 10 * S));
}

#[test]
fn pauses_double_up_to_a_minute_until_a_success() {
    let mut now = Instant::now();
    let mut pauses = Pauses::new(PATIENCE);
    let mut lengths = Vec::new();
    for _ in 0..8 {
        now += 200 * S;
        pauses.on_throttled(REFUSED, None, now, now, 0.5);
        lengths.push((pauses.pause(now).unwrap().until - now).as_secs());
    }
    assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
    now += 200 * S;
    pauses.on_success(now);
    pauses.on_throttled(REFUSED, None, now + S, now + S, 0.5);
    assert_eq!(pauses.pause(now + S).unwrap().until, now + 2 * S);
}

#[test]
fn the_twentieth_complaint_parks_and_then_one_request_decides() {
    let mut now = Instant::now();
    let mut pauses = Pauses::new(PATIENCE);
    for _ in 1..PARK_AFTER {
        now += MS;
        pauses.on_complaint(NO_ANSWER, now, now, 0.5);
        assert_eq!(pauses.ready_at(now), Some(now));
    }
    let stale = now;
    now += MS;
    pauses.on_complaint(NO_ANSWER, now, now, 0.5);
    let pause = pauses.pause(now).unwrap();
    assert_eq!((pause.until, pause.cause, pause.given_up), (now + 15 * S, FailureCause::Connect, false));
    pauses.on_success(stale);
    assert!(!pauses.try_take(now + S), "an old answer changes nothing");

    now = pause.until;
    assert!(pauses.try_take(now));
    assert!(!pauses.try_take(now + 60 * S), "the others wait for the probe");
    assert_eq!((pauses.ready_at(now), pauses.pause(now)), (None, None));
    pauses.on_nothing(stale);
    assert!(!pauses.try_take(now));
    pauses.on_nothing(now);
    now += S;
    assert!(pauses.try_take(now), "nothing was learned, so the next is the probe");
    pauses.on_complaint(NO_ANSWER, now, now, 0.5);
    assert_eq!(pauses.pause(now).unwrap().until, now + 30 * S);

    now += 30 * S;
    assert!(pauses.try_take(now));
    pauses.on_answer(now);
    assert!(pauses.try_take(now), "a response has begun");
    pauses.on_success(now);
    pauses.on_complaint(NO_ANSWER, now + S, now + S, 0.5);
    assert_eq!(pauses.pause(now + S), None, "the count begins anew");
}

#[test]
fn an_hours_retry_after_is_obeyed_three_times() {
    let start = Instant::now();
    let mut now = start;
    let mut pauses = Pauses::new(PATIENCE);
    for hour in 0..4 {
        assert!(pauses.try_take(now));
        pauses.on_throttled(REFUSED, Some(3600 * S), now, now, 0.5);
        let pause = pauses.pause(now).unwrap();
        assert_eq!((pause.given_up, pause.since), (hour == 3, start), "{hour}");
        // One that left before the pause and asks for more: it is given up all the same.
        pauses.on_throttled(REFUSED, Some(3601 * S), start, now, 0.5);
        let longer = pauses.pause(now).unwrap();
        assert_eq!((longer.given_up, longer.until), (hour == 3, pause.until + S));
        now = longer.until;
    }
    assert!(pauses.try_take(now));
    pauses.on_success(now);
    pauses.on_throttled(REFUSED, None, now + S, now + S, 0.5);
    assert!(!pauses.pause(now + S).unwrap().given_up, "a success takes everything back");
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
    mut pauses: Pauses,
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
        while under_way.len() < connections && pauses.try_take(now) {
            under_way.push_back(now);
            course.requests += 1;
        }
        let next_answer = under_way.front().map(|&sent_at| sent_at + latency);
        let next_request = pauses.ready_at(now).filter(|_| under_way.len() < connections);
        if next_request.is_some_and(|at| next_answer.is_none_or(|answer| at < answer)) {
            now = next_request.unwrap();
            continue;
        }
        now = next_answer.expect("nothing is under way and nothing may be sent: it would hang");
        let sent_at = under_way.pop_front().unwrap();
        match answer(sent_at - start) {
            Answer::Success => {
                pauses.on_success(sent_at);
                course.successes += 1;
                course.found_well.get_or_insert(now - start);
            }
            Answer::Complaint => pauses.on_complaint(NO_ANSWER, sent_at, now, jitter),
            Answer::Throttled(after) => pauses.on_throttled(REFUSED, after, sent_at, now, jitter),
        }
        if pauses.pause(now).is_some_and(|pause| pause.given_up) {
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
    let course = simulate(Pauses::new(PATIENCE), start, 4, 100 * MS, 0.5, |_| Answer::Complaint);
    let minutes = course.given_up.unwrap().as_secs() / 60;
    assert!((15..=20).contains(&minutes) && course.requests <= 35, "{course:?}");
    let course = simulate(Pauses::new(PATIENCE), start, 4, 100 * MS, 0.5, |_| Answer::Throttled(None));
    let minutes = course.given_up.unwrap().as_secs() / 60;
    assert!((15..=20).contains(&minutes) && course.requests <= 35, "{course:?}");
}

proptest! {
    #[test]
    fn a_server_without_any_success_costs_few_requests_and_is_given_up(
        connections in 1usize..16,
        latency_ms in 1u64..120_000,
        jitter in 0.0..1f64,
        patience_s in 0u64..20_000,
        complaints in prop::collection::vec(complaint(), 1..20),
    ) {
        let (patience, latency) = (Duration::from_secs(patience_s), Duration::from_millis(latency_ms));
        let start = Instant::now();
        let pauses = Pauses::new(patience);
        let mut next = complaints.iter().copied().cycle();
        let course = simulate(pauses, start, connections, latency, jitter, |_| next.next().unwrap());
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
        connections in 1usize..16,
        latency_ms in 1u64..30_000,
        jitter in 0.0..1f64,
        back_after_s in 0u64..800,
        complaint in prop_oneof![Just(Answer::Complaint), Just(Answer::Throttled(None))],
    ) {
        let (latency, back) = (Duration::from_millis(latency_ms), Duration::from_secs(back_after_s));
        let start = Instant::now();
        let course = simulate(Pauses::new(PATIENCE), start, connections, latency, jitter, |sent_at| {
            if sent_at >= back { Answer::Success } else { complaint }
        });
        prop_assert_eq!(course.given_up, None);
        prop_assert_eq!(course.successes, 100);
        let longest = LONGEST_PARKING.mul_f64(1.25) + 2 * latency + 10 * S;
        prop_assert!(course.found_well.unwrap() <= back + longest, "{course:?}");
    }

    #[test]
    fn nobody_waits_for_ever(events in prop::collection::vec((0u8..6, 0u64..100_000), 0..200)) {
        let mut now = Instant::now();
        let mut pauses = Pauses::new(PATIENCE);
        let mut probe = now;
        for (event, ms) in events {
            let sent_at = now;
            now += Duration::from_millis(ms);
            match event {
                0 => pauses.on_success(sent_at),
                1 => pauses.on_throttled(REFUSED, Some(Duration::from_millis(ms)), sent_at, now, 0.9),
                2 => pauses.on_complaint(NO_ANSWER, sent_at, now, 0.1),
                3 => pauses.on_answer(sent_at),
                4 => pauses.extend(now + Duration::from_millis(ms), REFUSED, now),
                _ => if pauses.try_take(now) { probe = now },
            }
            match pauses.ready_at(now) {
                Some(at) => prop_assert!(at - now <= Duration::from_secs(400)),
                None => {
                    pauses.on_nothing(probe);
                    prop_assert!(pauses.ready_at(now).is_some(), "the last request was the probe");
                }
            }
        }
    }
}

/// Four ranks that probe in turn would have needed four times as many pauses.
#[test]
fn ranks_that_tell_each_other_give_up_together() {
    let mut now = Instant::now();
    let patience = 60 * S;
    let mut ranks: Vec<Pauses> = (0..4).map(|_| Pauses::new(patience)).collect();
    for _ in 0..PARK_AFTER {
        now += MS;
        ranks[0].on_complaint(NO_ANSWER, now, now, 0.5);
    }
    let mut lengths = Vec::new();
    for round in 1.. {
        let teller = &ranks[(round - 1) % 4];
        let (pause, told) = (teller.pause(now).unwrap(), teller.complaints(now));
        for rank in &mut ranks {
            rank.on_embargo(NO_ANSWER, told, pause.until, now);
            let heard = rank.pause(now).unwrap();
            assert_eq!((heard.until, heard.given_up), (pause.until, pause.given_up));
        }
        lengths.push((pause.until - now).as_secs());
        if pause.given_up {
            break;
        }
        now = pause.until + MS;
        assert!(ranks[round % 4].try_take(now));
        now += MS;
        ranks[round % 4].on_complaint(NO_ANSWER, now - MS, now, 0.5);
    }
    assert_eq!(lengths, [15, 30, 60, 120], "as one rank alone");
}

/// Four ranks probe a server that can do two things at once: whoever is refused is no reason for the others to give up.
#[test]
fn a_success_since_refutes_what_others_have_counted() {
    let now = Instant::now();
    let heard = |lasting| Complaints { lasting, number: 40, pauses: 5 };
    let rank = |succeeded_at| {
        let mut rank = Pauses::new(PATIENCE);
        rank.on_success(succeeded_at);
        rank
    };
    let mut refuted = rank(now + 8 * S);
    refuted.on_embargo(NO_ANSWER, heard(9 * S), now + 20 * S, now + 10 * S);
    let pause = refuted.pause(now + 10 * S).unwrap();
    assert_eq!((pause.until, pause.given_up), (now + 20 * S, false));
    assert_eq!(refuted.complaints(now + 10 * S).number, 0);
    let mut known = rank(now + 8 * S);
    known.on_embargo(NO_ANSWER, heard(PATIENCE), now + 20 * S + PATIENCE, now + 10 * S + PATIENCE);
    assert!(known.pause(now + 10 * S + PATIENCE).unwrap().given_up);
}
