use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering as Atomic};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::protocol::{Claim, RankProgress, ServerOrder, ServerWord};
use super::super::worker::Packet;
use super::*;
use crate::catalog::{Catalog, CatalogOptions, ManifestFile, NewPartition};
use crate::cluster::{Endpoint, local};
use crate::dispatch::DispatchOptions;
use crate::model::{
    Complaints, Embargo, FailureCause, LearntLimit, Loan, RobotsTxt, ServerBudget, ServerId, ServerKnowledge,
    ServerName, ServerNews, UrlKey,
};

const LEASE: Duration = Duration::from_secs(120);
const BUDGET: ServerBudget =
    ServerBudget { rate: 10.0, max_connections: 8, bytes_per_hour: 0, bytes_per_day: 0 };
/// A tick of tests in which time has to pass.
const FAST: Duration = Duration::from_millis(1);

/// A coordinator at work on a catalog of one partition with one record, and its ranks, which the test plays.
struct Run {
    folder: TempDir,
    ranks: Vec<Endpoint>,
    to_coordinator: mpsc::UnboundedSender<(Rank, ToCoordinator)>,
    shutdown: Shutdown,
    /// Times that rank 0 has shown its status.
    ticks: Arc<AtomicU32>,
    coordinator: JoinHandle<Result<RunReport, DispatchError>>,
}

/// A catalog of one server with so many partitions of one record.
fn new_catalog(folder: &TempDir, num_partitions: u32) -> Catalog {
    let catalog = open_catalog(folder);
    let partitions = (0..num_partitions).map(|partition_id| NewPartition {
        folder: ServerName::from_catalog("a.example"),
        members: Vec::new(),
        partition_id,
        manifest_files: vec![ManifestFile { name: "0.parquet".into(), num_records: 1, bytes: 1, crc32: 0 }],
        states: vec![RecordState::Pending],
        url_keys: vec![UrlKey(1)],
    });
    catalog.add_partitions(&partitions.collect::<Vec<_>>()).unwrap();
    catalog
}

fn open_catalog(folder: &TempDir) -> Catalog {
    Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap()
}

impl Run {
    fn start(num_ranks: u32, lease_timeout: Duration, tick: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = new_catalog(&folder, 1);
        Self::start_on(folder, catalog, num_ranks, lease_timeout, tick)
    }

    fn start_on(
        folder: TempDir,
        catalog: Catalog,
        num_ranks: u32,
        lease_timeout: Duration,
        tick: Duration,
    ) -> Self {
        Self::start_with(folder, catalog, num_ranks, lease_timeout, tick, BUDGET)
    }

    fn start_with(
        folder: TempDir,
        catalog: Catalog,
        num_ranks: u32,
        lease_timeout: Duration,
        tick: Duration,
        budget: ServerBudget,
    ) -> Self {
        let ranks = local::endpoints(num_ranks);
        let context = RunContext {
            work: Work::Download,
            catalog: Arc::new(catalog),
            options: DispatchOptions { lease_timeout, ..DispatchOptions::default() },
            run: RunRow::default(),
            settings: String::new(),
            status_folder: folder.path().join("status"),
            num_ranks,
            budget_of: Arc::new(move |_| budget),
        };
        let (to_coordinator, inbox) = mpsc::unbounded_channel();
        let (shutdown, ticks) = (Shutdown::new(), Arc::new(AtomicU32::new(0)));
        let (outbox, stop, shown) = (ranks[0].outbox.clone(), shutdown.clone(), ticks.clone());
        let coordinator = tokio::spawn(async move {
            let mut observe = |_: &PublishedStatus| {
                shown.fetch_add(1, Atomic::Relaxed);
            };
            coordinate_at(tick, context, outbox, inbox, stop, &mut observe).await
        });
        Self { folder, ranks, to_coordinator, shutdown, ticks, coordinator }
    }

    fn say(&self, rank: Rank, message: ToCoordinator) {
        self.to_coordinator.send((rank, message)).unwrap();
    }

    async fn heard_by(&mut self, rank: Rank) -> ToWorker {
        loop {
            let envelope = self.ranks[rank as usize].inbox.recv().await.unwrap();
            match wire::decode(&envelope.payload).unwrap() {
                Packet::ToWorker(ToWorker::Heard { .. }) => {}
                Packet::ToWorker(message) => return message,
                Packet::ToCoordinator(message) => panic!("{message:?} from rank 0"),
            }
        }
    }

