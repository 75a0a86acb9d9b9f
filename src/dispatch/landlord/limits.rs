//! A server's limits in pieces: how they are dealt to those who ask at the same time.

use std::time::Duration;

use crate::model::ServerBudget;

/// How long a rank asks before another has its turn. The change costs a second or two of the server's time, and
/// partitions of the ranks that wait stay open: ten seconds lose little and let nobody wait for minutes.
const TURN_MS: u64 = 10_000;
/// A turn lasts for so many requests at least.
const REQUESTS_PER_TURN: u64 = 5;
/// Below this rate (requests/s) there are no two whole requests a second to deal.
pub(super) const LEAST_DIVIDED_RATE: f64 = 2.0;

/// What is lent, or may be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Part {
    /// Requests/s; infinite where there is no limit.
    pub rate: f64,
    pub connections: u32,
}

/// A server's limits as they are dealt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `None`: none.
    pub rate: Option<f64>,
    /// Pieces of the rate.
    units: u32,
    connections: u32,
}

impl Limits {
    /// Of a server whose owner asks for this Crawl-delay (zero: none), which is not divided.
    pub fn of(budget: &ServerBudget, crawl_delay: Duration) -> Self {
        let connections = budget.max_connections.max(1);
        let set = (budget.rate > 0.0).then_some(budget.rate);
        if !crawl_delay.is_zero() {
            let asked = crawl_delay.as_secs_f64().recip();
            return Self { rate: Some(set.unwrap_or(asked).min(asked)), units: 1, connections };
        }
        let units = match set {
            None => u32::MAX,
            Some(rate) if rate < LEAST_DIVIDED_RATE => 1,
            Some(rate) => rate as u32,
        };
        Self { rate: set, units, connections }
    }

    /// Borrowers that can ask at the same time.
    pub fn seats(self) -> usize {
        self.units.min(self.connections) as usize
    }

    /// Between two requests, where the rate is not divided.
    pub fn gap_ms(self) -> u64 {
        match self.rate {
            Some(rate) if self.units == 1 => (1000.0 / rate).ceil() as u64,
            _ => 0,
        }
    }

    pub fn turn_ms(self) -> u64 {
        TURN_MS.max(self.gap_ms().saturating_mul(REQUESTS_PER_TURN))
    }

    /// The part of the nth of so many, as even as whole pieces are. All for a lone one.
    pub fn deal(self, nth: u32, of: u32) -> Part {
        let piece = |pieces: u32| pieces / of + u32::from(nth < pieces % of);
        let rate = match self.rate {
            None => f64::INFINITY,
            Some(rate) if of == 1 => rate,
            Some(_) => f64::from(piece(self.units)),
        };
        Part { rate, connections: piece(self.connections) }
    }

    /// As much of a part as is left beside what is held; nothing where one half of it would be missing.
    pub fn within(self, target: Part, held: Part) -> Part {
        let connections = target.connections.min(self.connections.saturating_sub(held.connections));
        let rate = match self.rate {
            None => f64::INFINITY,
            Some(all) if target.rate <= all - held.rate => target.rate,
            Some(_) if self.units == 1 => 0.0,
            Some(all) => (all - held.rate).floor().max(0.0),
        };
        if connections == 0 || rate == 0.0 || target.is_nothing() {
            return Part::default();
        }
        Part { rate, connections }
    }
}

impl Part {
    pub fn is_nothing(self) -> bool {
        self.connections == 0
    }

    /// Between two requests; none without a limit.
    pub fn gap(self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.rate).unwrap_or_default()
    }

    pub fn min(self, other: Self) -> Self {
        if self.is_nothing() || other.is_nothing() {
            return Self::default();
        }
        Self { rate: self.rate.min(other.rate), connections: self.connections.min(other.connections) }
    }

    pub fn max(self, other: Self) -> Self {
        Self { rate: self.rate.max(other.rate), connections: self.connections.max(other.connections) }
    }
}
