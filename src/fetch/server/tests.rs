use super::super::rate::{Adaptive, AdaptiveOptions, Fixed, FixedOptions, LearntLimit, Observation, Verdict};
use super::super::tests::support::{Word, Words};
use super::*;
use crate::model::{Complaints, FailureCause};

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
    Arc::new(Server::new(name, limits, controller, None, Arc::clone(in_flight), Arc::clone(newcomers)))
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
        Outlook::NotLent => panic!("nothing is lent"),
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
async fn a_crawl_delay_lowers_the_rate() {
    let server = server(10.0, 4, 256);
    let check = |expect: f64| assert!((server.rate() - expect).abs() < 1e-9, "{}", server.rate());
    server.set_crawl_delay(false, Duration::from_millis(50));
    check(10.0);
    server.set_crawl_delay(true, Duration::from_secs(2));
    check(0.5);
    server.set_crawl_delay(true, Duration::ZERO);
    check(10.0);
    let unlimited = self::server(0.0, 4, 256);
    unlimited.set_crawl_delay(false, Duration::from_secs(4));
    assert!((unlimited.rate() - 0.25).abs() < 1e-9);
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

fn adaptive(limits: ServerLimits, landlord: Option<Arc<dyn Landlord>>) -> Arc<Server> {
    let options = AdaptiveOptions { max_in_flight: limits.max_connections, ..AdaptiveOptions::default() };
    let controller = Box::new(Adaptive::new(&options, LearntLimit::default(), 1));
    let slots = || Arc::new(Semaphore::new(256));
    let name = ServerName::from_catalog("a.example");
    Arc::new(Server::new(name, limits, controller, landlord, slots(), slots()))
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
    let (sent, most) = play(&adaptive(limits(0.0, 1000), None), start, 20);
    let first = sent.iter().filter(|at| **at <= sent[0] + Duration::from_secs(1)).count();
    assert!(first <= 15 && late_rate(&sent, 2) > 500.0 && most > 50, "{first} {most} {}", sent.len());

    let (sent, most) = play(&adaptive(limits(0.0, 3), None), start, 60);
    let rate = late_rate(&sent, 5);
    assert!(most == 3 && (25.0..=30.0).contains(&rate), "{most} {rate}");

    let server = adaptive(limits(20.0, 1000), None);
    let (sent, most) = play(&server, start, 60);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(50)));
    assert!(most <= 4 && late_rate(&sent, 5) > 19.0, "{most} {}", late_rate(&sent, 5));
}

/// What somebody lends of: 20 requests/s, 8 connections.
const LIMITS: ServerLimits = ServerLimits { rate: 20.0, max_connections: 8, patience: Duration::ZERO };

/// One whose limits somebody lends, and whose controller has nothing to add.
fn borrowed() -> (Arc<Server>, Arc<Words>) {
    let options = FixedOptions { default_rate_limit: 0.0, ..FixedOptions::default() };
    let (words, slots) = (Arc::new(Words::default()), || Arc::new(Semaphore::new(256)));
    let (name, controller) = (ServerName::from_catalog("a.example"), Box::new(Fixed::new(&options)));
    let server = Server::new(name, LIMITS, controller, Some(words.clone()), slots(), slots());
    server.state().answers = true;
    (Arc::new(server), words)
}

fn borrowed_adaptive() -> (Arc<Server>, Arc<Words>) {
    let words = Arc::new(Words::default());
    let server = adaptive(LIMITS, Some(words.clone()));
    server.state().answers = true;
    (server, words)
}

fn loan(number: u64, rate: f64, max_connections: u32) -> Loan {
    Loan { number, rate, max_connections, bytes: None, rest: Duration::ZERO }
}

fn lend(server: &Server, loan: Loan) {
    server.lend(loan, None, LearntLimit::default());
}

/// Asks for a first loan and takes it.
async fn lent(loan: Loan) -> (Arc<Server>, Arc<Words>) {
    let (server, words) = borrowed();
    waiter(&server).await.abort();
    lend(&server, loan);
    assert_eq!(words.take(), [Word::Borrow(0), Word::Accept(loan.number)]);
    (server, words)
}

#[tokio::test]
async fn nobody_is_admitted_before_the_first_loan_which_is_asked_for_once() {
    let (server, words) = borrowed();
    let (first, second) = (waiter(&server).await, waiter(&server).await);
    assert_eq!(words.take(), [Word::Borrow(0)]);
    assert_eq!((server.in_flight.available_permits(), server.newcomers.available_permits()), (256, 256));
    lend(&server, loan(7, 20.0, 0));
    tokio::task::yield_now().await;
    assert!(!first.is_finished(), "another rank has its turn");
    assert_eq!(words.take(), [Word::Accept(7)]);
    lend(&server, loan(8, 20.0, 8));
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert!(second.sent_at - first.sent_at >= Duration::from_millis(50));
    assert_eq!(words.take(), [Word::Accept(8)]);
}

