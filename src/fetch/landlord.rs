//! Who lends this process its part of each server's limits.

use std::fmt::Debug;
use std::time::Duration;

use crate::model::{ServerName, ServerNews};

/// Rank 0, as the fetcher of a rank sees it. No method waits, or calls the fetcher: what comes of one comes later, to
/// [`Fetcher::lend`](super::Fetcher::lend) and [`Fetcher::embargo`](super::Fetcher::embargo).
pub trait Landlord: Send + Sync + Debug {
    /// Whether what it has lent to this process cannot have been lent to another since. Asked before each request;
    /// where it is false it will soon be true again, and loans that do not hold any more are replaced before.
    fn holds(&self) -> bool {
        true
    }

    /// A server is to be asked something and nothing of it is lent, or the bytes that were lent are used up.
    /// `received`: bytes of bodies since the last word about it.
    fn borrow(&self, server: &ServerName, received: u64);

    /// From now on nothing goes beyond the loan of this number: what was under way beyond it has ended. In a second
    /// that ends after `rest`, nothing has gone beyond its rate.
    fn accept(&self, server: &ServerName, number: u64, rest: Duration);

    /// Nothing of the server is held any more. In a second that ends after `rest`, it was not asked anything.
    fn give_back(&self, server: &ServerName, received: u64, rest: Duration);

    /// What the other ranks, and the next run, should know.
    fn tell(&self, server: &ServerName, news: ServerNews);
}
