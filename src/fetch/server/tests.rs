use super::super::rate::{Adaptive, AdaptiveOptions, Fixed, FixedOptions, LearntLimit, Observation, Verdict};
use super::*;

/// One whose rate is set and not found.
fn fixed(
    name: &str,
    limits: ServerLimits,
    in_flight: &Arc<Semaphore>,
    newcomers: &Arc<Semaphore>,
) -> Arc<Server> {
    let options = FixedOptions {
        default_rate_limit: limits.rate,
        rate_multiplier: 0.5,
        max_in_flight: limits.max_connections,
    };
    let (name, controller) = (ServerName::from_catalog(name), Box::new(Fixed::new(&options)));
    Arc::new(Server::new(name, limits, controller, 1.0, Arc::clone(in_flight), Arc::clone(newcomers)))
}

fn server(rate: f64, max_connections: usize, in_flight: usize) -> Arc<Server> {
    let limits = ServerLimits { rate, max_connections, patience: Duration::from_secs(900) };
    let slots = |number| Arc::new(Semaphore::new(number));
    let server = fixed("a.example", limits, &slots(in_flight), &slots(1));
    server.state().answers = true;
    server
}

/// When the next permit can be had; `None` while that depends on requests under way.
fn ready_at(server: &Server, now: Instant) -> Option<Instant> {
    match server.state().outlook(now) {
        Outlook::At(at) => Some(at),
        Outlook::Full => None,
        Outlook::Paused(pause) => panic!("{pause:?}"),
    }
}

/// A hundred mute servers held all slots until their deadlines, and those that answer waited with them.
#[tokio::test]
async fn a_server_that_does_not_answer_has_one_connection_of_a_few() {
    let (in_flight, newcomers) = (Arc::new(Semaphore::new(8)), Arc::new(Semaphore::new(2)));
    let limits = ServerLimits { rate: 0.0, max_connections: 4, patience: Duration::from_secs(900) };
    let servers: Vec<_> =
        (0..3).map(|n| fixed(&format!("{n}.example"), limits, &in_flight, &newcomers)).collect();
    let mut first = admit(&servers[0]).await;
    let second = waiter(&servers[0]).await;
    let _mute = admit(&servers[1]).await;
    let third = waiter(&servers[2]).await;
    assert_eq!(in_flight.available_permits(), 6);
    first.answered();
    let _second = second.await.unwrap().unwrap();
    let _third = third.await.unwrap().unwrap();
    assert_eq!(newcomers.available_permits(), 0, "the two that are silent");
}

/// One that is hardly slowed down and for which nobody has patience.
fn hasty_server() -> Arc<Server> {
    let limits = ServerLimits { rate: 1000.0, max_connections: 4, patience: Duration::ZERO };
    let slots = || Arc::new(Semaphore::new(256));
    let server = fixed("a.example", limits, &slots(), &slots());
    server.state().answers = true;
    server
}

async fn admit(server: &Arc<Server>) -> Permit {
    server.admit().await.unwrap()
}

/// A task that waits for a permit and has begun to.
async fn waiter(server: &Arc<Server>) -> tokio::task::JoinHandle<Result<Permit, Refusal>> {
    let server = Arc::clone(server);
    let waiter = tokio::spawn(async move { server.admit().await });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    waiter
}

#[tokio::test]
async fn permits_are_a_gap_apart_in_order_of_arrival() {
    let server = server(100.0, 4, 256);
    let start = Instant::now();
    let mut waiters = Vec::new();
    for _ in 0..20 {
        let server = Arc::clone(&server);
        waiters.push(tokio::spawn(async move {
            drop(admit(&server).await);
            Instant::now()
        }));
    }
    let mut last = start;
    for (position, waiter) in (0..).zip(waiters) {
        let at = waiter.await.unwrap();
        let due = start + Duration::from_millis(10) * position;
        assert!(at >= last && at >= due, "{position}: {:?}", at - start);
        last = at;
    }
}

