use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

/// One look at a future: its value if it is ready.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn acquire_now(budget: &MemoryBudget, bytes: u64) -> MemoryPermit {
    poll(pin!(budget.acquire(bytes))).expect("not to wait").unwrap()
}

#[test]
fn waits_when_full_and_goes_on_when_something_is_given_back() {
    let budget = MemoryBudget::new(100, 80);
    let mut first = acquire_now(&budget, 70);
    let mut second = pin!(budget.acquire(40));
    assert!(poll(second.as_mut()).is_none());
    assert_eq!(budget.wanted(), 40);
    first.shrink(60);
    assert_eq!(budget.wanted(), 0, "granted, though nobody has looked yet");
    let second = poll(second).expect("60 + 40 fit").unwrap();
    assert_eq!((budget.used(), second.bytes()), (100, 40));
    drop((first, second));
    assert_eq!(budget.used(), 0);
}

#[test]
fn more_than_one_may_hold_is_refused_at_once_and_changes_nothing() {
    let budget = MemoryBudget::new(100, 80);
    let refused = poll(pin!(budget.acquire(81))).unwrap().unwrap_err();
    assert_eq!(refused, BudgetError { bytes: 81, max_permit: 80 });
    let mut permit = acquire_now(&budget, 80);
    assert!(poll(pin!(permit.grow(u64::MAX))).unwrap().is_err());
    assert_eq!((permit.bytes(), budget.used()), (80, 80));
}

#[test]
fn exactly_one_goes_beyond_the_budget_and_hands_the_exception_on() {
    let budget = MemoryBudget::new(100, 200);
    let mut a = acquire_now(&budget, 50);
    let mut b = acquire_now(&budget, 50);
    assert!(poll(pin!(a.grow(100))).is_some(), "the first to need it has the exception");
    assert!(poll(pin!(a.grow(50))).is_some(), "and keeps it");
    let mut growing = Box::pin(b.grow(10));
    assert!(poll(growing.as_mut()).is_none(), "the second waits");
    let mut newcomer = pin!(budget.acquire(1));
    assert!(poll(newcomer.as_mut()).is_none());
    assert_eq!(budget.used(), 250);
    drop(a);
    assert!(poll(growing.as_mut()).is_some());
    drop(growing);
    assert!(poll(newcomer).is_some());
    assert_eq!(b.bytes(), 60);
}

#[test]
fn more_than_the_whole_budget_waits_until_it_is_alone() {
    let budget = MemoryBudget::new(100, 500);
    let mut small = acquire_now(&budget, 1);
    let mut giant = pin!(budget.acquire(300));
    assert!(poll(giant.as_mut()).is_none());
    let mut later = pin!(budget.acquire(1));
    assert!(poll(later.as_mut()).is_none(), "nobody slips past it for ever");
    assert!(poll(pin!(small.grow(20))).is_some(), "but who holds something may finish");
    drop(small);
    let giant = poll(giant).expect("alone").unwrap();
    assert!(poll(later.as_mut()).is_none());
    drop(giant);
    assert!(poll(later).is_some());
}

#[test]
fn a_waiter_that_gives_up_lets_those_behind_it_pass() {
    let budget = MemoryBudget::new(100, 100);
    let _held = acquire_now(&budget, 50);
    let mut behind = pin!(budget.acquire(50));
    {
        let mut large = pin!(budget.acquire(60));
        assert!(poll(large.as_mut()).is_none());
        assert!(poll(behind.as_mut()).is_none());
    }
    assert!(poll(behind).is_some());
}

#[test]
fn a_grant_that_comes_too_late_goes_back() {
    let budget = MemoryBudget::new(100, 100);
    let held = acquire_now(&budget, 100);
    {
        let mut waiting = pin!(budget.acquire(60));
        assert!(poll(waiting.as_mut()).is_none());
        drop(held);
        assert_eq!(budget.used(), 60, "granted, though not yet looked at");
    }
    assert_eq!(budget.used(), 0);
}

/// One task: what it acquires, by how much it grows after that, and whether it gives up waiting.
type Script = (u64, Vec<u64>, bool);

/// Runs a script and counts what it holds in `held`, beside the budget's own books.
async fn follow(budget: MemoryBudget, (first, steps, impatient): Script, held: Arc<AtomicU64>) {
    let patience = if impatient { Duration::from_micros(50) } else { Duration::from_secs(60) };
    let Ok(Ok(mut permit)) = timeout(patience, budget.acquire(first)).await else { return };
    let mut counted = 0;
    let most = budget.limit() + budget.max_permit();
    for step in steps {
        let bytes = permit.bytes();
        held.fetch_add(bytes - counted, Ordering::SeqCst);
        counted = bytes;
        assert!(held.load(Ordering::SeqCst) <= most && budget.used() <= most, "over {most}");
        tokio::task::yield_now().await;
        // Refusals leave the permit as it was, and so does giving up.
        let _ = timeout(patience, permit.grow(step)).await;
    }
    held.fetch_sub(counted, Ordering::SeqCst);
}

async fn follow_all(limit: u64, max_permit: u64, scripts: Vec<Script>) {
    let budget = MemoryBudget::new(limit, max_permit);
    let held = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = scripts
        .into_iter()
        .map(|script| tokio::spawn(follow(budget.clone(), script, held.clone())))
        .collect();
    for task in tasks {
        timeout(Duration::from_secs(20), task).await.expect("nobody waits for ever").unwrap();
    }
    assert_eq!(budget.used(), 0, "everything is given back");
    let ledger = budget.shared.lock();
    assert!(ledger.growth.is_empty() && ledger.first.is_empty() && ledger.beyond.is_none());
}

fn script() -> impl Strategy<Value = Script> {
    (0..150_u64, proptest::collection::vec(0..80_u64, 0..6), proptest::bool::weighted(0.2))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_mix_of_tasks_ends_within_the_bound(
        limit in 0..200_u64,
        max_permit in 1..300_u64,
        scripts in proptest::collection::vec(script(), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(follow_all(limit, max_permit, scripts));
    }
}

/// The same with real threads, for what a single one cannot show.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_end_within_the_bound() {
    let scripts = (0..4_000_u64)
        .map(|i| {
            let steps = (0..i % 5).map(|step| (i * 31 + step * 17) % 70).collect();
            ((i * 7919) % 130, steps, i % 9 == 0)
        })
        .collect();
    follow_all(300, 250, scripts).await;
}

#[test]
fn a_thread_sleeps_until_its_bytes_come_free() {
    let budget = MemoryBudget::new(100, 100);
    let held = acquire_now(&budget, 80);
    let (waits, threads) = (budget.clone(), budget.clone());
    let thread = std::thread::spawn(move || threads.acquire_blocking(60).map(|permit| permit.bytes()));
    while waits.wanted() == 0 {
        std::thread::yield_now();
    }
    assert!(!thread.is_finished());
    drop(held);
    assert_eq!(thread.join().unwrap(), Ok(60));
    assert_eq!(budget.used(), 0);
    assert!(budget.acquire_blocking(101).is_err());
}
