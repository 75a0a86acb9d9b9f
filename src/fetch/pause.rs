//! When a server is to be left alone: a pure state machine, `now` is passed in.
//!
//! How hard a server is worked while it is not paused is its rate controller's matter (`rate/`). Three things
//! hold requests back here:
//! - a *pause* that the server asked for (429, 503, `Retry-After`): as long as that says, else 1 s doubling to 60 s;
//! - a *pause of a parked server*: from the 20th complaint in a row on, 15 s doubling to 5 min;
//! - a *probe*: when a pause is over, one request goes out and the others wait until it is answered.
//!
//! A *complaint* is an answer, or none, that says that the server is in trouble and not the URL. Complaints
//! without a success in between are a *streak*, and a pause that begins when the streak is older than
//! `server_patience` and three pauses have not ended it *gives the server up*: during it nobody has to wait, for
//! nothing good is to be expected. Giving up is no state of its own: when the pause is over there is a probe, and
//! a success ends the streak and all that came of it. The condition on pauses lets an hour's `Retry-After` be
//! obeyed three times.
//!
//! What comes of requests that left before the last pause tells nothing new and changes nothing, so one burst of
//! 429s counts once.

use std::time::{Duration, Instant};

use crate::model::{Complaints, FailureCause};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Complaints in a row from which on the server is parked.
const PARK_AFTER: u32 = 20;
const FIRST_PARKING: Duration = Duration::from_secs(15);
const LONGEST_PARKING: Duration = Duration::from_secs(300);
/// Pauses of a streak that are tried before the server is given up.
const MIN_PAUSES: u32 = 3;

/// A time in which a server is sent nothing, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Its end. A `Retry-After` that comes late may move it further away.
    pub until: Instant,
    /// What the complaint that led to it is called.
    pub cause: FailureCause,
    pub http_status: Option<u16>,
    /// Since when every answer, or none, has been a complaint.
    pub since: Instant,
    /// That is longer than `server_patience`: URLs of this server fail at once until the pause is over.
    pub given_up: bool,
    /// Whether the complaint that led to it was the first after a success, or after nothing.
    pub is_first: bool,
}

/// What a server, as opposed to a URL, has to complain about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub cause: FailureCause,
    pub http_status: Option<u16>,
}

/// Complaints without a success in between.
#[derive(Clone, Copy, Debug)]
struct Streak {
    since: Instant,
    complaints: u32,
    pauses: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    NotNeeded,
    /// The next request is one.
    Due,
    UnderWay,
}

/// The pauses of one server.
#[derive(Debug)]
pub(super) struct Pauses {
    patience: Duration,
    streak: Option<Streak>,
    /// When the last request left that came to a success.
    succeeded_at: Option<Instant>,
    /// The last pause, over or not.
    pause: Option<Pause>,
    /// When it began.
    paused_at: Option<Instant>,
    probe: Probe,
}

