//! Bytes of bodies that count against a budget over a span of time that ends now.

use std::collections::VecDeque;

use crate::catalog::ReceivedBytes;
use crate::model::ServerBudget;

/// Least that is lent at once, where the budget is not smaller itself: every few images would cost a word to rank 0.
const MIN_TRANCHE: u64 = 1 << 20;
/// Most that is lent at once: one rank would hold for long what others need, and a kill costs as much of the budget.
const MAX_TRANCHE: u64 = 64 << 20;
/// A small budget is lent out again when this part of it is free: not for each byte that ages.
const SMALLEST_PART: u64 = 16;

/// The budgets of one server, those that it has, and what was received.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// In minutes.
    hour: Option<Window>,
    /// In quarters of an hour.
    day: Option<Window>,
}

/// Times are milliseconds since 1970. A bucket counts until its last moment is a whole span ago, so any span of time
/// is held to the budget, and at most one bucket more.
#[derive(Debug)]
struct Window {
    budget: u64,
    bucket_ms: u64,
    span_ms: u64,
    /// (number of bucket, bytes), oldest first.
    buckets: VecDeque<(u64, u64)>,
    used: u64,
}

impl Received {
    pub fn new(budget: &ServerBudget, before: &ReceivedBytes, now: u64) -> Self {
        let window = |budget, minutes: u64, span_hours: u64, buckets: &[(u64, u64)]| {
            (budget > 0).then(|| Window::new(budget, minutes * 60_000, span_hours * 3_600_000, buckets, now))
        };
        Self {
            hour: window(budget.bytes_per_hour, 1, 1, &before.minutes),
            day: window(budget.bytes_per_day, 15, 24, &before.quarters),
        }
    }

    pub fn is_limited(&self) -> bool {
        self.hour.is_some() || self.day.is_some()
    }

    pub fn add(&mut self, bytes: u64, now: u64) {
        self.hour.iter_mut().chain(&mut self.day).for_each(|window| window.add(bytes, now));
    }

    /// What one of so many ranks may be lent, with so much lent already; `None` when too little is left.
    pub fn tranche(&mut self, lent: u64, num_ranks: usize, now: u64) -> Option<u64> {
        let left = self
            .windows(now)
            .map(|window| window.budget.saturating_sub(window.used).saturating_sub(lent))
            .min()
            .unwrap_or(u64::MAX);
        let part = left / (2 * num_ranks.max(1) as u64);
        (left >= self.least()).then(|| part.clamp(MIN_TRANCHE, MAX_TRANCHE).min(left))
    }

    /// When there will be a tranche again if nothing that is lent comes back.
    pub fn free_again(&mut self, lent: u64, now: u64) -> u64 {
        let least = self.least();
        self.windows(now)
            .map(|window| window.free_again(lent.saturating_add(least), now))
            .max()
            .unwrap_or(now)
    }

    /// As it is to be remembered, with what is lent and may have been received.
    pub fn snapshot(&self, lent: u64, now: u64) -> ReceivedBytes {
        let buckets = |window: &Option<Window>| {
            window.as_ref().map_or_else(Vec::new, |window| {
                let mut buckets = window.buckets.clone();
                add_to(&mut buckets, now / window.bucket_ms, lent);
                buckets.into()
            })
        };
        ReceivedBytes { minutes: buckets(&self.hour), quarters: buckets(&self.day) }
    }

    fn windows(&mut self, now: u64) -> impl Iterator<Item = &Window> {
        let windows = self.hour.iter_mut().chain(&mut self.day);
        windows.map(move |window| {
            window.expire(now);
            &*window
        })
    }

    fn least(&self) -> u64 {
        let budgets = self.hour.iter().chain(&self.day).map(|window| window.budget);
        budgets.min().map_or(1, |budget| (budget / SMALLEST_PART).clamp(1, MIN_TRANCHE))
    }
}

impl Window {
    fn new(budget: u64, bucket_ms: u64, span_ms: u64, buckets: &[(u64, u64)], now: u64) -> Self {
        let mut window = Self { budget, bucket_ms, span_ms, buckets: VecDeque::new(), used: 0 };
        // Of a clock that was ahead, or of a damaged row: not to be believed for longer than a span.
        let newest = now / bucket_ms;
        let mut buckets: Vec<_> =
            buckets.iter().map(|&(bucket, bytes)| (bucket.min(newest), bytes)).collect();
        buckets.sort_unstable();
        for (bucket, bytes) in buckets {
            add_to(&mut window.buckets, bucket, bytes);
        }
        window.used = window.buckets.iter().fold(0, |sum: u64, &(_, bytes)| sum.saturating_add(bytes));
        window
    }

