//! What an audit has found.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::model::{Rank, RequestEntry, RunId, ServerName};
use crate::storage::LedgerEnd;

/// A promise that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Requests at once.
    Connections,
    /// Requests per second.
    Rate,
    /// `Retry-After`.
    Embargo,
    /// What robots.txt disallows.
    Robots,
    /// Its Crawl-delay.
    CrawlDelay,
}

/// One request that should not have left when it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub server_name: ServerName,
    pub rank: Rank,
    /// Microseconds since 1970.
    pub sent_at: i64,
    pub rule: Rule,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::Connections => "too many at once",
            Rule::Rate => "too fast",
            Rule::Embargo => "too early",
            Rule::Robots => "disallowed by robots.txt",
            Rule::CrawlDelay => "sooner than its Crawl-delay",
        };
        let Self { server_name, rank, detail, .. } = self;
        write!(f, "`{server_name}`, rank {rank}: {rule}: {detail}")
    }
}

/// What one server has seen, and what it was promised (as of its last request).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerAudit {
    pub server_name: ServerName,
    pub num_requests: u64,
    pub received_bytes: u64,
    /// When the first and the last request left, in microseconds since 1970.
    pub first_sent_at: Option<i64>,
    pub last_sent_at: Option<i64>,
    /// Requests per second; 0 is no limit.
    pub max_rate: Option<f64>,
    /// Most requests within any second.
    pub peak_rate: u64,
    pub max_connections: u32,
    /// Most requests at once.
    pub peak_connections: u64,
    /// Responses 429 and 503.
    pub num_refusals: u64,
    /// Responses that asked to be left alone.
    pub num_embargoes: u64,
    /// Requests that were held against a robots.txt, or the lack of one ...
    pub num_robots_checked: u64,
    /// ... those of them that it disallows ...
    pub num_robots_disallowed: u64,
    /// ... and others: no robots.txt is known, or the run did not heed it.
    pub num_robots_not_known: u64,
    pub num_robots_not_heeded: u64,
    /// Seconds; 0 without one.
    pub crawl_delay: f64,
    pub num_violations: u64,
}

impl ServerAudit {
    pub(super) fn new(server_name: ServerName) -> Self {
        Self {
            server_name,
            num_requests: 0,
            received_bytes: 0,
            first_sent_at: None,
            last_sent_at: None,
            max_rate: None,
            peak_rate: 0,
            max_connections: 0,
            peak_connections: 0,
            num_refusals: 0,
            num_embargoes: 0,
            num_robots_checked: 0,
            num_robots_disallowed: 0,
            num_robots_not_known: 0,
            num_robots_not_heeded: 0,
            crawl_delay: 0.0,
            num_violations: 0,
        }
    }
}

/// What all servers have seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AuditReport {
    pub runs: BTreeSet<RunId>,
    pub num_files: u64,
    pub num_requests: u64,
    pub received_bytes: u64,
    /// When the first and the last request left, in microseconds since 1970.
    pub first_sent_at: Option<i64>,
    pub last_sent_at: Option<i64>,
    /// Requests that the ledger could not take when they were sent.
    pub num_lost: u64,
    /// Files that end without an end: killed, or still written.
    pub num_cut_off: u64,
    /// Runs that were told not to heed robots.txt.
    pub runs_without_robots: BTreeSet<RunId>,
    pub num_violations: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
    /// By name.
    pub servers: Vec<ServerAudit>,
}

impl AuditReport {
    pub(super) fn of(files: &[(RunId, Rank, PathBuf)]) -> Self {
        let runs = files.iter().map(|(run, _, _)| *run).collect();
        Self { runs, num_files: files.len() as u64, ..Self::default() }
    }

    pub(super) fn count(&mut self, entry: &RequestEntry) {
        self.num_requests += 1;
        self.received_bytes += entry.received_bytes;
        self.first_sent_at.get_or_insert(entry.sent_at);
        self.last_sent_at = Some(entry.sent_at);
    }

    pub(super) fn add(&mut self, violation: Violation, max_violations: usize) {
        self.num_violations += 1;
        if self.violations.len() < max_violations {
            self.violations.push(violation);
        }
    }

    pub(super) fn missing(&mut self, ends: &[LedgerEnd]) {
        self.num_lost = ends.iter().map(|end| end.num_lost).sum();
        self.num_cut_off = ends.iter().filter(|end| end.is_cut_off).count() as u64;
    }

    /// Sums over all servers of what was held against robots.txt: checked, disallowed, not known and not heeded.
    #[must_use]
    pub fn robots(&self) -> [u64; 4] {
        self.servers.iter().fold([0; 4], |[checked, disallowed, not_known, not_heeded], server| {
            [
                checked + server.num_robots_checked,
                disallowed + server.num_robots_disallowed,
                not_known + server.num_robots_not_known,
                not_heeded + server.num_robots_not_heeded,
            ]
        })
    }

    /// Whether every promise was kept, as far as the ledger tells.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.num_violations == 0
    }
}
