//! What of a server's limits this process may use: a pure state machine, `now` is passed in.
//!
//! | state | requests | leaves to |
//! |---|---|---|
//! | nothing is lent | none; the first who wants one asks the landlord | asked |
//! | asked | none, or what is left of the last loan | lent |
//! | lent, with connections | as many as the loan has | lent, by the next loan; asked, when the bytes run short |
//! | lent, without connections | none: another rank has its turn | lent, by the next loan |
//! | lent, and idle for [`IDLE`] | none | nothing is lent: it is given back |
//!
//! A loan is *accepted* when it is kept: when no more requests are under way than it has connections. A lower rate is
//! kept at once. A higher one, or any after there was none, is used [`SETTLED`] later only: limits are counted by the
//! second, so no second may see the rank that made room at its old pace and this one at its new. The first loan of
//! all has nobody before it.
//!
//! Bytes: a request leaves only while more bytes are left than those under way will take, each the mean of the bodies
//! so far. Bodies of one size exceed a loan by less than one body; at worst it is exceeded by what is under way when
//! it ends, each request at most `max_body_bytes`.

use std::time::{Duration, Instant};

use crate::model::Loan;

/// A server that nobody has asked anything for so long is given back: longer than a second, in which nobody else may
/// send what this rank has sent, and than a partition needs to read its next records. Others may wait for their turn.
pub(super) const IDLE: Duration = Duration::from_secs(2);
/// Requests of several ranks that fall together arrive some milliseconds early and late. What a rank may send in a
/// second it sends in this time, so that the second of a server that counts has no more.
pub(super) const JITTER: f64 = 1.005;
/// How long others have gone more slowly before this rank goes faster.
pub(super) const SETTLED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Lent {
    loan: Option<Loan>,
    /// Whether the landlord was asked and has not answered.
    has_asked: bool,
    /// Of the last loan that was taken, and of the last that was accepted.
    number: u64,
    accepted: u64,
    /// Requests/s that hold, and when those of the loan do if they are more; infinite without a limit.
    rate: f64,
    faster_at: Option<Instant>,
    /// Of the present loan; `None` is no limit.
    bytes_left: Option<u64>,
    /// Bytes received that the landlord has not heard of.
    untold: u64,
    /// Bodies that had any bytes, and their bytes.
    bodies: u64,
    body_bytes: u64,
    /// When somebody has last asked the server for something.
    used_at: Instant,
}

impl Lent {
    pub fn nothing(now: Instant) -> Self {
        Self {
            loan: None,
            has_asked: false,
            number: 0,
            accepted: 0,
            rate: f64::INFINITY,
            faster_at: None,
            bytes_left: None,
            untold: 0,
            bodies: 0,
            body_bytes: 0,
            used_at: now,
        }
    }

    /// All that there is, where nobody lends.
    pub fn all(rate: f64, max_connections: u32, now: Instant) -> Self {
        let loan = Loan { number: 0, rate, max_connections, bytes: None, rest: Duration::ZERO };
        Self { loan: Some(loan), rate: if rate > 0.0 { rate } else { f64::INFINITY }, ..Self::nothing(now) }
    }

    pub fn loan(&self) -> Option<Loan> {
        self.loan
    }

