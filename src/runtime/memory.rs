//! A budget of bytes that tasks buy from before they take memory.
//!
//! A download does not know how large a body is until it has come, nor how many pixels are in it until
//! they are looked at, so a permit can grow. Tasks that each hold a little and wait for more would wait
//! for each other for ever; hence the one exception:
//!
//! **When the budget is exhausted, one permit may go beyond it**, up to what any single permit may hold.
//!
//! # Why nobody waits for ever
//! 1. A permit that wants to grow waits only while another has the exception, for it would be given it
//!    otherwise. So whenever permits wait to grow, one permit does not, and will be given all it asks for.
//! 2. That one is therefore dropped in the end (as long as its holder waits for no other holder; that is
//!    the rule for users, and why who needs several budgets buys from them in one order, everywhere the same).
//!    Dropping it frees the exception, which goes to the permit that waits longest.
//! 3. Whoever waits for a first permit holds nothing that others need. It goes behind all that want to
//!    grow, so by 1 and 2 its turn comes; one that asks for more than the whole budget is served when
//!    nothing else is held, and then has the exception.
//!
//! # How much is held at most
//! Without the permit that has the exception the rest is within the budget, at all times. So the total is
//! at most [`MemoryBudget::limit`] + [`MemoryBudget::max_permit`].

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::sync::oneshot;

/// Bytes that many tasks share; cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

/// Bytes bought from a budget, given back on drop.
#[derive(Debug)]
#[must_use]
pub struct MemoryPermit {
    held: Held,
}

/// One permit would hold more than any may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are more than the {max_permit} that one task may hold")]
pub struct BudgetError {
    /// What the permit would have held.
    pub bytes: u64,
    /// What it may hold.
    pub max_permit: u64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, of which one permit holds at most `max_permit` (it may be more than
    /// `limit`). Set `max_permit` to the most that one task may need.
    #[must_use]
    pub fn new(limit: u64, max_permit: u64) -> Self {
        Self { shared: Arc::new(Shared { limit, max_permit, ledger: Mutex::default() }) }
    }

    /// Waits for `bytes`; first come, first served, behind permits that want to grow.
    ///
    /// Cancel safe: a dropped future gives up its place, and what it was given.
    ///
    /// # Errors
    /// [`BudgetError`] if `bytes` is over [`max_permit`](Self::max_permit); at once.
    pub async fn acquire(&self, bytes: u64) -> Result<MemoryPermit, BudgetError> {
        let mut permit = MemoryPermit { held: Held { shared: self.shared.clone(), id: 0, bytes: 0 } };
        permit.held.id = self.shared.lock().new_id();
        permit.buy(bytes, Queue::First).await?;
        Ok(permit)
    }

    /// As [`acquire`](Self::acquire), for a thread that is no task's: it sleeps until the bytes are its own.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_blocking(&self, bytes: u64) -> Result<MemoryPermit, BudgetError> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut acquire = pin!(self.acquire(bytes));
        loop {
            match acquire.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(permit) => return permit,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Bytes to share.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Bytes that one permit may hold.
    #[must_use]
    pub fn max_permit(&self) -> u64 {
        self.shared.max_permit
    }

    /// Bytes held now; for telemetry.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.shared.lock().used
    }

    /// Bytes that are waited for: what has to come free, so that nobody waits.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        let ledger = self.shared.lock();
        let waiters = ledger.growth.iter().chain(&ledger.first);
        waiters.filter(|waiter| !waiter.granted.is_closed()).map(|waiter| waiter.bytes).sum()
    }
}

/// Wakes a thread that waits for a permit.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl MemoryPermit {
    /// Waits for `bytes` more, ahead of those who hold nothing.
    ///
    /// Cancel safe: the permit keeps what it had.
    ///
    /// # Errors
    /// [`BudgetError`] if the permit would hold more than any may; at once, and it keeps what it had.
    pub async fn grow(&mut self, bytes: u64) -> Result<(), BudgetError> {
        self.buy(bytes, Queue::Growth).await
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let surplus = self.held.bytes.saturating_sub(bytes);
        self.held.bytes -= surplus;
        self.held.shared.release(surplus);
    }

    /// Bytes held by this permit.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.held.bytes
    }

    async fn buy(&mut self, bytes: u64, queue: Queue) -> Result<(), BudgetError> {
        if bytes == 0 {
            return Ok(());
        }
        let Held { shared, id, bytes: held } = &mut self.held;
        let total = held.saturating_add(bytes);
        if total > shared.max_permit {
            return Err(BudgetError { bytes: total, max_permit: shared.max_permit });
        }
        let granted = {
            let mut ledger = shared.lock();
            if !ledger.must_queue(queue) && ledger.try_take(shared.limit, *id, bytes, queue) {
                *held = total;
                return Ok(());
            }
            let (granted_sender, granted) = oneshot::channel();
            ledger.queue(queue).push_back(Waiter { id: *id, bytes, granted: granted_sender });
            granted
        };
        let mut place = Place { shared, granted };
        let grant = (&mut place.granted).await;
        // The sender is dropped only with its waiter, which leaves the queue by a grant or by `Place`.
        grant.expect("a waiter is granted or gone").accept();
        *held = total;
        Ok(())
    }
}

