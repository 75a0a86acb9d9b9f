use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::limits::LEAST_DIVIDED_RATE;
use super::*;
use crate::model::RobotsTxt;

const START: u64 = 1_800_000_000_000;

fn server() -> ServerName {
    ServerName::from_catalog("a.example")
}

fn budget(rate: f64, max_connections: u32) -> ServerBudget {
    ServerBudget { rate, max_connections, bytes_per_hour: 0, bytes_per_day: 0 }
}

/// A landlord of one server, and ranks that do at once what they are told.
struct Town {
    /// How long ago they have used what they let go of.
    rest: Duration,
    landlord: Landlord,
    now: u64,
    budget: ServerBudget,
    facts: Vec<ServerFact>,
    loans: BTreeMap<Rank, Loan>,
    /// Told to anybody, in order.
    embargoes: Vec<(Rank, Embargo)>,
    received: Option<ReceivedBytes>,
}

impl Town {
    fn new(budget: ServerBudget) -> Self {
        let landlord = Landlord::default();
        let (loans, facts) = (BTreeMap::new(), Vec::new());
        let rest = Duration::from_millis(999);
        Self { rest, landlord, now: START, budget, facts, loans, embargoes: Vec::new(), received: None }
    }

    fn say(&mut self, event: LandlordEvent) {
        let mut actions = VecDeque::from(self.landlord.on_event(self.now, event));
        while let Some(action) = actions.pop_front() {
            match action {
                LandlordAction::Lend { rank, server, loan, .. } => {
                    assert!(self.loans.insert(rank, loan).is_none_or(|old| old.number < loan.number));
                    let rest = self.rest;
                    let accept = LandlordEvent::Accept { rank, server, number: loan.number, rest };
                    actions.extend(self.landlord.on_event(self.now, accept));
                }
                LandlordAction::Embargo { rank, embargo, .. } => self.embargoes.push((rank, embargo)),
                LandlordAction::Received { received, .. } => self.received = Some(received),
            }
        }
    }

    fn borrow(&mut self, rank: Rank, received: u64) {
        self.landlord.acquaint(self.now, &server(), self.budget, &self.facts);
        self.say(LandlordEvent::Borrow { rank, server: server(), borrow: 1, received });
    }

    fn give_back(&mut self, rank: Rank, received: u64) {
        self.loans.remove(&rank);
        self.say(LandlordEvent::GiveBack { rank, server: server(), received, rest: self.rest });
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.now = (self.now + 500).min(until);
            self.say(LandlordEvent::Tick);
        }
    }

    fn lent(&self) -> Vec<(f64, u32)> {
        self.loans.values().map(|loan| (loan.rate, loan.max_connections)).collect()
    }
}

#[test]
fn a_lone_borrower_has_all_and_others_get_whole_requests_per_second() {
    let mut town = Town::new(budget(10.5, 8));
    town.borrow(0, 0);
    assert_eq!(town.lent(), [(10.5, 8)]);
    town.borrow(1, 0);
    assert_eq!(town.lent(), [(5.0, 4)], "what the first has asked lately is in the window yet");
    town.borrow(2, 0);
    town.pass(2000);
    assert_eq!(town.lent(), [(4.0, 3), (3.0, 3), (3.0, 2)]);
    town.give_back(1, 0);
    town.pass(2000);
    assert_eq!(town.lent(), [(5.0, 4), (5.0, 4)]);
    town.give_back(0, 0);
    assert_eq!(town.lent(), [(5.0, 8)], "who leaves may have asked a moment ago");
    town.pass(1000);
    assert_eq!(town.lent(), [(10.5, 8)]);
    town.give_back(2, 0);
    town.pass(1000);
    assert!(!town.landlord.knows(&server()) && town.landlord.due.is_empty(), "nothing is kept");
}

