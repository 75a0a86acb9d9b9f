//! One server: the single owner of its rate, its connections, its pauses and its statistics.
//!
//! A request needs a [`Permit`]. Who waits for one stands in line (`turn`); only the head of the line watches
//! the state, so a wake-up is never for nobody and the order is first come, first served. A waiter holds none
//! of the process-wide slots until its server is ready: a slow server cannot use up what fast ones need.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::pace::{Pace, PauseReason};
use crate::model::{FailureCause, ServerName};

/// A server's limits, cluster-wide: this process has a share of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerLimits {
    /// Requests/s; 0 is no limit.
    pub rate: f64,
    pub rate_multiplier: f64,
    pub max_connections: usize,
}

/// A server as this process sees it. Shared by all who talk to it; made by [`Fetcher::server`](super::Fetcher::server).
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    limits: ServerLimits,
    /// Slots of the whole process, one per request under way.
    in_flight: Arc<Semaphore>,
    state: Mutex<State>,
    /// The line of waiters; its head holds the lock.
    turn: tokio::sync::Mutex<()>,
    /// Wakes the head of the line: a permit came back, or the limits changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    max_connections: usize,
    under_way: usize,
    last_response_at: Option<Instant>,
    snapshot: ServerSnapshot,
}

/// Counts of one server since this process first met it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerSnapshot {
    /// Permits given out.
    pub requests: u64,
    /// Responses with a complete body.
    pub bodies: u64,
    /// Bytes of those bodies, as sent.
    pub body_bytes: u64,
    /// Time from request to complete body, summed over those bodies.
    pub body_time: Duration,
    /// 429 and 503 responses.
    pub throttled: u64,
    /// Requests without any response.
    pub unanswered: u64,
    /// Requests under way.
    pub under_way: usize,
    /// Requests per second at present; infinite without a limit.
    pub rate: f64,
    /// End of the present pause, if there is one.
    pub paused_until: Option<Instant>,
}