impl Pauses {
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            streak: None,
            succeeded_at: None,
            pause: None,
            paused_at: None,
            probe: Probe::NotNeeded,
        }
    }

    /// Earliest time of the next request, never before `now`; `None` while that depends on a probe.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        (self.probe != Probe::UnderWay).then(|| self.pause.map_or(now, |pause| pause.until.max(now)))
    }

    /// The pause that holds at `now`.
    pub fn pause(&self, now: Instant) -> Option<Pause> {
        self.pause.filter(|pause| pause.until > now)
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        if self.ready_at(now) != Some(now) {
            return false;
        }
        if self.probe == Probe::Due {
            self.probe = Probe::UnderWay;
        }
        true
    }

    /// A response that may yet become a success has begun: no reason to hold others back.
    pub fn on_answer(&mut self, sent_at: Instant) {
        if !self.is_stale(sent_at) {
            self.probe = Probe::NotNeeded;
        }
    }

    /// Nothing was learned from a request: if it was the probe, another has to be.
    pub fn on_nothing(&mut self, sent_at: Instant) {
        if self.probe == Probe::UnderWay && !self.is_stale(sent_at) {
            self.probe = Probe::Due;
        }
    }

    /// A response that is no complaint, to a request that left at `sent_at`.
    pub fn on_success(&mut self, sent_at: Instant) {
        self.succeeded_at = self.succeeded_at.max(Some(sent_at));
        if !self.is_stale(sent_at) {
            self.probe = Probe::NotNeeded;
            self.streak = None;
        }
    }

    /// The request that left at `sent_at` came to a complaint. `jitter` is a random number in `0.0..1.0`.
    pub fn on_complaint(&mut self, complaint: Complaint, sent_at: Instant, now: Instant, jitter: f64) {
        if self.is_stale(sent_at) {
            return;
        }
        self.probe = Probe::NotNeeded;
        let streak = self.complain(now);
        if streak.complaints >= PARK_AFTER {
            let length = doubled(FIRST_PARKING, LONGEST_PARKING, streak.pauses, jitter);
            self.start_pause(length, complaint, streak, now);
        }
    }

    /// A complaint with which the server asked to be left alone: for `retry_after`, or as we think best.
    pub fn on_throttled(
        &mut self,
        complaint: Complaint,
        retry_after: Option<Duration>,
        sent_at: Instant,
        now: Instant,
        jitter: f64,
    ) {
        if self.is_stale(sent_at) {
            if let Some(after) = retry_after {
                self.extend(now + after, complaint, now);
            }
            return;
        }
        let streak = self.complain(now);
        let length =
            retry_after.unwrap_or_else(|| doubled(FIRST_PAUSE, LONGEST_PAUSE, streak.pauses, jitter));
        self.start_pause(length, complaint, streak, now);
    }

    /// More time is needed than the pause has.
    pub fn extend(&mut self, until: Instant, Complaint { cause, http_status }: Complaint, now: Instant) {
        let (known, since, given_up, is_first) = self.pause(now).map_or((now, now, false, false), |pause| {
            (pause.until, pause.since, pause.given_up, pause.is_first)
        });
        if until > known {
            self.pause = Some(Pause { until, cause, http_status, since, given_up, is_first });
        }
    }

    /// Another process has heard the complaint: the server is left alone until then, and probed. The streak goes on
    /// where it stands there: ranks that probe one after the other give a server up as soon as one alone. But it is none
    /// if a request from here has had a success in the meantime.
    pub fn on_embargo(&mut self, complaint: Complaint, heard: Complaints, until: Instant, now: Instant) {
        if until <= self.pause(now).map_or(now, |pause| pause.until) {
            return;
        }
        self.extend(until, complaint, now);
        let since = now.checked_sub(heard.lasting).unwrap_or(now);
        if heard.number > 0 && self.succeeded_at.is_none_or(|at| at <= since) {
            let own = self.streak.unwrap_or(Streak { since, complaints: 0, pauses: 0 });
            let streak = Streak {
                since: own.since.min(since),
                complaints: own.complaints.max(heard.number),
                pauses: own.pauses.max(heard.pauses),
            };
            self.streak = Some(streak);
            // This pause is counted already.
            let given_up = self.gives_up(Streak { pauses: heard.pauses.saturating_sub(1), ..streak }, now);
            if let Some(pause) = &mut self.pause {
                (pause.since, pause.given_up) = (since, given_up);
            }
        }
        self.paused_at = Some(now);
        self.probe = Probe::Due;
    }

    /// Complaints without a success in between, for the other ranks.
    pub fn complaints(&self, now: Instant) -> Complaints {
        self.streak.map_or_else(Complaints::default, |Streak { since, complaints, pauses }| Complaints {
            lasting: now.saturating_duration_since(since),
            number: complaints,
            pauses,
        })
    }

    /// Whether there is no pause, no probe and no streak to be remembered.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.ready_at(now) == Some(now) && self.streak.is_none() && self.probe == Probe::NotNeeded
    }

    fn is_stale(&self, sent_at: Instant) -> bool {
        self.paused_at.is_some_and(|at| sent_at <= at)
    }

    /// Counts a complaint.
    fn complain(&mut self, now: Instant) -> Streak {
        let streak = self.streak.get_or_insert(Streak { since: now, complaints: 0, pauses: 0 });
        streak.complaints = streak.complaints.saturating_add(1);
        *streak
    }

    /// Whether a pause that begins after this gives the server up.
    fn gives_up(&self, Streak { since, pauses, .. }: Streak, now: Instant) -> bool {
        pauses >= MIN_PAUSES && now.saturating_duration_since(since) >= self.patience
    }

    fn start_pause(&mut self, length: Duration, complaint: Complaint, streak: Streak, now: Instant) {
        let Complaint { cause, http_status } = complaint;
        let Streak { since, pauses, .. } = streak;
        let given_up = self.gives_up(streak, now);
        self.streak = Some(Streak { pauses: pauses.saturating_add(1), ..streak });
        let is_first = streak.complaints <= 1;
        self.pause = Some(Pause { until: now + length, cause, http_status, since, given_up, is_first });
        self.paused_at = Some(now);
        self.probe = Probe::Due;
    }
}

/// `first`, doubled `times` times but at most `longest`, give or take a quarter.
fn doubled(first: Duration, longest: Duration, times: u32, jitter: f64) -> Duration {
    first.saturating_mul(1 << times.min(10)).min(longest).mul_f64(0.75 + 0.5 * jitter)
}

#[cfg(test)]
mod tests;
