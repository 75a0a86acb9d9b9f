//! Scenarios down, controllers across: the tables of `docs/BENCHMARKS.md`.

use std::fmt::Write;

use super::outcome::Outcome;
use super::run::run;
use super::scenario::Scenario;
use crate::fetch::rate::{
    Adaptive, AdaptiveOptions, Aimd, AimdOptions, Fixed, FixedOptions, LearntLimit, Paarc, PaarcOptions,
    RateController,
};

/// A column of the table.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    pub name: &'static str,
    pub controller: fn(u64) -> Box<dyn RateController>,
}

fn fixed(rate: f64) -> Box<dyn RateController> {
    Box::new(Fixed::new(&FixedOptions {
        default_rate_limit: rate,
        max_in_flight: 1000,
        ..FixedOptions::default()
    }))
}

/// The controllers that are compared, ours last.
#[must_use]
pub fn contenders() -> [Contender; 6] {
    [
        Contender { name: "fixed 2/s", controller: |_| fixed(2.0) },
        Contender { name: "fixed 10/s", controller: |_| fixed(10.0) },
        Contender { name: "fixed 100/s", controller: |_| fixed(100.0) },
        Contender { name: "AIMD", controller: |_| Box::new(Aimd::new(&AimdOptions::default())) },
        Contender { name: "PAARC", controller: |_| Box::new(Paarc::new(&PaarcOptions::default())) },
        Contender {
            name: "adaptive",
            controller: |seed| {
                Box::new(Adaptive::new(&AdaptiveOptions::default(), LearntLimit::default(), seed))
            },
        },
    ]
}

struct Measure {
    title: &'static str,
    /// Of the runs of one cell.
    text: fn(&[Outcome]) -> String,
    /// Whether a row says something when all its cells are alike.
    every_row: bool,
}

const MEASURES: &[Measure] = &[
    Measure {
        title: "Goodput over the oracle's, whole run",
        text: |all| with_error(all, |one| one.goodput),
        every_row: true,
    },
    Measure {
        title: "Goodput over the oracle's, second half",
        text: |all| format!("{:.2}", mean(all, |one| one.late_goodput)),
        every_row: true,
    },
    Measure {
        title: "Refusals per 1,000 requests",
        text: |all| format!("{:.2}", mean(all, |one| one.refused)),
        every_row: false,
    },
    Measure {
        title: "Seconds to 0.9 of the oracle, from the start and from each change (worst seed; - is never)",
        text: convergence,
        every_row: true,
    },
    Measure {
        title: "Most requests under way, over the oracle's",
        text: |all| format!("{:.1}", mean(all, |one| one.overshoot)),
        every_row: true,
    },
    Measure {
        title: "Mean latency over that of an idle server, second half",
        text: |all| format!("{:.2}", mean(all, |one| one.latency)),
        every_row: false,
    },
    Measure {
        title: "Requests sent during an embargo, per run",
        text: |all| format!("{:.0}", mean(all, |one| one.embargo_violations as f64)),
        every_row: false,
    },
    Measure {
        title: "Jain's fairness index among the clients",
        text: |all| format!("{:.2}", mean(all, |one| one.fairness)),
        every_row: false,
    },
];

fn mean(all: &[Outcome], measure: impl Fn(&Outcome) -> f64) -> f64 {
    all.iter().map(measure).sum::<f64>() / all.len() as f64
}

/// The mean, and half of its 95 % interval where that shows.
fn with_error(all: &[Outcome], measure: impl Fn(&Outcome) -> f64) -> String {
    let mean_value = mean(all, &measure);
    let variance = mean(all, |one| (measure(one) - mean_value).powi(2));
    let half = 1.96 * (variance / (all.len().max(2) - 1) as f64).sqrt();
    if half < 0.005 { format!("{mean_value:.2}") } else { format!("{mean_value:.2} ±{half:.2}") }
}

fn convergence(all: &[Outcome]) -> String {
    let num_changes = all.first().map_or(0, |one| one.convergence.len());
    let worst = |change: usize| {
        all.iter()
            .map(|one| one.convergence[change])
            .try_fold(0.0, |worst: f64, one| one.map(|one| one.max(worst)))
    };
    let text = |change| worst(change).map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0}"));
    (0..num_changes).map(text).collect::<Vec<_>>().join(", ")
}

/// Runs every scenario with every contender and as many seeds, and puts each measure into a table.
#[must_use]
pub fn tables(scenarios: &[Scenario], contenders: &[Contender], seeds: u64) -> String {
    let cell = |scenario, contender: &Contender| -> Vec<Outcome> {
        (1..=seeds).map(|seed| run(scenario, seed, contender.controller)).collect()
    };
    let rows: Vec<Vec<Vec<Outcome>>> = scenarios
        .iter()
        .map(|scenario| contenders.iter().map(|contender| cell(scenario, contender)).collect())
        .collect();
    let mut text = String::new();
    for Measure { title, text: cell_text, every_row } in MEASURES {
        let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
        let _ = writeln!(text, "### {title}\n\n| scenario | {} |", names.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(contenders.len()));
        for (scenario, row) in scenarios.iter().zip(&rows) {
            let cells: Vec<String> = row.iter().map(|outcomes| cell_text(outcomes)).collect();
            if !every_row && cells.iter().all(|cell| *cell == cells[0]) {
                continue;
            }
            let _ = writeln!(text, "| {} | {} |", scenario.name, cells.join(" | "));
        }
        text.push('\n');
    }
    text
}