#[test]
fn who_has_not_used_what_it_lets_go_of_makes_room_at_once() {
    let mut town = Town { rest: Duration::ZERO, ..Town::new(budget(10.5, 8)) };
    (0..3).for_each(|rank| town.borrow(rank, 0));
    assert_eq!(town.lent(), [(4.0, 3), (3.0, 3), (3.0, 2)]);
    (1..3).for_each(|rank| town.give_back(rank, 0));
    assert_eq!(town.lent(), [(10.5, 8)]);
    town.give_back(0, 0);
    assert!(!town.landlord.knows(&server()), "nothing is kept");
    // The next request of a slow server waits whoever sends it.
    let mut town = Town { rest: Duration::ZERO, ..Town::new(budget(0.25, 4)) };
    town.borrow(0, 0);
    town.give_back(0, 0);
    town.borrow(1, 0);
    assert!(town.lent().is_empty());
    town.pass(4500);
    assert_eq!(town.lent(), [(0.25, 4)]);
}

#[test]
fn without_a_rate_only_connections_are_divided() {
    let mut town = Town::new(budget(0.0, 3));
    town.borrow(0, 0);
    town.borrow(1, 0);
    assert_eq!(town.lent(), [(0.0, 2), (0.0, 1)]);
}

#[test]
fn a_slow_server_goes_round() {
    let mut town = Town::new(budget(1.0, 8));
    for rank in 0..3 {
        town.borrow(rank, 0);
    }
    let mut turns = Vec::new();
    for _ in 0..120 {
        let asking: Vec<_> = town.loans.iter().filter(|(_, loan)| loan.max_connections > 0).collect();
        assert!(asking.len() <= 1, "{asking:?}");
        for (&rank, loan) in asking {
            assert_eq!((loan.rate, loan.max_connections), (1.0, 8));
            if turns.last() != Some(&rank) {
                turns.push(rank);
            }
        }
        town.pass(500);
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2], "in a minute");
    // Nobody waits any more.
    town.give_back(1, 0);
    town.give_back(2, 0);
    town.pass(60_000);
    assert_eq!(town.lent(), [(1.0, 8)]);
}

#[test]
fn a_crawl_delay_takes_the_rate_back_and_is_not_divided() {
    let mut town = Town::new(budget(0.0, 4));
    town.borrow(0, 0);
    town.borrow(1, 0);
    let delay = |seconds| LandlordEvent::CrawlDelay {
        server: server(),
        is_https: true,
        delay: Duration::from_secs(seconds),
    };
    town.say(delay(20));
    assert_eq!(town.lent(), [(0.05, 2), (0.0, 0)]);
    town.pass(20_500);
    assert_eq!(town.lent(), [(0.05, 4), (0.0, 0)]);
    town.say(delay(0));
    assert_eq!(town.lent(), [(0.0, 2), (0.0, 2)]);
    // One that is alone with the server just slows down.
    let mut town = Town::new(budget(10.0, 4));
    town.borrow(0, 0);
    let number = town.loans[&0].number;
    town.say(delay(20));
    assert_eq!((town.lent(), town.loans[&0].number), (vec![(0.05, 4)], number + 1));
    // Known from before it is obeyed from the first loan on; the slower of both is.
    let robots = RobotsTxt {
        is_https: false,
        fetched_at: START,
        text: String::new(),
        crawl_delay: Duration::from_secs(2),
    };
    let mut town = Town::new(budget(0.25, 4));
    town.facts = vec![ServerFact::RobotsTxt(robots)];
    town.borrow(0, 0);
    assert_eq!(town.lent(), [(0.25, 4)]);
    town.give_back(0, 0);
    town.borrow(1, 0);
    assert!(town.lent().is_empty(), "it was asked less than four seconds ago");
    town.pass(4500);
    assert_eq!(town.lent(), [(0.25, 4)]);
}

#[test]
fn what_a_lost_rank_had_goes_to_others() {
    let mut town = Town::new(budget(1.0, 1));
    town.borrow(0, 0);
    town.borrow(1, 0);
    assert_eq!(town.loans[&1].max_connections, 0);
    town.say(LandlordEvent::Lost { rank: 0 });
    town.pass(1000);
    assert_eq!(town.loans[&1].max_connections, 1);
    town.say(LandlordEvent::Lost { rank: 1 });
    town.pass(1000);
    assert!(!town.landlord.knows(&server()));
}

