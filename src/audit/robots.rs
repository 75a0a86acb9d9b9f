//! The replay of robots.txt: what each server's file said when a request left.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::robots_txt::RobotsTxt;
use crate::model::{Rank, RequestEntry, RequestPurpose, RobotsPolicy, RobotsRequest, ServerName};

/// A request that was cleared by a file waits for its turn, at a long Crawl-delay for minutes. So long after a file has
/// changed, what the one before allows is no violation.
const GRACE_US: i64 = 600 * 1_000_000;

/// A server and its scheme: `true` is https.
type Origin = (ServerName, bool);

/// What the files say of one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// A request for robots.txt itself.
    Exempt,
    Allowed,
    Disallowed(String),
    /// No file was known when it left.
    NotKnown,
    /// The run did not heed them.
    NotHeeded,
}

/// The files of all servers, as of the moment that is replayed.
#[derive(Default)]
pub(super) struct RobotsReplay {
    known: HashMap<Origin, Known>,
    /// Requests for files by when they ended.
    under_way: BTreeMap<(i64, u64), Answer>,
    num_asked: u64,
}

struct Answer {
    rank: Rank,
    http_status: Option<u16>,
    robots: RobotsRequest,
}

struct Known {
    latest: File,
    before: Option<File>,
    /// What each rank has read of a Crawl-delay.
    delays: BTreeMap<Rank, Duration>,
}

struct File {
    said: Said,
    rank: Rank,
    read_at: i64,
}

enum Said {
    /// A file, and its rules as somebody with these names reads it.
    Rules { text: Vec<u8>, agents: Vec<String>, rules: RobotsTxt },
    /// There is no file: all is allowed (RFC 9309, 2.3.1.3).
    Nothing,
    /// A redirect: what it leads to is still to come, and if nothing does, there is no file.
    Redirect,
    /// It could not be had: nothing is allowed (2.3.1.4).
    Unreachable(Option<u16>),
    /// The ledger does not have it.
    NotKnown,
}

impl RobotsReplay {
    /// The next request, in the order of leaving.
    pub fn replay(&mut self, rank: Rank, entry: &RequestEntry, policy: Option<&RobotsPolicy>) -> Verdict {
        let Some(policy) = policy else { return Verdict::NotKnown };
        self.learn_until(entry.sent_at, policy);
        if let Some(robots) = &entry.robots {
            self.num_asked += 1;
            let answer = Answer { rank, http_status: entry.http_status, robots: robots.clone() };
            self.under_way.insert((entry.ended_at(), self.num_asked), answer);
        }
        if entry.purpose == RequestPurpose::Robots {
            return Verdict::Exempt;
        }
        if !policy.is_respected {
            return Verdict::NotHeeded;
        }
        let Some(known) = self.known.get_mut(&(entry.server.clone(), entry.is_https)) else {
            return Verdict::NotKnown;
        };
        let verdict = known.latest.verdict(&entry.target, policy);
        let is_recent = entry.sent_at < known.latest.read_at.saturating_add(GRACE_US);
        if let (Verdict::Disallowed(_), Some(before), true) = (&verdict, &mut known.before, is_recent)
            && !matches!(before.verdict(&entry.target, policy), Verdict::Disallowed(_))
        {
            return Verdict::Allowed;
        }
        verdict
    }

    /// The Crawl-delay that all ranks know of a server, over both schemes and bounded as the run has it.
    pub fn crawl_delay(&self, server: &ServerName, policy: Option<&RobotsPolicy>) -> Duration {
        let Some(policy) = policy.filter(|policy| policy.is_respected) else { return Duration::ZERO };
        let of_scheme = |is_https| {
            let known = self.known.get(&(server.clone(), is_https))?;
            known.delays.values().min().copied()
        };
        let delay = [true, false].into_iter().filter_map(of_scheme).max().unwrap_or_default();
        delay.min(policy.max_crawl_delay)
    }

    fn learn_until(&mut self, now: i64, policy: &RobotsPolicy) {
        while let Some(first) = self.under_way.first_entry()
            && first.key().0 <= now
        {
            let ((read_at, _), answer) = first.remove_entry();
            self.learn(read_at, answer, policy);
        }
    }

    fn learn(&mut self, read_at: i64, answer: Answer, policy: &RobotsPolicy) {
        let Answer { rank, http_status, robots: RobotsRequest { server, is_https, text } } = answer;
        let origin = (server, is_https);
        // A file that was had before counts while a newer one cannot be had (RFC 9309, 2.4).
        let is_in_trouble = matches!(http_status, None | Some(408 | 425 | 429 | 500..=599));
        if is_in_trouble && self.known.contains_key(&origin) {
            return;
        }
        let said = match (http_status, text) {
            (Some(200..=299), Some(text)) => {
                let rules = RobotsTxt::parse(&text, &policy.agents);
                Said::Rules { text, agents: policy.agents.clone(), rules }
            }
            (Some(200..=299), None) => Said::NotKnown,
            (Some(300..=399), _) => Said::Redirect,
            (Some(400..=499), _) => Said::Nothing,
            (status, _) => Said::Unreachable(status),
        };
        let delay = match &said {
            Said::Rules { rules, .. } => rules.crawl_delay(),
            _ => Duration::ZERO,
        };
        let file = File { said, rank, read_at };
        match self.known.get_mut(&origin) {
            Some(known) => {
                let old = std::mem::replace(&mut known.latest, file);
                if matches!(old.said, Said::Rules { .. } | Said::Nothing) {
                    known.before = Some(old);
                }
                known.delays.insert(rank, delay);
            }
            None => {
                let delays = BTreeMap::from([(rank, delay)]);
                self.known.insert(origin, Known { latest: file, before: None, delays });
            }
        }
    }
}

impl File {
    fn verdict(&mut self, target: &str, policy: &RobotsPolicy) -> Verdict {
        match &mut self.said {
            Said::Nothing | Said::Redirect => Verdict::Allowed,
            Said::NotKnown => Verdict::NotKnown,
            Said::Unreachable(status) => {
                let answer = status.map_or("no answer".to_owned(), |status| status.to_string());
                Verdict::Disallowed(format!("`{target}`, while robots.txt could not be had ({answer})"))
            }
            Said::Rules { text, agents, rules } => {
                if *agents != policy.agents {
                    *rules = RobotsTxt::parse(text, &policy.agents);
                    agents.clone_from(&policy.agents);
                }
                let told = |rule| format!("`{target}` by `{rule}`, as rank {} had read it", self.rank);
                rules.forbids(target).map_or(Verdict::Allowed, |rule| Verdict::Disallowed(told(rule)))
            }
        }
    }
}
