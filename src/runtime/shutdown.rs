//! When to stop, and how hard: a value that is passed down and waited for.
//!
//! | what happens | then |
//! |---|---|
//! | Ctrl-C, SIGTERM, SIGHUP, SIGUSR2 (the warning that `sbatch --signal` sends), or the deadline | drain: start nothing new, seal, commit, leave |
//! | Ctrl-C once more | at once: leave what is under way; the next run repeats it |
//!
//! A level never goes back, and the first reason to drain is the one that is kept.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Two Ctrl-C closer than this are one: a launcher and the terminal may both pass on the same keystroke.
const SAME_KEYSTROKE: Duration = Duration::from_millis(300);

/// Why to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Ctrl-C (SIGINT).
    Interrupt,
    /// SIGTERM: the batch system or the administrator wants the process gone. SIGHUP: its terminal is gone.
    Terminate,
    /// SIGUSR2: the batch system says that the job's time is nearly over.
    Warning,
    /// The job's end, known beforehand, is near.
    Deadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Running,
    Draining(StopReason),
    AtOnce(StopReason),
}

/// Whether to go on; all clones share one answer.
#[derive(Clone, Debug)]
pub struct Shutdown {
    level: Arc<watch::Sender<Level>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Not stopping.
    #[must_use]
    pub fn new() -> Self {
        Self { level: Arc::new(watch::Sender::new(Level::Running)) }
    }

    /// Why to stop, once somebody has asked for it.
    #[must_use]
    pub fn requested(&self) -> Option<StopReason> {
        self.level.borrow().reason()
    }

    /// Whether even what is under way is to be left.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        matches!(*self.level.borrow(), Level::AtOnce(_))
    }

    /// Asks everybody to drain. A later reason does not replace an earlier one.
    pub fn request(&self, reason: StopReason) {
        self.level.send_if_modified(|level| {
            let first = *level == Level::Running;
            if first {
                *level = Level::Draining(reason);
            }
            first
        });
    }

    /// Asks everybody to leave at once; `reason` counts only where none was given before.
    pub fn force(&self, reason: StopReason) {
        self.level.send_if_modified(|level| {
            let first = !matches!(level, Level::AtOnce(_));
            *level = Level::AtOnce(level.reason().unwrap_or(reason));
            first
        });
    }

    /// Waits until asked to stop. Cancel safe.
    pub async fn wait(&self) -> StopReason {
        self.wait_for(Level::reason).await
    }

    /// Waits until asked to leave at once. Cancel safe.
    pub async fn wait_forced(&self) -> StopReason {
        self.wait_for(|level| match level {
            Level::AtOnce(reason) => Some(reason),
            Level::Running | Level::Draining(_) => None,
        })
        .await
    }

    async fn wait_for(&self, reason: impl Fn(Level) -> Option<StopReason>) -> StopReason {
        let mut levels = self.level.subscribe();
        loop {
            if let Some(reason) = reason(*levels.borrow_and_update()) {
                return reason;
            }
            if levels.changed().await.is_err() {
                // The sender lives in `self`, so this is never reached; waiting is the safe answer.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Level {
    fn reason(self) -> Option<StopReason> {
        match self {
            Self::Running => None,
            Self::Draining(reason) | Self::AtOnce(reason) => Some(reason),
        }
    }
}

/// Makes SIGINT, SIGTERM, SIGHUP and SIGUSR2 ask `shutdown` to stop, from now on and for the life of the process.
///
/// Call it from within the tokio runtime, once, before anything that must not be killed half-way.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn install_signals(shutdown: &Shutdown) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut warning = signal(SignalKind::user_defined2())?;
    let mut keystrokes = Keystrokes { shutdown: shutdown.clone(), first: None };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => keystrokes.interrupt(Instant::now()),
                Some(()) = terminate.recv() => keystrokes.shutdown.request(StopReason::Terminate),
                Some(()) = hangup.recv() => keystrokes.shutdown.request(StopReason::Terminate),
                Some(()) = warning.recv() => keystrokes.shutdown.request(StopReason::Warning),
                else => return,
            }
        }
    });
    Ok(())
}

/// Asks `shutdown` to stop at `deadline`. Call it from within the tokio runtime.
pub fn install_deadline(shutdown: &Shutdown, deadline: Instant) {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::time::sleep_until(deadline.into()).await;
        shutdown.request(StopReason::Deadline);
    });
}

/// Tells the first Ctrl-C from the second.
struct Keystrokes {
    shutdown: Shutdown,
    first: Option<Instant>,
}

impl Keystrokes {
    fn interrupt(&mut self, now: Instant) {
        match self.first {
            None => {
                self.first = Some(now);
                self.shutdown.request(StopReason::Interrupt);
            }
            Some(first) if now.saturating_duration_since(first) < SAME_KEYSTROKE => {}
            Some(_) => self.shutdown.force(StopReason::Interrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn the_first_reason_is_kept_and_the_level_only_rises() {
        let shutdown = Shutdown::new();
        assert_eq!((shutdown.requested(), shutdown.is_forced()), (None, false));
        shutdown.request(StopReason::Warning);
        shutdown.request(StopReason::Terminate);
        assert_eq!((shutdown.requested(), shutdown.is_forced()), (Some(StopReason::Warning), false));
        shutdown.force(StopReason::Interrupt);
        shutdown.request(StopReason::Deadline);
        assert_eq!((shutdown.requested(), shutdown.is_forced()), (Some(StopReason::Warning), true));
    }

    #[tokio::test]
    async fn waiting_ends_for_all_clones_and_for_those_who_come_late() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { (shutdown.wait().await, shutdown.wait_forced().await) }
        });
        tokio::task::yield_now().await;
        shutdown.request(StopReason::Terminate);
        assert_eq!(shutdown.wait().await, StopReason::Terminate);
        assert!(timeout(Duration::from_millis(10), shutdown.wait_forced()).await.is_err());
        shutdown.force(StopReason::Interrupt);
        assert_eq!(waiting.await.unwrap(), (StopReason::Terminate, StopReason::Terminate));
    }

    #[test]
    fn the_second_keystroke_forces_but_an_echo_of_the_first_does_not() {
        let mut keystrokes = Keystrokes { shutdown: Shutdown::new(), first: None };
        let start = Instant::now();
        keystrokes.interrupt(start);
        keystrokes.interrupt(start + Duration::from_millis(20));
        assert_eq!(keystrokes.shutdown.requested(), Some(StopReason::Interrupt));
        assert!(!keystrokes.shutdown.is_forced());
        keystrokes.interrupt(start + SAME_KEYSTROKE);
        assert!(keystrokes.shutdown.is_forced());
    }

    #[tokio::test]
    async fn a_deadline_asks_when_it_comes_and_not_before() {
        let shutdown = Shutdown::new();
        let deadline = Instant::now() + Duration::from_millis(30);
        install_deadline(&shutdown, deadline);
        assert_eq!(shutdown.requested(), None);
        assert_eq!(shutdown.wait().await, StopReason::Deadline);
        assert!(Instant::now() >= deadline);
    }

    /// The real thing, with a signal that no test runner uses.
    #[tokio::test]
    async fn the_warning_signal_is_heard() {
        let shutdown = Shutdown::new();
        install_signals(&shutdown).unwrap();
        kill_process(getpid(), Signal::USR2).unwrap();
        let reason = timeout(Duration::from_secs(10), shutdown.wait()).await.unwrap();
        assert_eq!(reason, StopReason::Warning);
    }
}
