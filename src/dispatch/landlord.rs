//! Rank 0's decisions: which rank may ask a server how hard. A state machine without I/O: events in, actions out.
//!
//! A server's limits are lent, by its name and not by its folder: a redirect may lead to a server that the catalog
//! does not have. A lone borrower has all of them. With several, rates are dealt in whole requests a second, so that
//! no window of a second sees more than the limit however the ranks' requests fall (a rank with `k` of them spaces its
//! requests `1 / k` s apart); connections are dealt likewise. A rate below 2/s, or one that the owner has set as a
//! Crawl-delay, is not divided. Where there are more borrowers than pieces, the ranks take turns.
//!
//! Nobody is lent what another may still use. A rank is lent less first; when it has accepted that, and the last
//! request that it made before is far enough in the past, what is free is lent to the others.
//!
//! Invariant, checked by the property test below: over all ranks, the larger of what was lent last and of what was
//! lent since it last accepted something never sums to more than the budget.
//!
//! Only servers that somebody borrows are kept; what outlives that is in the catalog ([`ServerFact`]).

mod received;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use self::received::Received;
use crate::catalog::{ReceivedBytes, ServerFact};
use crate::model::{Complaints, Embargo, FailureCause, Loan, Rank, ServerBudget, ServerName};

/// How long a rank asks before another has its turn. The change costs a second or two of the server's time, and
/// partitions of the ranks that wait stay open: ten seconds lose little and let nobody wait for minutes.
const TURN_MS: u64 = 10_000;
/// A turn lasts for so many requests at least.
const REQUESTS_PER_TURN: u64 = 5;
/// The window in which a rate is counted.
const RATE_WINDOW_MS: u64 = 1000;
/// Below this rate (requests/s) there are no two whole requests a second to deal.
const LEAST_DIVIDED_RATE: f64 = 2.0;
/// An embargo that ends no later than this after one that is known is no news.
const SAME_EMBARGO_MS: u64 = 1000;
/// What a rank is told while a budget of bytes is used up. No answer of the server has led to it.
const BUDGET_USED_UP: FailureCause = FailureCause::HttpStatus;

/// Times are milliseconds since 1970.
#[derive(Clone, Debug)]
pub enum LandlordEvent {
    /// `borrow` is the rank's own number of this word; its answer carries it.
    Borrow {
        rank: Rank,
        server: ServerName,
        borrow: u64,
        received: u64,
    },
    Accept {
        rank: Rank,
        server: ServerName,
        number: u64,
    },
    GiveBack {
        rank: Rank,
        server: ServerName,
        received: u64,
    },
    Embargo {
        rank: Rank,
        server: ServerName,
        until: u64,
        cause: FailureCause,
        http_status: Option<u16>,
        complaints: Complaints,
    },
    /// What one of the server's two robots.txt asks for.
    CrawlDelay {
        server: ServerName,
        is_https: bool,
        delay: Duration,
    },
    /// The rank's lease has run out, or it has left: it asks nothing any more.
    Lost {
        rank: Rank,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LandlordAction {
    Lend {
        rank: Rank,
        server: ServerName,
        borrow: u64,
        loan: Loan,
    },
    Embargo {
        rank: Rank,
        server: ServerName,
        embargo: Embargo,
    },
    /// What was received of a server with a budget of bytes, for the catalog.
    Received {
        server: ServerName,
        received: ReceivedBytes,
    },
}

#[derive(Debug, Default)]
pub struct Landlord {
    servers: HashMap<ServerName, Estate>,
    /// When time by itself changes something.
    due: BTreeSet<(u64, ServerName)>,
    num_loans: u64,
}

/// What is lent, or may be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Part {
    /// Requests/s; infinite where there is no limit.
    rate: f64,
    connections: u32,
}

/// A server's limits as they are dealt.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// `None`: none.
    rate: Option<f64>,
    /// Pieces of the rate.
    units: u32,
    connections: u32,
}

/// What is known of who has asked a server before.
#[derive(Clone, Copy, Debug)]
enum Past {
    /// Nobody, as far as is known.
    Unknown,
    /// The catalog knows of it: the run before may have been killed a moment ago.
    Known,
    /// It was lent in this run.
    Lent,
}

