use std::sync::atomic::{AtomicU32, Ordering as Atomic};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::protocol::{Claim, RankProgress};
use super::super::worker::Packet;
use super::*;
use crate::catalog::{CatalogOptions, ManifestFile, NewPartition};
use crate::cluster::{Endpoint, local};
use crate::model::UrlKey;

const LEASE: Duration = Duration::from_secs(120);
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
        let ranks = local::endpoints(num_ranks);
        let context = RunContext {
            catalog: Arc::new(catalog),
            options: DispatchOptions { lease_timeout, ..DispatchOptions::default() },
            run: RunRow::default(),
            settings: String::new(),
            status_folder: folder.path().join("status"),
            num_ranks,
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
        let envelope = self.ranks[rank as usize].inbox.recv().await.unwrap();
        match wire::decode(&envelope.payload).unwrap() {
            Packet::ToWorker(message) => message,
            Packet::ToCoordinator(message) => panic!("{message:?} from rank 0"),
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
    run.say(1, ToCoordinator::Alive(RankProgress::default()));
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

#[test]
fn the_slowest_servers_come_first() {
    let tally = |name: &str, pending, done_in_run| ServerTally {
        folder: ServerName::from_catalog(name),
        shared: false,
        pending,
        done_in_run,
    };
    let mut servers = [tally("b", 10, 0), tally("a", 10, 0), tally("c", 20, 10), tally("d", 90, 30)];
    servers.sort_by(ServerTally::by_time_left);
    assert_eq!(servers.map(|server| server.folder.to_string()), ["a", "b", "d", "c"]);
}