impl Server {
    pub(super) fn new(name: ServerName, limits: ServerLimits, share: f64, in_flight: Arc<Semaphore>) -> Self {
        let server = Self {
            name,
            limits,
            in_flight,
            state: Mutex::new(State {
                pace: Pace::new(limits.rate, limits.rate_multiplier),
                max_connections: limits.max_connections,
                under_way: 0,
                last_response_at: None,
                snapshot: ServerSnapshot::default(),
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

    /// Sets this process's share of the server's limits: `rate * fraction` requests/s and
    /// `max(1, floor(max_connections_per_server * fraction))` connections.
    ///
    /// That the shares of all ranks sum to at most 1 is the caller's promise. The share is forgotten when nobody
    /// holds the `Server` any more. A fraction outside `0..=1` counts as the nearer end; zero, or what is no
    /// number, as one in a million.
    pub fn set_share(&self, fraction: f64) {
        let fraction = if fraction > 1e-6 { fraction.min(1.0) } else { 1e-6 };
        let mut state = self.state();
        state.pace.set_limit(self.limits.rate * fraction, self.limits.rate_multiplier);
        // Truncation is the meaning; the product is positive and no larger than the limit.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let connections = (self.limits.max_connections as f64 * fraction) as usize;
        state.max_connections = connections.max(1);
        drop(state);
        self.changed.notify_one();
    }

    /// When the next permit can be had, as far as this server goes: never before `now`, and `None` while all its
    /// connections are in use.
    #[must_use]
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let state = self.state();
        (state.under_way < state.max_connections).then(|| state.pace.ready_at(now))
    }

    /// Takes a permit if one can be had at once, without standing in line.
    #[must_use]
    pub fn try_admit(self: &Arc<Self>) -> Option<Permit> {
        let slot = Arc::clone(&self.in_flight).try_acquire_owned().ok()?;
        self.take(slot)
    }

    /// Waits for a permit for one request.
    pub async fn admit(self: &Arc<Self>) -> Permit {
        let _turn = self.turn.lock().await;
        loop {
            match self.ready_at(Instant::now()) {
                Some(at) if at <= Instant::now() => {
                    let slot =
                        self.in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
                    if let Some(permit) = self.take(slot) {
                        return permit;
                    }
                }
                Some(at) => {
                    // A limit that was raised, or a permit that came back unused, may make it sooner.
                    let _ = tokio::time::timeout_at(at.into(), self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// What has been counted so far.
    #[must_use]
    pub fn snapshot(&self) -> ServerSnapshot {
        let state = self.state();
        ServerSnapshot {
            under_way: state.under_way,
            rate: state.pace.rate(),
            paused_until: state.pace.pause(Instant::now()).map(|(until, _)| until),
            ..state.snapshot.clone()
        }
    }

    /// The present pause and its reason.
    pub(super) fn pause(&self) -> Option<(Instant, PauseReason)> {
        self.state().pace.pause(Instant::now())
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
        1.0 / self.state().pace.rate() < idle_timeout.as_secs_f64()
    }

    /// Whether a new `Server` would behave like this one.
    pub(super) fn is_fresh(&self) -> bool {
        let state = self.state();
        state.under_way == 0 && state.pace.is_fresh(Instant::now())
    }

    fn take(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> Option<Permit> {
        let now = Instant::now();
        let mut state = self.state();
        if state.under_way >= state.max_connections || !state.pace.try_take(now) {
            return None;
        }
        state.under_way += 1;
        state.snapshot.requests += 1;
        drop(state);
        Some(Permit { server: Arc::clone(self), sent_at: now, _slot: slot })
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
pub struct Permit {
    server: Arc<Server>,
    sent_at: Instant,
    _slot: OwnedSemaphorePermit,
}

impl Permit {
    /// The server that gave the permit.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Waits until the server's rate allows one more request on the same permit; `false`, and no request, if
    /// the server is paused.
    pub(super) async fn renew(&mut self) -> bool {
        loop {
            let now = Instant::now();
            let at = {
                let mut state = self.server.state();
                if state.pace.try_take(now) {
                    state.snapshot.requests += 1;
                    self.sent_at = now;
                    return true;
                }
                if state.pace.pause(now).is_some() {
                    return false;
                }
                state.pace.ready_at(now)
            };
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// A response header has come; `is_success` if it is no complaint about the server's own state.
    pub(super) fn responded(&self, is_success: bool) {
        let now = Instant::now();
        let mut state = self.server.state();
        state.last_response_at = Some(now);
        state.pace.on_response();
        if is_success {
            state.pace.on_success(self.sent_at, now);
        }
    }

    /// The server asked for a pause; returns its end.
    pub(super) fn throttled(&self, http_status: u16, retry_after: Option<Duration>) -> Instant {
        let now = Instant::now();
        let mut state = self.server.state();
        state.snapshot.throttled += 1;
        state.pace.on_throttled(http_status, retry_after, self.sent_at, now, fastrand::f64());
        state.pace.pause(now).map_or(now, |(until, _)| until)
    }

    /// No response has come.
    pub(super) fn unanswered(&self, cause: FailureCause) {
        let mut state = self.server.state();
        state.snapshot.unanswered += 1;
        state.pace.on_unanswered(cause, self.sent_at, Instant::now(), fastrand::f64());
    }

    /// The body is complete.
    pub(super) fn completed(&self, body_bytes: u64, took: Duration) {
        let snapshot = &mut self.server.state().snapshot;
        snapshot.bodies += 1;
        snapshot.body_bytes += body_bytes;
        snapshot.body_time += took;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.server.state().under_way -= 1;
        self.server.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(rate: f64, max_connections: usize, in_flight: usize) -> Arc<Server> {
        let limits = ServerLimits { rate, rate_multiplier: 1.0, max_connections };
        let in_flight = Arc::new(Semaphore::new(in_flight));
        Arc::new(Server::new(ServerName::from_catalog("a.example"), limits, 1.0, in_flight))
    }

    #[tokio::test]
    async fn permits_are_a_gap_apart_in_order_of_arrival() {
        let server = server(100.0, 4, 256);
        let start = Instant::now();
        let mut waiters = Vec::new();
        for _ in 0..20 {
            let server = Arc::clone(&server);
            waiters.push(tokio::spawn(async move {
                drop(server.admit().await);
                Instant::now()
            }));
        }
        let mut last = start;
        for (position, waiter) in (0..).zip(waiters) {
            let at = waiter.await.unwrap();
            let due = start + Duration::from_millis(10) * position;
            // At most 2 ms early, when the one before was late.
            assert!(at >= last && at + Duration::from_millis(3) >= due, "{position}: {:?}", at - start);
            last = at;
        }
    }

    #[tokio::test]
    async fn connections_are_bounded_and_come_back() {
        let server = server(0.0, 2, 256);
        let first = server.admit().await;
        let _second = server.admit().await;
        assert_eq!(server.ready_at(Instant::now()), None);
        assert!(server.try_admit().is_none());
        let waiter = tokio::spawn({
            let server = Arc::clone(&server);
            async move { server.admit().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(first);
        let third = waiter.await.unwrap();
        assert_eq!(server.snapshot().under_way, 2);
        drop(third);
        let instant = Instant::now();
        assert_eq!(server.ready_at(instant), Some(instant));
    }

    #[tokio::test]
    async fn a_waiter_for_a_slow_server_holds_no_process_wide_slot() {
        let slow = server(0.1, 4, 1);
        drop(slow.admit().await);
        let waiter = tokio::spawn({
            let slow = Arc::clone(&slow);
            async move { slow.admit().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(slow.in_flight.available_permits(), 1);
        waiter.abort();
    }

    #[tokio::test]
    async fn a_share_divides_rate_and_connections() {
        let server = server(20.0, 5, 256);
        server.set_share(0.5);
        let first = server.admit().await;
        let start = Instant::now();
        let second = server.admit().await;
        assert!(start.elapsed() >= Duration::from_millis(90), "10/s are 100 ms apart");
        assert_eq!(server.ready_at(Instant::now()), None, "floor(5 / 2) connections are in use");
        drop((first, second));
        for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            server.set_share(share);
            assert!(server.ready_at(Instant::now()).is_some());
        }
        assert!(server.snapshot().rate <= 20.0);
    }

    #[tokio::test]
    async fn a_pause_holds_everyone_back() {
        let server = server(0.0, 4, 256);
        let permit = server.admit().await;
        let start = Instant::now();
        let until = permit.throttled(429, Some(Duration::from_millis(300)));
        assert!(server.try_admit().is_none());
        assert_eq!(server.ready_at(start), Some(until));
        drop(server.admit().await);
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
}