impl Past {
    /// How long a rank that had nothing keeps still under this part.
    fn rest(self, Part { rate, .. }: Part) -> Duration {
        let gap = if rate > 0.0 {
            Duration::try_from_secs_f64(1.0 / rate).unwrap_or_default()
        } else {
            Duration::ZERO
        };
        match self {
            Self::Unknown => Duration::ZERO,
            Self::Known => gap,
            Self::Lent if gap.is_zero() => gap,
            Self::Lent => gap.max(Duration::from_millis(RATE_WINDOW_MS)),
        }
    }
}

/// A server that somebody borrows.
#[derive(Debug)]
struct Estate {
    budget: ServerBudget,
    /// Of http and https.
    crawl_delays: [Duration; 2],
    embargo: Option<KnownEmbargo>,
    received: Received,
    past: Past,
    borrowers: BTreeMap<Rank, Borrower>,
    /// Rates that nobody has any more, but somebody used a moment ago: (until, requests/s).
    cooling: Vec<(u64, f64)>,
    /// When there will be bytes for those that wait for some.
    bytes_free_at: Option<u64>,
    due: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct KnownEmbargo {
    until: u64,
    cause: FailureCause,
    http_status: Option<u16>,
    complaints: Complaints,
}

#[derive(Debug)]
struct Borrower {
    borrow: u64,
    /// The newest loan, once there is one.
    number: u64,
    lent: Part,
    /// What it may still use: the largest of the newest loan and those before that it has not yet let go of.
    held: Part,
    /// Whether its last word has not been answered.
    is_new: bool,
    must_answer: bool,
    /// Whether it has its turn; since when it has it, or waits.
    is_seated: bool,
    since: u64,
    /// Bytes lent since it last reported any.
    bytes: u64,
    wants_bytes: bool,
    /// Until when it was told that a budget of bytes is used up.
    told_until: u64,
}

impl Landlord {
    /// Whether the server is borrowed, or was a moment ago.
    #[must_use]
    pub fn knows(&self, server: &ServerName) -> bool {
        self.servers.contains_key(server)
    }

    /// Whether the rank borrows the server.
    #[must_use]
    pub fn lends_to(&self, rank: Rank, server: &ServerName) -> bool {
        self.servers.get(server).is_some_and(|estate| estate.borrowers.contains_key(&rank))
    }

    /// Takes a server in before it is first borrowed. Does nothing for one that is known.
    pub fn acquaint(&mut self, now: u64, server: &ServerName, budget: ServerBudget, facts: &[ServerFact]) {
        if !self.knows(server) {
            self.servers.insert(server.clone(), Estate::new(now, budget, facts));
        }
    }

    /// What holds of an embargo of a server that is known.
    #[must_use]
    pub fn embargo(&self, now: u64, server: &ServerName) -> Option<Embargo> {
        let embargo = self.servers.get(server)?.embargo.filter(|embargo| embargo.until > now)?;
        Some(embargo.left(now))
    }

    /// Servers that are to be left alone at `now`: how long, and why.
    pub fn embargoes(&self, now: u64) -> impl Iterator<Item = (&ServerName, Embargo)> {
        self.servers.iter().filter_map(move |(server, estate)| {
            let complaints = Complaints::default();
            let used_up = estate.bytes_free_at.map(|until| KnownEmbargo {
                until,
                cause: BUDGET_USED_UP,
                http_status: None,
                complaints,
            });
            let embargo = estate.embargo.into_iter().chain(used_up).max_by_key(|embargo| embargo.until)?;
            (embargo.until > now).then(|| (server, embargo.left(now)))
        })
    }

    /// A number for a loan that ends all loans of a rank.
    pub fn number_of_nothing(&mut self) -> u64 {
        self.num_loans += 1;
        self.num_loans
    }

