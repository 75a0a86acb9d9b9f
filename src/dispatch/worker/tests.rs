use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use tokio::task::JoinHandle;

use super::*;
use crate::cluster::{Endpoint, local};
use crate::dispatch::protocol::{ServerOrder, ServerWord};
use crate::fetch::Landlord;
use crate::model::{Complaints, FailureCause, RobotsTxt, ServerId, ServerNews};

const TICK: Duration = Duration::from_millis(1);
const LEASE: Duration = Duration::from_secs(120);

/// Does nothing until it is dropped, and notes what happens.
#[derive(Default)]
struct Scripted {
    parked: AtomicU32,
    /// Whether its reports are refused.
    refused: AtomicBool,
    events: Mutex<Vec<(&'static str, Epoch)>>,
    line: OnceLock<ServerLine>,
    loans: Mutex<Vec<Loan>>,
    embargoes: Mutex<Vec<Embargo>>,
}

impl Scripted {
    async fn wait_for_start(&self, epoch: Epoch) {
        while !self.events.lock().unwrap().contains(&("started", epoch)) {
            tokio::time::sleep(TICK).await;
        }
    }

    fn note(&self, what: &'static str, epoch: Epoch) {
        self.events.lock().unwrap().push((what, epoch));
    }
}

struct Held<'a>(&'a Scripted, Epoch);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Long enough that a successor which does not wait would start meanwhile.
        std::thread::sleep(20 * TICK);
        self.0.note("dropped", self.1);
    }
}

impl Executor for Scripted {
    fn run(
        self: Arc<Self>,
        claim: Claim,
        _: ClaimHandle,
    ) -> BoxFuture<'static, Result<ClaimEnding, ExecutorError>> {
        Box::pin(async move {
            self.note("started", claim.epoch);
            if self.refused.load(Ordering::Relaxed) {
                return Err(ExecutorError::Refused("no".into()));
            }
            let _held = Held(&self, claim.epoch);
            std::future::pending().await
        })
    }

    fn progress(&self) -> RankProgress {
        RankProgress::default()
    }

    fn max_open_partitions(&self) -> u32 {
        10
    }

    fn num_parked(&self) -> u32 {
        self.parked.load(Ordering::Relaxed)
    }

    fn lend(&self, _: &ServerName, loan: Loan, _: Option<ServerKnowledge>) {
        self.loans.lock().unwrap().push(loan);
    }

    fn embargo(&self, _: &ServerName, embargo: Embargo) {
        self.embargoes.lock().unwrap().push(embargo);
    }
}

/// A worker, and the end that rank 0 would hold.
struct RankZeroEnd {
    endpoint: Endpoint,
    to_worker: mpsc::UnboundedSender<ToWorker>,
    executor: Arc<Scripted>,
    worker: JoinHandle<Result<Farewell, DispatchError>>,
}

impl RankZeroEnd {
    fn start() -> Self {
        let mut ranks = local::endpoints(2);
        let outbox = ranks.pop().unwrap().outbox;
        let (to_worker, inbox) = mpsc::unbounded_channel();
        let executor = Arc::new(Scripted::default());
        let make = executor.clone();
        let worker = tokio::spawn(work_at(TICK, outbox, inbox, Shutdown::new(), move |_, _, line| {
            make.line.set(line).unwrap();
            Ok(make)
        }));
        Self { endpoint: ranks.pop().unwrap(), to_worker, executor, worker }
    }

    fn say(&self, message: ToWorker) {
        self.to_worker.send(message).unwrap();
    }

    fn welcome(&self) {
        self.say(ToWorker::Welcome { run_id: 1, settings: String::new(), lease_timeout: LEASE });
    }

    /// What the worker says next.
    async fn next_word(&mut self) -> ToCoordinator {
        let envelope = self.endpoint.inbox.recv().await.unwrap();
        match wire::decode(&envelope.payload).unwrap() {
            Packet::ToCoordinator(message) => message,
            Packet::ToWorker(message) => panic!("{message:?} from a worker"),
        }
    }

    /// What the worker says next, signs of life left out.
    async fn heard(&mut self) -> ToCoordinator {
        loop {
            match self.next_word().await {
                ToCoordinator::Alive { .. } => {}
                message => return message,
            }
        }
    }
}

