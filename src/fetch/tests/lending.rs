//! Fetchers that share servers through a landlord. What counts is what the servers saw.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::support::*;
use crate::fetch::{FetchOptions, FetchOutcome, Fetcher, Landlord, Retry, ServerRules};
use crate::model::{
    Complaints, Embargo, FailureCause, Loan, ServerBudget, ServerKnowledge, ServerName, ServerNews,
    SkipReason,
};

const MS: Duration = Duration::from_millis(1);
/// Longer than a turn's first request waits.
const TURN: Duration = Duration::from_millis(2400);

/// How a rank's fetcher reaches the office.
#[derive(Debug)]
struct Desk {
    rank: usize,
    office: mpsc::UnboundedSender<(usize, ServerName, Word, Duration)>,
}

impl Desk {
    fn say(&self, server: &ServerName, word: Word, rest: Duration) {
        let _the_test_is_over = self.office.send((self.rank, server.clone(), word, rest));
    }
}

impl Landlord for Desk {
    fn borrow(&self, server: &ServerName, received: u64) {
        self.say(server, Word::Borrow(received), Duration::ZERO);
    }

    fn accept(&self, server: &ServerName, number: u64, rest: Duration) {
        self.say(server, Word::Accept(number), rest);
    }

    fn give_back(&self, server: &ServerName, received: u64, rest: Duration) {
        self.say(server, Word::GiveBack(received), rest);
    }

    fn tell(&self, server: &ServerName, news: ServerNews) {
        self.say(server, Word::Tell(news), Duration::ZERO);
    }
}

/// Rank 0 in small, for one server: two ranks get half of it each, or take turns where a second has no two requests.
struct Office {
    budget: ServerBudget,
    ranks: Vec<Tenant>,
    /// Whose turn it is.
    turn: usize,
    number: u64,
    /// Bytes that may still be lent.
    bytes: u64,
    knowledge: ServerKnowledge,
    seen: Arc<Mutex<Seen>>,
}

struct Tenant {
    fetcher: Arc<Fetcher>,
    wants: bool,
    loan: Option<Loan>,
    /// When others may have what it has let go of; `None` as long as it has not accepted its loan.
    rests_until: Option<Instant>,
    /// Bytes that it may receive, as far as it has told.
    bytes: u64,
}

/// What the office has done and heard.
#[derive(Default)]
struct Seen {
    loans: Vec<(usize, Loan)>,
    received: u64,
    news: Vec<ServerNews>,
}

impl Office {
    /// So many ranks with these options, and what happens between them and their landlord.
    fn open(
        options: &FetchOptions,
        ranks: usize,
        budget: ServerBudget,
    ) -> (Vec<Arc<Fetcher>>, Arc<Mutex<Seen>>) {
        let (office, mut words) = mpsc::unbounded_channel();
        let fetchers: Vec<Arc<Fetcher>> = (0..ranks)
            .map(|rank| {
                let rules = ServerRules::default();
                let fetcher = Fetcher::new(options.clone(), rules).unwrap();
                Arc::new(fetcher.with_landlord(Arc::new(Desk { rank, office: office.clone() })))
            })
            .collect();
        let tenant = |fetcher: &Arc<Fetcher>| Tenant {
            fetcher: fetcher.clone(),
            wants: false,
            loan: None,
            rests_until: Some(Instant::now()),
            bytes: 0,
        };
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut office = Self {
            budget,
            ranks: fetchers.iter().map(tenant).collect(),
            turn: 0,
            number: 0,
            bytes: budget.bytes_per_hour,
            knowledge: ServerKnowledge::default(),
            seen: seen.clone(),
        };
        tokio::spawn(async move {
            let (mut turns, mut looks) = (tokio::time::interval(TURN), tokio::time::interval(20 * MS));
            let mut server = None;
            loop {
                tokio::select! {
                    Some((rank, name, word, rest)) = words.recv() => {
                        office.hear(rank, word, Instant::now() + rest, &name);
                        server = Some(name);
                    }
                    _ = turns.tick() => office.turn += 1,
                    _ = looks.tick() => {}
                }
                if let Some(server) = &server {
                    office.lend(server);
                }
            }
        });
        (fetchers, seen)
    }