    /// Takes in one event and says what follows. `now` must not fall.
    pub fn on_event(&mut self, now: u64, event: LandlordEvent) -> Vec<LandlordAction> {
        let mut actions = Vec::new();
        match event {
            LandlordEvent::Borrow { rank, server, borrow, received } => {
                self.change(now, &server, &mut actions, |estate, _| {
                    estate.borrow(now, rank, borrow, received)
                });
            }
            LandlordEvent::Accept { rank, server, number } => {
                self.change(now, &server, &mut actions, |estate, _| {
                    estate.accept(now, rank, number);
                    false
                });
            }
            LandlordEvent::GiveBack { rank, server, received } => {
                self.change(now, &server, &mut actions, |estate, _| {
                    estate.give_back(now, rank, Some(received))
                });
            }
            LandlordEvent::Embargo { rank, server, until, cause, http_status, complaints } => {
                let embargo = KnownEmbargo { until, cause, http_status, complaints };
                self.change(now, &server, &mut actions, |estate, actions| {
                    estate.tell_embargo(now, rank, embargo, &server, actions);
                    false
                });
            }
            LandlordEvent::CrawlDelay { server, is_https, delay } => {
                self.change(now, &server, &mut actions, |estate, _| {
                    estate.crawl_delays[usize::from(is_https)] = delay;
                    false
                });
            }
            LandlordEvent::Lost { rank } => {
                let borrowed = self.servers.iter().filter(|(_, estate)| estate.borrowers.contains_key(&rank));
                let mut borrowed: Vec<_> = borrowed.map(|(server, _)| server.clone()).collect();
                borrowed.sort();
                for server in borrowed {
                    self.change(now, &server, &mut actions, |estate, _| estate.give_back(now, rank, None));
                }
            }
            LandlordEvent::Tick => {
                while let Some((due, _)) = self.due.first()
                    && *due <= now
                    && let Some((_, server)) = self.due.pop_first()
                {
                    self.change(now, &server, &mut actions, |_, _| false);
                }
            }
        }
        actions
    }

    /// Changes a server and lends what then can be lent. `change` says whether bytes were counted.
    fn change(
        &mut self,
        now: u64,
        server: &ServerName,
        actions: &mut Vec<LandlordAction>,
        change: impl FnOnce(&mut Estate, &mut Vec<LandlordAction>) -> bool,
    ) {
        let Some(estate) = self.servers.get_mut(server) else { return };
        let has_counted = change(estate, actions);
        let has_lent_bytes = estate.settle(now, server, &mut self.num_loans, actions);
        if estate.received.is_limited() && (has_counted || has_lent_bytes) {
            let received = estate.received.snapshot(estate.bytes_lent(), now);
            actions.push(LandlordAction::Received { server: server.clone(), received });
        }
        if let Some(due) = estate.due.take() {
            self.due.remove(&(due, server.clone()));
        }
        if estate.borrowers.is_empty() && estate.cooling.is_empty() {
            self.servers.remove(server);
        } else if let Some(due) = estate.next_due() {
            let due = due.max(now + 1);
            estate.due = Some(due);
            self.due.insert((due, server.clone()));
        }
    }
}

impl Estate {
    fn new(now: u64, budget: ServerBudget, facts: &[ServerFact]) -> Self {
        let mut estate = Self {
            budget,
            crawl_delays: [Duration::ZERO; 2],
            embargo: None,
            received: Received::new(&budget, &ReceivedBytes::default(), now),
            past: if facts.is_empty() { Past::Unknown } else { Past::Known },
            borrowers: BTreeMap::new(),
            cooling: Vec::new(),
            bytes_free_at: None,
            due: None,
        };
        for fact in facts {
            match fact {
                &ServerFact::Embargo { until, cause, http_status } => {
                    let complaints = Complaints::default();
                    estate.embargo = Some(KnownEmbargo { until, cause, http_status, complaints });
                }
                ServerFact::Received(received) => estate.received = Received::new(&budget, received, now),
                ServerFact::RobotsTxt(robots) => {
                    estate.crawl_delays[usize::from(robots.is_https)] = robots.crawl_delay;
                }
                ServerFact::Learnt { .. } => {}
            }
        }
        estate
    }

