//! One server that somebody borrows: who has what of it, whose turn it is, and what is lent next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LandlordAction;
use super::limits::{Limits, Part};
use super::received::Received;
use crate::catalog::{ReceivedBytes, ServerFact};
use crate::model::{Complaints, Embargo, FailureCause, Loan, Rank, ServerBudget, ServerName};

/// The window in which a rate is counted.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// What a rank is told while a budget of bytes is used up. No answer of the server has led to it.
const BUDGET_USED_UP: FailureCause = FailureCause::HttpStatus;

/// A server that somebody borrows.
#[derive(Debug)]
pub(super) struct Estate {
    budget: ServerBudget,
    /// Of http and https.
    pub crawl_delays: [Duration; 2],
    pub embargo: Option<KnownEmbargo>,
    pub received: Received,
    /// When the run before may have asked it last.
    may_be_asked_at: u64,
    pub borrowers: BTreeMap<Rank, Borrower>,
    /// Rates that nobody has any more, but somebody used a moment ago: (until, requests/s).
    cooling: Vec<(u64, f64)>,
    /// When there will be bytes for those that wait for some.
    bytes_free_at: Option<u64>,
    pub due: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct KnownEmbargo {
    pub until: u64,
    pub cause: FailureCause,
    pub http_status: Option<u16>,
    /// As of `told_at`.
    pub complaints: Complaints,
    pub told_at: u64,
}

#[derive(Debug)]
pub(super) struct Borrower {
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

impl Estate {
    /// The run began at `started_at`: the one before, which may have been killed, asked nobody after that.
    pub fn new(now: u64, started_at: u64, budget: ServerBudget, facts: &[ServerFact]) -> Self {
        let mut estate = Self {
            budget,
            crawl_delays: [Duration::ZERO; 2],
            embargo: None,
            received: Received::new(&budget, &ReceivedBytes::default(), now),
            may_be_asked_at: if facts.is_empty() { 0 } else { started_at },
            borrowers: BTreeMap::new(),
            cooling: Vec::new(),
            bytes_free_at: None,
            due: None,
        };
        for fact in facts {
            match fact {
                &ServerFact::Embargo { until, cause, http_status } => {
                    let complaints = Complaints::default();
                    let embargo = KnownEmbargo { until, cause, http_status, complaints, told_at: now };
                    estate.embargo = Some(embargo);
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
        Limits::of(&self.budget, self.crawl_delays[0].max(self.crawl_delays[1]))
    }

    pub fn borrow(&mut self, now: u64, rank: Rank, borrow: u64, received: u64) -> bool {
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

    pub fn accept(&mut self, now: u64, rank: Rank, number: u64, rest: Duration) {
        let Some(borrower) = self.borrowers.get_mut(&rank) else { return };
        if borrower.number != number {
            return;
        }
        let freed = borrower.held.rate - borrower.lent.rate;
        borrower.held = borrower.lent;
        self.cool(now, freed, rest);
    }

    /// A rate that somebody had until now is nobody's for as long as a second may still see both; one that is not
    /// divided for as long as the time between two requests is, if that is longer.
    fn cool(&mut self, now: u64, rate: f64, rest: Duration) {
        let limits = self.limits();
        let gap = Duration::from_millis(limits.gap_ms());
        let rest = if gap > RATE_WINDOW { gap } else { rest.min(RATE_WINDOW) };
        if rate > 0.0 && limits.rate.is_some() && !rest.is_zero() {
            self.cooling.push((now + rest.as_micros().div_ceil(1000) as u64, rate));
        }
    }

    /// `known` are the bytes received and how long until no second has any requests; `None` when nobody knows: then
    /// all that was lent counts, and was used until now.
    pub fn give_back(&mut self, now: u64, rank: Rank, known: Option<(u64, Duration)>) -> bool {
        let Some(borrower) = self.borrowers.remove(&rank) else { return false };
        let (received, rest) = known.unwrap_or((borrower.bytes, RATE_WINDOW));
        self.cool(now, borrower.held.rate, rest);
        self.received.add(received, now);
        received > 0 || borrower.bytes > 0
    }

    pub fn tell_embargo(
        &mut self,
        now: u64,
        from: Rank,
        embargo: KnownEmbargo,
        server: &ServerName,
        actions: &mut Vec<LandlordAction>,
    ) {
        if self.embargo.is_some_and(|known| embargo.until <= known.until) {
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

    /// Why it is to be left alone at `now`, if it is: what it has asked for, or its budget of bytes.
    pub fn leaves_alone(&self, now: u64) -> Option<Embargo> {
        let used_up = self.bytes_free_at.map(KnownEmbargo::used_up);
        let longest = self.embargo.into_iter().chain(used_up).max_by_key(|embargo| embargo.until)?;
        (longest.until > now).then(|| longest.left(now))
    }

    /// Whether nothing of it need be kept: nobody has any, nobody had a moment ago, and it is not to be left alone.
    pub fn is_vacant(&self, now: u64) -> bool {
        let is_embargoed = self.embargo.is_some_and(|embargo| embargo.until > now);
        self.borrowers.is_empty() && self.cooling.is_empty() && !is_embargoed
    }

    pub fn bytes_lent(&self) -> u64 {
        self.borrowers.values().fold(0, |sum: u64, borrower| sum.saturating_add(borrower.bytes))
    }

    /// Lends what can be lent now. Returns whether bytes were.
    pub fn settle(
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
            let since_asked = Duration::from_millis(now.saturating_sub(self.may_be_asked_at));
            let rest =
                if grant.is_nothing() { Duration::ZERO } else { grant.gap().saturating_sub(since_asked) };
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
        let embargo = KnownEmbargo::used_up(until).left(now);
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

    pub fn next_due(&self) -> Option<u64> {
        let limits = self.limits();
        let cooled = self.cooling.iter().map(|&(until, _)| until).min();
        let is_waited_for = self.borrowers.values().any(|borrower| !borrower.is_seated);
        let seated = self.borrowers.values().filter(|borrower| borrower.is_seated);
        let turn_ends = match is_waited_for && seated.clone().all(|borrower| !borrower.lent.is_nothing()) {
            true => seated.map(|borrower| borrower.since + limits.turn_ms()).min(),
            false => None,
        };
        let embargo_ends = self.embargo.filter(|_| self.borrowers.is_empty()).map(|embargo| embargo.until);
        [cooled, turn_ends, self.bytes_free_at, embargo_ends].into_iter().flatten().min()
    }
}

impl KnownEmbargo {
    /// Nothing more may be received.
    fn used_up(until: u64) -> Self {
        let complaints = Complaints::default();
        Self { until, cause: BUDGET_USED_UP, http_status: None, complaints, told_at: 0 }
    }

    pub fn left(self, now: u64) -> Embargo {
        let left = Duration::from_millis(self.until.saturating_sub(now));
        let Self { cause, http_status, mut complaints, .. } = self;
        if complaints.number > 0 {
            complaints.lasting += Duration::from_millis(now.saturating_sub(self.told_at));
        }
        Embargo { left, cause, http_status, complaints }
    }
}