    fn hear(&mut self, rank: usize, word: Word, rests_until: Instant, server: &ServerName) {
        let tenant = &mut self.ranks[rank];
        match word {
            Word::Borrow(received) => {
                self.seen.lock().unwrap().received += received;
                self.bytes += tenant.bytes.saturating_sub(received);
                (tenant.wants, tenant.loan, tenant.bytes) = (true, None, 0);
            }
            Word::Accept(number) => {
                if tenant.loan.is_some_and(|loan| loan.number == number) {
                    tenant.rests_until = Some(rests_until);
                }
            }
            Word::GiveBack(received) => {
                self.seen.lock().unwrap().received += received;
                self.bytes += tenant.bytes.saturating_sub(received);
                (tenant.wants, tenant.loan, tenant.bytes) = (false, None, 0);
                tenant.rests_until = Some(rests_until);
            }
            Word::Tell(news) => {
                match &news {
                    ServerNews::Embargo(embargo) => {
                        let others = self.ranks.iter().enumerate().filter(|(other, _)| *other != rank);
                        others.for_each(|(_, other)| other.fetcher.embargo(server, *embargo));
                    }
                    ServerNews::Learnt(learnt) => self.knowledge.learnt = *learnt,
                    ServerNews::RobotsTxt(file) => self.knowledge.robots_txt.push(file.clone()),
                }
                self.seen.lock().unwrap().news.push(news);
            }
        }
    }

    /// What a rank should have now.
    fn part_of(&self, rank: usize) -> (f64, u32) {
        let tenants: Vec<usize> = (0..self.ranks.len()).filter(|rank| self.ranks[*rank].wants).collect();
        let ServerBudget { rate, max_connections, .. } = self.budget;
        match tenants.len() {
            0 | 1 => (rate, max_connections),
            num if rate > 0.0 && rate < num as f64 => match tenants[self.turn % num] == rank {
                true => (rate, max_connections),
                false => (rate, 0),
            },
            num => ((rate / num as f64).floor(), (max_connections / num as u32).max(1)),
        }
    }

    /// Takes back what is too much, and gives more only when that is accepted and no second has it any more.
    fn lend(&mut self, server: &ServerName) {
        let now = Instant::now();
        for more in [false, true] {
            if more && !self.ranks.iter().all(|rank| rank.rests_until.is_some_and(|until| until <= now)) {
                return;
            }
            for rank in 0..self.ranks.len() {
                let (rate, max_connections) = self.part_of(rank);
                let tenant = &mut self.ranks[rank];
                let had = tenant.loan.map(|loan| (loan.rate, loan.max_connections));
                let grows = had.is_none_or(|had| had.0 < rate || had.1 < max_connections);
                if !tenant.wants || had == Some((rate, max_connections)) || grows != more {
                    continue;
                }
                let bytes = (self.budget.bytes_per_hour > 0).then(|| self.bytes.min(10_000));
                self.bytes -= bytes.unwrap_or(0);
                tenant.bytes += bytes.unwrap_or(0);
                self.number += 1;
                let loan = Loan { number: self.number, rate, max_connections, bytes, rest: Duration::ZERO };
                let knowledge = had.is_none().then(|| self.knowledge.clone());
                (tenant.loan, tenant.rests_until) = (Some(loan), None);
                self.seen.lock().unwrap().loans.push((rank, loan));
                tenant.fetcher.lend(server, loan, knowledge);
            }
        }
    }
}

fn budget(rate: f64) -> ServerBudget {
    ServerBudget { rate, max_connections: 8, bytes_per_hour: 0, bytes_per_day: 0 }
}

/// The limits of a budget for one that has all of it.
fn limited(budget: ServerBudget) -> FetchOptions {
    FetchOptions {
        default_rate_limit: budget.rate,
        max_connections_per_server: budget.max_connections as usize,
        ..options()
    }
}