#[tokio::test]
async fn connections_are_bounded_and_come_back() {
    let server = server(0.0, 2, 256);
    let first = admit(&server).await;
    let _second = admit(&server).await;
    assert_eq!(ready_at(&server, Instant::now()), None);
    let waiter = waiter(&server).await;
    drop(first);
    let third = waiter.await.unwrap().unwrap();
    assert_eq!(server.under_way(), 2);
    drop(third);
    let instant = Instant::now();
    assert_eq!(ready_at(&server, instant), Some(instant));
}

#[tokio::test]
async fn a_waiter_for_a_slow_server_holds_no_process_wide_slot() {
    let slow = server(0.1, 4, 1);
    drop(admit(&slow).await);
    let waiter = waiter(&slow).await;
    assert_eq!(slow.in_flight.available_permits(), 1);
    waiter.abort();
}

#[tokio::test]
async fn a_share_divides_rate_and_connections() {
    let server = server(20.0, 5, 256);
    server.set_share(0.5);
    let first = admit(&server).await;
    let start = Instant::now();
    let second = admit(&server).await;
    assert!(start.elapsed() >= Duration::from_millis(90), "10/s are 100 ms apart");
    assert_eq!(ready_at(&server, Instant::now()), None, "floor(5 / 2) connections are in use");
    drop((first, second));
    for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        server.set_share(share);
        assert!(ready_at(&server, Instant::now()).is_some());
    }
    assert!(server.rate() <= 20.0);
}

#[tokio::test]
async fn a_crawl_delay_lowers_the_rate_and_is_shared_like_it() {
    let server = server(10.0, 4, 256);
    let check = |expect: f64| assert!((server.rate() - expect).abs() < 1e-9, "{}", server.rate());
    server.set_crawl_delay(false, Duration::from_millis(50));
    check(10.0);
    server.set_crawl_delay(true, Duration::from_secs(2));
    check(0.5);
    server.set_share(0.5);
    check(0.25);
    server.set_crawl_delay(true, Duration::ZERO);
    check(5.0);
    let unlimited = self::server(0.0, 4, 256);
    unlimited.set_crawl_delay(false, Duration::from_secs(4));
    assert!((unlimited.rate() - 0.25).abs() < 1e-9);
}