/// What a permit holds; gives it back on drop.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    id: u64,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.release(self.bytes);
    }
}

#[derive(Debug)]
struct Shared {
    limit: u64,
    max_permit: u64,
    ledger: Mutex<Ledger>,
}

/// Who holds and who waits.
#[derive(Debug, Default)]
struct Ledger {
    used: u64,
    /// The permit that has the exception; there is one if and only if `used` is over the limit. It never
    /// waits itself, and without it the others are within the limit.
    beyond: Option<u64>,
    /// Permits that wait to grow, longest first.
    growth: VecDeque<Waiter>,
    /// Those who wait for a first permit, longest first.
    first: VecDeque<Waiter>,
    last_id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Growth,
    First,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    bytes: u64,
    granted: oneshot::Sender<Grant>,
}

impl Shared {
    /// Every change of the ledger is complete before anything can panic, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(self: &Arc<Self>, bytes: u64) {
        if bytes > 0 {
            let mut ledger = self.lock();
            ledger.give_back(self.limit, bytes);
            self.serve(&mut ledger);
        }
    }

    /// Grants what can be granted now, in order.
    fn serve(self: &Arc<Self>, ledger: &mut Ledger) {
        for queue in [Queue::Growth, Queue::First] {
            while let Some(waiter) = ledger.queue(queue).pop_front() {
                if waiter.granted.is_closed() {
                    continue;
                }
                if !ledger.try_take(self.limit, waiter.id, waiter.bytes, queue) {
                    ledger.queue(queue).push_front(waiter);
                    return;
                }
                let grant = Grant { shared: self.clone(), bytes: waiter.bytes };
                if let Err(refused) = waiter.granted.send(grant) {
                    // Given up in between. Not by dropping the grant: that would lock again.
                    ledger.give_back(self.limit, refused.accept());
                }
            }
        }
    }
}

impl Ledger {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Waiter> {
        match queue {
            Queue::Growth => &mut self.growth,
            Queue::First => &mut self.first,
        }
    }

    /// Whether a newcomer has to queue behind others even if the rules would serve it now.
    ///
    /// Not to grow: having the exception it must go on, for all wait for it; and if it merely fits, those
    /// who wait need more than there is, and lose no turn by it (theirs is the next exception).
    fn must_queue(&self, queue: Queue) -> bool {
        queue == Queue::First && !(self.growth.is_empty() && self.first.is_empty())
    }

    /// Takes `bytes` for permit `id` if the rules allow it now.
    fn try_take(&mut self, limit: u64, id: u64, bytes: u64, queue: Queue) -> bool {
        let fits = self.used.saturating_add(bytes) <= limit;
        let exception = match queue {
            Queue::Growth => self.beyond.is_none_or(|holder| holder == id),
            Queue::First => self.used == 0,
        };
        if !fits && !exception {
            return false;
        }
        if !fits {
            self.beyond = Some(id);
        }
        self.used += bytes;
        true
    }

    fn give_back(&mut self, limit: u64, bytes: u64) {
        self.used -= bytes;
        if self.used <= limit {
            self.beyond = None;
        }
    }
}

/// Bytes on their way to a waiter. If it gives up before it has them, they go back.
#[derive(Debug)]
struct Grant {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Grant {
    /// Takes the bytes over; they no longer go back by themselves.
    fn accept(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.shared.release(self.bytes);
    }
}

/// A place in a queue; given up on drop, so that those behind it move on at once.
struct Place<'a> {
    shared: &'a Arc<Shared>,
    granted: oneshot::Receiver<Grant>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.granted.is_terminated() {
            return;
        }
        self.granted.close();
        // A grant may have come just before; taken out here, it is dropped after the lock.
        let _unwanted = self.granted.try_recv();
        let mut ledger = self.shared.lock();
        ledger.growth.retain(|waiter| !waiter.granted.is_closed());
        ledger.first.retain(|waiter| !waiter.granted.is_closed());
        self.shared.serve(&mut ledger);
    }
}

#[cfg(test)]
mod tests;