    fn limits(&self) -> Limits {
        let connections = self.budget.max_connections.max(1);
        let set = (self.budget.rate > 0.0).then_some(self.budget.rate);
        let delay = self.crawl_delays[0].max(self.crawl_delays[1]);
        if !delay.is_zero() {
            let asked = delay.as_secs_f64().recip();
            return Limits { rate: Some(set.unwrap_or(asked).min(asked)), units: 1, connections };
        }
        let units = match set {
            None => u32::MAX,
            Some(rate) if rate < LEAST_DIVIDED_RATE => 1,
            Some(rate) => rate as u32,
        };
        Limits { rate: set, units, connections }
    }

    fn borrow(&mut self, now: u64, rank: Rank, borrow: u64, received: u64) -> bool {
        let borrower = self.borrowers.entry(rank).or_insert_with(|| Borrower {
            borrow,
            number: 0,
            lent: Part::default(),
            held: Part::default(),
            is_new: true,
            must_answer: true,
            is_seated: false,
            since: now,
            bytes: 0,
            wants_bytes: true,
            told_until: 0,
        });
        let has_counted = received > 0 || borrower.bytes > 0;
        borrower.borrow = borrow;
        borrower.must_answer = true;
        borrower.wants_bytes = true;
        borrower.bytes = 0;
        borrower.told_until = 0;
        self.received.add(received, now);
        has_counted
    }

    fn accept(&mut self, now: u64, rank: Rank, number: u64) {
        let limits = self.limits();
        let Some(borrower) = self.borrowers.get_mut(&rank) else { return };
        if borrower.number != number {
            return;
        }
        let freed = borrower.held.rate - borrower.lent.rate;
        borrower.held = borrower.lent;
        if freed > 0.0 && limits.rate.is_some() {
            self.cooling.push((now + limits.gap_ms().max(RATE_WINDOW_MS), freed));
        }
    }

    /// `received` is `None` when nobody knows: then all that was lent counts.
    fn give_back(&mut self, now: u64, rank: Rank, received: Option<u64>) -> bool {
        let gap = self.limits().gap_ms();
        let Some(borrower) = self.borrowers.remove(&rank) else { return false };
        // It has been idle, but for a second or so and not for a Crawl-delay.
        if gap > RATE_WINDOW_MS && borrower.held.rate > 0.0 {
            self.cooling.push((now + gap, borrower.held.rate));
        }
        let received = received.unwrap_or(borrower.bytes);
        self.received.add(received, now);
        received > 0 || borrower.bytes > 0
    }

    fn tell_embargo(
        &mut self,
        now: u64,
        from: Rank,
        embargo: KnownEmbargo,
        server: &ServerName,
        actions: &mut Vec<LandlordAction>,
    ) {
        if self.embargo.is_some_and(|known| embargo.until <= known.until.saturating_add(SAME_EMBARGO_MS)) {
            return;
        }
        self.embargo = Some(embargo);
        let others = self.borrowers.keys().filter(|&&rank| rank != from);
        actions.extend(others.map(|&rank| LandlordAction::Embargo {
            rank,
            server: server.clone(),
            embargo: embargo.left(now),
        }));
    }

    fn bytes_lent(&self) -> u64 {
        self.borrowers.values().fold(0, |sum: u64, borrower| sum.saturating_add(borrower.bytes))
    }

