//! The replay of one server.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::report::{Rule, ServerAudit, Violation};
use super::robots::Verdict;
use crate::model::{Rank, RequestEntry, ServerName};

const SECOND: i64 = 1_000_000;
/// A permit is taken, and the request leaves, at moments that differ by the scheduler's mood.
const JITTER: i64 = 20_000;
/// Requests beyond the limit within a window: the first may have left a little late, and the last on time.
const MORE: u64 = 1;

/// A request that has left: when it ended, and what its response asked for. All times in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    ended_at: i64,
    rank: Rank,
    retry_after: Option<Duration>,
}

/// From when until when a server asked to be left alone, and who was told.
#[derive(Clone, Copy, Debug)]
struct Embargo {
    from: i64,
    until: i64,
    rank: Rank,
}

pub(super) struct ServerReplay {
    found: ServerAudit,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    embargo: Option<Embargo>,
    /// When the requests of the longest window left.
    recent: VecDeque<i64>,
    /// The same under a Crawl-delay, without those for robots.txt.
    delayed: VecDeque<i64>,
}

impl ServerReplay {
    pub fn new(server_name: ServerName) -> Self {
        Self {
            found: ServerAudit::new(server_name),
            under_way: BinaryHeap::new(),
            embargo: None,
            recent: VecDeque::new(),
            delayed: VecDeque::new(),
        }
    }

    /// After the last request; what its answer asked for counts as well.
    pub fn finish(mut self) -> ServerAudit {
        self.end_until(i64::MAX);
        self.found
    }

    /// The next request, in the order of leaving.
    pub fn replay(
        &mut self,
        rank: Rank,
        entry: &RequestEntry,
        grace: Duration,
        report: &mut dyn FnMut(Violation),
    ) {
        self.end_until(entry.sent_at);
        let mut violate = |found: &mut ServerAudit, rule, detail| {
            found.num_violations += 1;
            let server_name = entry.server.clone();
            report(Violation { server_name, rank, sent_at: entry.sent_at, rule, detail });
        };

        if let Some(detail) = self.embargo_broken(rank, entry.sent_at, grace) {
            violate(&mut self.found, Rule::Embargo, detail);
        }

        self.under_way.push(Reverse(UnderWay {
            ended_at: entry.ended_at(),
            rank,
            retry_after: entry.retry_after,
        }));
        let num_under_way = self.under_way.len() as u64;
        if num_under_way > u64::from(entry.max_connections) {
            let detail = format!("{num_under_way} at once, {} promised", entry.max_connections);
            violate(&mut self.found, Rule::Connections, detail);
        }

        if self.found.max_rate != Some(entry.max_rate) {
            self.recent.clear();
        }
        self.recent.push_back(entry.sent_at);
        let peak = self.num_since(entry.sent_at - SECOND);
        if let Some(detail) = self.rate_exceeded(entry) {
            violate(&mut self.found, Rule::Rate, detail);
        }

        let found = &mut self.found;
        found.num_requests += 1;
        found.first_sent_at.get_or_insert(entry.sent_at);
        found.last_sent_at = Some(entry.sent_at);
        found.received_bytes += entry.received_bytes;
        found.num_refusals += u64::from(matches!(entry.http_status, Some(429 | 503)));
        found.max_rate = Some(entry.max_rate);
        found.max_connections = entry.max_connections;
        found.peak_rate = found.peak_rate.max(peak);
        found.peak_connections = found.peak_connections.max(num_under_way);
    }

    /// What robots.txt has to say of the same request.
    pub fn replay_robots(
        &mut self,
        rank: Rank,
        entry: &RequestEntry,
        verdict: Verdict,
        crawl_delay: Duration,
        report: &mut dyn FnMut(Violation),
    ) {
        let mut violate = |found: &mut ServerAudit, rule, detail| {
            found.num_violations += 1;
            let server_name = entry.server.clone();
            report(Violation { server_name, rank, sent_at: entry.sent_at, rule, detail });
        };
        match verdict {
            Verdict::Exempt => return,
            Verdict::Allowed => self.found.num_robots_checked += 1,
            Verdict::Disallowed(detail) => {
                self.found.num_robots_checked += 1;
                self.found.num_robots_disallowed += 1;
                violate(&mut self.found, Rule::Robots, detail);
            }
            Verdict::NotKnown => self.found.num_robots_not_known += 1,
            Verdict::NotHeeded => self.found.num_robots_not_heeded += 1,
        }
        let seconds = crawl_delay.as_secs_f64();
        if self.found.crawl_delay.to_bits() != seconds.to_bits() {
            self.found.crawl_delay = seconds;
            self.delayed.clear();
        }
        if let Some(detail) = self.crawl_delay_broken(entry.sent_at, crawl_delay) {
            violate(&mut self.found, Rule::CrawlDelay, detail);
        }
    }

