//! One server: limiter, then connections, then queue and slots, then the shared bandwidth, then the way back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;

use super::law::Law;
use super::run::{Due, Event, Seconds};
use crate::fetch::rate::Verdict;

/// A value that holds from a time on; the first step is at 0.
pub type Step<T> = (f64, T);

/// What a server is like. Times in seconds, sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ServerModel {
    /// Requests that are worked on at a time.
    pub slots: &'static [Step<usize>],
    /// Time in a slot.
    pub service: &'static [Step<Law>],
    /// Time of the way there and back, give or take 5 %.
    pub round_trip: &'static [Step<f64>],
    /// Requests that may wait for a slot; one more is a 503.
    pub queue: usize,
    /// Requests that may be in the server; one more is a 503.
    pub max_connections: usize,
    /// Bytes/s over all bodies together.
    pub bandwidth: f64,
    pub size: Law,
    pub limiter: Option<Limiter>,
    pub ban: Option<Ban>,
    /// Share of requests that end in a 500 for no reason.
    pub faults: f64,
    /// Share of requests that end in a 503 for no reason.
    pub stray_refusals: f64,
}

/// A token bucket; without a token, 429.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    /// Requests/s.
    pub rate: f64,
    pub burst: f64,
    pub retry_after: Option<f64>,
}

/// So many refusals within so many seconds, and for `lasts` seconds there is nothing but 429.
#[derive(Clone, Copy, Debug)]
pub struct Ban {
    pub refusals: usize,
    pub within: f64,
    pub lasts: f64,
}

impl ServerModel {
    /// A server without a limit but its slots: 20 of them, 100 ms each, 50 ms away.
    pub const PLAIN: Self = Self {
        slots: &[(0.0, 20)],
        service: &[(0.0, Law::LogNormal(0.1, 0.25))],
        round_trip: &[(0.0, 0.05)],
        queue: 100_000,
        max_connections: usize::MAX,
        bandwidth: f64::INFINITY,
        size: Law::LogNormal(400e3, 0.7),
        limiter: None,
        ban: None,
        faults: 0.0,
        stray_refusals: 0.0,
    };

    /// Time of a request that meets nobody else, at time `at`.
    #[must_use]
    pub fn base_latency(&self, at: f64) -> f64 {
        held(self.round_trip, at) + held(self.service, at).mean() + self.size.mean() / self.bandwidth
    }

    /// Most successes/s that anybody could get at time `at`.
    #[must_use]
    pub fn best_goodput(&self, at: f64) -> f64 {
        let service = held(self.service, at).mean();
        let slots = held(self.slots, at) as f64 / service;
        let connections = self.max_connections as f64 / self.base_latency(at);
        let limiter = self.limiter.map_or(f64::INFINITY, |limiter| limiter.rate);
        let bandwidth = self.bandwidth / self.size.mean();
        slots.min(connections).min(limiter).min(bandwidth) * (1.0 - self.faults)
    }

    /// The times at which something changes, 0 first.
    #[must_use]
    pub fn changes(&self) -> Vec<f64> {
        let slots = self.slots.iter().map(|&(at, _)| at);
        let service = self.service.iter().map(|&(at, _)| at);
        let mut changes: Vec<f64> =
            slots.chain(service).chain(self.round_trip.iter().map(|&(at, _)| at)).collect();
        changes.sort_by(f64::total_cmp);
        changes.dedup();
        changes
    }
}

fn held<T: Copy>(steps: &[Step<T>], at: f64) -> T {
    steps[steps.partition_point(|&(from, _)| from <= at).max(1) - 1].1
}

/// The server at work.
pub(super) struct Server {
    model: ServerModel,
    busy: usize,
    waiting: VecDeque<usize>,
    connections: usize,
    tokens: f64,
    tokens_at: f64,
    refusals: VecDeque<f64>,
    banned_until: f64,
    transfers: Transfers,
}

impl Server {
    pub(super) fn new(model: ServerModel) -> Self {
        Self {
            busy: 0,
            waiting: VecDeque::new(),
            connections: 0,
            tokens: model.limiter.map_or(0.0, |limiter| limiter.burst),
            tokens_at: 0.0,
            refusals: VecDeque::new(),
            banned_until: 0.0,
            transfers: Transfers { bandwidth: model.bandwidth, ..Transfers::default() },
            model,
        }
    }

    /// Time of one way at time `now`.
    pub(super) fn way(&self, now: f64, rng: &mut Rng) -> f64 {
        held(self.model.round_trip, now) / 2.0 * (0.95 + 0.1 * rng.f64())
    }