#[tokio::test]
async fn a_smaller_loan_is_accepted_when_what_is_under_way_fits() {
    let (server, words) = lent(loan(1, 0.0, 8)).await;
    let (first, second) = (admit(&server).await, admit(&server).await);
    lend(&server, loan(2, 0.0, 1));
    assert_eq!(words.take(), []);
    drop(first);
    assert_eq!(words.take(), [Word::Accept(2)]);
    let third = waiter(&server).await;
    lend(&server, loan(3, 0.0, 0));
    drop(second);
    assert_eq!(words.take(), [Word::Accept(3)]);
    tokio::task::yield_now().await;
    assert!(!third.is_finished());
}

/// Right after a kill the next run would ask again at once.
#[tokio::test]
async fn a_first_loan_may_ask_for_a_rest() {
    let before = Instant::now();
    let rest = Duration::from_secs(2);
    let (server, _) = lent(Loan { rest, ..loan(1, 20.0, 8) }).await;
    assert!(ready_at(&server, before) >= Some(before + rest));
}

/// Others use what was let go of as soon as no second has it.
#[tokio::test]
async fn no_second_has_more_than_a_smaller_loan_allows() {
    let (server, _) = lent(loan(1, 1000.0, 8)).await;
    let before = Instant::now();
    for _ in 0..4 {
        drop(admit(&server).await);
    }
    let after = Instant::now();
    lend(&server, loan(2, 4.0, 8));
    assert!(ready_at(&server, after) >= Some(before + lent::A_SECOND), "four are in it");
    lend(&server, loan(3, 20.0, 8));
    assert!(ready_at(&server, after) <= Some(after + Duration::from_millis(51)), "more is used at once");
    let round = |rate: f64| (rate * lent::JITTER * 1000.0).round() / 1000.0;
    assert_eq!(round(server.rate()), 20.0);
}

