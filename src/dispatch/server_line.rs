//! A rank's line to rank 0 about servers: what its fetcher says, and whether what it was lent still counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Executor;
use super::protocol::{ServerOrder, ServerWord};
use crate::catalog::MAX_ROBOTS_TXT_BYTES;
use crate::fetch::Landlord;
use crate::model::{Loan, ServerName, ServerNews};
use crate::runtime::time_since_boot;

/// Words that one message has at most: with the longest robots.txt they are 4 MiB.
const MAX_WORDS: usize = 64;

/// Words about servers on their way to rank 0; cheap to clone. Those that are said after [`Executor::leave`]
/// has returned are lost.
///
/// # A rank that was stopped
/// Rank 0 lends to others what a rank had that it has not heard for `lease_timeout`. The rank hears of that when it
/// wakes, but not in its first moments: until the answer to its next word, a millisecond or so, it could ask as if
/// nothing had happened, beside whoever has the loan now. [`Landlord::holds`] is false in that time. It counts from when
/// the rank said the newest word that rank 0 has heard, which is before rank 0 began to count, and by a clock that
/// does not stop. Whoever asks it before each request exceeds nothing.
#[derive(Clone, Debug)]
pub struct ServerLine {
    words: mpsc::UnboundedSender<(ServerName, ServerWord)>,
    lease: Arc<Lease>,
}

#[derive(Debug)]
struct Lease {
    timeout_ms: u64,
    /// When the rank said the newest word that rank 0 has heard.
    said_at: AtomicU64,
}

impl ServerLine {
    fn say(&self, server: &ServerName, word: ServerWord) {
        // A worker that is gone has said its last word.
        drop(self.words.send((server.clone(), word)));
    }
}

impl Landlord for ServerLine {
    fn holds(&self) -> bool {
        let until = self.lease.said_at.load(Ordering::Acquire).saturating_add(self.lease.timeout_ms);
        boot_ms() < until
    }

    fn borrow(&self, server: &ServerName, received: u64) {
        // Numbered when it is sent.
        self.say(server, ServerWord::Borrow { borrow: 0, received });
    }

    fn accept(&self, server: &ServerName, number: u64, rest: Duration) {
        self.say(server, ServerWord::Accept { number, rest });
    }

    fn give_back(&self, server: &ServerName, received: u64, rest: Duration) {
        self.say(server, ServerWord::GiveBack { received, rest });
    }

    fn tell(&self, server: &ServerName, news: ServerNews) {
        let word = match news {
            ServerNews::RobotsTxt(robots) if robots.text.len() > MAX_ROBOTS_TXT_BYTES => {
                ServerWord::CrawlDelay { is_https: robots.is_https, delay: robots.crawl_delay }
            }
            news => ServerWord::News(news),
        };
        self.say(server, word);
    }
}

/// The worker's end of the line: numbers what is borrowed, and drops loans that have crossed a newer word of ours.
pub(super) struct ServerDesk {
    line: ServerLine,
    words: mpsc::UnboundedReceiver<(ServerName, ServerWord)>,
    /// The newest word by which each server was borrowed.
    borrowed: HashMap<ServerName, u64>,
    num_borrows: u64,
}

impl ServerDesk {
    /// `said_at`: when the word was said that rank 0 has answered first.
    pub fn new(lease_timeout: Duration, said_at: u64) -> Self {
        let timeout_ms = u64::try_from(lease_timeout.as_millis()).unwrap_or(u64::MAX);
        let (sender, words) = mpsc::unbounded_channel();
        let lease = Arc::new(Lease { timeout_ms, said_at: AtomicU64::new(said_at) });
        let line = ServerLine { words: sender, lease };
        Self { line, words, borrowed: HashMap::new(), num_borrows: 0 }
    }

    pub fn line(&self) -> ServerLine {
        self.line.clone()
    }

    /// Rank 0 has heard what this rank said then.
    pub fn heard(&self, said_at: u64) {
        self.line.lease.said_at.fetch_max(said_at, Ordering::Release);
    }

    /// The next words to be sent, together. Cancel safe.
    pub async fn next_words(&mut self) -> Vec<(ServerName, ServerWord)> {
        let mut words = Vec::new();
        self.words.recv_many(&mut words, MAX_WORDS).await;
        words.iter_mut().for_each(|(server, word)| self.number(server, word));
        words
    }

    /// Words that wait now, if any do.
    pub fn waiting_words(&mut self) -> Option<Vec<(ServerName, ServerWord)>> {
        let mut words = Vec::new();
        while words.len() < MAX_WORDS
            && let Ok((server, mut word)) = self.words.try_recv()
        {
            self.number(&server, &mut word);
            words.push((server, word));
        }
        (!words.is_empty()).then_some(words)
    }

    fn number(&mut self, server: &ServerName, word: &mut ServerWord) {
        match word {
            ServerWord::Borrow { borrow, .. } => {
                self.num_borrows += 1;
                *borrow = self.num_borrows;
                self.borrowed.insert(server.clone(), *borrow);
            }
            ServerWord::GiveBack { .. } => drop(self.borrowed.remove(server)),
            ServerWord::Accept { .. } | ServerWord::News(_) | ServerWord::CrawlDelay { .. } => {}
        }
    }

    /// Passes an order on. What the fetcher has said before must have been taken out of the line.
    pub fn follow(&self, server: &ServerName, order: ServerOrder, executor: &impl Executor) {
        match order {
            ServerOrder::Lend { borrow, loan, knowledge } => {
                // An answer to what was given back since, or will be replaced by the answer to a newer word.
                if self.borrowed.get(server) == Some(&borrow) {
                    executor.lend(server, loan, knowledge.map(|knowledge| *knowledge));
                }
            }
            ServerOrder::Embargo(embargo) => executor.embargo(server, embargo),
        }
    }

    /// Nothing that was lent counts any more: borrows it all anew.
    pub fn void(&self, number: u64, executor: &impl Executor) {
        let nothing = Loan { number, rate: 0.0, max_connections: 0, bytes: None, rest: Duration::ZERO };
        for server in self.borrowed.keys() {
            executor.lend(server, nothing, None);
            self.line.borrow(server, 0);
        }
    }
}

/// The time that a rank puts on its words: milliseconds since its machine was started.
pub(super) fn boot_ms() -> u64 {
    time_since_boot().as_millis() as u64
}