    async fn claim_for(&mut self, rank: Rank) -> Claim {
        self.say(rank, ToCoordinator::Ready { max_open_partitions: 1 });
        match self.heard_by(rank).await {
            ToWorker::Claims(mut claims) => claims.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until time has been judged that many times.
    async fn judged(&self, times: u32) {
        let until = self.ticks.load(Atomic::Relaxed) + times;
        while self.ticks.load(Atomic::Relaxed) < until {
            tokio::time::sleep(FAST).await;
        }
    }
}

#[tokio::test]
async fn a_rank_zero_that_slept_judges_nobody() {
    const LEASE_TICKS: u32 = 1000;
    let mut run = Run::start(2, TICK * LEASE_TICKS, FAST);
    let claim = run.claim_for(1).await;
    run.say(1, ToCoordinator::Alive { progress: RankProgress::default(), said_at: 0 });
    run.judged(1).await;
    // The whole process stands still: all run on this thread.
    std::thread::sleep(FAST * 2 * LEASE_TICKS);
    run.judged(2).await;
    let (partition, epoch) = (claim.partition, claim.epoch);
    // The claim is still good: this is taken as the failure of a rank, not of a claim that was lost.
    run.say(1, ToCoordinator::Failed { claim: Some((partition, epoch)), message: "disk full".into() });
    assert!(matches!(run.heard_by(1).await, ToWorker::Stop));
    run.say(0, ToCoordinator::Bye);
    run.say(1, ToCoordinator::Bye);
    let error = run.coordinator.await.unwrap().unwrap_err();
    assert!(matches!(error, DispatchError::Rank { rank: 1, .. }), "{error}");
}

#[tokio::test]
async fn the_failure_of_a_lost_claim_ends_nothing() {
    let mut run = Run::start(2, LEASE, TICK);
    let lost = run.claim_for(1).await;
    let (partition, epoch) = (lost.partition, lost.epoch);
    run.say(1, ToCoordinator::Release { partition, epoch, trouble: None });
    // Both are told at once; either may be the successor.
    run.say(1, ToCoordinator::Failed { claim: Some((partition, epoch)), message: "no such file".into() });
    let ToWorker::Claims(claims) = run.heard_by(1).await else { panic!("the run goes on") };
    assert!(claims[0].epoch > epoch);
    run.shutdown.request(crate::runtime::StopReason::Terminate);
    run.say(0, ToCoordinator::Bye);
    run.say(1, ToCoordinator::Bye);
    assert_eq!(run.coordinator.await.unwrap().unwrap().ending, RunEnding::Stopped);
}

#[tokio::test]
async fn a_partition_whose_files_vanish_again_and_again_is_set_aside() {
    let mut run = Run::start(1, LEASE, TICK);
    let mut claim = run.claim_for(0).await;
    for times in 1..=MAX_FILES_GONE {
        let (partition, epoch) = (claim.partition, claim.epoch);
        run.say(0, ToCoordinator::FilesGone { partition, epoch, detail: "no such file".into() });
        match run.heard_by(0).await {
            ToWorker::Claims(mut claims) if times < MAX_FILES_GONE => claim = claims.remove(0),
            ToWorker::Done if times == MAX_FILES_GONE => {}
            other => panic!("{times}: {other:?}"),
        }
    }
    run.say(0, ToCoordinator::Bye);
    let report = run.coordinator.await.unwrap().unwrap();
    assert_eq!(report.set_aside.len(), 1);
}

/// Changes the catalog behind its back.
fn tamper(folder: &TempDir, change: impl FnOnce(&redb::WriteTransaction)) {
    let mut builder = redb::Builder::new();
    builder.set_concurrency_mode(redb::ConcurrencyMode::SingleWriter);
    let db = builder.create(folder.path().join("c.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

/// It ended the process.
#[tokio::test]
async fn a_partition_whose_server_the_catalog_does_not_have_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    drop(new_catalog(&folder, 1));
    tamper(&folder, |txn| {
        let servers: redb::TableDefinition<u32, &[u8]> = redb::TableDefinition::new("servers-1");
        assert!(txn.open_table(servers).unwrap().remove(0).unwrap().is_some());
    });
    let catalog = open_catalog(&folder);
    let mut run = Run::start_on(folder, catalog, 1, LEASE, TICK);
    run.say(0, ToCoordinator::Hello { ddl_version: env!("CARGO_PKG_VERSION").into() });
    run.say(0, ToCoordinator::Ready { max_open_partitions: 1 });
    loop {
        match run.heard_by(0).await {
            ToWorker::Welcome { .. } => {}
            message => break assert!(matches!(message, ToWorker::Done), "{message:?}"),
        }
    }
    run.say(0, ToCoordinator::Bye);
    let report = run.coordinator.await.unwrap().unwrap();
    assert_eq!(report.ending, RunEnding::Incomplete);
    assert_eq!(report.set_aside[0].1, "the catalog does not have its server");
}

/// States of one partition that cannot be read ended every run, of all partitions.
#[tokio::test]
async fn a_partition_that_the_catalog_cannot_tell_of_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    drop(new_catalog(&folder, 2));
    tamper(&folder, |txn| {
        let states: redb::TableDefinition<(u32, u32), &[u8]> = redb::TableDefinition::new("states-1");
        txn.open_table(states).unwrap().insert((0, 0), [1, 0xff].as_slice()).unwrap();
    });
    let catalog = open_catalog(&folder);
    let mut run = Run::start_on(folder, catalog, 1, LEASE, TICK);
    // The damaged one is granted first.
    let claim = run.claim_for(0).await;
    assert_eq!(claim.partition.partition_id, 1, "the other is worked on");
    let Claim { partition, epoch, .. } = claim;
    run.say(0, ToCoordinator::Release { partition, epoch, trouble: Some("test".into()) });
    assert!(matches!(run.heard_by(0).await, ToWorker::Done));
    run.say(0, ToCoordinator::Bye);
    let report = run.coordinator.await.unwrap().unwrap();
    assert_eq!(report.ending, RunEnding::Incomplete);
    let [(name, reason), _] = &report.set_aside[..] else { panic!("{:?}", report.set_aside) };
    assert_eq!(name, "server_name=a.example/partition_id=0");
    assert!(reason.contains("states does not decode"), "{reason}");
}

/// A catalog that has panicked in a transaction was asked to record the end of its run.
#[tokio::test]
async fn after_a_panic_of_the_storage_the_run_ends_and_the_catalog_is_asked_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = new_catalog(&folder, 1);
    catalog.panic_at_reports();
    let mut run = Run::start_on(folder, catalog, 2, LEASE, TICK);
    let Claim { partition, epoch, .. } = run.claim_for(1).await;
    run.say(1, ToCoordinator::Finished { partition, epoch });
    assert!(matches!(run.heard_by(1).await, ToWorker::Answer { refusal: Some(_), .. }), "it does not wait");
    assert!(matches!(run.heard_by(1).await, ToWorker::Revoked { .. }));
    for rank in 0..2 {
        assert!(matches!(run.heard_by(rank).await, ToWorker::Stop));
        run.say(rank, ToCoordinator::Bye);
    }
    for rank in 0..2 {
        assert!(matches!(run.heard_by(rank).await, ToWorker::Dismissed { lost_ranks: false }));
    }
    let error = run.coordinator.await.unwrap().unwrap_err();
    assert!(matches!(error, DispatchError::CatalogThread { .. }), "{error}");
    let runs = open_catalog(&run.folder).view().unwrap().runs().unwrap();
    assert_eq!(runs[0].ended_at, None, "as when it was killed");
}

#[tokio::test]
async fn a_run_ends_without_a_rank_that_never_spoke_and_says_so() {
    let mut run = Run::start(2, Duration::from_secs(5), FAST);
    run.say(0, ToCoordinator::StopAsked { reason: "test".into() });
    run.say(0, ToCoordinator::Bye);
    assert!(matches!(run.heard_by(0).await, ToWorker::Stop));
    assert!(matches!(run.heard_by(0).await, ToWorker::Dismissed { lost_ranks: true }));
    assert_eq!(run.coordinator.await.unwrap().unwrap().lost_ranks, 1);
}

#[tokio::test]
async fn a_rank_that_seals_for_long_is_waited_for_as_long_as_it_reports() {
    let mut run = Run::start(1, LEASE * 100, FAST);
    run.shutdown.request(crate::runtime::StopReason::Terminate);
    assert!(matches!(run.heard_by(0).await, ToWorker::Stop));
    let partition = PartitionKey { server_id: ServerId(0), partition_id: 0 };
    for _ in 0..10 {
        run.judged(num_ticks(GOODBYE_TIMEOUT - Duration::from_secs(10))).await;
        run.say(0, ToCoordinator::Finished { partition, epoch: Epoch::new(1, 1) });
        assert!(matches!(run.heard_by(0).await, ToWorker::Answer { refusal: Some(_), .. }));
    }
    assert!(matches!(run.heard_by(0).await, ToWorker::Dismissed { lost_ranks: true }), "then no longer");
    run.coordinator.await.unwrap().unwrap();
}

impl Run {
    fn say_of_server(&self, rank: Rank, word: ServerWord) {
        self.say(rank, ToCoordinator::Servers(vec![(ServerName::from_catalog("cdn.example"), word)]));
    }

    fn borrow(&self, rank: Rank, received: u64) {
        self.say_of_server(rank, ServerWord::Borrow { borrow: 1, received });
    }

    /// What the rank is told of servers next; all else that it is told is left out.
    async fn orders_for(&mut self, rank: Rank) -> Vec<ServerOrder> {
        loop {
            if let ToWorker::Servers(orders) = self.heard_by(rank).await {
                return orders.into_iter().map(|(_, order)| order).collect();
            }
        }
    }

    /// The next loan of the rank, accepted.
    async fn loan_for(&mut self, rank: Rank) -> (Loan, Option<ServerKnowledge>) {
        match self.orders_for(rank).await.pop().unwrap() {
            ServerOrder::Lend { loan, knowledge, .. } => {
                self.say_of_server(rank, ServerWord::Accept { number: loan.number, rest: Duration::ZERO });
                (loan, knowledge.map(|knowledge| *knowledge))
            }
            order => panic!("{order:?}"),
        }
    }

    /// Ends the run; its catalog is closed then.
    async fn end(self) -> TempDir {
        self.shutdown.request(crate::runtime::StopReason::Terminate);
        (0..self.ranks.len() as Rank).for_each(|rank| self.say(rank, ToCoordinator::Bye));
        self.coordinator.await.unwrap().unwrap();
        self.folder
    }
}

#[tokio::test]
async fn what_one_rank_hears_of_a_server_the_others_and_the_next_run_know() {
    let mut run = Run::start(2, LEASE * 1000, FAST);
    run.borrow(0, 0);
    let (loan, knowledge) = run.loan_for(0).await;
    assert_eq!((loan.rate, loan.max_connections, loan.bytes), (10.0, 8, None));
    assert_eq!(knowledge, Some(ServerKnowledge::default()));
    run.borrow(1, 0);
    assert_eq!(run.loan_for(0).await.0.rate, 5.0);
    let (loan, knowledge) = run.loan_for(1).await;
    assert_eq!((loan.rate, loan.max_connections), (5.0, 4));
    assert!(knowledge.is_some());

    let hour = Duration::from_secs(3600);
    let embargo = Embargo {
        left: hour,
        cause: FailureCause::HttpStatus,
        http_status: Some(429),
        complaints: Complaints::default(),
    };
    let learnt = LearntLimit { max_rate: Some(3.0), max_in_flight: None };
    let robots = RobotsTxt {
        is_https: true,
        fetched_at: now_ms(),
        text: "User-agent: *".into(),
        crawl_delay: Duration::from_secs(2),
    };
    for news in
        [ServerNews::Learnt(learnt), ServerNews::RobotsTxt(robots.clone()), ServerNews::Embargo(embargo)]
    {
        run.say_of_server(1, ServerWord::News(news));
    }
    let mut told = run.orders_for(0).await;
    if let [ServerOrder::Lend { loan, .. }] = told[..] {
        assert_eq!((loan.rate, loan.max_connections), (0.5, 4), "the Crawl-delay is not divided");
        told = run.orders_for(0).await;
    }
    assert_eq!(told, [ServerOrder::Embargo(embargo)]);

    let folder = run.end().await;
    let catalog = open_catalog(&folder);
    let mut run = Run::start_on(folder, catalog, 1, LEASE, TICK);
    run.borrow(0, 0);
    let (loan, knowledge) = run.loan_for(0).await;
    assert_eq!(loan.rate, 0.5, "the Crawl-delay");
    let knowledge = knowledge.unwrap();
    assert_eq!((knowledge.learnt, &knowledge.robots_txt[..]), (learnt, &[robots][..]));
    let known = knowledge.embargo.unwrap();
    assert_eq!((known.cause, known.http_status), (embargo.cause, embargo.http_status));
    assert!(known.left > hour / 2, "{known:?}");
    run.end().await;
}

#[tokio::test]
async fn a_budget_of_bytes_holds_over_two_runs() {
    let budget = ServerBudget { bytes_per_day: 10 << 20, ..BUDGET };
    let folder = tempfile::tempdir().unwrap();
    let catalog = new_catalog(&folder, 1);
    let mut run = Run::start_with(folder, catalog, 1, LEASE, TICK, budget);
    run.borrow(0, 0);
    let mut lent = run.loan_for(0).await.0.bytes.unwrap();
    let mut received = 0;
    for _ in 0..3 {
        received += lent;
        run.borrow(0, lent);
        lent = run.loan_for(0).await.0.bytes.unwrap();
    }
    assert!(received > 8 << 20 && lent > 0);
    // The last tranche counts, too: nobody says what came of it.
    let folder = run.end().await;
    let catalog = open_catalog(&folder);
    let mut run = Run::start_with(folder, catalog, 1, LEASE, TICK, budget);
    run.borrow(0, 0);
    let orders = run.orders_for(0).await;
    let [ServerOrder::Lend { loan, .. }, ServerOrder::Embargo(embargo)] = &orders[..] else {
        panic!("{orders:?}")
    };
    assert_eq!(loan.bytes, Some(0));
    assert!(embargo.left > Duration::from_secs(23 * 3600), "{embargo:?}");
    run.end().await;
}

#[tokio::test]
async fn what_a_lost_rank_was_lent_goes_to_others_and_it_is_told_when_it_wakes() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = new_catalog(&folder, 1);
    let budget = ServerBudget { rate: 1.0, ..BUDGET };
    let mut run = Run::start_with(folder, catalog, 2, LEASE, FAST, budget);
    run.borrow(0, 0);
    assert_eq!(run.loan_for(0).await.0.max_connections, 8);
    run.borrow(1, 0);
    assert_eq!(run.loan_for(1).await.0.max_connections, 0);
    loop {
        run.say(1, ToCoordinator::Alive { progress: RankProgress::default(), said_at: 0 });
        if let Ok((loan, _)) = tokio::time::timeout(FAST, run.loan_for(1)).await {
            break assert_eq!(loan.max_connections, 8, "though the other has accepted nothing");
        }
    }
    run.borrow(0, 0);
    let number = loop {
        match run.heard_by(0).await {
            ToWorker::LoansVoid { number } => break number,
            ToWorker::Servers(_) => {}
            message => panic!("{message:?}"),
        }
    };
    let (loan, knowledge) = run.loan_for(0).await;
    assert!(loan.number > number && loan.max_connections == 0 && knowledge.is_some(), "{loan:?}");
    run.end().await;
}

#[tokio::test]
async fn three_ranks_take_turns_at_a_server_with_one_request_per_second() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = new_catalog(&folder, 1);
    let budget = ServerBudget { rate: 1.0, ..BUDGET };
    let mut run = Run::start_with(folder, catalog, 3, LEASE * 1000, FAST, budget);
    for rank in 0..3 {
        run.borrow(rank, 0);
        assert_eq!(run.loan_for(rank).await.0.max_connections > 0, rank == 0);
    }
    for (last, next) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
        assert_eq!(run.loan_for(last).await.0.max_connections, 0);
        let (loan, _) = run.loan_for(next).await;
        assert_eq!((loan.rate, loan.max_connections), (1.0, 8));
    }
    run.end().await;
}