#[tokio::test]
async fn bytes_are_asked_for_when_they_run_short() {
    let first = Loan { bytes: Some(1000), ..loan(1, 0.0, 8) };
    let (server, words) = lent(first).await;
    let mut permit = admit(&server).await;
    *permit.received() += 600;
    drop(permit);
    // 400 are left: one more body of 600 goes beyond that, and a second would.
    let mut permit = admit(&server).await;
    let waiting = waiter(&server).await;
    assert_eq!(words.take(), [Word::Borrow(600)]);
    *permit.received() += 500;
    drop(permit);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    // The landlord does not know of the 500.
    lend(&server, Loan { bytes: Some(500), ..loan(2, 0.0, 8) });
    tokio::task::yield_now().await;
    assert_eq!((waiting.is_finished(), words.take()), (false, vec![Word::Accept(2), Word::Borrow(500)]));
    lend(&server, Loan { bytes: Some(1), ..loan(3, 0.0, 8) });
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pause_is_told_when_it_begins_and_when_it_grows() {
    let (server, words) = lent(loan(1, 0.0, 8)).await;
    let mut permits = Vec::new();
    for _ in 0..4 {
        permits.push(admit(&server).await);
    }
    permits[0].throttled(429, Some(Duration::from_secs(600)));
    permits[1].throttled(429, Some(Duration::from_secs(60)));
    permits[2].throttled(429, None);
    let told = words.take();
    let [Word::Tell(ServerNews::Embargo(first))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((first.left, first.http_status), (Duration::from_secs(600), Some(429)));
    permits[3].throttled(503, Some(Duration::from_secs(900)));
    assert!(
        matches!(&words.take()[..], [Word::Tell(ServerNews::Embargo(longer))] if longer.left > first.left)
    );
}

/// A rank whose resolver is broken must not stop the others.
#[tokio::test]
async fn a_parking_is_told_unless_it_is_for_a_name() {
    for (cause, expect) in [(FailureCause::Connect, 1), (FailureCause::Dns, 0)] {
        let (server, words) = lent(loan(1, 0.0, 8)).await;
        for _ in 0..20 {
            admit(&server).await.complained(cause, None);
        }
        assert!(server.pause().is_some());
        assert_eq!(words.take().len(), expect, "{cause}");
    }
}

#[tokio::test]
async fn what_others_were_asked_pauses_and_then_one_request_probes() {
    let (server, words) = lent(loan(1, 0.0, 8)).await;
    let embargo = |left| Embargo {
        left,
        cause: FailureCause::HttpStatus,
        http_status: Some(429),
        complaints: Complaints::default(),
    };
    for left in [Duration::from_secs(600), Duration::from_secs(1), Duration::MAX] {
        server.embargo(embargo(left));
        let pause = server.pause().unwrap();
        let wait = pause.until - Instant::now();
        assert!(wait > Duration::from_secs(599), "{wait:?}");
        assert_eq!((pause.http_status, pause.given_up), (Some(429), false));
        assert_eq!(server.admit().await.unwrap_err(), Refusal::Paused(pause));
    }
    assert_eq!(words.take(), [], "they know");

    let (server, _) = lent(loan(1, 0.0, 8)).await;
    server.embargo(embargo(Duration::from_millis(20)));
    tokio::time::sleep_until(server.pause().unwrap().until.into()).await;
    let probe = admit(&server).await;
    assert_eq!(ready_at(&server, Instant::now()), None, "one until it is answered");
    probe.succeeded();
    drop(probe);
    assert!(ready_at(&server, Instant::now()).is_some());

    let (server, _) = borrowed();
    let waiting = waiter(&server).await;
    server.lend(loan(1, 0.0, 8), Some(embargo(Duration::from_secs(600))), LearntLimit::default());
    assert!(matches!(waiting.await.unwrap().unwrap_err(), Refusal::Paused(_)), "with the first loan, too");
}

#[tokio::test]
async fn idle_servers_are_given_back_and_forgotten_unless_held() {
    let (server, words) = lent(loan(1, 20.0, 8)).await;
    let mut permit = admit(&server).await;
    *permit.received() += 42;
    permit.succeeded();
    drop(permit);
    let now = Instant::now();
    assert!(server.tick(false, now + lent::IDLE / 2) && server.tick(true, now + 2 * lent::IDLE));
    assert_eq!(words.take(), []);
    assert!(!server.tick(false, now + 2 * lent::IDLE));
    assert_eq!(words.take(), [Word::GiveBack(42)]);
    waiter(&server).await.abort();
    assert_eq!(words.take(), [Word::Borrow(0)], "and borrowed again");
}

#[test]
fn what_was_learnt_stands_for_the_whole_server() {
    let learnt = LearntLimit { max_rate: Some(12.0), max_in_flight: Some(6) };
    let (server, words) = borrowed_adaptive();
    server.look(Instant::now());
    server.lend(loan(1, 10.0, 4), None, learnt);
    words.take();
    let now = Instant::now();
    assert_eq!(
        server.state().controller.learnt(),
        LearntLimit { max_rate: Some(6.0), max_in_flight: Some(3) }
    );
    // With all of the server, all of it holds.
    lend(&server, loan(2, 20.0, 8));
    assert_eq!(server.state().controller.learnt(), learnt);
    server.tick(false, now + lent::IDLE / 2);
    assert_eq!(words.take(), [Word::Accept(2)], "the landlord knows that");

    let (server, words) = borrowed_adaptive();
    server.look(now);
    lend(&server, loan(1, 10.0, 4));
    words.take();
    play(&server, now, 5);
    let later = now + Duration::from_secs(6);
    for _ in 0..10 {
        let seen = Observation {
            sent_at: later,
            first_byte: None,
            verdict: Verdict::Refused,
            retry_after: None,
            in_flight: 1,
        };
        server.state().controller.on_observation(seen, later);
    }
    let found = server.state().controller.learnt().max_rate.expect("an edge");
    server.tick(true, later);
    let told = words.take();
    let [Word::Tell(ServerNews::Learnt(news))] = &told[..] else { panic!("{told:?}") };
    assert!(news.max_rate.is_some_and(|rate| (rate - 2.0 * found).abs() < 1e-9), "{news:?} {found}");
    server.state().controller.set_share(0.1);
    server.tick(true, later + Duration::from_secs(59));
    assert_eq!(words.take(), [], "once a minute");
    server.state().under_way = 0;
    server.leave();
    let told = words.take();
    assert!(matches!(&told[..], [Word::Tell(ServerNews::Learnt(_)), Word::GiveBack(_)]), "{told:?}");
}

#[test]
fn a_loan_bounds_what_the_controller_finds() {
    let (server, _) = borrowed_adaptive();
    server.look(Instant::now());
    lend(&server, loan(1, 5.0, 2));
    let start = Instant::now();
    let (sent, most) = play(&server, start, 30);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(200)));
    assert!(most <= 2);
    lend(&server, loan(2, 20.0, 8));
    let start = start + Duration::from_secs(31);
    server.tick(true, start);
    // What was under way has been left behind.
    server.state().under_way = 0;
    let (sent, _) = play(&server, start, 30);
    assert!(late_rate(&sent, 5) > 15.0, "and it grows with it: {}", late_rate(&sent, 5));
}
