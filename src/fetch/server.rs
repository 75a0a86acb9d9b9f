//! One server: the single owner of its rate controller, its connections and its pauses.
//!
//! A request needs a [`Permit`]. Who waits for one stands in line (`turn`); only the head of the line watches
//! the state, so a wake-up is never for nobody and the order is first come, first served. A waiter holds none
//! of the process-wide slots until its server is ready: a slow server cannot use up what fast ones need.
//!
//! How many requests may be under way and how far apart they leave is the tighter of two: what the rate controller
//! thinks best, asked once after each request that has ended, and this process's share of what the user has set.
//!
//! Nobody waits for a pause: it may take an hour, and the caller can do other things in it. Nor for anything
//! once the process-wide slots are closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::gap::{Gap, gap_of};
use super::pause::{Complaint, Pause, Pauses};
use super::rate::{Observation, RateController, ServerLimit, Verdict};
use crate::model::{FailureCause, ServerName};

/// A server's limits, cluster-wide: this process has a share of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerLimits {
    /// Requests/s; 0 is no limit.
    pub rate: f64,
    pub max_connections: usize,
    /// How long a server may do nothing but complain.
    pub patience: Duration,
}

/// A pause that people would wonder about.
const WORTH_TELLING: Duration = Duration::from_secs(60);

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Paused(Pause),
    /// No more requests are sent at all.
    Closed,
}

/// A server as this process sees it. Shared by all who talk to it; made by [`Fetcher::server`](super::Fetcher::server).
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    limits: ServerLimits,
    /// Slots of the whole process, one per request under way.
    in_flight: Arc<Semaphore>,
    /// Those of them that servers which do not answer may have: mute ones, held until a deadline, must not use up
    /// what the others need.
    newcomers: Arc<Semaphore>,
    state: Mutex<State>,
    /// The line of waiters; its head holds the lock.
    turn: tokio::sync::Mutex<()>,
    /// Wakes the head of the line: a permit came back, or the limits changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    pauses: Pauses,
    controller: Box<dyn RateController>,
    /// What the controller has said last.
    limit: ServerLimit,
    gap: Gap,
    /// The share that gap and connections are made for.
    share: Option<f64>,
    /// What robots.txt asks for, over http and over https.
    crawl_delays: [Duration; 2],
    max_connections: usize,
    under_way: usize,
    last_response_at: Option<Instant>,
    /// Whether the last thing heard was a response. Until then one connection has to do.
    answers: bool,
}

/// What somebody who wants to send a request is told.
enum Outlook {
    Paused(Pause),
    /// It depends on the requests under way.
    Full,
    /// Not before this time, which may be now.
    At(Instant),
}

impl State {
    fn max_connections(&self) -> usize {
        if self.answers { self.max_connections } else { 1 }
    }

    fn num_connections(&self) -> usize {
        self.max_connections().min(self.limit.max_in_flight)
    }

    /// Earliest time of the next request as far as pauses, gap and controller say, never before `now`; `None` while
    /// a probe is under way.
    fn ready_at(&self, now: Instant) -> Option<Instant> {
        let at = self.pauses.ready_at(now)?;
        Some(self.gap.next_at().into_iter().chain(self.limit.embargo_until).fold(at, Instant::max))
    }

    fn outlook(&self, now: Instant) -> Outlook {
        if let Some(pause) = self.pauses.pause(now) {
            return Outlook::Paused(pause);
        }
        let has_room = self.under_way < self.num_connections();
        self.ready_at(now).filter(|_| has_room).map_or(Outlook::Full, Outlook::At)
    }

    /// Takes the right to send one request at `now`, if there is one.
    fn try_take(&mut self, now: Instant) -> bool {
        self.ready_at(now) == Some(now) && self.gap.try_take(now) && self.pauses.try_take(now)
    }

    /// A response has come.
    fn heard(&mut self, now: Instant) {
        self.answers = true;
        self.last_response_at = Some(now);
    }