    fn crawl_delay_broken(&mut self, sent_at: i64, crawl_delay: Duration) -> Option<String> {
        let delay = i64::try_from(crawl_delay.as_micros()).ok().filter(|delay| *delay > 0)?;
        self.delayed.push_back(sent_at);
        let longest = delay.saturating_mul(10);
        while self.delayed.front().is_some_and(|at| *at <= sent_at.saturating_sub(longest)) {
            self.delayed.pop_front();
        }
        [1_u64, 10].into_iter().find_map(|delays| {
            let since =
                sent_at.saturating_sub(delay.saturating_mul(delays.cast_signed())).saturating_add(JITTER);
            let left = (self.delayed.len() - self.delayed.partition_point(|at| *at <= since)) as u64;
            let seconds = crawl_delay.as_secs_f64();
            (left > delays + MORE).then(|| {
                format!(
                    "{left} requests within {:.0} s, one each {seconds} s asked for",
                    seconds * delays as f64
                )
            })
        })
    }

    /// Ends what ends until `now`, and takes note of what it asked for.
    fn end_until(&mut self, now: i64) {
        while let Some(Reverse(ended)) = self.under_way.peek().copied()
            && ended.ended_at <= now
        {
            self.under_way.pop();
            let Some(asked) = ended.retry_after else { continue };
            self.found.num_embargoes += 1;
            let until = ended.ended_at.saturating_add(i64::try_from(asked.as_micros()).unwrap_or(i64::MAX));
            if self.embargo.is_none_or(|embargo| embargo.until < until) {
                self.embargo = Some(Embargo { from: ended.ended_at, until, rank: ended.rank });
            }
        }
    }

    fn embargo_broken(&self, rank: Rank, sent_at: i64, grace: Duration) -> Option<String> {
        let embargo = self.embargo?;
        let grace = if rank == embargo.rank { JITTER } else { i64::try_from(grace.as_micros()).ok()? };
        let broken = sent_at > embargo.from.saturating_add(grace) && sent_at < embargo.until - JITTER;
        broken.then(|| {
            let seconds = |us: i64| us as f64 / SECOND as f64;
            format!(
                "{:.1} s after the server asked to be left alone for {:.1} s",
                seconds(sent_at - embargo.from),
                seconds(embargo.until - embargo.from)
            )
        })
    }

    /// Requests that left after `moment`.
    fn num_since(&self, moment: i64) -> u64 {
        (self.recent.len() - self.recent.partition_point(|sent_at| *sent_at <= moment)) as u64
    }

    fn rate_exceeded(&mut self, entry: &RequestEntry) -> Option<String> {
        let rate = entry.max_rate;
        // Truncation is the meaning; rates are positive.
        #[expect(clippy::cast_possible_truncation)]
        let window = if rate > 0.0 { SECOND.max((SECOND as f64 / rate) as i64) } else { SECOND };
        let longest = window.saturating_mul(if rate > 0.0 { 10 } else { 1 });
        while self.recent.front().is_some_and(|sent_at| *sent_at <= entry.sent_at.saturating_sub(longest)) {
            self.recent.pop_front();
        }
        if rate <= 0.0 {
            return None;
        }
        [window, longest].into_iter().find_map(|window| {
            let seconds = window as f64 / SECOND as f64;
            let allowed = (rate * seconds).ceil() + MORE as f64;
            let left = self.num_since(entry.sent_at - window + JITTER);
            (left as f64 > allowed)
                .then(|| format!("{left} requests within {seconds:.0} s, {rate} per second promised"))
        })
    }
}