    /// Requests/s at present; infinite without a limit.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub fn max_connections(&self) -> usize {
        self.loan.map_or(0, |loan| loan.max_connections as usize)
    }

    /// Whether one more request may leave beside those under way, as far as connections of any number and bytes go.
    pub fn allows_one_more(&self, under_way: usize) -> bool {
        self.max_connections() > 0
            && self.bytes_left.is_none_or(|left| left > self.mean_body().saturating_mul(under_way as u64))
    }

    fn mean_body(&self) -> u64 {
        self.body_bytes.checked_div(self.bodies).unwrap_or(0).max(1)
    }

    /// What the landlord is to be asked with, if there is something to ask for: the bytes it has not heard of.
    ///
    /// A loan without connections, or without bytes when none were received since, is an answer: the next one comes
    /// by itself.
    pub fn ask(&mut self, now: Instant) -> Option<u64> {
        let is_short = self.max_connections() > 0 && self.untold > 0;
        if self.has_asked || !(self.loan.is_none() || is_short) {
            return None;
        }
        (self.has_asked, self.used_at) = (true, now);
        Some(std::mem::take(&mut self.untold))
    }

    /// Takes a loan; returns whether the rank had none before it, or `None` and takes nothing if it was not asked for.
    pub fn take(&mut self, loan: Loan, now: Instant) -> Option<bool> {
        // It has crossed our giving back, or a newer one.
        if !self.holds() || loan.number <= self.number {
            return None;
        }
        let had_none = self.max_connections() == 0;
        self.faster_at = (!had_none && pace(loan) > self.rate).then(|| now + SETTLED);
        if self.faster_at.is_none() {
            self.rate = pace(loan);
        }
        self.loan = Some(loan);
        self.number = loan.number;
        self.has_asked = false;
        self.bytes_left = loan.bytes.map(|bytes| bytes.saturating_sub(self.untold));
        Some(had_none)
    }

    /// Whether the loan's rate has begun to hold now.
    pub fn goes_faster(&mut self, now: Instant) -> bool {
        let is_due = self.faster_at.take_if(|at| *at <= now).is_some();
        if let Some(loan) = self.loan.filter(|_| is_due) {
            self.rate = pace(loan);
        }
        is_due
    }

    /// The number of the present loan, once: when it is kept.
    pub fn accept(&mut self, under_way: usize) -> Option<u64> {
        let is_kept = self.number > self.accepted && under_way <= self.max_connections();
        is_kept.then(|| {
            self.accepted = self.number;
            self.number
        })
    }

    /// A request leaves.
    pub fn on_request(&mut self, now: Instant) {
        self.used_at = now;
    }

    /// A request has ended, and so many bytes of its body have come.
    pub fn on_end(&mut self, bytes: u64, now: Instant) {
        self.used_at = now;
        if bytes > 0 {
            self.bodies += 1;
            self.body_bytes = self.body_bytes.saturating_add(bytes);
        }
        self.untold = self.untold.saturating_add(bytes);
        self.bytes_left = self.bytes_left.map(|left| left.saturating_sub(bytes));
    }

    pub fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used_at) >= IDLE
    }

    /// Whether something is lent, or was asked for.
    pub fn holds(&self) -> bool {
        self.has_asked || self.loan.is_some()
    }

    /// Gives all back, if there is something or something was asked for; returns the bytes that the landlord has not
    /// heard of.
    pub fn give_back(&mut self) -> Option<u64> {
        let holds = self.holds();
        (self.loan, self.has_asked, self.bytes_left, self.faster_at) = (None, false, None, None);
        // What is under way ends without a loan.
        self.accepted = self.number;
        holds.then(|| std::mem::take(&mut self.untold))
    }
}