    /// Sets the gap that nobody goes below: this process's share of the rate that is set (0: none) and of what
    /// robots.txt asks for.
    fn set_least_gap(&mut self, rate: f64) {
        let crawl_delay = self.crawl_delays[0].max(self.crawl_delays[1]).as_secs_f64();
        let seconds = if rate > 0.0 { crawl_delay.max(1.0 / rate) } else { crawl_delay };
        self.gap.set_least(gap_of(self.share.unwrap_or(1.0) / seconds));
    }

    /// Asks the controller, which has just been told something.
    fn ask(&mut self) {
        self.limit = self.controller.limit();
        self.gap.set_wanted(self.limit.min_gap);
    }
}

impl Server {
    pub(super) fn new(
        name: ServerName,
        limits: ServerLimits,
        controller: Box<dyn RateController>,
        share: f64,
        in_flight: Arc<Semaphore>,
        newcomers: Arc<Semaphore>,
    ) -> Self {
        let server = Self {
            name,
            limits,
            in_flight,
            newcomers,
            state: Mutex::new(State {
                pauses: Pauses::new(limits.patience),
                limit: controller.limit(),
                controller,
                gap: Gap::default(),
                share: None,
                crawl_delays: [Duration::ZERO; 2],
                max_connections: limits.max_connections,
                under_way: 0,
                last_response_at: None,
                answers: false,
            }),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        };
        server.set_share(share);
        server
    }

    /// The name under which the limits hold.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// What holds over all ranks.
    pub(super) fn limits(&self) -> ServerLimits {
        self.limits
    }

    /// Sets this process's share of the server's limits: `rate * fraction` requests/s and
    /// `max(1, floor(max_connections * fraction))` connections.
    ///
    /// That the shares of all ranks sum to at most 1 is the caller's promise. The share is forgotten when nobody
    /// holds the `Server` any more. A fraction outside `0..=1` counts as the nearer end; zero, or what is no
    /// number, as one in a million.
    pub fn set_share(&self, fraction: f64) {
        let fraction = if fraction > 1e-6 { fraction.min(1.0) } else { 1e-6 };
        let mut state = self.state();
        // Told again with every record of a claim.
        if state.share == Some(fraction) {
            return;
        }
        state.share = Some(fraction);
        state.set_least_gap(self.limits.rate);
        // Truncation is the meaning; the product is positive and no larger than the limit.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let connections = (self.limits.max_connections as f64 * fraction) as usize;
        state.max_connections = connections.max(1);
        state.controller.set_share(fraction);
        state.ask();
        drop(state);
        self.changed.notify_one();
    }

    /// Sets the least time between two requests, over all ranks, that one of the server's two robots.txt asks for;
    /// the longer holds.
    pub(super) fn set_crawl_delay(&self, is_https: bool, delay: Duration) {
        let mut state = self.state();
        // Told again with every request.
        if state.crawl_delays[usize::from(is_https)] == delay {
            return;
        }
        state.crawl_delays[usize::from(is_https)] = delay;
        state.set_least_gap(self.limits.rate);
        drop(state);
        self.changed.notify_one();
    }

