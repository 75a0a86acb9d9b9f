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
//! A loan is *accepted* when it is kept: when no more requests are under way than it has connections. Limits are counted
//! by the second, and in no second does the rank send more than the rate that holds at its end: after a loan of less
//! it waits for what it sent before to be [`A_SECOND`] old. Others may have what is let go of when the last second that
//! had more is over; accepting and giving back say how long that is.
//!
//! Bytes: a request leaves only while more bytes are left than those under way will take, each the mean of the bodies
//! so far. Bodies of one size exceed a loan by less than one body; at worst it is exceeded by what is under way when
//! it ends, each request at most `max_body_bytes`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::Loan;

/// In which requests are counted.
pub(super) const A_SECOND: Duration = Duration::from_secs(1);
/// A server that nobody has asked anything for so long is given back: others can use it at once, for nothing was sent
/// in the last second, and to borrow it again costs two messages and a look into the catalog.
pub(super) const IDLE: Duration = A_SECOND;
/// Requests of several ranks that fall together arrive some milliseconds early and late. What a rank may send in a
/// second it sends in this time, so that the second of a server that counts has no more.
pub(super) const JITTER: f64 = 1.005;

#[derive(Debug)]
pub(super) struct Lent {
    loan: Option<Loan>,
    /// Whether the landlord was asked and has not answered.
    has_asked: bool,
    /// Of the last loan that was taken, and of the last that was accepted.
    number: u64,
    accepted: u64,
    /// Requests/s; infinite without a limit.
    rate: f64,
    /// Requests that any second may have.
    most: usize,
    /// When requests left, those of the last second at least.
    sent: VecDeque<Instant>,
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
            most: usize::MAX,
            sent: VecDeque::new(),
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
    pub fn take(&mut self, loan: Loan) -> Option<bool> {
        // It has crossed our giving back, or a newer one.
        if !self.holds() || loan.number <= self.number {
            return None;
        }
        let had_none = self.max_connections() == 0;
        (self.rate, self.most) = (pace(loan), most_in_a_second(loan));
        self.loan = Some(loan);
        self.number = loan.number;
        self.has_asked = false;
        self.bytes_left = loan.bytes.map(|bytes| bytes.saturating_sub(self.untold));
        Some(had_none)
    }

    /// The number of the present loan, once: when it is kept. And how long until no second has more than it allows.
    pub fn accept(&mut self, under_way: usize, now: Instant) -> Option<(u64, Duration)> {
        let is_kept = self.number > self.accepted && under_way <= self.max_connections();
        is_kept.then(|| {
            self.accepted = self.number;
            (self.number, self.rest(self.most, now))
        })
    }

    /// Until when a second has all the requests that it may have, if one of the last does.
    pub fn next_at(&self) -> Option<Instant> {
        self.over(self.most.checked_sub(1)?)
    }

    /// When no second has more than so many of the requests that were sent.
    fn over(&self, most: usize) -> Option<Instant> {
        let first = self.sent.len().checked_sub(most.checked_add(1)?)?;
        self.sent.get(first).map(|sent_at| *sent_at + A_SECOND)
    }

