//! The simulation itself: a heap of events, and the clients.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::outcome::{Outcome, Tally};
use super::scenario::Scenario;
use super::server::Server;
use crate::fetch::rate::{Observation, RateController, Verdict};

/// Virtual time, in the order of a clock.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Seconds(pub f64);

impl Eq for Seconds {}

impl PartialOrd for Seconds {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seconds {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// An event in the heap, where the earliest is the greatest; at one time the order of scheduling holds.
struct Scheduled {
    at: Reverse<(Seconds, u64)>,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// What happens next, and when.
pub(super) type Due = (f64, Event);

#[derive(Clone, Copy)]
pub(super) enum Event {
    /// A client may be able to send again.
    Wake {
        client: usize,
    },
    Arrive {
        request: usize,
    },
    Served {
        request: usize,
    },
    Transferred {
        generation: u64,
    },
    Answer {
        request: usize,
        verdict: Verdict,
        retry_after: Option<f64>,
    },
    /// The server's capacity is another one.
    Changed,
}

struct Request {
    client: usize,
    sent_at: f64,
    in_flight: usize,
    first_byte_at: Option<f64>,
}

struct Client {
    controller: Box<dyn RateController>,
    in_flight: usize,
    sent_at: f64,
    wake_at: f64,
    /// End of the longest wait that this client has been told of.
    embargo_until: f64,
}

struct Simulation {
    now: f64,
    start: Instant,
    rng: Rng,
    heap: BinaryHeap<Scheduled>,
    scheduled: u64,
    due: Vec<Due>,
    requests: Vec<Request>,
    free: Vec<usize>,
    clients: Vec<Client>,
    server: Server,
    tally: Tally,
}

/// Runs a scenario with controllers made by `controller`, to which the number of each client is given.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64, controller: impl Fn(u64) -> Box<dyn RateController>) -> Outcome {
    let client = |number| Client {
        controller: controller(seed * 1000 + number),
        in_flight: 0,
        sent_at: f64::NEG_INFINITY,
        wake_at: 0.0,
        embargo_until: 0.0,
    };
    let mut simulation = Simulation {
        now: 0.0,
        // Only differences of instants are ever looked at.
        start: Instant::now(),
        rng: Rng::with_seed(seed),
        heap: BinaryHeap::new(),
        scheduled: 0,
        due: Vec::new(),
        requests: Vec::new(),
        free: Vec::new(),
        clients: (0..scenario.clients as u64).map(client).collect(),
        server: Server::new(scenario.server),
        tally: Tally::new(scenario),
    };
    for client in 0..scenario.clients {
        simulation.due.push((0.0, Event::Wake { client }));
    }
    simulation.due.extend(scenario.server.changes().into_iter().map(|at| (at, Event::Changed)));
    simulation.run(scenario);
    simulation.tally.outcome()
}

impl Simulation {
    fn run(&mut self, scenario: &Scenario) {
        loop {
            for (at, event) in self.due.drain(..) {
                self.scheduled += 1;
                self.heap.push(Scheduled { at: Reverse((Seconds(at), self.scheduled)), event });
            }
            let Some(Scheduled { at: Reverse((at, _)), event }) = self.heap.pop() else {
                return;
            };
            if at.0 >= scenario.seconds {
                return;
            }
            self.now = at.0;
            self.happen(event, scenario);
        }
    }

    fn happen(&mut self, event: Event, scenario: &Scenario) {
        match event {
            // Others have been overtaken by a newer one.
            Event::Wake { client } if self.now >= self.clients[client].wake_at => {
                self.clients[client].wake_at = f64::INFINITY;
                self.send(client, scenario);
            }
            Event::Wake { .. } => {}
            Event::Arrive { request } => self.server.arrive(request, self.now, &mut self.rng, &mut self.due),
            Event::Served { request } => {
                if self.server.served(request, self.now, &mut self.rng, &mut self.due) {
                    self.requests[request].first_byte_at =
                        Some(self.now + self.server.way(self.now, &mut self.rng));
                }
            }
            Event::Transferred { generation } => {
                self.server.transferred(generation, self.now, &mut self.rng, &mut self.due);
            }
            Event::Answer { request, verdict, retry_after } => {
                self.answer(request, verdict, retry_after);
                self.send(self.requests[request].client, scenario);
            }
            Event::Changed => self.server.fill_slots(self.now, &mut self.rng, &mut self.due),
        }
    }

    fn answer(&mut self, request: usize, verdict: Verdict, retry_after: Option<f64>) {
        let Request { client, sent_at, in_flight, first_byte_at } = self.requests[request];
        self.free.push(request);
        self.tally.answered(client, verdict, sent_at, self.now);
        let (sent, now) = (self.instant(sent_at), self.instant(self.now));
        let client = &mut self.clients[client];
        client.in_flight -= 1;
        client.embargo_until = client.embargo_until.max(retry_after.map_or(0.0, |wait| self.now + wait));
        let seen = Observation {
            sent_at: sent,
            first_byte: first_byte_at.map(|at| Duration::from_secs_f64(at.min(self.now) - sent_at)),
            verdict,
            retry_after: retry_after.map(Duration::from_secs_f64),
            in_flight,
        };
        client.controller.on_observation(seen, now);
    }

    /// Sends what the client's controller allows now, and wakes it when it allows more.
    fn send(&mut self, number: usize, scenario: &Scenario) {
        loop {
            let client = &mut self.clients[number];
            let limit = client.controller.limit();
            if client.in_flight >= limit.max_in_flight.min(scenario.client_in_flight) {
                return;
            }
            let embargo = limit.embargo_until.map_or(0.0, |until| (until - self.start).as_secs_f64());
            let at = (client.sent_at + limit.min_gap.as_secs_f64()).max(embargo);
            if at > self.now {
                if at != client.wake_at {
                    client.wake_at = at;
                    self.due.push((at, Event::Wake { client: number }));
                }
                return;
            }
            client.in_flight += 1;
            client.sent_at = self.now;
            let (in_flight, embargo_until) = (client.in_flight, client.embargo_until);
            self.tally.sent(self.now < embargo_until - 1e-6);
            let request = Request { client: number, sent_at: self.now, in_flight, first_byte_at: None };
            let request = self.keep(request);
            self.due.push((self.now + self.server.way(self.now, &mut self.rng), Event::Arrive { request }));
        }
    }

    fn keep(&mut self, request: Request) -> usize {
        if let Some(free) = self.free.pop() {
            self.requests[free] = request;
            return free;
        }
        self.requests.push(request);
        self.requests.len() - 1
    }

    fn instant(&self, at: f64) -> Instant {
        self.start + Duration::from_secs_f64(at)
    }
}
