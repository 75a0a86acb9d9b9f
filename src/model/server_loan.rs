//! What rank 0 and the other ranks tell each other of one server.
//!
//! A server's limits belong to the cluster. Rank 0 lends them to the ranks that want to ask the server something,
//! each its part ([`Loan`]), with what is known of the server ([`ServerKnowledge`]); ranks tell it what they hear
//! ([`ServerNews`]), and it tells the others and the catalog.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FailureCause;

/// What the user has set for a server, over the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerBudget {
    /// Requests/s; 0 is no limit.
    pub rate: f64,
    /// Requests under way, at least 1.
    pub max_connections: u32,
    /// Bytes of bodies in any 60 minutes; 0 is no limit.
    pub bytes_per_hour: u64,
    /// Bytes of bodies in any 24 hours; 0 is no limit.
    pub bytes_per_day: u64,
}

impl ServerBudget {
    /// One of so many even parts, for those that do not hear of each other. At least one connection, so that
    /// more parts than there are connections make more of them; a rate is divided as a mean.
    #[must_use]
    pub fn divided(self, by: u32) -> Self {
        let by = by.max(1);
        let bytes = |most: u64| if most == 0 { 0 } else { (most / u64::from(by)).max(1) };
        Self {
            rate: self.rate / f64::from(by),
            max_connections: (self.max_connections / by).max(1),
            bytes_per_hour: bytes(self.bytes_per_hour),
            bytes_per_day: bytes(self.bytes_per_day),
        }
    }
}

/// One rank's part of a server's budget. Each loan replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loan {
    /// Grows with each loan of a server.
    pub number: u64,
    /// Requests/s; 0 is no limit.
    pub rate: f64,
    /// Requests under way; 0: none for now, another rank has its turn.
    pub max_connections: u32,
    /// Bytes of bodies that may be received until the rank borrows again; `None` is no limit.
    pub bytes: Option<u64>,
    /// A rank that had nothing before it sends nothing for so long: until now others, or the run before, may have
    /// asked the server.
    pub rest: Duration,
}

/// What a rate controller knows of a server that holds beyond the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearntLimit {
    /// Requests/s above which the server refuses.
    pub max_rate: Option<f64>,
    /// Requests under way above which the server refuses.
    pub max_in_flight: Option<usize>,
}

/// What a rank has heard of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ServerNews {
    Embargo(Embargo),
    /// As it stands for the whole server, not for the rank's part of it.
    Learnt(LearntLimit),
    RobotsTxt(RobotsTxt),
}

/// A server is to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embargo {
    /// How long from now: clocks of nodes differ.
    pub left: Duration,
    /// The complaint that led to it.
    pub cause: FailureCause,
    pub http_status: Option<u16>,
    pub complaints: Complaints,
}

impl Embargo {
    /// Whether no answer has led to it: the bytes that may be received of the server are used up.
    #[must_use]
    pub fn is_for_bytes(&self) -> bool {
        self.cause == FailureCause::HttpStatus && self.http_status.is_none()
    }
}

/// What a server has done of late but complain: nothing. All zero where there is nothing to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaints {
    /// For how long.
    pub lasting: Duration,
    pub number: u32,
    /// Pauses that have not ended it.
    pub pauses: u32,
}

/// One of a server's two robots.txt, as it was served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobotsTxt {
    pub is_https: bool,
    /// Milliseconds since 1970.
    pub fetched_at: u64,
    /// Empty where the server has no such file.
    pub text: String,
    /// What it asks of us between two requests, within `max_crawl_delay`.
    pub crawl_delay: Duration,
}

/// What rank 0 knows of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerKnowledge {
    pub embargo: Option<Embargo>,
    pub learnt: LearntLimit,
    pub robots_txt: Vec<RobotsTxt>,
}
