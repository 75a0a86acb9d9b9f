//! One server: the single owner of its rate controller, its connections and its pauses.
//!
//! A request needs a [`Permit`]. Who waits for one stands in line (`turn`); only the head of the line watches
//! the state, so a wake-up is never for nobody and the order is first come, first served. A waiter holds none
//! of the process-wide slots until its server is ready: a slow server cannot use up what fast ones need.
//!
//! How many requests may be under way and how far apart they leave is the tighter of two: what the rate controller
//! thinks best, asked once after each request that has ended, and what is lent to this process of what the user has
//! set (`lent.rs`). Where there is no landlord, that is all of it. Where there is one, a server that is to be asked
//! something is borrowed first, by the head of the line and once; until the first loan nothing leaves, robots.txt
//! included, because with it comes what the other ranks know. The landlord is called under the server's lock, so
//! that it hears things in the order in which they hold.
//!
//! Nobody waits for a pause: it may take an hour, and the caller can do other things in it. Nor for anything
//! once the process-wide slots are closed.

mod lent;
mod permit;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::addresses::Turn;
use super::gap::Gap;
pub(super) use permit::Permit;

use self::lent::Lent;
use self::state::{Outlook, State, differs, scaled};
use super::landlord::Landlord;
use super::pause::{Pause, Pauses};
use super::rate::{LearntLimit, RateController};
use crate::model::{Embargo, Loan, ServerName, ServerNews};

/// What was learnt is told again not sooner than after so long.
const LEARNT_AGAIN: Duration = Duration::from_secs(60);

/// A pause that people would wonder about.
const WORTH_TELLING: Duration = Duration::from_secs(60);
/// How soon to look again whether the loan still holds: a word to rank 0 and back.
const UNSURE: Duration = Duration::from_millis(10);

/// A server's limits, cluster-wide.
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
    /// Who lends them; `None`: all of them are ours.
    landlord: Option<Arc<dyn Landlord>>,
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