#[tokio::test]
async fn every_sign_of_life_is_answered_with_its_time() {
    let mut run = Run::start(1, LEASE, TICK);
    run.say(0, ToCoordinator::Alive { progress: RankProgress::default(), said_at: 77 });
    let envelope = run.ranks[0].inbox.recv().await.unwrap();
    let answer = wire::decode(&envelope.payload).unwrap();
    assert!(matches!(answer, Packet::ToWorker(ToWorker::Heard { said_at: 77 })), "{answer:?}");
    run.end().await;
}

#[tokio::test]
async fn what_is_damaged_of_a_server_is_as_if_it_were_not_known() {
    let folder = tempfile::tempdir().unwrap();
    drop(new_catalog(&folder, 1));
    tamper(&folder, |txn| {
        let facts: redb::TableDefinition<(&[u8], u8), &[u8]> = redb::TableDefinition::new("server_facts-1");
        let mut facts = txn.open_table(facts).unwrap();
        for kind in 0..10 {
            facts.insert((b"cdn.example".as_slice(), kind), [1, 0xff].as_slice()).unwrap();
        }
        facts.insert((b"\xff\xfe".as_slice(), 0), [1].as_slice()).unwrap();
    });
    let catalog = open_catalog(&folder);
    let mut run = Run::start_on(folder, catalog, 1, LEASE, TICK);
    run.borrow(0, 0);
    let (loan, knowledge) = run.loan_for(0).await;
    assert_eq!((loan.rate, knowledge), (10.0, Some(ServerKnowledge::default())));
    run.end().await;
}
