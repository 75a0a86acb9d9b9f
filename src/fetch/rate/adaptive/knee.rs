//! How many requests under way keep a server busy and nobody waiting.
//!
//! By Little's law a server that gives `g` answers/s, each in time `d`, has `g d` requests; when they take
//! `base` without a queue, `g (d - base)` of them stand in line. Those are taken off, and a few put on again:
//! without any queue nobody would know that there is not more to be had, and slots would idle while answers
//! are on their way. `d` and `base` are medians, so a tail of slow answers or large bodies moves neither, and
//! a server that is bound by bytes shows its queue just as one that is bound by slots.
//!
//! `base` is the least median of late, beyond doubt. It is too low when the way or the service has become
//! slower, and then no cut shortens anything, which is how that is noticed. It is too high when it was first
//! seen in company, which a round at half load every 30 s brings to light.

use std::time::{Duration, Instant};

use super::round::Measured;

/// One at a time shows what the latency is when nobody waits.
const FIRST_LIMIT: f64 = 1.0;
/// Latency within this part of the base is no queue.
const TOLERANCE: f64 = 0.05;
/// Latency beyond this multiple of the base is one for certain.
const QUEUED: f64 = 1.25;
/// Doubts about a median, in standard errors.
const DOUBT: f64 = 1.5;
const STRONG_DOUBT: f64 = 3.0;
/// Growth of the base per round: the least of many medians is an extreme, and should not hold for ever.
const LEAK: f64 = 1.0003;
/// Rounds without a queue after which growth is by half instead of by a few.
const STREAK: u32 = 3;
const GROWTH: f64 = 1.5;
/// What many failures leave.
const SHRINK: f64 = 0.7;
/// Cuts to no less than this are made by halves.
const CUT: f64 = 0.85;
/// Cuts that add up to this are checked: did they shorten anything? Small ones prove nothing, above all where
/// others stand in the same line.
const DEEP_CUT: f64 = 0.6;
/// The part of the expected shortening that counts as one.
const SHORTENED: f64 = 0.5;
const DRAIN_EVERY: Duration = Duration::from_secs(30);
/// A drain lasts two latencies or so: it may cost one part in this many.
const DRAIN_SHARE: f64 = 80.0;

#[derive(Debug)]
pub(super) struct Knee {
    limit: f64,
    base: Option<f64>,
    /// Rounds in a row without a queue.
    streak: u32,
    cut: Option<Cut>,
    draining: bool,
    drained_at: Option<Instant>,
}

/// Cuts that are not yet known to have helped.
#[derive(Debug)]
struct Cut {
    before: Measured,
    /// Requests under way before the first of them.
    in_flight: f64,
    /// Whether one deep cut has not helped already. Others who share the server may have reacted later, so it
    /// takes two.
    in_vain: bool,
}

impl Default for Knee {
    fn default() -> Self {
        Self { limit: FIRST_LIMIT, base: None, streak: STREAK, cut: None, draining: false, drained_at: None }
    }
}

/// Requests that may stand in line in front of a server that `needed` keep busy.
fn allowance(needed: f64) -> f64 {
    0.5 + 0.5 * needed.max(0.0).sqrt()
}

impl Knee {
    pub(super) fn limit(&self) -> f64 {
        if self.draining { (self.limit / 2.0).max(1.0) } else { self.limit }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a mean latency shows a queue beyond what may stand there.
    pub(super) fn is_queue(&self, latency: f64) -> bool {
        self.base.is_some_and(|base| latency > QUEUED * base)
    }

    pub(super) fn shrink(&mut self) {
        self.limit = (self.limit * SHRINK).max(1.0);
        (self.streak, self.cut) = (0, None);
    }

    /// More than `level` have been refused.
    pub(super) fn cap(&mut self, level: f64) {
        self.limit = self.limit.min(level.max(1.0));
    }

    /// Decides on the next round. `is_binding`: the limit is what held requests back in this one.
    pub(super) fn on_round(&mut self, seen: &Measured, is_binding: bool, now: Instant) {
        let sure = seen.median + STRONG_DOUBT * seen.error;
        let base = self.base.map_or(sure, |base| (base * LEAK).min(sure));
        self.base = Some(base);
        if std::mem::take(&mut self.draining) {
            return;
        }
        if let Some(cut) = self.cut.take_if(|cut| seen.in_flight <= DEEP_CUT * cut.before.in_flight)
            && !has_shortened(&cut.before, seen)
        {
            if cut.in_vain {
                self.base = Some(seen.median);
                self.limit = self.limit.max(cut.in_flight);
                self.streak = STREAK;
                return;
            }
            self.cut = Some(Cut { before: *seen, in_vain: true, ..cut });
        }
        let excess = seen.median - base * (1.0 + TOLERANCE) - DOUBT * seen.error;
        let queue = seen.goodput * excess.max(0.0);
        let needed = (seen.in_flight - queue).max(0.0);
        if queue > 0.1 * allowance(needed) {
            self.streak = 0;
            let target = (needed + allowance(needed)).max(seen.in_flight / 2.0).max(1.0);
            if target < seen.in_flight && self.cut.is_none() {
                self.cut = Some(Cut { before: *seen, in_flight: seen.in_flight, in_vain: false });
            }
            if target < CUT * seen.in_flight {
                self.limit = target;
            } else if is_binding || target < self.limit {
                self.limit += (target - self.limit) / 2.0;
            }
        } else if is_binding {
            self.cut = None;
            self.streak += 1;
            let few = self.limit + allowance(self.limit);
            self.limit = if self.streak > STREAK { few.max(self.limit * GROWTH) } else { few };
        }
        self.drain_if_due(seen, is_binding, now);
    }

    fn drain_if_due(&mut self, seen: &Measured, is_binding: bool, now: Instant) {
        let period = DRAIN_EVERY.max(Duration::from_secs_f64((DRAIN_SHARE * seen.median).min(3600.0)));
        let since = now.saturating_duration_since(*self.drained_at.get_or_insert(now));
        if since >= period && is_binding && seen.in_flight >= 3.0 {
            self.drained_at = Some(now);
            self.draining = true;
        }
    }
}

/// Whether fewer requests under way have made latency as much shorter as a queue would have become.
fn has_shortened(before: &Measured, after: &Measured) -> bool {
    let expected = (before.in_flight - after.in_flight) / before.goodput.max(1e-9);
    before.median - after.median >= SHORTENED * expected
}