/// Requests/s that are sent under a loan; infinite without a limit.
fn pace(loan: Loan) -> f64 {
    if loan.rate > 0.0 { loan.rate / JITTER } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn loan(number: u64, rate: f64, max_connections: u32, bytes: Option<u64>) -> Loan {
        Loan { number, rate, max_connections, bytes, rest: Duration::ZERO }
    }

    fn lent(first: Loan, now: Instant) -> Lent {
        let mut lent = Lent::nothing(now);
        assert_eq!(lent.ask(now), Some(0));
        assert_eq!(lent.take(first, now), Some(true));
        lent
    }

    #[test]
    fn the_landlord_is_asked_once_and_not_for_a_turn_of_others() {
        let now = Instant::now();
        let mut lent = Lent::nothing(now);
        assert!(!lent.allows_one_more(0));
        assert_eq!((lent.ask(now), lent.ask(now)), (Some(0), None));
        assert_eq!(lent.take(loan(4, 1.0, 0, None), now), Some(true));
        assert!(!lent.allows_one_more(0));
        assert_eq!(lent.ask(now), None);
        assert_eq!(lent.take(loan(5, 1.0, 2, None), now), Some(true));
        assert!(lent.allows_one_more(5), "connections are counted elsewhere");
        assert_eq!(lent.take(loan(6, 1.0, 1, None), now), Some(false));
        assert_eq!(lent.take(loan(5, 9.0, 9, None), now), None, "an old one");
        assert_eq!(lent.give_back(), Some(0));
        assert_eq!(lent.take(loan(7, 1.0, 1, None), now), None, "it has crossed the giving back");
        assert_eq!(lent.give_back(), None);
    }

    #[test]
    fn a_loan_is_accepted_when_what_is_under_way_fits() {
        let now = Instant::now();
        let mut lent = lent(loan(1, 10.0, 8, None), now);
        assert_eq!((lent.accept(0), lent.accept(0)), (Some(1), None));
        lent.take(loan(2, 10.0, 4, None), now);
        assert_eq!((lent.accept(5), lent.accept(4)), (None, Some(2)));
        lent.take(loan(3, 5.0, 0, None), now);
        assert_eq!((lent.accept(1), lent.accept(0)), (None, Some(3)));
        lent.take(loan(4, 5.0, 1, None), now);
        lent.give_back();
        assert_eq!(lent.accept(0), None, "there is nothing to accept any more");
    }

    #[test]
    fn a_lower_rate_holds_at_once_and_a_higher_one_a_second_later() {
        let now = Instant::now();
        let rate = |lent: &Lent| (lent.rate() * JITTER * 1e6).round() / 1e6;
        let mut lent = lent(loan(1, 10.0, 8, None), now);
        assert_eq!(rate(&lent), 10.0);
        lent.take(loan(2, 5.0, 8, None), now);
        assert_eq!(rate(&lent), 5.0);
        lent.take(loan(3, 0.0, 8, None), now);
        assert!(!lent.goes_faster(now + 999 * MS) && rate(&lent) == 5.0);
        // One that is still higher begins anew; one that is not is no rise.
        lent.take(loan(4, 7.0, 8, None), now + 500 * MS);
        assert!(!lent.goes_faster(now + 1400 * MS) && rate(&lent) == 5.0);
        assert!(lent.goes_faster(now + 1500 * MS) && rate(&lent) == 7.0);
        assert!(!lent.goes_faster(now + 9000 * MS));
        lent.take(loan(5, 9.0, 8, None), now);
        lent.take(loan(6, 7.0, 8, None), now);
        assert!(!lent.goes_faster(now + 9000 * MS) && rate(&lent) == 7.0);
    }

    #[test]
    fn bytes_run_out_with_what_is_under_way() {
        let now = Instant::now();
        let mut lent = lent(loan(1, 0.0, 8, Some(1000)), now);
        assert!(lent.allows_one_more(7));
        lent.on_end(300, now);
        // 700 are left for bodies of 300: three more.
        assert!(lent.allows_one_more(2) && !lent.allows_one_more(3));
        assert_eq!(lent.ask(now), Some(300));
        assert_eq!(lent.ask(now), None);
        assert!(lent.allows_one_more(2), "what is left is lent while the landlord thinks");
        lent.on_end(300, now);
        // What has come since the landlord was told is not in its account.
        lent.take(loan(2, 0.0, 8, Some(400)), now);
        assert!(lent.allows_one_more(0) && !lent.allows_one_more(1));
        lent.on_end(300, now);
        assert!(!lent.allows_one_more(0));
        assert_eq!(lent.ask(now), Some(600));
        // The day's bytes are used up: that is an answer.
        lent.take(loan(3, 0.0, 8, Some(0)), now);
        assert!(!lent.allows_one_more(0));
        assert_eq!(lent.ask(now), None);
        lent.take(loan(4, 0.0, 8, Some(50)), now);
        assert!(lent.allows_one_more(0));
    }

    #[test]
    fn it_is_idle_when_nothing_has_left_or_ended_for_long() {
        let now = Instant::now();
        let mut lent = lent(loan(1, 0.0, 8, None), now);
        lent.on_request(now + 5 * IDLE);
        assert!(!lent.is_idle(now + 5 * IDLE + IDLE / 2) && lent.is_idle(now + 6 * IDLE));
        lent.on_end(7, now + 6 * IDLE);
        assert!(!lent.is_idle(now + 6 * IDLE));
        assert_eq!(lent.give_back(), Some(7));
    }
}
