//! What came of a run, compared with what an oracle would have got.

use super::scenario::Scenario;
use crate::fetch::rate::Verdict;

/// The measures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Successes over those of the oracle, in the whole run and in its second half.
    pub goodput: f64,
    pub late_goodput: f64,
    /// Refusals per 1,000 requests.
    pub refused: f64,
    /// Seconds from the start, and from each change of the server, until 5 s of at least 0.9 of the oracle.
    pub convergence: Vec<Option<f64>>,
    /// Most requests under way, over what the oracle needs.
    pub overshoot: f64,
    /// Mean time of a success in the second half over that of a request that meets nobody.
    pub latency: f64,
    /// Requests that left while their client had been told to wait.
    pub embargo_violations: u64,
    /// Jain's index of the clients' successes.
    pub fairness: f64,
    pub requests: u64,
}

/// Counts while a run is going on.
pub(super) struct Tally {
    scenario: Scenario,
    requests: u64,
    answered: u64,
    refusals: u64,
    violations: u64,
    most_in_flight: u64,
    successes_by_client: Vec<f64>,
    successes_by_second: Vec<f64>,
    late_successes: u64,
    late_latency: f64,
}

impl Tally {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            scenario: *scenario,
            requests: 0,
            answered: 0,
            refusals: 0,
            violations: 0,
            most_in_flight: 0,
            successes_by_client: vec![0.0; scenario.clients],
            successes_by_second: vec![0.0; scenario.seconds.ceil() as usize],
            late_successes: 0,
            late_latency: 0.0,
        }
    }

    pub(super) fn sent(&mut self, in_embargo: bool) {
        self.requests += 1;
        self.violations += u64::from(in_embargo);
        self.most_in_flight = self.most_in_flight.max(self.requests - self.answered);
    }

    pub(super) fn answered(&mut self, client: usize, verdict: Verdict, sent_at: f64, now: f64) {
        self.answered += 1;
        self.refusals += u64::from(verdict == Verdict::Refused);
        if verdict == Verdict::Success {
            self.successes_by_client[client] += 1.0;
            self.successes_by_second[now as usize] += 1.0;
            if now >= self.scenario.seconds / 2.0 {
                self.late_successes += 1;
                self.late_latency += (now - sent_at) / self.scenario.server.base_latency(now);
            }
        }
    }

    pub(super) fn outcome(self) -> Outcome {
        let seconds = self.successes_by_second.len();
        let successes: f64 = self.successes_by_client.iter().sum();
        let squares: f64 = self.successes_by_client.iter().map(|count| count * count).sum();
        Outcome {
            goodput: self.ratio(0, seconds),
            late_goodput: self.ratio(seconds / 2, seconds),
            refused: 1000.0 * self.refusals as f64 / self.answered.max(1) as f64,
            convergence: self
                .scenario
                .server
                .changes()
                .into_iter()
                .map(|from| self.convergence(from))
                .collect(),
            overshoot: self.most_in_flight as f64 / self.needed_in_flight(),
            latency: self.late_latency / self.late_successes.max(1) as f64,
            embargo_violations: self.violations,
            fairness: successes * successes / (squares * self.scenario.clients as f64).max(1.0),
            requests: self.requests,
        }
    }

    /// Goodput between two seconds, over the oracle's.
    fn ratio(&self, from: usize, to: usize) -> f64 {
        let got: f64 = self.successes_by_second[from..to].iter().sum();
        let best: f64 = (from..to).map(|second| self.scenario.best_goodput(second as f64)).sum();
        got / best
    }

    fn convergence(&self, from: f64) -> Option<f64> {
        const WINDOW: usize = 5;
        let from = from as usize;
        let last = self.successes_by_second.len().checked_sub(WINDOW)?;
        (from..=last)
            .find(|&second| {
                let got: f64 = self.successes_by_second[second..second + WINDOW].iter().sum();
                // One request may end just outside.
                got + 1.0 >= 0.9 * self.scenario.best_goodput(second as f64) * WINDOW as f64
            })
            .map(|second| (second - from) as f64)
    }

    fn needed_in_flight(&self) -> f64 {
        let server = &self.scenario.server;
        let needed = |at: f64| self.scenario.best_goodput(at) * server.base_latency(at);
        server.changes().into_iter().map(needed).fold(1.0, f64::max)
    }
}