    pub(super) fn arrive(&mut self, request: usize, now: f64, rng: &mut Rng, due: &mut Vec<Due>) {
        if let Some(retry_after) = self.refusal(now, rng) {
            due.push((
                now + self.way(now, rng),
                Event::Answer { request, verdict: Verdict::Refused, retry_after },
            ));
            return;
        }
        self.connections += 1;
        self.waiting.push_back(request);
        self.fill_slots(now, rng, due);
    }

    /// Whether a request is turned away, and until when.
    fn refusal(&mut self, now: f64, rng: &mut Rng) -> Option<Option<f64>> {
        if now < self.banned_until {
            return Some(None);
        }
        if let Some(limiter) = self.model.limiter {
            self.tokens = (self.tokens + (now - self.tokens_at) * limiter.rate).min(limiter.burst);
            self.tokens_at = now;
            if self.tokens < 1.0 {
                self.note_refusal(now);
                return Some(limiter.retry_after);
            }
            self.tokens -= 1.0;
        }
        let full = self.busy >= held(self.model.slots, now) && self.waiting.len() >= self.model.queue;
        if full || self.connections >= self.model.max_connections {
            self.note_refusal(now);
            return Some(None);
        }
        (self.model.stray_refusals > 0.0 && rng.f64() < self.model.stray_refusals).then_some(None)
    }

    fn note_refusal(&mut self, now: f64) {
        let Some(ban) = self.model.ban else {
            return;
        };
        self.refusals.push_back(now);
        while self.refusals.front().is_some_and(|&at| at < now - ban.within) {
            self.refusals.pop_front();
        }
        if self.refusals.len() >= ban.refusals {
            self.refusals.clear();
            self.banned_until = now + ban.lasts;
        }
    }

    pub(super) fn fill_slots(&mut self, now: f64, rng: &mut Rng, due: &mut Vec<Due>) {
        while self.busy < held(self.model.slots, now) {
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            self.busy += 1;
            due.push((now + held(self.model.service, now).draw(rng), Event::Served { request }));
        }
    }

    /// A slot is done with a request; returns whether it has begun to send a body.
    pub(super) fn served(&mut self, request: usize, now: f64, rng: &mut Rng, due: &mut Vec<Due>) -> bool {
        self.busy -= 1;
        self.fill_slots(now, rng, due);
        let faulty = self.model.faults > 0.0 && rng.f64() < self.model.faults;
        if faulty || self.model.bandwidth.is_infinite() {
            let verdict = if faulty { Verdict::Failed } else { Verdict::Success };
            self.connections -= 1;
            due.push((now + self.way(now, rng), Event::Answer { request, verdict, retry_after: None }));
        } else {
            self.transfers.add(request, self.model.size.draw(rng), now, due);
        }
        !faulty
    }

    /// The body that is due next is sent, unless the event is from before others began or ended.
    pub(super) fn transferred(&mut self, generation: u64, now: f64, rng: &mut Rng, due: &mut Vec<Due>) {
        if let Some(request) = self.transfers.finish(generation, now, due) {
            self.connections -= 1;
            let at = now + self.way(now, rng);
            due.push((at, Event::Answer { request, verdict: Verdict::Success, retry_after: None }));
        }
    }
}

/// Bodies that share a bandwidth evenly. In virtual time, which runs at `bandwidth / bodies`, the end of each
/// is known when it begins.
#[derive(Default)]
struct Transfers {
    bandwidth: f64,
    /// Virtual time at which a body is complete, and whose it is.
    ends: BinaryHeap<Reverse<(Seconds, usize)>>,
    virtual_now: f64,
    at: f64,
    generation: u64,
}

impl Transfers {
    fn add(&mut self, request: usize, bytes: f64, now: f64, due: &mut Vec<Due>) {
        self.advance(now);
        self.ends.push(Reverse((Seconds(self.virtual_now + bytes), request)));
        self.schedule(now, due);
    }

    fn finish(&mut self, generation: u64, now: f64, due: &mut Vec<Due>) -> Option<usize> {
        if generation != self.generation {
            return None;
        }
        self.advance(now);
        let Reverse((end, request)) = self.ends.pop()?;
        self.virtual_now = end.0;
        self.schedule(now, due);
        Some(request)
    }

    fn advance(&mut self, now: f64) {
        if !self.ends.is_empty() {
            self.virtual_now += (now - self.at) * self.bandwidth / self.ends.len() as f64;
        }
        self.at = now;
    }

    fn schedule(&mut self, now: f64, due: &mut Vec<Due>) {
        self.generation += 1;
        if let Some(Reverse((end, _))) = self.ends.peek() {
            let left = (end.0 - self.virtual_now).max(0.0) * self.ends.len() as f64 / self.bandwidth;
            due.push((now + left, Event::Transferred { generation: self.generation }));
        }
    }
}
