//! The servers that controllers are judged by.

use super::law::Law;
use super::server::{Ban, Limiter, ServerModel};

/// A server, who asks it, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub kind: Kind,
    pub seconds: f64,
    /// Clients that do not know of each other.
    pub clients: usize,
    /// Requests that a client can have under way, whatever its controller allows.
    pub client_in_flight: usize,
    pub server: ServerModel,
}

/// What is demanded of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing changes and nobody refuses: 0.95 of the oracle.
    Steady,
    /// A fixed limiter: 0.85 of the oracle with one refusal per 1,000 requests at most.
    Limited,
    /// The server changes or misbehaves: 0.85 of the oracle.
    Unsteady,
    /// Who looks from outside cannot know better: 0.6 of the oracle with four refusals per 1,000 at most.
    Hard,
}

impl Scenario {
    const PLAIN: Self = Self {
        name: "",
        kind: Kind::Steady,
        seconds: 120.0,
        clients: 1,
        client_in_flight: 1000,
        server: ServerModel::PLAIN,
    };

    /// Most successes/s that these clients could get at time `at`.
    #[must_use]
    pub fn best_goodput(&self, at: f64) -> f64 {
        let clients = (self.clients * self.client_in_flight) as f64 / self.server.base_latency(at);
        self.server.best_goodput(at).min(clients)
    }
}

/// Fast, so that a limiter is what holds back.
const FAST: ServerModel =
    ServerModel { slots: &[(0.0, 200)], service: &[(0.0, Law::LogNormal(0.03, 0.5))], ..ServerModel::PLAIN };

const fn limited(rate: f64, burst: f64, retry_after: Option<f64>) -> ServerModel {
    ServerModel { limiter: Some(Limiter { rate, burst, retry_after }), ..FAST }
}

/// All scenarios, in the order of the table.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "steady: 20 slots, 200/s", ..Scenario::PLAIN },
    Scenario {
        name: "big: 150 slots, 3,000/s",
        server: ServerModel {
            slots: &[(0.0, 150)],
            service: &[(0.0, Law::LogNormal(0.05, 0.25))],
            ..ServerModel::PLAIN
        },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "small: 1 slot, 1/s",
        seconds: 600.0,
        server: ServerModel {
            slots: &[(0.0, 1)],
            service: &[(0.0, Law::LogNormal(1.0, 0.1))],
            ..ServerModel::PLAIN
        },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "near: 10 slots, no way",
        server: ServerModel {
            slots: &[(0.0, 10)],
            service: &[(0.0, Law::Constant(0.1))],
            round_trip: &[(0.0, 0.0002)],
            ..ServerModel::PLAIN
        },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "byte-bound: 20 MB/s, 50/s",
        server: ServerModel {
            slots: &[(0.0, 64)],
            service: &[(0.0, Law::LogNormal(0.02, 0.5))],
            bandwidth: 20e6,
            ..ServerModel::PLAIN
        },
        ..Scenario::PLAIN
    },
    Scenario { name: "client-bound: 8 at a time", client_in_flight: 8, ..Scenario::PLAIN },
    Scenario {
        name: "rate limit 20/s, Retry-After",
        kind: Kind::Limited,
        seconds: 600.0,
        server: limited(20.0, 20.0, Some(2.0)),
        ..Scenario::PLAIN
    },
    Scenario {
        name: "rate limit 20/s, no Retry-After",
        kind: Kind::Limited,
        seconds: 600.0,
        server: limited(20.0, 20.0, None),
        ..Scenario::PLAIN
    },
    Scenario {
        name: "rate limit 20/s, 5 saved up",
        kind: Kind::Limited,
        seconds: 600.0,
        server: limited(20.0, 5.0, None),
        ..Scenario::PLAIN
    },
    Scenario {
        name: "rate limit 20/s, none saved up",
        kind: Kind::Hard,
        seconds: 600.0,
        server: limited(20.0, 1.0, None),
        ..Scenario::PLAIN
    },
    Scenario {
        name: "rate limit 200/s, Retry-After",
        kind: Kind::Limited,
        seconds: 300.0,
        server: limited(200.0, 200.0, Some(5.0)),
        ..Scenario::PLAIN
    },
    Scenario {
        name: "4 connections, then 503",
        kind: Kind::Limited,
        seconds: 600.0,
        server: ServerModel { max_connections: 4, ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "ban: 60 s after 10 refusals in 60 s",
        kind: Kind::Limited,
        seconds: 600.0,
        server: ServerModel {
            ban: Some(Ban { refusals: 10, within: 60.0, lasts: 60.0 }),
            ..limited(20.0, 20.0, None)
        },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "capacity 20, 4, 20 slots",
        kind: Kind::Unsteady,
        seconds: 300.0,
        server: ServerModel { slots: &[(0.0, 20), (100.0, 4), (200.0, 20)], ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "the same, 16 may wait, then 503",
        kind: Kind::Unsteady,
        seconds: 300.0,
        server: ServerModel { slots: &[(0.0, 20), (100.0, 4), (200.0, 20)], queue: 16, ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "service 0.1, 0.3, 0.1 s",
        kind: Kind::Unsteady,
        seconds: 300.0,
        server: ServerModel {
            service: &[
                (0.0, Law::LogNormal(0.1, 0.25)),
                (100.0, Law::LogNormal(0.3, 0.25)),
                (200.0, Law::LogNormal(0.1, 0.25)),
            ],
            ..ServerModel::PLAIN
        },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "round trip 0.05, 0.3, 0.05 s",
        kind: Kind::Unsteady,
        seconds: 300.0,
        server: ServerModel { round_trip: &[(0.0, 0.05), (100.0, 0.3), (200.0, 0.05)], ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "heavy tail: Pareto 1.8",
        kind: Kind::Unsteady,
        server: ServerModel { service: &[(0.0, Law::Pareto(0.1, 1.8))], ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "heavy tail: lognormal 1.2",
        kind: Kind::Unsteady,
        server: ServerModel { service: &[(0.0, Law::LogNormal(0.1, 1.2))], ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "1 % random 500s",
        kind: Kind::Unsteady,
        server: ServerModel { faults: 0.01, ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario {
        name: "1 in 10,000 a stray 503",
        kind: Kind::Unsteady,
        server: ServerModel { stray_refusals: 1e-4, ..ServerModel::PLAIN },
        ..Scenario::PLAIN
    },
    Scenario { name: "4 ranks, 20 slots", kind: Kind::Unsteady, clients: 4, ..Scenario::PLAIN },
    Scenario {
        name: "4 ranks, rate limit 80/s",
        kind: Kind::Hard,
        seconds: 600.0,
        clients: 4,
        server: limited(80.0, 80.0, Some(2.0)),
        ..Scenario::PLAIN
    },
];