#[tokio::test]
async fn a_share_that_grows_is_felt_at_once() {
    let server = server(100.0, 4, 256);
    server.set_share(1e-6);
    drop(admit(&server).await);
    let waiter = waiter(&server).await;
    server.set_share(1.0);
    tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_pause_sends_everyone_away_and_then_lets_one_try() {
    let server = server(0.1, 4, 256);
    let permit = admit(&server).await;
    let waiting = waiter(&server).await;
    let pause = permit.throttled(429, Some(Duration::from_secs(600))).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err(), Refusal::Paused(pause));
    assert_eq!(server.admit().await.unwrap_err(), Refusal::Paused(pause));
    assert_eq!((server.pause(), pause.http_status, pause.given_up), (Some(pause), Some(429), false));

    let server = hasty_server();
    let pause = admit(&server).await.throttled(503, Some(Duration::from_millis(20))).unwrap();
    tokio::time::sleep_until(pause.until.into()).await;
    let lost = admit(&server).await;
    let second = waiter(&server).await;
    drop(lost);
    let mut probe = second.await.unwrap().unwrap();
    let third = waiter(&server).await;
    probe.answered();
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_given_up_server_is_tried_after_each_pause_and_taken_back() {
    let server = hasty_server();
    for round in 0..5 {
        let pause = admit(&server).await.throttled(429, Some(Duration::from_millis(20))).unwrap();
        assert_eq!(pause.given_up, round >= 3);
        tokio::time::sleep_until(pause.until.into()).await;
    }
    admit(&server).await.succeeded();
    let again = admit(&server).await.throttled(429, Some(Duration::from_secs(600))).unwrap();
    assert!(!again.given_up);
}

#[tokio::test]
async fn the_end_reaches_those_who_wait_for_a_rate_a_connection_or_a_slot() {
    let (slow, full, no_slot) = (server(0.1, 1, 256), server(0.0, 1, 256), server(0.0, 1, 0));
    drop(admit(&slow).await);
    let _held = admit(&full).await;
    for server in [slow, full, no_slot] {
        let (first, second) = (waiter(&server).await, waiter(&server).await);
        server.in_flight.close();
        server.wake();
        assert_eq!(first.await.unwrap().unwrap_err(), Refusal::Closed);
        assert_eq!(second.await.unwrap().unwrap_err(), Refusal::Closed);
    }
}

fn adaptive(limits: ServerLimits) -> Arc<Server> {
    let options = AdaptiveOptions { max_in_flight: limits.max_connections, ..AdaptiveOptions::default() };
    let controller = Box::new(Adaptive::new(&options, LearntLimit::default(), 1));
    let slots = || Arc::new(Semaphore::new(256));
    let name = ServerName::from_catalog("a.example");
    Arc::new(Server::new(name, limits, controller, 1.0, slots(), slots()))
}

/// Sends without end, in a time of its own, to a server that answers after 100 ms. When requests left, and the
/// most that were under way.
fn play(server: &Arc<Server>, start: Instant, seconds: u64) -> (Vec<Instant>, usize) {
    let (mut now, mut most) = (start, 0);
    let (mut sent, mut under_way) = (Vec::new(), std::collections::VecDeque::new());
    while now < start + Duration::from_secs(seconds) {
        let mut state = server.state();
        while state.under_way < state.num_connections() && state.try_take(now) {
            state.under_way += 1;
            under_way.push_back((now, state.under_way));
            sent.push(now);
        }
        most = most.max(state.under_way);
        let done = Duration::from_millis(100);
        while under_way.front().is_some_and(|(at, _)| *at + done <= now) {
            let (sent_at, in_flight) = under_way.pop_front().unwrap();
            let first_byte = Some(done);
            let seen =
                Observation { sent_at, first_byte, verdict: Verdict::Success, retry_after: None, in_flight };
            state.controller.on_observation(seen, now);
            state.heard(now);
            state.ask();
            state.under_way -= 1;
        }
        drop(state);
        now += Duration::from_millis(1);
    }
    (sent, most)
}

/// Requests per second that were sent in the last so many seconds.
fn late_rate(sent: &[Instant], seconds: u64) -> f64 {
    let from = sent[sent.len() - 1] - Duration::from_secs(seconds);
    sent.iter().filter(|at| **at > from).count() as f64 / seconds as f64
}

#[test]
fn the_controller_starts_gently_and_never_exceeds_what_is_set() {
    let limits = |rate, max_connections| ServerLimits { rate, max_connections, patience: Duration::ZERO };
    let start = Instant::now();
    let (sent, most) = play(&adaptive(limits(0.0, 1000)), start, 20);
    let first = sent.iter().filter(|at| **at <= sent[0] + Duration::from_secs(1)).count();
    assert!(first <= 15 && late_rate(&sent, 2) > 500.0 && most > 50, "{first} {most} {}", sent.len());

    let (sent, most) = play(&adaptive(limits(0.0, 3)), start, 60);
    let rate = late_rate(&sent, 5);
    assert!(most == 3 && (25.0..=30.0).contains(&rate), "{most} {rate}");

    let server = adaptive(limits(20.0, 1000));
    let (sent, most) = play(&server, start, 60);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(50)));
    assert!(most <= 4 && late_rate(&sent, 5) > 19.0, "{most} {}", late_rate(&sent, 5));
}

#[test]
fn a_share_bounds_what_the_controller_finds() {
    let limits = ServerLimits { rate: 20.0, max_connections: 8, patience: Duration::ZERO };
    let server = adaptive(limits);
    server.set_share(0.25);
    let start = Instant::now();
    let (sent, most) = play(&server, start, 30);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(200)));
    assert!(most <= 2);
    server.set_share(1.0);
    // What was under way has been left behind.
    server.state().under_way = 0;
    let (sent, _) = play(&server, start + Duration::from_secs(31), 30);
    assert!(late_rate(&sent, 5) > 15.0, "and it grows with it: {}", late_rate(&sent, 5));
}
