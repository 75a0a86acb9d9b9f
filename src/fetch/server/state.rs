//! What is known of a server at a moment: its pauses, its pace, what is lent of it. Under the server's lock.

use std::time::{Duration, Instant};

use super::super::gap::{Gap, gap_of};
use super::super::pause::{Complaint, Pause, Pauses};
use super::super::rate::{LearntLimit, RateController, ServerLimit};
use super::super::told_to_wait::MAX_PAUSE;
use super::lent::Lent;
use super::{ServerLimits, WORTH_TELLING};
use crate::model::{Embargo, ServerName};

/// How much later an embargo ends for each rank that was told of it, at most: as a part of it, and within these bounds.
/// The rank that was asked to go away probes first, and a server that may have recovered is not probed by all at once.
const SPREAD: f64 = 0.1;
const LEAST_SPREAD: Duration = Duration::from_secs(1);
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// What was learnt is told again when it has changed by this part.
const LEARNT_CHANGE: f64 = 0.1;

#[derive(Debug)]
pub(super) struct State {
    pub(super) pauses: Pauses,
    pub(super) controller: Box<dyn RateController>,
    /// What the controller has said last.
    pub(super) limit: ServerLimit,
    pub(super) gap: Gap,
    pub(super) lent: Lent,
    /// The part of the limits that the controller works within: that of the last loan with connections.
    pub(super) share: f64,
    /// What the landlord knows of what was learnt, and when it was told.
    pub(super) told: LearntLimit,
    pub(super) told_at: Option<Instant>,
    /// What robots.txt asks for, over http and over https.
    pub(super) crawl_delays: [Duration; 2],
    /// What the tightest quota of a `RateLimit-Policy` comes to.
    pub(super) quota_gap: Duration,
    pub(super) under_way: usize,
    pub(super) last_response_at: Option<Instant>,
    /// Whether the last thing heard was a response. Until then one connection has to do.
    pub(super) answers: bool,
    /// Whether its connections carry many requests each.
    pub(super) speaks_http2: bool,
    /// When such a connection may have hung last.
    pub(super) hung_at: Option<Instant>,
}

/// What somebody who wants to send a request is told.
pub(super) enum Outlook {
    Paused(Pause),
    /// Nothing of the server is lent, or no bytes.
    NotLent,
    /// It depends on the requests under way.
    Full,
    /// Not before this time, which may be now.
    At(Instant),
}

impl State {
    pub(super) fn max_connections(&self) -> usize {
        let most = self.lent.max_connections();
        if self.answers { most } else { most.min(1) }
    }

    pub(super) fn num_connections(&self) -> usize {
        self.max_connections().min(self.limit.max_in_flight)
    }

    /// Earliest time of the next request as far as pauses, gap, controller and loan say, never before `now`; `None` while
    /// a probe is under way.
    pub(super) fn ready_at(&self, now: Instant) -> Option<Instant> {
        let at = self.pauses.ready_at(now)?;
        let others = [self.gap.next_at(), self.limit.embargo_until, self.lent.next_at()];
        Some(others.into_iter().flatten().fold(at, Instant::max))
    }

    pub(super) fn outlook(&self, now: Instant) -> Outlook {
        if let Some(pause) = self.pauses.pause(now) {
            return Outlook::Paused(pause);
        }
        if !self.lent.allows_one_more(self.under_way) {
            return Outlook::NotLent;
        }
        let has_room = self.under_way < self.num_connections();
        self.ready_at(now).filter(|_| has_room).map_or(Outlook::Full, Outlook::At)
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        self.ready_at(now) == Some(now) && self.gap.try_take(now) && self.pauses.try_take(now)
    }

    /// A response has come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.answers = true;
        self.last_response_at = Some(now);
    }

    /// Sets the gap that nobody goes below: that of the rate that is lent, what robots.txt asks for, or this process's
    /// part of the server's quota.
    pub(super) fn set_least_gap(&mut self) {
        let crawl_delay = self.crawl_delays[0].max(self.crawl_delays[1]);
        let quota_gap = gap_of(self.share / self.quota_gap.as_secs_f64());
        self.gap.set_least(crawl_delay.max(quota_gap).max(gap_of(self.lent.rate())));
    }

    /// Works within the present loan from now on.
    pub(super) fn adopt_loan(&mut self, limits: ServerLimits) {
        let Some(loan) = self.lent.loan().filter(|loan| loan.max_connections > 0) else { return };
        self.set_least_gap();
        // Not of the rates: a Crawl-delay is a low one, and no small part of what the server can do.
        let share = f64::from(loan.max_connections) / limits.max_connections as f64;
        self.share = if share > 0.0 { share.min(1.0) } else { 1.0 };
        self.controller.set_share(self.share);
        self.ask();
    }

    /// Leaves the server alone as another rank was asked to.
    pub(super) fn hear(&mut self, server: &ServerName, embargo: Embargo, now: Instant) {
        let is_for_bytes = embargo.is_for_bytes();
        let Embargo { left, cause, http_status, complaints } = embargo;
        let left = left.min(MAX_PAUSE);
        if left >= WORTH_TELLING {
            let seconds = left.as_secs();
            if is_for_bytes {
                tracing::warn!(%server, "its byte budget is used up: server is left alone for {seconds} s");
            } else {
                tracing::warn!(%server, %cause, http_status, "server is left alone for {seconds} s");
            }
        }
        let later = left.mul_f64(SPREAD).clamp(LEAST_SPREAD, LONGEST_SPREAD).mul_f64(fastrand::f64());
        self.pauses.on_embargo(Complaint { cause, http_status }, complaints, now + left + later, now);
    }

    /// What the controller has learnt, as it stands for the whole server.
    pub(super) fn learnt(&self) -> LearntLimit {
        let LearntLimit { max_rate, max_in_flight } = self.controller.learnt();
        LearntLimit {
            max_rate: max_rate.map(|rate| rate / self.share),
            max_in_flight: max_in_flight.map(|most| scaled(most, 1.0 / self.share)),
        }
    }

    /// Asks the controller, which has just been told something.
    pub(super) fn ask(&mut self) {
        self.limit = self.controller.limit();
        self.gap.set_wanted(self.limit.min_gap);
    }
}

/// So many times `factor`, at least 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub(super) fn scaled(number: usize, factor: f64) -> usize {
    (number as f64 * factor).round().max(1.0) as usize
}

/// Whether so much has changed that others should know.
pub(super) fn differs(told: LearntLimit, learnt: LearntLimit) -> bool {
    let differs = |told: Option<f64>, learnt: Option<f64>| match (told, learnt) {
        (Some(told), Some(learnt)) => (learnt - told).abs() > LEARNT_CHANGE * told,
        (told, learnt) => told.is_some() != learnt.is_some(),
    };
    #[expect(clippy::cast_precision_loss)]
    let level = |learnt: LearntLimit| learnt.max_in_flight.map(|most| most as f64);
    differs(told.max_rate, learnt.max_rate) || differs(level(told), level(learnt))
}
