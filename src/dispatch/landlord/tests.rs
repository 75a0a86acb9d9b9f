mod sums;

use std::collections::{BTreeMap, VecDeque};

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
        let landlord = Landlord::new(START);
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
        Some(Complaints { lasting: Duration::from_secs(120), ..complaints })
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

/// Right after a kill the next run would ask again at once.
#[test]
fn who_had_nothing_keeps_still_for_as_long_as_others_may_have_asked() {
    let rest = |facts: &[ServerFact], rate: f64, later: u64| {
        let mut landlord = Landlord::new(START);
        landlord.acquaint(START + later, &server(), budget(rate, 8), facts);
        let event = LandlordEvent::Borrow { rank: 0, server: server(), borrow: 1, received: 0 };
        let actions = landlord.on_event(START + later, event);
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
    assert_eq!(rest(&[], 0.2, 0), Duration::ZERO, "nobody has asked it");
    assert_eq!(rest(&known, 0.2, 0), Duration::from_secs(5));
    assert_eq!(rest(&known, 0.2, 4000), Duration::from_secs(1), "the run before ended when this one began");
    assert_eq!(rest(&known, 0.2, 60_000), Duration::ZERO);
    assert_eq!(rest(&known, 10.0, 0).as_secs_f64().round(), 3.0, "its Crawl-delay");
    let mut town = Town::new(budget(1.0, 8));
    town.borrow(0, 0);
    assert_eq!(town.loans[&0].rest, Duration::ZERO);
}

#[test]
fn parts_of_a_budget_that_is_dealt_make_no_more_than_it() {
    for (rate, connections) in [(0.0, 3), (0.5, 8), (1.9, 8), (2.5, 1), (2.5, 8), (10.0, 4), (7.0, 100)] {
        let whole = ServerBudget { bytes_per_hour: 1000, ..budget(rate, connections) };
        let seats = num_seats(&whole);
        assert_eq!(deal_budget(&whole, 0, 1), whole, "one has all of it");
        for of in 1..=seats {
            let parts: Vec<_> = (0..of).map(|nth| deal_budget(&whole, nth, of)).collect();
            assert!(parts.iter().all(|part| part.max_connections > 0), "{whole:?} by {of}: {parts:?}");
            assert!(parts.iter().all(|part| (part.rate > 0.0) == (rate > 0.0)), "0 is no limit: {parts:?}");
            assert!(parts.iter().map(|part| part.rate).sum::<f64>() <= rate);
            assert!(parts.iter().map(|part| part.max_connections).sum::<u32>() <= connections);
            assert!(parts.iter().map(|part| part.bytes_per_hour).sum::<u64>() <= 1000);
        }
    }
}