    fn rest(&self, most: usize, now: Instant) -> Duration {
        self.over(most).map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// A request leaves.
    pub fn on_request(&mut self, now: Instant) {
        self.used_at = now;
        while self.sent.front().is_some_and(|sent_at| *sent_at + A_SECOND <= now) {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
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
    /// heard of, and how long until no second has anything.
    pub fn give_back(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let holds = self.holds();
        (self.loan, self.has_asked, self.bytes_left) = (None, false, None);
        // What is under way ends without a loan.
        self.accepted = self.number;
        holds.then(|| (std::mem::take(&mut self.untold), self.rest(0, now)))
    }
}

/// Requests/s that are sent under a loan; infinite without a limit.
fn pace(loan: Loan) -> f64 {
    if loan.rate > 0.0 { loan.rate / JITTER } else { f64::INFINITY }
}

/// Requests that a second may have under a loan: those of its rate, begun ones included.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn most_in_a_second(loan: Loan) -> usize {
    match (loan.max_connections, loan.rate > 0.0) {
        (0, _) => 0,
        (_, true) => loan.rate.ceil() as usize,
        (_, false) => usize::MAX,
    }
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
        assert_eq!(lent.take(first), Some(true));
        lent
    }

    #[test]
    fn the_landlord_is_asked_once_and_not_for_a_turn_of_others() {
        let now = Instant::now();
        let mut lent = Lent::nothing(now);
        assert!(!lent.allows_one_more(0));
        assert_eq!((lent.ask(now), lent.ask(now)), (Some(0), None));
        assert_eq!(lent.take(loan(4, 1.0, 0, None)), Some(true));
        assert!(!lent.allows_one_more(0));
        assert_eq!(lent.ask(now), None);
        assert_eq!(lent.take(loan(5, 1.0, 2, None)), Some(true));
        assert!(lent.allows_one_more(5), "connections are counted elsewhere");
        assert_eq!(lent.take(loan(6, 1.0, 1, None)), Some(false));
        assert_eq!(lent.take(loan(5, 9.0, 9, None)), None, "an old one");
        assert_eq!(lent.give_back(now), Some((0, Duration::ZERO)));
        assert_eq!(lent.take(loan(7, 1.0, 1, None)), None, "it has crossed the giving back");
        assert_eq!(lent.give_back(now), None);
    }

    #[test]
    fn a_loan_is_accepted_when_what_is_under_way_fits() {
        let now = Instant::now();
        let accept = |lent: &mut Lent, under_way| {
            lent.accept(under_way, now).map(|(number, rest)| (number, rest.as_millis()))
        };
        let mut lent = lent(loan(1, 10.0, 8, None), now);
        assert_eq!((accept(&mut lent, 0), accept(&mut lent, 0)), (Some((1, 0)), None));
        lent.take(loan(2, 10.0, 4, None));
        assert_eq!((accept(&mut lent, 5), accept(&mut lent, 4)), (None, Some((2, 0))));
        lent.take(loan(3, 5.0, 0, None));
        assert_eq!((accept(&mut lent, 1), accept(&mut lent, 0)), (None, Some((3, 0))));
        lent.take(loan(4, 5.0, 1, None));
        lent.give_back(now);
        assert_eq!(accept(&mut lent, 0), None, "there is nothing to accept any more");
    }

    #[test]
    fn what_was_sent_before_is_waited_for() {
        let now = Instant::now();
        let mut lent = lent(loan(1, 4.0, 8, None), now);
        for nth in 0..4 {
            assert_eq!(lent.next_at(), None);
            lent.on_request(now + nth * 250 * MS);
        }
        let now = now + 800 * MS;
        assert_eq!(lent.next_at(), Some(now + 200 * MS));
        lent.take(loan(2, 2.0, 8, None));
        assert_eq!(lent.accept(0, now), Some((2, 450 * MS)), "when two are left");
        assert_eq!(lent.next_at(), Some(now + 700 * MS), "and one leaves the second");
        lent.take(loan(3, 2.0, 0, None));
        assert_eq!(lent.accept(0, now + 500 * MS), Some((3, 450 * MS)));
        lent.take(loan(4, 9.0, 1, None));
        assert_eq!(lent.next_at(), None, "more is used at once");
        assert_eq!(lent.give_back(now), Some((0, 950 * MS)));
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
        lent.take(loan(2, 0.0, 8, Some(400)));
        assert!(lent.allows_one_more(0) && !lent.allows_one_more(1));
        lent.on_end(300, now);
        assert!(!lent.allows_one_more(0));
        assert_eq!(lent.ask(now), Some(600));
        // The day's bytes are used up: that is an answer.
        lent.take(loan(3, 0.0, 8, Some(0)));
        assert!(!lent.allows_one_more(0));
        assert_eq!(lent.ask(now), None);
        lent.take(loan(4, 0.0, 8, Some(50)));
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
        assert_eq!(lent.give_back(now + 6 * IDLE), Some((7, Duration::ZERO)));
    }
}
