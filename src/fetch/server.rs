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

mod permit;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::addresses::Turn;
use super::gap::{Gap, gap_of};
pub(super) use permit::Permit;

use super::pause::{Pause, Pauses};
use super::rate::{RateController, ServerLimit};
use crate::model::ServerName;

/// A server's limits, cluster-wide: this process has a share of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerLimits {
    /// Requests/s; 0 is no limit.
    pub rate: f64,
    pub max_connections: usize,
    /// How long a server may do nothing but complain.
    pub patience: Duration,
}

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
    /// What the tightest quota of a `RateLimit-Policy` comes to.
    quota_gap: Duration,
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
    /// robots.txt and the server's quota ask for.
    fn set_least_gap(&mut self, rate: f64) {
        let crawl_delay = self.crawl_delays[0].max(self.crawl_delays[1]).max(self.quota_gap).as_secs_f64();
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
                quota_gap: Duration::ZERO,
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

    /// Sets the least time between two requests, over all ranks, that a quota of the server comes to. The tightest
    /// that it has told holds as long as the `Server` is known.
    pub(super) fn set_quota_gap(&self, gap: Duration) {
        let mut state = self.state();
        // Told again with every answer.
        if state.quota_gap >= gap {
            return;
        }
        state.quota_gap = gap;
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
    ///
    /// `address` is the request's way to a place at the address that it connects to. It is waited for when the server
    /// is ready, and nothing of the server or the process is spent meanwhile.
    pub(super) async fn admit_at(self: &Arc<Self>, mut address: Turn) -> Result<Permit, Refusal> {
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
                Outlook::At(at) if at <= now && !address.is_ready(now) => {
                    tokio::select! {
                        () = address.wait() => {}
                        () = self.changed.notified() => {}
                    }
                }
                Outlook::At(at) if at <= now => {
                    let newcomers = (!answers).then(|| Arc::clone(&self.newcomers));
                    let newcomer = OptionFuture::from(newcomers.map(Semaphore::acquire_owned)).await;
                    let newcomer = newcomer.transpose().map_err(|_| Refusal::Closed)?;
                    let slot = Arc::clone(&self.in_flight).acquire_owned().await;
                    if let Some(permit) =
                        self.take(slot.map_err(|_| Refusal::Closed)?, newcomer, &mut address)
                    {
                        return Ok(permit);
                    }
                }
                Outlook::At(at) => {
                    address.leave();
                    // A limit that was raised may make it sooner; a pause or the end of all makes it hopeless.
                    let _ = tokio::time::timeout_at(at.into(), self.changed.notified()).await;
                }
                Outlook::Full => {
                    address.leave();
                    self.changed.notified().await;
                }
            }
        }
    }

    /// A permit for a request that needs no place anywhere.
    #[cfg(test)]
    pub(super) async fn admit(self: &Arc<Self>) -> Result<Permit, Refusal> {
        self.admit_at(Turn::default()).await
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
        address: &mut Turn,
    ) -> Option<Permit> {
        let mut state = self.state();
        let now = Instant::now();
        // It may have fallen silent while it waited for a slot.
        let has_place = state.answers || newcomer.is_some();
        let has_room = state.under_way < state.num_connections();
        // The address's moment is spent only where the server's can be.
        let is_ready = has_place && has_room && state.ready_at(now) == Some(now);
        if !is_ready || !address.try_take(now) || !state.try_take(now) {
            return None;
        }
        state.under_way += 1;
        let in_flight = state.under_way;
        drop(state);
        let server = Arc::clone(self);
        Some(Permit {
            server,
            sent_at: now,
            in_flight,
            first_byte: None,
            _slot: slot,
            newcomer,
            place: address.take(),
        })
    }

    /// No code that holds this lock can panic half way through a change, so a poisoned lock is still sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