    /// The present pause, if there is one: until its end requests to this server are refused at once.
    ///
    /// When it is over one request goes out and the others wait until that is answered, so a pause that ends may
    /// be followed by the next.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        self.state().pauses.pause(Instant::now())
    }

    /// Waits for a permit for one request. Fails while the server is paused, and when a pause begins in the
    /// meantime.
    pub(super) async fn admit(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let _turn = self.turn.lock().await;
        loop {
            if self.in_flight.is_closed() {
                return Err(Refusal::Closed);
            }
            let now = Instant::now();
            let (outlook, answers) = {
                let state = self.state();
                (state.outlook(now), state.answers)
            };
            match outlook {
                Outlook::Paused(pause) => return Err(Refusal::Paused(pause)),
                Outlook::At(at) if at <= now => {
                    let newcomers = (!answers).then(|| Arc::clone(&self.newcomers));
                    let newcomer = OptionFuture::from(newcomers.map(Semaphore::acquire_owned)).await;
                    let newcomer = newcomer.transpose().map_err(|_| Refusal::Closed)?;
                    let slot = Arc::clone(&self.in_flight).acquire_owned().await;
                    if let Some(permit) = self.take(slot.map_err(|_| Refusal::Closed)?, newcomer) {
                        return Ok(permit);
                    }
                }
                Outlook::At(at) => {
                    // A limit that was raised may make it sooner; a pause or the end of all makes it hopeless.
                    let _ = tokio::time::timeout_at(at.into(), self.changed.notified()).await;
                }
                Outlook::Full => self.changed.notified().await,
            }
        }
    }

    /// Lets those who wait look again: what they wait for may have become impossible.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Requests per second at present; infinite without a limit.
    #[cfg(test)]
    pub(super) fn rate(&self) -> f64 {
        1.0 / self.state().gap.length().as_secs_f64()
    }

    /// Requests that may be under way at once now, if its controller agrees: one, until the server has answered.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.state().max_connections()
    }

    /// Requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.state().under_way
    }

    /// Whether a connection that was kept alive for at most `idle_timeout` may be there to be reused.
    pub(super) fn may_reuse_connection(&self, idle_timeout: Duration) -> bool {
        self.state()
            .last_response_at
            .is_some_and(|at| Instant::now().saturating_duration_since(at) <= idle_timeout)
    }

    /// Whether connections to this server are worth keeping: not if the next request comes after their end.
    pub(super) fn is_worth_keeping_alive(&self, idle_timeout: Duration) -> bool {
        self.state().gap.length() < idle_timeout
    }

    /// Whether it may be forgotten: nothing is under way, and a new `Server` would not be asked sooner or for more.
    /// Its share, and how fast it was found to be, would be forgotten as well.
    pub(super) fn is_fresh(&self) -> bool {
        let (state, now) = (self.state(), Instant::now());
        state.under_way == 0
            && state.pauses.is_fresh(now)
            && state.ready_at(now) == Some(now)
            && !state.controller.is_slowed()
    }

    fn take(
        self: &Arc<Self>,
        slot: OwnedSemaphorePermit,
        newcomer: Option<OwnedSemaphorePermit>,
    ) -> Option<Permit> {
        let mut state = self.state();
        let now = Instant::now();
        // It may have fallen silent while it waited for a slot.
        let has_place = state.answers || newcomer.is_some();
        if !has_place || state.under_way >= state.num_connections() || !state.try_take(now) {
            return None;
        }
        state.under_way += 1;
        let in_flight = state.under_way;
        drop(state);
        let server = Arc::clone(self);
        Some(Permit { server, sent_at: now, in_flight, first_byte: None, _slot: slot, newcomer })
    }

    /// No code that holds this lock can panic half way through a change, so a poisoned lock is still sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one request to one server, from before it is sent until its body is complete.
