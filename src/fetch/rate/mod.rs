//! How hard one server is worked: rate controllers, as pure state machines.
//!
//! A [`RateController`] hears of every request that has ended and answers with a [`ServerLimit`]: how many
//! requests may be under way, how far apart they leave, and until when none may leave at all. The time is
//! passed in, nothing here opens a socket or sleeps, and what randomness there is comes from a seed, so the
//! [`simulator`] runs the very code that talks to real servers.
//!
//! | controller | idea | knows |
//! |---|---|---|
//! | [`Adaptive`] | in-flight = rate x latency, and a memory of where refusals began | delay, goodput, refusals |
//! | [`Paarc`] | FLOW-DC's: additive growth until refusals or latency, then a fraction of it | TTFB, errors |
//! | [`Aimd`] | FLOW-DC's older token bucket: additive increase, multiplicative decrease | errors |
//! | [`Fixed`] | distributed-downloader's: a rate that somebody has set | refusals |
//!
//! # Who asks them
//! `server.rs` has one for each server. It keeps the controller's limit and, on top of it, what is lent to this
//! process of what the configuration sets (`default_rate_limit`, `max_connections_per_server`, `servers`): the
//! tighter of the two holds, so no controller ever exceeds what the user has set. Pauses (Retry-After, a server that only fails),
//! the single request after them and giving up are not a controller's matter but that of `pause.rs`; a controller's
//! embargo makes a pause longer.
//!
//! # Several processes
//! A controller owns one server in one process. When several share a server each runs its own, within its loan of the
//! set limits; the loan's part of them is the controller's share ([`set_share`](RateController::set_share)), and a
//! controller that its own limit does not hold back does not raise it. So the limits that are set hold for all
//! processes together. What a server refuses by itself one process finds and tells the others; how well several find
//! it at once the simulator's rows "4 ranks" say.
//!
//! # From run to run
//! What [`learnt`](RateController::learnt) says, divided by the share, is a limit of the whole server. Rank 0 is told
//! of it when it has changed and when the server is given back; the first loan of a server brings it back, to this
//! rank, to others or to the next run, and the controller [learns](RateController::learn) its share of it.

mod adaptive;
mod aimd;
mod embargo;
mod fixed;
mod options;
mod paarc;
pub mod simulator;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::time::{Duration, Instant};

pub use adaptive::Adaptive;
pub use aimd::Aimd;
pub use fixed::Fixed;
pub use options::{AdaptiveOptions, AimdOptions, FixedOptions, PaarcOptions, RateControl, RateOptions};
pub use paarc::Paarc;

pub use crate::model::LearntLimit;

/// Decides how hard one server is worked, from what came of the requests so far.
pub trait RateController: Debug + Send {
    /// A request has ended at `now`, the time of the last byte or of the failure.
    ///
    /// Times never run backwards from one call to the next.
    fn on_observation(&mut self, seen: Observation, now: Instant);

    /// What holds until the next observation, or the next share.
    fn limit(&self) -> ServerLimit;

    /// From now on this process has `fraction` (above 0, at most 1) of the server. What a controller was told in
    /// requests/s counts times that, and what it has found out, as much more or less as the share has changed.
    fn set_share(&mut self, _fraction: f64) {}

    /// What others have learnt, as this process's share of it. What it has found out by itself it keeps.
    fn learn(&mut self, _learnt: LearntLimit) {}

    /// Whether refusals hold it back: a new controller would ask for more, so this one should not be forgotten.
    fn is_slowed(&self) -> bool {
        self.learnt() != LearntLimit::default()
    }

    /// What is worth telling the others and remembering for the next run, as it stands for this process's share.
    fn learnt(&self) -> LearntLimit {
        LearntLimit::default()
    }
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// When it left.
    pub sent_at: Instant,
    /// Time from leaving to the first byte of the body, or to the end of the header before it; `None` without a
    /// body.
    pub first_byte: Option<Duration>,
    pub verdict: Verdict,
    /// What the answer asked for, already bounded by `max_retry_after`.
    pub retry_after: Option<Duration>,
    /// Requests to this server that were under way when this one left, itself included.
    pub in_flight: usize,
}

/// What a request that has ended says about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The body came, complete.
    Success,
    /// Another answer that says nothing about load: 404, 403, 410, a redirect.
    Answered,
    /// 429 or 503: too much, says the server.
    Refused,
    /// 408, another 5xx, a reset, a timeout: from load or from a fault. With a Retry-After they are refusals.
    Failed,
    /// Our own doing: no address, no memory, cancelled. Says nothing about the server.
    Local,
}

/// What a server may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    /// Most requests under way at once, at least 1.
    pub max_in_flight: usize,
    /// Least time from one request's leaving to the next; idle time is not saved up.
    pub min_gap: Duration,
    /// No request leaves before.
    pub embargo_until: Option<Instant>,
}

/// The controller that the options name, for a server of which `learnt` is known. Equal seeds give equal
/// controllers.
#[must_use]
pub fn controller(options: &RateOptions, learnt: LearntLimit, seed: u64) -> Box<dyn RateController> {
    match options.rate_control {
        RateControl::Adaptive => Box::new(Adaptive::new(&options.adaptive, learnt, seed)),
        RateControl::Paarc => Box::new(Paarc::new(&options.paarc)),
        RateControl::Aimd => Box::new(Aimd::new(&options.aimd)),
        RateControl::Fixed => Box::new(Fixed::new(&options.fixed)),
    }
}

/// The gap between requests at a rate; none at a rate that is not limited.
fn gap_from_rate(rate: f64) -> Duration {
    if rate.is_finite() {
        Duration::try_from_secs_f64(1.0 / rate).unwrap_or(LONGEST_GAP).min(LONGEST_GAP)
    } else {
        Duration::ZERO
    }
}

/// No rate is so low that a server is not asked again within this time.
const LONGEST_GAP: Duration = Duration::from_secs(600);