impl Server {
    pub(super) fn new(
        name: ServerName,
        limits: ServerLimits,
        controller: Box<dyn RateController>,
        landlord: Option<Arc<dyn Landlord>>,
        in_flight: Arc<Semaphore>,
        newcomers: Arc<Semaphore>,
    ) -> Self {
        let now = Instant::now();
        let lent = match &landlord {
            Some(_) => Lent::nothing(now),
            None => Lent::all(limits.rate, u32::try_from(limits.max_connections).unwrap_or(u32::MAX), now),
        };
        let mut state = State {
            pauses: Pauses::new(limits.patience),
            limit: controller.limit(),
            controller,
            gap: Gap::default(),
            lent,
            share: 1.0,
            told: LearntLimit::default(),
            told_at: None,
            crawl_delays: [Duration::ZERO; 2],
            quota_gap: Duration::ZERO,
            under_way: 0,
            last_response_at: None,
            answers: false,
            speaks_http2: false,
            hung_at: None,
        };
        state.adopt_loan(limits);
        Self {
            name,
            limits,
            landlord,
            in_flight,
            newcomers,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        }
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

    /// Takes a loan, with what is known of the server. One that was not asked for, or is older than the present one,
    /// changes nothing.
    pub(super) fn lend(&self, loan: Loan, embargo: Option<Embargo>, learnt: LearntLimit) {
        let (mut state, now) = (self.state(), Instant::now());
        let Some(had_none) = state.lent.take(loan) else { return };
        state.adopt_loan(self.limits);
        if had_none && !loan.rest.is_zero() {
            state.gap.hold_until(now + loan.rest);
        }
        if learnt != LearntLimit::default() {
            let max_in_flight = learnt.max_in_flight.map(|most| scaled(most, state.share));
            let max_rate = learnt.max_rate.map(|rate| rate * state.share);
            state.controller.learn(LearntLimit { max_rate, max_in_flight });
            state.told = state.learnt();
            state.ask();
        }
        if let Some(embargo) = embargo {
            state.hear(&self.name, embargo, now);
        }
        self.accept(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// Another rank was asked to leave the server alone, or has found it in trouble.
    pub(super) fn embargo(&self, embargo: Embargo) {
        self.state().hear(&self.name, embargo, Instant::now());
        self.changed.notify_one();
    }

    /// Whether nothing more may be asked of it before another loan comes.
    #[cfg(test)]
    pub(super) fn has_no_loan(&self) -> bool {
        let state = self.state();
        !state.lent.allows_one_more(state.under_way)
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
        state.set_least_gap();
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
        state.set_least_gap();
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
            let (outlook, answers) = self.look(now);
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
                Outlook::Full | Outlook::NotLent => {
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

    /// Waits until something of the server is lent: what the other ranks know of it has come, too. Fails while the
    /// server is paused.
    pub(super) async fn borrowed(&self) -> Result<(), Refusal> {
        if self.state().lent.loan().is_some() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        loop {
            if self.in_flight.is_closed() {
                return Err(Refusal::Closed);
            }
            match self.look(Instant::now()).0 {
                Outlook::Paused(pause) => return Err(Refusal::Paused(pause)),
                _ if self.state().lent.loan().is_some() => return Ok(()),
                _ => self.changed.notified().await,
            }
        }
    }

    /// Whether what is lent cannot be another's by now.
    fn loan_holds(&self) -> bool {
        self.landlord.as_ref().is_none_or(|landlord| landlord.holds())
    }

    /// What the head of the line is told, and whether the server answers. Asks for a loan where one is missing.
    fn look(&self, now: Instant) -> (Outlook, bool) {
        let mut state = self.state();
        let outlook = if self.loan_holds() { state.outlook(now) } else { Outlook::At(now + UNSURE) };
        if matches!(outlook, Outlook::NotLent)
            && let Some(landlord) = &self.landlord
            && let Some(received) = state.lent.ask(now)
        {
            landlord.borrow(&self.name, received);
        }
        (outlook, state.answers)
    }

    /// Says that the present loan is kept, once it is.
    fn accept(&self, state: &mut State) {
        if let Some(landlord) = &self.landlord
            && let Some((number, rest)) = state.lent.accept(state.under_way, Instant::now())
        {
            landlord.accept(&self.name, number, rest);
        }
    }

    /// Tells what was learnt, if it has changed; `at_last`: whenever it was told before.
    fn tell_learnt(&self, state: &mut State, at_last: bool, now: Instant) {
        let Some(landlord) = &self.landlord else { return };
        let learnt = state.learnt();
        let is_due = state.told_at.is_none_or(|at| now.saturating_duration_since(at) >= LEARNT_AGAIN);
        if (is_due || at_last) && differs(state.told, learnt) {
            (state.told, state.told_at) = (learnt, Some(now));
            landlord.tell(&self.name, ServerNews::Learnt(learnt));
        }
    }

    /// To be called several times a second: tells what was learnt, and gives back what nobody uses. False if nothing of
    /// the server is to be remembered.
    pub(super) fn tick(&self, is_held: bool, now: Instant) -> bool {
        let mut state = self.state();
        let is_over = !is_held && state.lent.is_idle(now);
        self.tell_learnt(&mut state, is_over, now);
        if is_over {
            self.give_back(&mut state, now);
        }
        drop(state);
        !(is_over && self.is_fresh(now))
    }

    /// Tells what was learnt and gives everything back, unless something is under way.
    pub(super) fn leave(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        self.tell_learnt(&mut state, true, now);
        if state.under_way == 0 {
            self.give_back(&mut state, now);
        }
    }

    fn give_back(&self, state: &mut State, now: Instant) {
        if let Some(landlord) = &self.landlord
            && let Some((received, rest)) = state.lent.give_back(now)
        {
            landlord.give_back(&self.name, received, rest);
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

    /// Requests that may be under way at once now, if its controller agrees: one, until the server has answered, and
    /// while nothing of it is lent.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.state().max_connections().max(1)
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

    /// Whether something of it is lent to us, or was asked for.
    pub(super) fn is_borrowed(&self) -> bool {
        self.landlord.is_some() && self.state().lent.holds()
    }

    /// A response has come over HTTP/2.
    pub(super) fn speaks_http2(&self) {
        self.state().speaks_http2 = true;
    }

    /// Whether connections to this server are worth keeping: not if the next request comes after their end, nor as long as
    /// one that has answered is silent. A connection may hang whose server does not, and over HTTP/2 all requests go on
    /// it: none goes until the pool has forgotten it, which is so long after its last use.
    pub(super) fn is_worth_keeping_alive(&self, idle_timeout: Duration) -> bool {
        let state = self.state();
        let is_silent = !state.answers && state.last_response_at.is_some();
        let may_hang = state.hung_at.is_some_and(|at| Instant::now() < at + idle_timeout);
        state.gap.length() < idle_timeout && !is_silent && !may_hang
    }

    /// Whether it may be forgotten: nothing is under way, and a new `Server` would not be asked sooner or for more.
    /// How fast it was found to be would be forgotten as well.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let state = self.state();
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
        let has_room =
            state.lent.allows_one_more(state.under_way) && state.under_way < state.num_connections();
        // The address's moment is spent only where the server's can be.
        let is_ready = has_place && has_room && self.loan_holds() && state.ready_at(now) == Some(now);
        if !is_ready || !address.try_take(now) || !state.try_take(now) {
            return None;
        }
        state.lent.on_request(now);
        state.under_way += 1;
        let in_flight = state.under_way;
        drop(state);
        let server = Arc::clone(self);
        Some(Permit {
            server,
            sent_at: now,
            in_flight,
            first_byte: None,
            received: 0,
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