///
/// Dropping it gives the connection back; the moment in the server's rate is spent.
#[derive(Debug)]
pub(super) struct Permit {
    server: Arc<Server>,
    sent_at: Instant,
    /// Requests to the server under way when this one left, itself included.
    in_flight: usize,
    first_byte: Option<Duration>,
    _slot: OwnedSemaphorePermit,
    newcomer: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// The server that gave the permit.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Waits until the server's rate allows one more request on the same permit; `false`, and no request, if
    /// the server is paused or being probed.
    pub(super) async fn renew(&mut self) -> bool {
        loop {
            let at = {
                let mut state = self.server.state();
                let now = Instant::now();
                if state.try_take(now) {
                    (self.sent_at, self.in_flight) = (now, state.under_way);
                    return true;
                }
                match state.ready_at(now) {
                    Some(at) if state.pauses.pause(now).is_none() => at,
                    _ => return false,
                }
            };
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// A response header has come that may become a success.
    pub(super) fn answered(&mut self) {
        // One that answers takes none of the few places; its body may take long.
        self.newcomer = None;
        let now = Instant::now();
        self.first_byte = Some(now.saturating_duration_since(self.sent_at));
        let mut state = self.server.state();
        state.heard(now);
        state.pauses.on_answer(self.sent_at);
        drop(state);
        self.server.wake();
    }

    /// All of an image has come.
    pub(super) fn succeeded(&self) {
        self.tell(true, Verdict::Success, None, |state, _| state.pauses.on_success(self.sent_at));
    }

    /// The response is no image, and no complaint about the server's own state either.
    pub(super) fn replied(&self) {
        self.tell(true, Verdict::Answered, None, |state, _| state.pauses.on_success(self.sent_at));
    }

    /// The response, or that there is none, says that the server is in trouble.
    pub(super) fn complained(&self, cause: FailureCause, http_status: Option<u16>) {
        let complaint = Complaint { cause, http_status };
        // Names are not the server's to resolve.
        let verdict = if cause == FailureCause::Dns { Verdict::Local } else { Verdict::Failed };
        self.tell(http_status.is_some(), verdict, None, |state, now| {
            let before = state.pauses.pause(now);
            state.pauses.on_complaint(complaint, self.sent_at, now, fastrand::f64());
            self.tell_user(before, state.pauses.pause(now), now);
        });
    }

    /// The server asked for a pause; returns the one that it has.
    pub(super) fn throttled(&self, http_status: u16, retry_after: Option<Duration>) -> Option<Pause> {
        let complaint = Complaint { cause: FailureCause::HttpStatus, http_status: Some(http_status) };
        self.tell(true, Verdict::Refused, retry_after, |state, now| {
            let before = state.pauses.pause(now);
            state.pauses.on_throttled(complaint, retry_after, self.sent_at, now, fastrand::f64());
            // Nobody is to wait in line for the end of an embargo.
            if let Some(until) = state.limit.embargo_until.filter(|until| *until > now) {
                state.pauses.extend(until, complaint, now);
            }
            let pause = state.pauses.pause(now);
            self.tell_user(before, pause, now);
            pause
        })
    }

    /// Says why nothing is heard of a server for long.
    fn tell_user(&self, before: Option<Pause>, pause: Option<Pause>, now: Instant) {
        let Some(pause) = pause.filter(|pause| before.is_none_or(|before| before.until < pause.until)) else {
            return;
        };
        let wait = pause.until.saturating_duration_since(now);
        if wait >= WORTH_TELLING {
            let (server, cause) = (self.server.name.as_str(), pause.cause);
            tracing::warn!(server, %cause, http_status = pause.http_status, "server is left alone for {} s", wait.as_secs());
        }
    }

    /// Tells the controller how the request has ended, then the pauses.
    fn tell<T>(
        &self,
        is_response: bool,
        verdict: Verdict,
        retry_after: Option<Duration>,
        what: impl FnOnce(&mut State, Instant) -> T,
    ) -> T {
        let mut state = self.server.state();
        // Read under the lock: a controller's time never runs backwards.
        let now = Instant::now();
        if is_response {
            state.heard(now);
        } else {
            state.answers = false;
        }
        let Self { sent_at, in_flight, first_byte, .. } = *self;
        let seen = Observation { sent_at, first_byte, verdict, retry_after, in_flight };
        state.controller.on_observation(seen, now);
        state.ask();
        let told = what(&mut state, now);
        drop(state);
        self.server.wake();
        told
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.under_way -= 1;
        state.pauses.on_nothing(self.sent_at);
        drop(state);
        self.server.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::{Adaptive, AdaptiveOptions, Fixed, FixedOptions, LearntLimit};
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
                let seen = Observation {
                    sent_at,
                    first_byte,
                    verdict: Verdict::Success,
                    retry_after: None,
                    in_flight,
                };
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
}
