//! The right to one request, and what the server is told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::super::addresses::Place;
use super::super::pause::{Complaint, Pause};
use super::super::rate::{Observation, Verdict};
use super::{Server, State, WORTH_TELLING};
use crate::model::{Complaints, Embargo, FailureCause, ServerNews};

/// The right to one request to one server, from before it is sent until its body is complete.
///
/// Dropping it gives the connection back; the moment in the server's rate is spent.
#[derive(Debug)]
pub(in crate::fetch) struct Permit {
    pub(super) server: Arc<Server>,
    pub(super) sent_at: Instant,
    /// Requests to the server under way when this one left, itself included.
    pub(super) in_flight: usize,
    pub(super) first_byte: Option<Duration>,
    /// Bytes of bodies so far.
    pub(super) received: u64,
    pub(super) _slot: OwnedSemaphorePermit,
    pub(super) newcomer: Option<OwnedSemaphorePermit>,
    pub(super) place: Place,
}

impl Permit {
    /// The server that gave the permit.
    #[must_use]
    pub(in crate::fetch) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Where bytes of bodies are counted: they are the server's, however the request ends.
    pub(in crate::fetch) fn received(&mut self) -> &mut u64 {
        &mut self.received
    }

    /// Waits until the server's rate allows one more request on the same permit; `false`, and no request, if
    /// the server is paused or being probed, or another rank has it now.
    pub(in crate::fetch) async fn renew(&mut self) -> bool {
        loop {
            let at = {
                let mut state = self.server.state();
                let now = Instant::now();
                if state.under_way > state.lent.max_connections() || !self.server.loan_holds() {
                    return false;
                }
                let address_at = self.place.next_at().filter(|at| *at > now);
                if address_at.is_none() && state.try_take(now) {
                    self.place.try_take(now);
                    state.lent.on_request(now);
                    (self.sent_at, self.in_flight) = (now, state.under_way);
                    return true;
                }
                match state.ready_at(now) {
                    Some(at) if state.pauses.pause(now).is_none() => {
                        address_at.map_or(at, |other| at.max(other))
                    }
                    _ => return false,
                }
            };
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// A response header has come that may become a success.
    pub(in crate::fetch) fn answered(&mut self) {
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
    pub(in crate::fetch) fn succeeded(&self) {
        self.tell(true, Verdict::Success, None, |state, _| state.pauses.on_success(self.sent_at));
    }

    /// The response is no image, and no complaint about the server's own state either.
    pub(in crate::fetch) fn replied(&self) {
        self.tell(true, Verdict::Answered, None, |state, _| state.pauses.on_success(self.sent_at));
    }

    /// The response, or that there is none, says that the server is in trouble.
    pub(in crate::fetch) fn complained(&self, cause: FailureCause, http_status: Option<u16>) {
        let complaint = Complaint { cause, http_status };
        // Names are not the server's to resolve.
        let verdict = if cause == FailureCause::Dns { Verdict::Local } else { Verdict::Failed };
        self.tell(http_status.is_some(), verdict, None, |state, now| {
            state.pauses.on_complaint(complaint, self.sent_at, now, fastrand::f64());
        });
    }

    /// The server asked for a pause; returns the one that it has.
    pub(in crate::fetch) fn throttled(
        &self,
        http_status: u16,
        retry_after: Option<Duration>,
    ) -> Option<Pause> {
        let complaint = Complaint { cause: FailureCause::HttpStatus, http_status: Some(http_status) };
        self.tell(true, Verdict::Refused, retry_after, |state, now| {
            state.pauses.on_throttled(complaint, retry_after, self.sent_at, now, fastrand::f64());
            // Nobody is to wait in line for the end of an embargo.
            if let Some(until) = state.limit.embargo_until.filter(|until| *until > now) {
                state.pauses.extend(until, complaint, now);
            }
            state.pauses.pause(now)
        })
    }

    /// An answer with this status said that nothing more is granted for `wait`. That is no complaint: nothing is
    /// counted, and no probe is needed afterwards. Returns the end of the pause.
    pub(in crate::fetch) fn exhausted(&self, http_status: u16, wait: Duration) -> Instant {
        let mut state = self.server.state();
        let now = Instant::now();
        let before = state.pauses.pause(now);
        let why = Complaint { cause: FailureCause::HttpStatus, http_status: Some(http_status) };
        state.pauses.extend(now + wait, why, now);
        let longer = longer_pause(before, &state, now);
        drop(state);
        self.server.wake();
        if let Some(pause) = longer {
            self.tell_others(pause, Complaints::default(), now);
            self.tell_user(pause, now);
        }
        now + wait
    }

    /// Says why nothing is heard of a server for long.
    fn tell_user(&self, pause: Pause, now: Instant) {
        let wait = pause.until.saturating_duration_since(now);
        if wait >= WORTH_TELLING {
            let (server, cause) = (self.server.name.as_str(), pause.cause);
            tracing::warn!(server, %cause, http_status = pause.http_status, "server is left alone for {} s", wait.as_secs());
        }
    }

    /// Lets the other ranks leave the server alone as well.
    fn tell_others(
        &self,
        Pause { until, cause, http_status, .. }: Pause,
        complaints: Complaints,
        now: Instant,
    ) {
        if let Some(landlord) = &self.server.landlord {
            let left = until.saturating_duration_since(now);
            let embargo = Embargo { left, cause, http_status, complaints };
            landlord.tell(&self.server.name, ServerNews::Embargo(embargo));
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
            state.hung_at = state.speaks_http2.then_some(now);
        }
        let Self { sent_at, in_flight, first_byte, .. } = *self;
        let seen = Observation { sent_at, first_byte, verdict, retry_after, in_flight };
        state.controller.on_observation(seen, now);
        state.ask();
        let before = state.pauses.pause(now);
        let told = what(&mut state, now);
        let longer = longer_pause(before, &state, now);
        if let Some(pause) = longer
            && verdict != Verdict::Local
        {
            self.tell_others(pause, state.pauses.complaints(now), now);
        }
        drop(state);
        self.server.wake();
        if let Some(pause) = longer {
            self.tell_user(pause, now);
        }
        told
    }
}

/// The present pause, if it is longer than the one before.
fn longer_pause(before: Option<Pause>, state: &State, now: Instant) -> Option<Pause> {
    state.pauses.pause(now).filter(|pause| before.is_none_or(|before| before.until < pause.until))
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.under_way -= 1;
        state.pauses.on_nothing(self.sent_at);
        state.lent.on_end(self.received, Instant::now());
        self.server.accept(&mut state);
        drop(state);
        self.server.wake();
    }
}