#[test]
fn a_longer_embargo_is_told_to_the_others() {
    let mut town = Town::new(budget(10.0, 8));
    (0..3).for_each(|rank| town.borrow(rank, 0));
    let embargo = |rank, ms: u64| LandlordEvent::Embargo {
        rank,
        server: server(),
        until: START + ms,
        cause: FailureCause::HttpStatus,
        http_status: Some(429),
        complaints: Complaints::default(),
    };
    town.say(embargo(1, 60_000));
    let told = Embargo {
        left: Duration::from_secs(60),
        cause: FailureCause::HttpStatus,
        http_status: Some(429),
        complaints: Complaints::default(),
    };
    assert_eq!(town.embargoes, [(0, told), (2, told)]);
    town.embargoes.clear();
    town.say(embargo(2, 60_000));
    assert!(town.embargoes.is_empty(), "they know");
    town.say(embargo(2, 60_500));
    assert_eq!(town.embargoes.len(), 2, "half a second longer is longer");
    town.embargoes.clear();
    town.say(embargo(2, 70_000));
    assert_eq!(town.embargoes.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(town.landlord.embargo(START + 1000, &server()).unwrap().left, Duration::from_secs(69));
    assert!(town.landlord.embargo(START + 70_000, &server()).is_none());
}

/// A rank that asked when the others had given the server back did not hear for how long it had been in trouble.
#[test]
fn an_embargo_is_kept_with_its_complaints_until_it_is_over() {
    let mut town = Town::new(budget(10.0, 8));
    town.borrow(0, 0);
    let complaints = Complaints { lasting: Duration::from_secs(90), number: 23, pauses: 3 };
    town.say(LandlordEvent::Embargo {
        rank: 0,
        server: server(),
        until: START + 60_000,
        cause: FailureCause::ConnectTimeout,
        http_status: None,
        complaints,
    });
    town.give_back(0, 0);
    town.pass(30_000);
    assert_eq!(
        town.landlord.embargo(town.now, &server()).map(|embargo| embargo.complaints),
        Some(complaints)
    );
    town.pass(30_000);
    assert!(!town.landlord.knows(&server()) && town.landlord.due.is_empty());
}

#[test]
fn bytes_are_lent_until_none_are_left_and_again_when_they_have_aged() {
    let mut town = Town::new(ServerBudget { bytes_per_hour: 10 << 20, ..budget(0.0, 4) });
    town.borrow(0, 0);
    assert_eq!(town.loans[&0].bytes, Some(5 << 20));
    town.borrow(1, 0);
    assert_eq!(town.loans[&1].bytes, Some((5 << 20) / 4));
    // It has taken a little more than it was lent, as a body under way may.
    town.borrow(0, (5 << 20) + 1);
    let mut taken = (5 << 20) + 1;
    while town.embargoes.is_empty() {
        let lent = town.loans[&0].bytes.unwrap();
        taken += lent;
        town.borrow(0, lent);
    }
    let other = town.loans[&1].bytes.unwrap();
    assert!(taken + other <= 10 << 20 && taken + other + (1 << 20) > 10 << 20);
    assert_eq!(town.loans[&0].bytes, Some(0));
    let [(0, embargo)] = town.embargoes[..] else { panic!("{:?}", town.embargoes) };
    assert!(embargo.left >= Duration::from_secs(3600), "{embargo:?}");
    // Nobody knows what a rank that is lost has received.
    town.say(LandlordEvent::Lost { rank: 1 });
    let sum: u64 = town.received.as_ref().unwrap().minutes.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(sum, taken + other);
    town.pass(3_720_000);
    assert_eq!(town.loans[&0].bytes, Some(5 << 20), "without asking again");

    // In the next run.
    let received = town.received.take().unwrap();
    let mut town =
        Town { now: town.now + 1000, facts: vec![ServerFact::Received(received)], ..Town::new(town.budget) };
    town.borrow(3, 0);
    assert_eq!(town.loans[&3].bytes, Some((5 << 20) / 2), "the tranche of the killed run counts");
}

#[derive(Clone, Debug)]
enum Step {
    Borrow(Rank),
    Bytes(Rank),
    /// And how long until no second has what it let go of.
    GiveBack(Rank, u64),
    Accept(Rank, u64),
    /// One message arrives at rank 0, or from it.
    Arrive(Rank),
    Reach(Rank),
    Freeze(Rank),
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (rank, rest) = (0u32..4, prop_oneof![Just(0), 1u64..=1000]);
    prop_oneof![
        2 => rank.clone().prop_map(Step::Borrow),
        1 => rank.clone().prop_map(Step::Bytes),
        1 => (rank.clone(), rest.clone()).prop_map(|(rank, rest)| Step::GiveBack(rank, rest)),
        2 => (rank.clone(), rest).prop_map(|(rank, rest)| Step::Accept(rank, rest)),
        4 => rank.clone().prop_map(Step::Arrive),
        4 => rank.clone().prop_map(Step::Reach),
        1 => rank.prop_map(Step::Freeze),
        2 => (1u64..8000).prop_map(Step::Pass),
    ]
}

/// What a rank does with what reaches it, as the worker and the fetcher do it together.
#[derive(Default)]
struct Tenant {
    /// The newest word by which it borrows; `None` when it does not.
    borrow: Option<u64>,
    num_borrows: u64,
    loan: Option<Loan>,
    /// What it may be using, in requests/s and connections.
    using: (f64, u32),
    /// What it has used, and until when a second may have it: (until, requests/s).
    used: Vec<(u64, f64)>,
    /// On their way to rank 0, and from it.
    to_zero: VecDeque<LandlordEvent>,
    from_zero: VecDeque<Word>,
    /// Whether rank 0 takes it for lost. It uses nothing until it has been told so.
    is_frozen: bool,
    /// Whether rank 0 has heard it since.
    is_heard: bool,
    had_turn: bool,
}

enum Word {
    Lend(u64, Loan),
    Void,
}

impl Tenant {
    fn borrow_anew(&mut self, rank: Rank) {
        self.num_borrows += 1;
        self.borrow = Some(self.num_borrows);
        self.to_zero.push_back(LandlordEvent::Borrow {
            rank,
            server: server(),
            borrow: self.num_borrows,
            received: 0,
        });
    }

    fn let_go(&mut self, until: u64, to: (f64, u32)) {
        if to.0 < self.using.0 {
            self.used.push((until, self.using.0));
        }
        self.using = to;
    }

    fn accept(&mut self, until: u64, rank: Rank, rest: Duration) {
        if let Some(loan) = self.loan {
            self.let_go(until, part_of(&loan));
            let number = loan.number;
            self.to_zero.push_back(LandlordEvent::Accept { rank, server: server(), number, rest });
        }
    }
}

fn part_of(loan: &Loan) -> (f64, u32) {
    match (loan.max_connections, loan.rate) {
        (0, _) => (0.0, 0),
        (connections, 0.0) => (f64::INFINITY, connections),
        (connections, rate) => (rate, connections),
    }
}

struct World {
    landlord: Landlord,
    budget: ServerBudget,
    now: u64,
    tenants: Vec<Tenant>,
}

impl World {
    fn limit(&self) -> f64 {
        if self.budget.rate > 0.0 { self.budget.rate } else { f64::INFINITY }
    }

    /// How long no second, or none that is as long as the time between two requests, is without what is let go of now:
    /// not shorter than for what was let go of before. And until when that is.
    fn rest(&self, rank: Rank, rest: u64) -> (Duration, u64) {
        let gap = (1000.0 / self.limit()).ceil() as u64;
        let before = self.tenants[rank as usize].used.iter().map(|(until, _)| until.saturating_sub(self.now));
        let rest = before.fold(if gap > 1000 { gap } else { rest }, u64::max);
        (Duration::from_millis(rest.min(1000)), self.now + rest)
    }

    fn decide(&mut self, event: LandlordEvent) {
        if matches!(event, LandlordEvent::Borrow { .. }) {
            self.landlord.acquaint(self.now, &server(), self.budget, &[]);
        }
        for action in self.landlord.on_event(self.now, event) {
            if let LandlordAction::Lend { rank, borrow, loan, .. } = action {
                self.tenants[rank as usize].from_zero.push_back(Word::Lend(borrow, loan));
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Borrow(rank) => {
                let tenant = &mut self.tenants[rank as usize];
                if tenant.borrow.is_none() {
                    tenant.borrow_anew(rank);
                }
            }
            Step::Bytes(rank) => {
                let tenant = &mut self.tenants[rank as usize];
                if tenant.borrow.is_some() {
                    tenant.borrow_anew(rank);
                }
            }
            Step::GiveBack(rank, rest) => {
                let (rest, until) = self.rest(rank, rest);
                let tenant = &mut self.tenants[rank as usize];
                if tenant.borrow.take().is_some() {
                    tenant.loan = None;
                    tenant.let_go(until, (0.0, 0));
                    tenant.to_zero.push_back(LandlordEvent::GiveBack {
                        rank,
                        server: server(),
                        received: 0,
                        rest,
                    });
                }
            }
            Step::Accept(rank, rest) => {
                let (rest, until) = self.rest(rank, rest);
                self.tenants[rank as usize].accept(until, rank, rest);
            }
            Step::Arrive(rank) => {
                let tenant = &mut self.tenants[rank as usize];
                let Some(event) = tenant.to_zero.pop_front() else { return };
                if tenant.is_frozen && !tenant.is_heard {
                    tenant.is_heard = true;
                    tenant.from_zero.push_back(Word::Void);
                }
                self.decide(event);
            }
            Step::Reach(rank) => {
                let tenant = &mut self.tenants[rank as usize];
                match tenant.from_zero.pop_front() {
                    Some(Word::Void) => {
                        tenant.is_frozen = false;
                        tenant.loan = None;
                        (tenant.using, tenant.used) = ((0.0, 0), Vec::new());
                        if tenant.borrow.is_some() {
                            tenant.borrow_anew(rank);
                        }
                    }
                    Some(Word::Lend(borrow, loan)) if tenant.borrow == Some(borrow) => {
                        tenant.loan = Some(loan);
                        let (rate, connections) = part_of(&loan);
                        tenant.using = (tenant.using.0.max(rate), tenant.using.1.max(connections));
                        tenant.had_turn |= connections > 0;
                    }
                    Some(Word::Lend(..)) | None => {}
                }
            }
            Step::Freeze(rank) => {
                let tenant = &mut self.tenants[rank as usize];
                if !tenant.is_frozen {
                    (tenant.is_frozen, tenant.is_heard) = (true, false);
                    self.decide(LandlordEvent::Lost { rank });
                }
            }
            Step::Pass(ms) => {
                self.now += ms;
                self.decide(LandlordEvent::Tick);
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let limit = self.limit();
        let awake = || self.tenants.iter().filter(|tenant| !tenant.is_frozen);
        let connections: u32 = awake().map(|tenant| tenant.using.1).sum();
        prop_assert!(connections <= self.budget.max_connections, "{connections} connections");
        // The most that each has used at any time that a second has.
        let rate = |tenant: &Tenant| {
            let used = tenant.used.iter().filter(|(until, _)| *until > self.now);
            used.map(|(_, rate)| *rate).fold(tenant.using.0, f64::max)
        };
        let rates: Vec<f64> = awake().map(rate).collect();
        prop_assert!(rates.iter().sum::<f64>() <= limit, "{rates:?}");
        Ok(())
    }

    /// All messages arrive, all loans are accepted, time passes.
    fn run(&mut self, ms: u64) -> Result<(), TestCaseError> {
        for _ in 0..ms / 500 {
            for rank in 0..self.tenants.len() as Rank {
                while !self.tenants[rank as usize].from_zero.is_empty() {
                    self.take(Step::Reach(rank));
                    self.check()?;
                }
                self.take(Step::Accept(rank, 1000));
                while !self.tenants[rank as usize].to_zero.is_empty() {
                    self.take(Step::Arrive(rank));
                    self.check()?;
                }
            }
            self.take(Step::Pass(500));
            self.check()?;
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_ranks_use_never_exceeds_a_budget_and_in_the_end_all_of_it_is_lent(
        rate in prop_oneof![Just(0.0), Just(0.2), Just(1.0), Just(1.5), Just(2.0), Just(3.7), Just(10.0), Just(100.0)],
        max_connections in 1u32..10,
        steps in proptest::collection::vec(any_step(), 0..200),
    ) {
        let budget = budget(rate, max_connections);
        let tenants = (0..4).map(|_| Tenant::default()).collect();
        let mut world = World { landlord: Landlord::default(), budget, now: START, tenants };
        for step in steps {
            world.take(step);
            world.check()?;
        }
        // A lost rank is told when it says something.
        for rank in 0..4 {
            let tenant = &mut world.tenants[rank as usize];
            if tenant.is_frozen && !tenant.is_heard && tenant.to_zero.is_empty() {
                tenant.to_zero.push_back(LandlordEvent::Accept { rank, server: server(), number: 0, rest: Duration::ZERO });
            }
        }
        world.run(30_000)?;
        world.tenants.iter_mut().for_each(|tenant| tenant.had_turn = false);
        world.run(200_000)?;
        let borrowers: Vec<&Tenant> = world.tenants.iter().filter(|tenant| tenant.borrow.is_some()).collect();
        for tenant in &borrowers {
            let has_now = tenant.loan.is_some_and(|loan| loan.max_connections > 0);
            prop_assert!(tenant.had_turn || has_now, "somebody waits for ever");
        }
        let is_whole = rate > 0.0 && rate < LEAST_DIVIDED_RATE;
        let seats = if is_whole { 1 } else if rate == 0.0 { max_connections } else { max_connections.min(rate as u32) };
        if !borrowers.is_empty() && borrowers.len() <= seats as usize {
            let connections: u32 = borrowers.iter().map(|tenant| tenant.using.1).sum();
            prop_assert_eq!(connections, max_connections, "all connections are lent");
            let rates: f64 = borrowers.iter().map(|tenant| tenant.using.0).sum();
            if rate > 0.0 {
                prop_assert!(rates == if borrowers.len() == 1 { rate } else { rate.floor() }, "{rates}");
            }
        }
        for rank in 0..4 {
            world.take(Step::GiveBack(rank, 1000));
        }
        world.run(30_000)?;
        prop_assert!(!world.landlord.knows(&server()) && world.landlord.due.is_empty(), "nothing is kept");
    }
}

/// Right after a kill the next run would ask again at once.
#[test]
fn who_had_nothing_keeps_still_for_as_long_as_others_may_have_asked() {
    let rest = |facts: &[ServerFact], rate: f64| {
        let mut landlord = Landlord::default();
        landlord.acquaint(START, &server(), budget(rate, 8), facts);
        let event = LandlordEvent::Borrow { rank: 0, server: server(), borrow: 1, received: 0 };
        let actions = landlord.on_event(START, event);
        let [LandlordAction::Lend { loan, .. }] = &actions[..] else { panic!("{actions:?}") };
        loan.rest
    };
    let robots = RobotsTxt {
        is_https: false,
        fetched_at: START,
        text: String::new(),
        crawl_delay: Duration::from_secs(3),
    };
    let known = [ServerFact::RobotsTxt(robots)];
    assert_eq!(rest(&[], 0.2), Duration::ZERO, "nobody has asked it");
    assert_eq!(rest(&known, 0.2), Duration::from_secs(5));
    assert_eq!(rest(&known, 10.0).as_secs_f64().round(), 3.0, "its Crawl-delay");
    let mut town = Town::new(budget(1.0, 8));
    town.borrow(0, 0);
    assert_eq!(town.loans[&0].rest, Duration::ZERO);
}
