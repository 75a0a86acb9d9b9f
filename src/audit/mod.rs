//! `audit`: replays the ledger and says of each server whether the cluster kept its promises.
//!
//! It shares no code with what paces requests: it sees when each request left and ended, on all ranks, and counts.
//! The rules, for each request that leaves for a server at a time `t`:
//!
//! | rule | a violation when |
//! |---|---|
//! | [`Rule::Connections`] | with it, more requests are under way than `max_connections` |
//! | [`Rule::Rate`] | with it, more than `max_rate` x W + 1 have left within W, for W of one second and of ten (where a rate is below 1/s: of one request's time and of ten) |
//! | [`Rule::Embargo`] | a response that asked to be left alone has ended, and the time it asked for is not over |
//! | [`Rule::Robots`] | the newest robots.txt that any rank has received of the server and scheme disallows it (RFC 9309) |
//! | [`Rule::CrawlDelay`] | as the rate, where that file's Crawl-delay is the rate |
//!
//! The files are in the ledger as they were received, and are read here once more, by other code (`robots_txt.rs`): what
//! is sent before the first one came is *not known*, and counted; with [`AuditOptions::run`], files of earlier runs count
//! as well. A 4xx allows all, and where the file could not be had and none is known, all is disallowed. What a file
//! disallows that has changed within the last ten minutes, and the one before does not, may have stood in line.
//! A run that was told not to heed robots.txt is said to be one.
//!
//! One more within a window is the first request's late leaving. Word of an embargo goes from rank to rank through
//! rank 0: others than the one that was told may send for [`AuditOptions::grace`] more.
//!
//! Ranks' clocks are taken as they are: where nodes differ by more than the grace, violations may be found that
//! no server saw.
//!
//! Memory: some hundred bytes for each server and its robots.txt, its requests of the last ten seconds, and a few batches of each file.

mod error;
mod merge;
mod report;
mod robots;
mod robots_txt;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub use error::AuditError;
pub use report::{AuditReport, Rule, ServerAudit, Violation};

use self::merge::Merge;
use self::robots::{RobotsReplay, Verdict};
use self::rules::ServerReplay;
use crate::model::{RunId, ServerName};
use crate::storage::ledger_files;

/// What to look at, and how closely.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// One run; without it all.
    pub run: Option<RunId>,
    /// How long word of an embargo may be on its way to other ranks.
    pub grace: Duration,
    /// Violations that are kept for the report; all are counted.
    pub max_violations: usize,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { run: None, grace: Duration::from_secs(1), max_violations: 100 }
    }
}

/// Replays a ledger.
///
/// # Errors
/// When a file cannot be read, or there is nothing to replay.
pub fn audit_ledger(folder: &Path, options: &AuditOptions) -> Result<AuditReport, AuditError> {
    let mut files = ledger_files(folder)?;
    let earlier: Vec<_> =
        files.extract_if(.., |(run, _, _)| options.run.is_some_and(|only| only > *run)).collect();
    files.retain(|(run, _, _)| options.run.is_none_or(|wanted| wanted == *run));
    if files.is_empty() {
        return Err(AuditError::NoLedger { folder: folder.to_owned(), run: options.run });
    }
    let mut report = AuditReport::of(&files);
    let mut servers: BTreeMap<ServerName, ServerReplay> = BTreeMap::new();
    let mut robots = RobotsReplay::default();
    let mut before = Merge::open(&earlier)?;
    while let Some((sender, entry)) = before.next()? {
        if entry.robots.is_some() {
            robots.replay(sender.rank, &entry, sender.robots_policy);
        }
    }
    let mut merge = Merge::open(&files)?;
    while let Some((sender, entry)) = merge.next()? {
        report.count(&entry);
        let verdict = robots.replay(sender.rank, &entry, sender.robots_policy);
        if verdict == Verdict::NotHeeded {
            report.runs_without_robots.insert(sender.run);
        }
        let crawl_delay = robots.crawl_delay(&entry.server, sender.robots_policy);
        // Not `entry()`: the name would be copied for every request.
        if !servers.contains_key(&entry.server) {
            servers.insert(entry.server.clone(), ServerReplay::new(entry.server.clone()));
        }
        let server = servers.get_mut(&entry.server).expect("put there just now");
        let report = &mut |violation| report.add(violation, options.max_violations);
        server.replay(sender.rank, &entry, options.grace, report);
        server.replay_robots(sender.rank, &entry, verdict, crawl_delay, report);
    }
    report.missing(&merge.ends());
    report.servers = servers.into_values().map(ServerReplay::finish).collect();
    Ok(report)
}