    fn ends_to_count(&self, bucket: u64) -> u64 {
        (bucket + 1).saturating_mul(self.bucket_ms).saturating_add(self.span_ms)
    }

    fn expire(&mut self, now: u64) {
        while let Some(&(bucket, bytes)) = self.buckets.front()
            && self.ends_to_count(bucket) <= now
        {
            self.buckets.pop_front();
            self.used = self.used.saturating_sub(bytes);
        }
    }

    fn add(&mut self, bytes: u64, now: u64) {
        self.expire(now);
        self.used = self.used.saturating_add(bytes);
        add_to(&mut self.buckets, now / self.bucket_ms, bytes);
    }

    /// When `more` bytes will fit in beside what was received.
    fn free_again(&self, more: u64, now: u64) -> u64 {
        let mut over = self.used.saturating_add(more).saturating_sub(self.budget);
        if over == 0 {
            return now;
        }
        for &(bucket, bytes) in &self.buckets {
            over = over.saturating_sub(bytes);
            if over == 0 {
                return self.ends_to_count(bucket);
            }
        }
        // The rest is lent: somebody will report it.
        now + self.bucket_ms
    }
}

fn add_to(buckets: &mut VecDeque<(u64, u64)>, bucket: u64, bytes: u64) {
    match buckets.back_mut() {
        _ if bytes == 0 => {}
        Some((last, sum)) if *last >= bucket => *sum = sum.saturating_add(bytes),
        _ => buckets.push_back((bucket, bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_800_000_000_000;

    fn budget(bytes_per_hour: u64, bytes_per_day: u64) -> ServerBudget {
        ServerBudget { rate: 0.0, max_connections: 1, bytes_per_hour, bytes_per_day }
    }

    proptest! {
        /// Whoever takes every tranche at once and comes back when told never exceeds a budget in any window.
        #[test]
        fn no_window_exceeds_its_budget(
            hour in 1u64..500_000_000,
            day in 1u64..2_000_000_000,
            waits in proptest::collection::vec(0u64..4_000_000, 1..200),
        ) {
            let budget = budget(hour, day);
            let mut received = Received::new(&budget, &ReceivedBytes::default(), START);
            let mut now = START;
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for wait in waits {
                now += wait;
                match received.tranche(0, 1, now) {
                    Some(bytes) => {
                        received.add(bytes, now);
                        taken.push((now, bytes));
                    }
                    None => {
                        let again = received.free_again(0, now);
                        prop_assert!(again > now);
                        now = again;
                        prop_assert!(received.tranche(0, 1, now).is_some(), "it was told to come back now");
                    }
                }
                for (span, budget) in [(3_600_000, hour), (24 * 3_600_000, day)] {
                    let within: u64 = taken.iter().filter(|(at, _)| at + span > now).map(|(_, bytes)| bytes).sum();
                    prop_assert!(within <= budget, "{within} of {budget}");
                }
                // What the next run would be told comes to the same.
                let again = Received::new(&budget, &received.snapshot(0, now), now);
                prop_assert_eq!(again.snapshot(0, now), received.snapshot(0, now));
            }
            let ReceivedBytes { minutes, quarters } = received.snapshot(0, now);
            prop_assert!(minutes.len() <= 62 && quarters.len() <= 98, "bounded");
        }
    }

    #[test]
    fn tranches_are_parts_of_what_is_left() {
        let mut received = Received::new(&budget(1 << 30, 0), &ReceivedBytes::default(), START);
        assert_eq!(received.tranche(0, 1, START), Some(MAX_TRANCHE));
        assert_eq!(received.tranche((1 << 30) - (40 << 20), 2, START), Some(10 << 20));
        assert_eq!(received.tranche((1 << 30) - MIN_TRANCHE, 2, START), Some(MIN_TRANCHE));
        assert_eq!(received.tranche((1 << 30) - MIN_TRANCHE + 1, 2, START), None);
        let mut small = Received::new(&budget(0, 160), &ReceivedBytes::default(), START);
        assert_eq!(small.tranche(0, 3, START), Some(160));
        assert_eq!((small.tranche(150, 3, START), small.tranche(151, 3, START)), (Some(10), None));
    }

    #[test]
    fn a_damaged_or_later_past_is_outlived_in_one_span() {
        let before = ReceivedBytes { minutes: vec![(u64::MAX, u64::MAX), (0, 5)], quarters: Vec::new() };
        let mut received = Received::new(&budget(100, 0), &before, START);
        assert_eq!(received.tranche(0, 1, START), None);
        assert!(received.tranche(0, 1, START + 3_600_000 + 120_000).is_some());
    }
}
