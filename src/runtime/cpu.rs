//! The pool of threads that compute, apart from those that wait for the network.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, io, thread};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::catch_panic;

/// A fixed number of threads with a bounded queue; cheap to clone.
///
/// Whoever offers more than the queue holds waits in [`run`](CpuPool::run): that is the backpressure
/// on downloads when the CPU is the bottleneck. Threads end when the last clone is dropped.
#[derive(Clone)]
pub struct CpuPool {
    shared: Arc<Shared>,
    /// One permit per job that may wait in the queue; a job gives its own back when it starts.
    room: Arc<Semaphore>,
    num_threads: usize,
    /// Closes the queue when the last clone goes.
    _close: Arc<CloseOnDrop>,
}

/// A job panicked. Codecs do so on hostile bytes; the thread lives on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a computation panicked: {message}")]
pub struct CpuPanic {
    /// What the panic said.
    pub message: String,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled once per job, and to all when the queue closes.
    offered: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Job, OwnedSemaphorePermit)>,
    closed: bool,
}

struct CloseOnDrop(Arc<Shared>);

impl CpuPool {
    /// Starts `num_threads` threads (at least 1) behind a queue of `max_queued` jobs (at least 1).
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(num_threads: usize, max_queued: usize) -> io::Result<Self> {
        let num_threads = num_threads.max(1);
        let shared = Arc::new(Shared::default());
        // Made first: if a thread is refused, those that did start are told to end.
        let close = Arc::new(CloseOnDrop(shared.clone()));
        for i in 0..num_threads {
            let shared = shared.clone();
            thread::Builder::new().name(format!("cpu-{i}")).spawn(move || shared.work())?;
        }
        let room = Arc::new(Semaphore::new(max_queued.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self { shared, room, num_threads, _close: close })
    }

    /// Runs `job` on the pool: waits for room in the queue, then for the result.
    ///
    /// Jobs start in the order in which they got room. If this future is dropped before its job has
    /// started, the job is never run; one that has started runs to its end, and its result is dropped.
    ///
    /// # Errors
    /// [`CpuPanic`] when the job panics.
    pub async fn run<T, F>(&self, job: F) -> Result<T, CpuPanic>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let room = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (sender, result) = oneshot::channel();
        self.shared.push(
            Box::new(move || {
                if !sender.is_closed() {
                    let _ = sender.send(catch_panic(job));
                }
            }),
            room,
        );
        match result.await {
            Ok(done) => done.map_err(|message| CpuPanic { message }),
            // The job was dropped unrun or its sender lost: neither happens while `self` lives.
            Err(_) => Err(CpuPanic { message: "the pool dropped the job".to_owned() }),
        }
    }

    /// Jobs that wait for a thread; for telemetry.
    #[must_use]
    pub fn num_queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }
}

impl fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuPool").field("num_threads", &self.num_threads).finish_non_exhaustive()
    }
}

impl Shared {
    /// No job runs under the lock, so a poisoned one still guards a sound queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job, room: OwnedSemaphorePermit) {
        self.lock().jobs.push_back((job, room));
        self.offered.notify_one();
    }

    /// The life of one thread.
    fn work(&self) {
        while let Some(job) = self.next_job() {
            // The job catches its own panic; this one is for values that panic when dropped.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = self
            .offered
            .wait_while(self.lock(), |queue| queue.jobs.is_empty() && !queue.closed)
            .unwrap_or_else(PoisonError::into_inner);
        queue.jobs.pop_front().map(|(job, _room)| job)
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.offered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn every_job_gives_its_own_result_on_no_more_threads_than_asked_for() {
        let pool = CpuPool::new(3, 2).unwrap();
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..200_u64).map(|i| {
            let (busy, most) = (busy.clone(), most.clone());
            pool.run(move || {
                most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(100));
                busy.fetch_sub(1, Ordering::SeqCst);
                i * i
            })
        });
        let results: Vec<_> = join_all(jobs).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(results, (0..200).map(|i| i * i).collect::<Vec<u64>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_lives_on() {
        let pool = CpuPool::new(1, 1).unwrap();
        let error = pool.run(|| -> u8 { panic!("bad marker {}", 7) }).await.unwrap_err();
        assert_eq!(error.message, "bad marker 7");
        assert_eq!(pool.run(|| 5).await, Ok(5));
    }

    /// A thread held up until told, and the pool it belongs to.
    async fn blocked_pool(max_queued: usize) -> (CpuPool, mpsc::Sender<()>) {
        let pool = CpuPool::new(1, max_queued).unwrap();
        let (go, gate) = mpsc::channel::<()>();
        let (started_sender, started) = oneshot::channel();
        let blocker = pool.clone();
        tokio::spawn(async move {
            blocker
                .run(move || {
                    let _ = started_sender.send(());
                    let _ = gate.recv();
                })
                .await
        });
        started.await.unwrap();
        (pool, go)
    }

    #[tokio::test]
    async fn a_full_queue_makes_callers_wait() {
        let (pool, go) = blocked_pool(1).await;
        let queued = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| 1).await }
        });
        while pool.num_queued() < 1 {
            tokio::task::yield_now().await;
        }
        let mut third = std::pin::pin!(pool.run(|| 2));
        assert!(timeout(Duration::from_millis(20), &mut third).await.is_err());
        assert_eq!(pool.num_queued(), 1);
        go.send(()).unwrap();
        assert_eq!(third.await, Ok(2));
        assert_eq!(queued.await.unwrap(), Ok(1));
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_not_run() {
        let (pool, go) = blocked_pool(4).await;
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let abandoned = pool.run(move || flag.store(true, Ordering::SeqCst));
        assert!(timeout(Duration::from_millis(5), abandoned).await.is_err());
        go.send(()).unwrap();
        pool.run(|| ()).await.unwrap();
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn threads_end_with_the_last_clone() {
        let pool = CpuPool::new(2, 1).unwrap();
        let threads = Arc::downgrade(&pool.shared);
        drop(pool.clone());
        assert_eq!(pool.run(|| 1).await, Ok(1));
        drop(pool);
        timeout(Duration::from_secs(10), async {
            while threads.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("threads end");
    }
}