    /// Lends what can be lent now. Returns whether bytes were.
    fn settle(
        &mut self,
        now: u64,
        server: &ServerName,
        num_loans: &mut u64,
        actions: &mut Vec<LandlordAction>,
    ) -> bool {
        self.cooling.retain(|&(until, _)| until > now);
        let limits = self.limits();
        self.seat(now, limits);
        let targets = self.targets(limits);
        let mut has_lent_bytes = false;
        self.bytes_free_at = None;
        for (rank, target) in targets {
            let grant = self.grant(rank, target, limits);
            let bytes = self.borrowers.get(&rank).is_some_and(|borrower| {
                self.received.is_limited() && borrower.wants_bytes && !grant.is_nothing()
            });
            let bytes = bytes.then(|| self.received.tranche(self.bytes_lent(), self.borrowers.len(), now));
            if bytes == Some(None) {
                let free_at = self.received.free_again(self.bytes_lent(), now);
                self.bytes_free_at = Some(free_at);
            }
            let Some(borrower) = self.borrowers.get_mut(&rank) else { continue };
            if let Some(Some(bytes)) = bytes {
                borrower.bytes = bytes;
                borrower.wants_bytes = false;
                has_lent_bytes = true;
            }
            let must_answer =
                borrower.must_answer && !(borrower.is_new && borrower.is_seated && grant.is_nothing());
            let is_changed = grant != borrower.lent || matches!(bytes, Some(Some(_)));
            if !(must_answer || is_changed) {
                continue;
            }
            if borrower.lent.is_nothing() && !grant.is_nothing() {
                borrower.since = now;
            }
            *num_loans += 1;
            borrower.number = *num_loans;
            borrower.lent = grant;
            let rest = self.past.rest(grant);
            if !grant.is_nothing() {
                self.past = Past::Lent;
            }
            borrower.held = borrower.held.max(grant);
            borrower.is_new = false;
            borrower.must_answer = false;
            let bytes = self.received.is_limited().then_some(borrower.bytes);
            let loan = Loan {
                number: borrower.number,
                rate: if grant.rate.is_finite() { grant.rate } else { 0.0 },
                max_connections: grant.connections,
                bytes,
                rest,
            };
            actions.push(LandlordAction::Lend {
                rank,
                server: server.clone(),
                borrow: borrower.borrow,
                loan,
            });
        }
        self.tell_used_up(now, server, actions);
        has_lent_bytes
    }

    /// Tells those that wait for bytes, whenever the end of their waiting has changed.
    fn tell_used_up(&mut self, now: u64, server: &ServerName, actions: &mut Vec<LandlordAction>) {
        let Some(until) = self.bytes_free_at else { return };
        let complaints = Complaints::default();
        let embargo = KnownEmbargo { until, cause: BUDGET_USED_UP, http_status: None, complaints }.left(now);
        for (&rank, borrower) in &mut self.borrowers {
            if borrower.wants_bytes && !borrower.lent.is_nothing() && borrower.told_until != until {
                borrower.told_until = until;
                actions.push(LandlordAction::Embargo { rank, server: server.clone(), embargo });
            }
        }
    }

    /// Settles whose turn it is.
    fn seat(&mut self, now: u64, limits: Limits) {
        let seats = limits.seats().min(self.borrowers.len());
        let mut waiting: Vec<(u64, Rank)> = self.by_time(|borrower| !borrower.is_seated);
        let mut seated: Vec<(u64, Rank)> = self.by_time(|borrower| borrower.is_seated);
        let mut change = Vec::new();
        while seated.len() > seats
            && let Some((_, rank)) = seated.pop()
        {
            change.push((rank, false));
        }
        while seated.len() < seats && !waiting.is_empty() {
            let (_, rank) = waiting.remove(0);
            seated.push((now, rank));
            change.push((rank, true));
        }
        // One change at a time: whoever has the next turn must have got it.
        let is_settled = change.is_empty()
            && seated.iter().all(|(_, rank)| self.borrowers.get(rank).is_some_and(|b| !b.lent.is_nothing()));
        if is_settled
            && let (Some(&(_, next)), Some(&(since, last))) = (waiting.first(), seated.first())
            && since + limits.turn_ms() <= now
        {
            change.extend([(last, false), (next, true)]);
        }
        for (rank, is_seated) in change {
            if let Some(borrower) = self.borrowers.get_mut(&rank) {
                borrower.is_seated = is_seated;
                borrower.since = now;
            }
        }
    }

    /// Longest first.
    fn by_time(&self, which: impl Fn(&Borrower) -> bool) -> Vec<(u64, Rank)> {
        let which = self.borrowers.iter().filter(|(_, borrower)| which(borrower));
        let mut found: Vec<_> = which.map(|(&rank, borrower)| (borrower.since, rank)).collect();
        found.sort_unstable();
        found
    }

