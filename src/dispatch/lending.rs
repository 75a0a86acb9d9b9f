//! Rank 0's side of what the ranks say of servers: the [`Landlord`], what the catalog knows of them, and what it is
//! to remember.
//!
//! A rank that borrows a server which it has given back, or never had, waits until the catalog was asked about it, on its own thread.
//! What is to be remembered goes there once a second, all of it in one transaction; a kill costs that second.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::DispatchError;
use super::committer::Job;
use super::coordinator::TICK;
use super::landlord::{Landlord, LandlordAction, LandlordEvent};
use super::protocol::{ServerOrder, ServerWord};
use super::publish::PausedServer;
use crate::catalog::ServerFact;
use crate::model::{Embargo, Rank, ServerBudget, ServerKnowledge, ServerName, ServerNews};

/// What the user has set for a server.
pub type BudgetOf = Arc<dyn Fn(&ServerName) -> ServerBudget + Send + Sync>;

/// Facts are handed to the catalog every so many ticks: once a second.
const FLUSH_TICKS: u32 = 2;

/// Orders to one rank, together.
pub(super) type Orders = BTreeMap<Rank, Vec<(ServerName, ServerOrder)>>;

pub(super) struct Lending {
    landlord: Landlord,
    budget_of: BudgetOf,
    clock: Clock,
    jobs: mpsc::Sender<Job>,
    /// Ranks that borrow, while the catalog is asked.
    asking: HashMap<(Rank, ServerName), Asking>,
    /// What the first loan will bring along.
    untold: HashMap<(Rank, ServerName), Box<ServerKnowledge>>,
    /// What is to be remembered, by the kind of fact.
    unwritten: BTreeMap<(ServerName, u8), ServerFact>,
    ticks: u32,
}

struct Asking {
    borrow: u64,
    received: u64,
    /// What the catalog may not have yet.
    unwritten: Vec<ServerFact>,
}

/// Milliseconds since 1970 that only grow, whatever is done to the system's clock.
struct Clock {
    started: Instant,
    started_at: u64,
    /// Above 1 only in tests, whose ticks are shorter.
    speed: f64,
}

impl Clock {
    fn now(&self) -> u64 {
        self.started_at + self.started.elapsed().mul_f64(self.speed).as_millis() as u64
    }
}

/// Servers whose pauses are published.
const MAX_PAUSED: usize = 20;

impl Lending {
    /// `started_at`: milliseconds since 1970.
    pub fn new(budget_of: BudgetOf, jobs: mpsc::Sender<Job>, started_at: u64, tick: Duration) -> Self {
        let speed = TICK.as_secs_f64() / tick.as_secs_f64();
        Self {
            landlord: Landlord::new(started_at),
            budget_of,
            clock: Clock { started: Instant::now(), started_at, speed },
            jobs,
            asking: HashMap::new(),
            untold: HashMap::new(),
            unwritten: BTreeMap::new(),
            ticks: 0,
        }
    }

    /// Takes in what a rank says.
    ///
    /// # Errors
    /// When the catalog's thread is gone; so for all that asks it.
    pub fn on_words(
        &mut self,
        rank: Rank,
        words: Vec<(ServerName, ServerWord)>,
    ) -> Result<Orders, DispatchError> {
        let now = self.clock.now();
        let mut orders = Orders::new();
        for (server, word) in words {
            self.on_word(now, rank, server, word, &mut orders)?;
        }
        Ok(orders)
    }

    fn on_word(
        &mut self,
        now: u64,
        rank: Rank,
        server: ServerName,
        word: ServerWord,
        orders: &mut Orders,
    ) -> Result<(), DispatchError> {
        match word {
            ServerWord::Borrow { borrow, received } if self.landlord.lends_to(rank, &server) => {
                self.decide(now, LandlordEvent::Borrow { rank, server, borrow, received }, orders);
            }
            ServerWord::Borrow { borrow, received } => return self.ask(now, rank, server, borrow, received),
            ServerWord::Accept { number, rest } => {
                self.decide(now, LandlordEvent::Accept { rank, server, number, rest }, orders);
            }
            ServerWord::GiveBack { received, rest } => {
                let key = (rank, server.clone());
                self.asking.remove(&key);
                self.untold.remove(&key);
                self.decide(now, LandlordEvent::GiveBack { rank, server, received, rest }, orders);
            }
            ServerWord::News(ServerNews::Embargo(embargo)) => {
                let Embargo { left, cause, http_status, complaints } = embargo;
                let until = now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
                let known =
                    self.landlord.embargo(now, &server).map_or(Duration::ZERO, |embargo| embargo.left);
                if left > known {
                    self.remember(&server, ServerFact::Embargo { until, cause, http_status });
                }
                let event = LandlordEvent::Embargo { rank, server, until, cause, http_status, complaints };
                self.decide(now, event, orders);
            }
            ServerWord::News(ServerNews::Learnt(limit)) => {
                self.remember(&server, ServerFact::Learnt { limit, at: now });
            }
            ServerWord::News(ServerNews::RobotsTxt(robots)) => {
                let (is_https, delay) = (robots.is_https, robots.crawl_delay);
                self.remember(&server, ServerFact::RobotsTxt(robots));
                self.decide(now, LandlordEvent::CrawlDelay { server, is_https, delay }, orders);
            }
            ServerWord::CrawlDelay { is_https, delay } => {
                self.decide(now, LandlordEvent::CrawlDelay { server, is_https, delay }, orders);
            }
        }
        Ok(())
    }

