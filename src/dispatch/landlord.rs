//! Rank 0's decisions: which rank may ask a server how hard. A state machine without I/O: events in, actions out.
//!
//! A server's limits are lent, by its name and not by its folder: a redirect may lead to a server that the catalog
//! does not have. A lone borrower has all of them. With several, rates are dealt in whole requests a second, so that
//! no window of a second sees more than the limit however the ranks' requests fall (a rank with `k` of them spaces its
//! requests `1 / k` s apart); connections are dealt likewise. A rate below 2/s, or one that the owner has set as a
//! Crawl-delay, is not divided. Where there are more borrowers than pieces, the ranks take turns.
//!
//! Nobody is lent what another may still use. A rank is lent less first; when it has accepted that, and no second has
//! more of its requests than that any more, what is free is lent to the others. A rank that has asked little or
//! nothing lately makes room at once.
//!
//! Invariant, checked by the property test in `tests/sums.rs`: over all ranks, the larger of what was lent last and of what was
//! lent since it last accepted something never sums to more than the budget.
//!
//! Only servers that somebody borrows are kept, and those that are to be left alone: a rank that comes later hears how
//! they have behaved. What outlives that is in the catalog ([`ServerFact`]).

mod estate;
mod limits;
mod received;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use self::estate::{Estate, KnownEmbargo};
use self::limits::Limits;
use crate::catalog::{ReceivedBytes, ServerFact};
use crate::model::{Complaints, Embargo, FailureCause, Loan, Rank, ServerBudget, ServerName};

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
    /// `rest`: how long until no second has more of the rank's requests than the loan allows.
    Accept {
        rank: Rank,
        server: ServerName,
        number: u64,
        rest: Duration,
    },
    /// `rest`: how long until no second has any of the rank's requests.
    GiveBack {
        rank: Rank,
        server: ServerName,
        received: u64,
        rest: Duration,
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

#[derive(Debug)]
pub struct Landlord {
    started_at: u64,
    servers: HashMap<ServerName, Estate>,
    /// When time by itself changes something.
    due: BTreeSet<(u64, ServerName)>,
    num_loans: u64,
}

/// Ranks that can ask a server with this budget at the same time.
#[must_use]
pub fn num_seats(budget: &ServerBudget) -> u32 {
    Limits::of(budget, Duration::ZERO).seats() as u32
}

/// The nth of so many even parts of a budget, at most as many as there are seats: rates in whole requests a second, so
/// that the parts together never send more in any second. For those who cannot borrow from a landlord.
#[must_use]
pub fn deal_budget(budget: &ServerBudget, nth: u32, of: u32) -> ServerBudget {
    let part = Limits::of(budget, Duration::ZERO).deal(nth, of.max(1));
    let rate = if part.rate.is_finite() { part.rate } else { 0.0 };
    ServerBudget { rate, max_connections: part.connections, ..budget.divided(of) }
}

impl Landlord {
    /// `started_at`: when the run began, in milliseconds since 1970.
    #[must_use]
    pub fn new(started_at: u64) -> Self {
        Self { started_at, servers: HashMap::new(), due: BTreeSet::new(), num_loans: 0 }
    }

    /// Whether the server is borrowed, or was a moment ago, or is to be left alone.
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
            self.servers.insert(server.clone(), Estate::new(now, self.started_at, budget, facts));
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
        self.servers.iter().filter_map(move |(server, estate)| Some((server, estate.leaves_alone(now)?)))
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
            LandlordEvent::Accept { rank, server, number, rest } => {
                self.change(now, &server, &mut actions, |estate, _| {
                    estate.accept(now, rank, number, rest);
                    false
                });
            }
            LandlordEvent::GiveBack { rank, server, received, rest } => {
                self.change(now, &server, &mut actions, |estate, _| {
                    estate.give_back(now, rank, Some((received, rest)))
                });
            }
            LandlordEvent::Embargo { rank, server, until, cause, http_status, complaints } => {
                let embargo = KnownEmbargo { until, cause, http_status, complaints, told_at: now };
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
        if estate.is_vacant(now) {
            self.servers.remove(server);
        } else if let Some(due) = estate.next_due() {
            let due = due.max(now + 1);
            estate.due = Some(due);
            self.due.insert((due, server.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