    /// What each borrower is to have in the end.
    fn targets(&self, limits: Limits) -> Vec<(Rank, Part)> {
        let num_seated = self.borrowers.values().filter(|borrower| borrower.is_seated).count() as u32;
        let mut nth = 0;
        let mut targets: Vec<(Rank, Part)> = Vec::with_capacity(self.borrowers.len());
        for (&rank, borrower) in &self.borrowers {
            let part = if borrower.is_seated { limits.deal(nth, num_seated) } else { Part::default() };
            nth += u32::from(borrower.is_seated);
            targets.push((rank, part));
        }
        targets
    }

    /// What a borrower can have now of what it is to have: what is free, and in any case what it has.
    fn grant(&self, rank: Rank, target: Part, limits: Limits) -> Part {
        let others =
            self.borrowers.iter().filter(|(other, _)| **other != rank).map(|(_, borrower)| borrower.held);
        let (mut rate, mut connections) = (self.cooling.iter().map(|(_, rate)| rate).sum::<f64>(), 0);
        for held in others {
            rate += held.rate;
            connections += held.connections;
        }
        let kept = self.borrowers.get(&rank).map_or_else(Part::default, |borrower| target.min(borrower.lent));
        limits.within(target, Part { rate, connections }).max(kept)
    }

    fn next_due(&self) -> Option<u64> {
        let limits = self.limits();
        let cooled = self.cooling.iter().map(|&(until, _)| until).min();
        let is_waited_for = self.borrowers.values().any(|borrower| !borrower.is_seated);
        let seated = self.borrowers.values().filter(|borrower| borrower.is_seated);
        let turn_ends = match is_waited_for && seated.clone().all(|borrower| !borrower.lent.is_nothing()) {
            true => seated.map(|borrower| borrower.since + limits.turn_ms()).min(),
            false => None,
        };
        [cooled, turn_ends, self.bytes_free_at].into_iter().flatten().min()
    }
}

impl Limits {
    /// Borrowers that can ask at the same time.
    fn seats(self) -> usize {
        self.units.min(self.connections) as usize
    }

    /// Between two requests, where the rate is not divided.
    fn gap_ms(self) -> u64 {
        match self.rate {
            Some(rate) if self.units == 1 => (1000.0 / rate).ceil() as u64,
            _ => 0,
        }
    }

    fn turn_ms(self) -> u64 {
        TURN_MS.max(self.gap_ms().saturating_mul(REQUESTS_PER_TURN))
    }

    /// The part of the nth of so many, as even as whole pieces are. All for a lone one.
    fn deal(self, nth: u32, of: u32) -> Part {
        let piece = |pieces: u32| pieces / of + u32::from(nth < pieces % of);
        let rate = match self.rate {
            None => f64::INFINITY,
            Some(rate) if of == 1 => rate,
            Some(_) => f64::from(piece(self.units)),
        };
        Part { rate, connections: piece(self.connections) }
    }

    /// As much of a part as is left beside what is held; nothing where one half of it would be missing.
    fn within(self, target: Part, held: Part) -> Part {
        let connections = target.connections.min(self.connections.saturating_sub(held.connections));
        let rate = match self.rate {
            None => f64::INFINITY,
            Some(all) if target.rate <= all - held.rate => target.rate,
            Some(_) if self.units == 1 => 0.0,
            Some(all) => (all - held.rate).floor().max(0.0),
        };
        if connections == 0 || rate == 0.0 || target.is_nothing() {
            return Part::default();
        }
        Part { rate, connections }
    }
}

impl Part {
    fn is_nothing(self) -> bool {
        self.connections == 0
    }

    fn min(self, other: Self) -> Self {
        if self.is_nothing() || other.is_nothing() {
            return Self::default();
        }
        Self { rate: self.rate.min(other.rate), connections: self.connections.min(other.connections) }
    }

    fn max(self, other: Self) -> Self {
        Self { rate: self.rate.max(other.rate), connections: self.connections.max(other.connections) }
    }
}

impl KnownEmbargo {
    fn left(self, now: u64) -> Embargo {
        let left = Duration::from_millis(self.until.saturating_sub(now));
        let Self { cause, http_status, complaints, .. } = self;
        Embargo { left, cause, http_status, complaints }
    }
}

#[cfg(test)]
mod tests;
