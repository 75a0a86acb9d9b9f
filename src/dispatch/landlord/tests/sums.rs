//! What ranks may use of a server never sums to more than its limits, whatever crosses on the way and whoever is lost.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::limits::LEAST_DIVIDED_RATE;
use super::super::*;
use super::{START, budget, server};

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
        let mut world = World { landlord: Landlord::new(START), budget, now: START, tenants };
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