fn claim(epoch: Epoch) -> Claim {
    Claim {
        partition: PartitionKey { server_id: ServerId(0), partition_id: 0 },
        folder: ServerName::from_catalog("a.example"),
        shared: false,
        epoch,
        manifest_files: Vec::new(),
        states: Vec::new(),
        parts: Vec::new(),
        compacted: false,
        scheduled: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_claim_is_dropped_before_its_successor_starts() {
    let mut rank_zero = RankZeroEnd::start();
    rank_zero.welcome();
    let (first, second, third) = (Epoch::new(1, 1), Epoch::new(1, 2), Epoch::new(1, 3));
    let partition = claim(first).partition;
    rank_zero.say(ToWorker::Claims(vec![claim(first)]));
    rank_zero.executor.wait_for_start(first).await;
    rank_zero.say(ToWorker::Revoked { partition, epoch: first });
    rank_zero.say(ToWorker::Claims(vec![claim(second)]));
    rank_zero.executor.wait_for_start(second).await;
    // Without a word of revocation, a newer claim says the same; a late one concerns nobody.
    rank_zero.say(ToWorker::Claims(vec![claim(third)]));
    rank_zero.executor.wait_for_start(third).await;
    rank_zero.say(ToWorker::Revoked { partition, epoch: second });
    rank_zero.say(ToWorker::Revoked { partition, epoch: third });
    rank_zero.say(ToWorker::Done);
    while !matches!(rank_zero.heard().await, ToCoordinator::Bye) {}
    rank_zero.say(ToWorker::Dismissed { lost_ranks: false });
    rank_zero.worker.await.unwrap().unwrap();
    let events = rank_zero.executor.events.lock().unwrap().clone();
    let mut open = None;
    for (what, epoch) in events {
        match what {
            "started" => assert_eq!(open.replace(epoch), None, "two claims of one partition at once"),
            _ => assert_eq!(open.take(), Some(epoch)),
        }
    }
    assert_eq!(open, None);
}

/// The catalog refuses a report under a claim that holds: somebody else's hand is in the partition. Without a
/// word rank 0 would wait for it for ever.
#[tokio::test]
async fn a_refused_report_gives_the_partition_back() {
    let mut rank_zero = RankZeroEnd::start();
    rank_zero.welcome();
    let epoch = Epoch::new(1, 1);
    rank_zero.executor.refused.store(true, Ordering::Relaxed);
    rank_zero.say(ToWorker::Claims(vec![claim(epoch)]));
    loop {
        match rank_zero.heard().await {
            ToCoordinator::Hello { .. } | ToCoordinator::Ready { .. } => {}
            ToCoordinator::Release { trouble: Some(trouble), .. } => break assert_eq!(trouble, "no"),
            message => panic!("{message:?}"),
        }
    }
}

#[tokio::test]
async fn parked_partitions_are_replaced_up_to_a_bound() {
    let mut rank_zero = RankZeroEnd::start();
    rank_zero.welcome();
    assert!(matches!(rank_zero.heard().await, ToCoordinator::Hello { .. }));
    for (parked, expected) in [(0, 10), (7, 17), (100, 40), (3, 13)] {
        rank_zero.executor.parked.store(parked, Ordering::Relaxed);
        match rank_zero.heard().await {
            ToCoordinator::Ready { max_open_partitions } => assert_eq!(max_open_partitions, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_worker_gives_up_on_a_rank_zero_that_says_nothing() {
    let mute = RankZeroEnd::start();
    let mut fades = RankZeroEnd::start();
    fades.welcome();
    let mut num_ticks = 0;
    while num_ticks < 2 * MAX_SILENT_TICKS {
        if matches!(fades.next_word().await, ToCoordinator::Alive { .. }) {
            num_ticks += 1;
            if num_ticks % (MAX_SILENT_TICKS / 2) == 0 {
                fades.say(ToWorker::Alive);
            }
        }
    }
    for rank_zero in [mute, fades] {
        let error = rank_zero.worker.await.unwrap().unwrap_err();
        assert!(matches!(error, DispatchError::CoordinatorSilent { minutes: 10 }), "{error}");
    }
}

#[tokio::test]
async fn a_worker_that_slept_does_not_blame_rank_zero() {
    let mut rank_zero = RankZeroEnd::start();
    rank_zero.welcome();
    while !matches!(rank_zero.heard().await, ToCoordinator::Ready { .. }) {}
    // The whole process stands still: all run on this thread.
    std::thread::sleep(TICK * 2 * MAX_SILENT_TICKS as u32);
    rank_zero.say(ToWorker::Done);
    while !matches!(rank_zero.heard().await, ToCoordinator::Bye) {}
    rank_zero.say(ToWorker::Dismissed { lost_ranks: true });
    assert_eq!(rank_zero.worker.await.unwrap().unwrap(), Farewell { lost_ranks: true });
}

#[tokio::test]
async fn a_rank_zero_that_never_began_dismisses_its_workers() {
    let rank_zero = RankZeroEnd::start();
    rank_zero.say(ToWorker::Dismissed { lost_ranks: false });
    assert_eq!(rank_zero.worker.await.unwrap().unwrap(), Farewell { lost_ranks: false });
}

impl RankZeroEnd {
    /// What the worker says next of servers.
    async fn words(&mut self) -> Vec<ServerWord> {
        loop {
            if let ToCoordinator::Servers(words) = self.heard().await {
                return words.into_iter().map(|(_, word)| word).collect();
            }
        }
    }

    fn lend(&self, borrow: u64, number: u64) {
        let loan = Loan { number, rate: 1.0, max_connections: 1, bytes: None, rest: Duration::ZERO };
        let order = ServerOrder::Lend { borrow, loan, knowledge: None };
        self.say(ToWorker::Servers(vec![(ServerName::from_catalog("a.example"), order)]));
    }

    /// Numbers and connections of all loans that have come to the executor, once there are so many.
    async fn lent(&self, num: usize) -> Vec<(u64, u32)> {
        loop {
            let loans: Vec<_> =
                self.executor.loans.lock().unwrap().iter().map(|l| (l.number, l.max_connections)).collect();
            if loans.len() >= num {
                return loans;
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// A loan that was sent before rank 0 knew that the server was given back is others' by the time it arrives.
#[tokio::test]
async fn loans_that_have_crossed_a_newer_word_are_dropped() {
    let mut rank_zero = RankZeroEnd::start();
    rank_zero.welcome();
    while !matches!(rank_zero.heard().await, ToCoordinator::Ready { .. }) {}
    let line = rank_zero.executor.line.get().unwrap().clone();
    let server = ServerName::from_catalog("a.example");
    assert!(line.holds());
    line.borrow(&server, 0);
    assert_eq!(rank_zero.words().await, [ServerWord::Borrow { borrow: 1, received: 0 }]);
    rank_zero.lend(1, 5);
    assert_eq!(rank_zero.lent(1).await, [(5, 1)]);
    // All at once, and the crossing loan before the worker has sent a word of it.
    line.accept(&server, 5, Duration::from_millis(300));
    line.give_back(&server, 7, Duration::ZERO);
    line.borrow(&server, 0);
    rank_zero.lend(1, 6);
    let accept = ServerWord::Accept { number: 5, rest: Duration::from_millis(300) };
    let give_back = ServerWord::GiveBack { received: 7, rest: Duration::ZERO };
    assert_eq!(rank_zero.words().await, [accept, give_back, ServerWord::Borrow { borrow: 2, received: 0 }]);
    rank_zero.lend(2, 7);
    assert_eq!(rank_zero.lent(2).await, [(5, 1), (7, 1)]);

    let embargo = Embargo {
        left: Duration::from_secs(9),
        cause: FailureCause::HttpStatus,
        http_status: Some(429),
        complaints: Complaints::default(),
    };
    rank_zero.say(ToWorker::Servers(vec![(server.clone(), ServerOrder::Embargo(embargo))]));
    rank_zero.say(ToWorker::LoansVoid { number: 8 });
    assert_eq!(rank_zero.words().await, [ServerWord::Borrow { borrow: 3, received: 0 }]);
    rank_zero.lend(2, 9);
    rank_zero.lend(3, 10);
    assert_eq!(rank_zero.lent(4).await, [(5, 1), (7, 1), (8, 0), (10, 1)]);
    assert_eq!(*rank_zero.executor.embargoes.lock().unwrap(), [embargo]);
}

#[tokio::test]
async fn what_was_said_last_is_heard_before_the_goodbye_and_long_texts_are_not_passed_on() {
    let mut rank_zero = RankZeroEnd::start();
    rank_zero.welcome();
    while !matches!(rank_zero.heard().await, ToCoordinator::Ready { .. }) {}
    let line = rank_zero.executor.line.get().unwrap().clone();
    let server = ServerName::from_catalog("a.example");
    let robots = |text: String| RobotsTxt { is_https: true, fetched_at: 1, text, crawl_delay: LEASE };
    rank_zero.say(ToWorker::Done);
    line.tell(&server, ServerNews::RobotsTxt(robots("x".repeat(65_536))));
    line.tell(&server, ServerNews::RobotsTxt(robots("x".repeat(65_537))));
    line.give_back(&server, 3, Duration::ZERO);
    let mut words = Vec::new();
    loop {
        match rank_zero.heard().await {
            ToCoordinator::Servers(more) => words.extend(more.into_iter().map(|(_, word)| word)),
            ToCoordinator::Bye => break,
            _ => {}
        }
    }
    let [ServerWord::News(_), long, ServerWord::GiveBack { received: 3, .. }] = &words[..] else {
        panic!("{words:?}")
    };
    assert_eq!(*long, ServerWord::CrawlDelay { is_https: true, delay: LEASE });
}

/// A rank that was stopped for longer than its lease asks nothing until rank 0 has answered it.
#[test]
fn what_was_lent_holds_as_long_as_rank_zero_answers() {
    let uptime = boot_ms();
    let desk = ServerDesk::new(Duration::from_millis(uptime / 2), 0);
    assert!(!desk.line().holds(), "its last word is as old as the machine");
    desk.heard(uptime);
    assert!(desk.line().holds());
    desk.heard(0);
    assert!(desk.line().holds(), "an older answer takes nothing back");
}