/// Fetches so many, all at once.
async fn fetch_all(fetcher: &Arc<Fetcher>, server: &TestServer, number: usize) {
    let tasks: Vec<_> = (0..number)
        .map(|number| {
            let (fetcher, url) = (Arc::clone(fetcher), server.url(&format!("/{number}")));
            tokio::spawn(async move { body(&fetcher, &url).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// The most requests that came within so long.
fn most_within(server: &TestServer, window: Duration) -> usize {
    let seen = server.seen();
    let until = |from: Instant| seen.partition_point(|one| one.at < from + window);
    (0..seen.len()).map(|n| until(seen[n].at) - n).max().unwrap_or(0)
}

/// One rank, then two with so many requests each, then the first again.
async fn hand_on(rate: f64, together: usize) {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let (ranks, seen) = Office::open(&limited(budget(rate)), 2, budget(rate));
    fetch_all(&ranks[0], &server, 2).await;
    tokio::join!(fetch_all(&ranks[0], &server, together), fetch_all(&ranks[1], &server, together));
    ranks[1].leave();
    fetch_all(&ranks[0], &server, 3).await;
    fetch_all(&ranks[1], &server, 1).await;
    assert_eq!(server.seen().len(), 2 * together + 6);
    // Arrivals jitter with the machine: three that left 500 ms apart take more than 800.
    assert!(most_within(&server, 800 * MS) <= rate as usize, "{:?}", server.seen());
    let loans = seen.lock().unwrap().loans.clone();
    assert!((0..2).all(|rank| loans.iter().filter(|(to, _)| *to == rank).count() >= 2), "{loans:?}");
}

/// Both ranks at 2/s made four requests in a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranks_together_keep_to_a_rate_also_while_their_parts_change() {
    hand_on(2.0, 4).await;
}

/// Who had the turn before may have sent a request just before it gave it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranks_in_turn_keep_to_a_rate() {
    hand_on(1.0, 2).await;
}

#[tokio::test]
async fn what_one_rank_is_asked_holds_for_the_other() {
    let server = TestServer::start(|path, _| match path {
        "/0" => status("429 Slow", "Retry-After: 600\r\n"),
        _ => ok(b"x"),
    })
    .await;
    let (ranks, _) = Office::open(&limited(budget(0.0)), 2, budget(0.0));
    body(&ranks[1], &server.url("/fine")).await;
    failure(&ranks[0], &server.url("/0")).await;
    let name = ServerName::from_url(&server.url("/")).unwrap();
    while ranks[1].server(&name).pause().is_none() {
        tokio::task::yield_now().await;
    }
    let failure = failure(&ranks[1], &server.url("/1")).await;
    assert_eq!((failure.cause, failure.http_status), (FailureCause::HttpStatus, Some(429)));
    let Retry::ServerPaused { until } = failure.retry else { panic!("{failure:?}") };
    assert!(until > Instant::now() + Duration::from_secs(500));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_robots_txt_that_another_rank_has_read_is_not_asked_for() {
    let server = TestServer::start(|path, _| match path {
        "/robots.txt" => ok(b"User-agent: *\nDisallow: /private/\nCrawl-delay: 0.2"),
        _ => ok(b"x"),
    })
    .await;
    let options = FetchOptions { respect_robots_txt: true, ..limited(budget(0.0)) };
    let (ranks, seen) = Office::open(&options, 2, budget(0.0));
    for rank in &ranks {
        body(rank, &server.url("/open")).await;
        assert_eq!(skip(rank, &server.url("/private/1")).await.reason, SkipReason::Robots);
        let name = ServerName::from_url(&server.url("/")).unwrap();
        assert!((rank.server(&name).rate() - 5.0).abs() < 1e-9);
        rank.leave();
    }
    let paths: Vec<_> = server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/robots.txt", "/open", "/open"]);
    let news = &seen.lock().unwrap().news;
    let [ServerNews::RobotsTxt(file)] = &news[..] else { panic!("{news:?}") };
    assert_eq!((file.is_https, file.crawl_delay), (false, 200 * MS));
}

/// A file that cannot be had is nobody's; one that is not there is as good as an empty one.
#[tokio::test]
async fn only_what_was_read_of_robots_txt_is_told() {
    for (status_line, expect) in [("503 Later", 0), ("404 Not Found", 1)] {
        let server = TestServer::start(move |path, _| match path {
            "/robots.txt" => status(status_line, ""),
            _ => ok(b"x"),
        })
        .await;
        let options = FetchOptions { respect_robots_txt: true, ..limited(budget(0.0)) };
        let (ranks, seen) = Office::open(&options, 1, budget(0.0));
        let _ = fetch(&ranks[0], &server.url("/")).await;
        ranks[0].leave();
        while seen.lock().unwrap().news.is_empty() {
            tokio::task::yield_now().await;
        }
        let news = seen.lock().unwrap().news.clone();
        let files: Vec<_> = news.iter().filter(|one| matches!(one, ServerNews::RobotsTxt(_))).collect();
        assert_eq!(files.len(), expect, "{news:?}");
        assert!(files.iter().all(|one| matches!(one, ServerNews::RobotsTxt(file) if file.text.is_empty())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_bytes_than_are_lent() {
    let server = TestServer::start(|_, _| Reply::After(20 * MS, Box::new(ok(&[b'x'; 1000])))).await;
    let budget = ServerBudget { bytes_per_hour: 50_000, ..budget(0.0) };
    let (ranks, seen) = Office::open(&limited(budget), 2, budget);
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let (fetcher, url) = (Arc::clone(&ranks[number % 2]), server.url(&format!("/{number}")));
            tokio::spawn(async move { fetch(&fetcher, &url).await })
        })
        .collect();
    let name = ServerName::from_url(&server.url("/")).unwrap();
    let servers = [ranks[0].server(&name), ranks[1].server(&name)];
    while !(servers.iter().all(|one| one.has_no_loan()) && server.seen().len() >= 50) {
        tokio::time::sleep(10 * MS).await;
    }
    for rank in &ranks {
        rank.close();
    }
    let mut bodies = 0;
    for task in tasks {
        match task.await.unwrap() {
            FetchOutcome::Body(_) => bodies += 1,
            FetchOutcome::Failure(failure) => assert!(!failure.asked, "{failure:?}"),
            FetchOutcome::Skip(skip) => panic!("{skip:?}"),
        }
    }
    // Bodies of one size exceed a loan by less than one.
    assert_eq!((server.seen().len(), bodies), (50, 50));
    drop(servers);
    for rank in &ranks {
        rank.leave();
    }
    while seen.lock().unwrap().received < 50_000 {
        tokio::time::sleep(10 * MS).await;
    }
    assert_eq!(seen.lock().unwrap().received, 50_000);
}

/// An embargo is left where nobody asks for the server any more: the first loan brings it.
#[tokio::test]
async fn the_first_loan_brings_an_embargo() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let words = Arc::new(Words::default());
    let fetcher = Fetcher::new(options(), ServerRules::default()).unwrap().with_landlord(words.clone());
    let fetcher = Arc::new(fetcher);
    let (task, name) = (Arc::clone(&fetcher), ServerName::from_url(&server.url("/")).unwrap());
    let url = server.url("/");
    let waiting = tokio::spawn(async move { fetch(&task, &url).await });
    while words.take().is_empty() {
        tokio::task::yield_now().await;
    }
    let cause = FailureCause::ConnectTimeout;
    let embargo = Some(Embargo {
        left: Duration::from_secs(60),
        cause,
        http_status: None,
        complaints: Complaints::default(),
    });
    let loan = Loan { number: 9, rate: 0.0, max_connections: 8, bytes: None, rest: Duration::ZERO };
    fetcher.lend(&name, loan, Some(ServerKnowledge { embargo, ..ServerKnowledge::default() }));
    let FetchOutcome::Failure(failure) = waiting.await.unwrap() else { panic!("it is paused") };
    assert!(matches!(failure.retry, Retry::ServerPaused { .. }) && failure.cause == cause && !failure.asked);
    assert_eq!(server.seen().len(), 0);
}