    /// Asks the catalog what it knows of a server.
    fn ask(
        &mut self,
        now: u64,
        rank: Rank,
        server: ServerName,
        borrow: u64,
        received: u64,
    ) -> Result<(), DispatchError> {
        let key = (rank, server);
        if let Some(asking) = self.asking.get_mut(&key) {
            asking.borrow = borrow;
            asking.received = asking.received.saturating_add(received);
            return Ok(());
        }
        let of_server = (key.1.clone(), 0)..=(key.1.clone(), u8::MAX);
        let unwritten = self.unwritten.range(of_server).map(|(_, fact)| fact.clone()).collect();
        self.submit(Job::Recall { rank, server: key.1.clone(), now })?;
        self.asking.insert(key, Asking { borrow, received, unwritten });
        Ok(())
    }

    /// Takes in what the catalog knows of a server that the rank borrows.
    pub fn on_facts(&mut self, rank: Rank, server: ServerName, mut facts: Vec<ServerFact>) -> Orders {
        let mut orders = Orders::new();
        let now = self.clock.now();
        // It may have been given back, or the rank lost, meanwhile.
        let Some(asking) = self.asking.remove(&(rank, server.clone())) else { return orders };
        facts.retain(|fact| asking.unwritten.iter().all(|newer| newer.kind() != fact.kind()));
        facts.extend(asking.unwritten);
        self.landlord.acquaint(now, &server, (self.budget_of)(&server), &facts);
        let mut knowledge =
            ServerKnowledge { embargo: self.landlord.embargo(now, &server), ..ServerKnowledge::default() };
        for fact in facts {
            match fact {
                ServerFact::Learnt { limit, .. } => knowledge.learnt = limit,
                ServerFact::RobotsTxt(robots) => knowledge.robots_txt.push(robots),
                ServerFact::Embargo { .. } | ServerFact::Received(_) => {}
            }
        }
        self.untold.insert((rank, server.clone()), Box::new(knowledge));
        let Asking { borrow, received, .. } = asking;
        self.decide(now, LandlordEvent::Borrow { rank, server, borrow, received }, &mut orders);
        orders
    }

    /// What the rank was lent is free: its lease has run out, or it has left.
    pub fn on_lost(&mut self, rank: Rank) -> Orders {
        let mut orders = Orders::new();
        self.asking.retain(|(asking, _), _| *asking != rank);
        self.untold.retain(|(untold, _), _| *untold != rank);
        self.decide(self.clock.now(), LandlordEvent::Lost { rank }, &mut orders);
        orders
    }

    /// Servers that are left alone now, those that are longest first; no more than people read.
    pub fn paused_servers(&self) -> Vec<PausedServer> {
        let now = self.clock.now();
        let mut embargoes: Vec<_> = self.landlord.embargoes(now).collect();
        embargoes.sort_by(|(a, left), (b, other)| other.left.cmp(&left.left).then(a.cmp(b)));
        let paused = |(server, embargo): (&ServerName, Embargo)| PausedServer {
            server_name: server.to_string(),
            until: now.saturating_add(u64::try_from(embargo.left.as_millis()).unwrap_or(u64::MAX)),
            cause: if embargo.is_for_bytes() { "byte budget".into() } else { embargo.cause.to_string() },
            http_status: embargo.http_status,
        };
        embargoes.into_iter().take(MAX_PAUSED).map(paused).collect()
    }

    /// A number for the word that a rank which was lost has no loans.
    pub fn number_of_nothing(&mut self) -> u64 {
        self.landlord.number_of_nothing()
    }

    /// Time has passed.
    pub fn on_tick(&mut self) -> Result<Orders, DispatchError> {
        let mut orders = Orders::new();
        self.decide(self.clock.now(), LandlordEvent::Tick, &mut orders);
        self.ticks += 1;
        if self.ticks >= FLUSH_TICKS {
            self.flush()?;
        }
        Ok(orders)
    }

    /// Hands to the catalog what it is to remember.
    pub fn flush(&mut self) -> Result<(), DispatchError> {
        self.ticks = 0;
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let facts = std::mem::take(&mut self.unwritten);
        self.submit(Job::Remember(facts.into_iter().map(|((server, _), fact)| (server, fact)).collect()))
    }

    fn remember(&mut self, server: &ServerName, fact: ServerFact) {
        self.unwritten.insert((server.clone(), fact.kind()), fact);
    }

    fn submit(&self, job: Job) -> Result<(), DispatchError> {
        self.jobs.send(job).map_err(|_| DispatchError::CoordinatorGone)
    }

    fn decide(&mut self, now: u64, event: LandlordEvent, orders: &mut Orders) {
        for action in self.landlord.on_event(now, event) {
            match action {
                LandlordAction::Lend { rank, server, borrow, loan } => {
                    let knowledge = self.untold.remove(&(rank, server.clone()));
                    let order = ServerOrder::Lend { borrow, loan, knowledge };
                    orders.entry(rank).or_default().push((server, order));
                }
                LandlordAction::Embargo { rank, server, embargo } => {
                    orders.entry(rank).or_default().push((server, ServerOrder::Embargo(embargo)));
                }
                LandlordAction::Received { server, received } => {
                    self.remember(&server, ServerFact::Received(received));
                }
            }
        }
    }
}
