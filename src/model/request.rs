//! A request that left for a server, as the ledger keeps it.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ServerName;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPurpose {
    /// A record's URL.
    Image,
    /// Where a redirect led.
    Redirect,
    /// `robots.txt`.
    Robots,
}

impl RequestPurpose {
    pub const ALL: &[Self] = &[Self::Image, Self::Redirect, Self::Robots];

    /// The word of the ledger's column `purpose`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Redirect => "redirect",
            Self::Robots => "robots",
        }
    }

    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|purpose| purpose.as_str() == word)
    }
}

/// What a request for robots.txt is about, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RobotsRequest {
    /// Whose rules they are, also where a redirect has led elsewhere: a server ...
    pub server: ServerName,
    /// ... and its scheme.
    pub is_https: bool,
    /// The file as received, some more than 500 KiB at most (RFC 9309, 2.5). `None` where none came whole, or where the
    /// ledger could not take it.
    pub text: Option<Vec<u8>>,
}

/// How a run treats robots.txt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobotsPolicy {
    pub is_respected: bool,
    /// The names by which files may call it; where several are named, the rules of all hold.
    pub agents: Vec<String>,
    /// The longest Crawl-delay that is obeyed in full.
    pub max_crawl_delay: Duration,
}

/// One request, from leaving to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestEntry {
    /// Whose limits it counts against.
    pub server: ServerName,
    /// Who answered; `None` when nobody did.
    pub address: Option<IpAddr>,
    pub purpose: RequestPurpose,
    pub is_https: bool,
    /// Path and query.
    pub target: String,
    /// When it left, in microseconds since 1970.
    pub sent_at: i64,
    /// Until the last byte, or the failure.
    pub took: Duration,
    pub received_bytes: u64,
    /// `None` without a response.
    pub http_status: Option<u16>,
    /// How long the response asked to be left alone; bounded by `max_retry_after`.
    pub retry_after: Option<Duration>,
    /// What all ranks together have promised to keep to: requests per second (0: no limit) ...
    pub max_rate: f64,
    /// ... and requests at once.
    pub max_connections: u32,
    /// Of requests for robots.txt only.
    pub robots: Option<RobotsRequest>,
}

impl RequestEntry {
    /// When it ended, in microseconds since 1970.
    #[must_use]
    pub fn ended_at(&self) -> i64 {
        self.sent_at.saturating_add(i64::try_from(self.took.as_micros()).unwrap_or(i64::MAX))
    }
}
