//! Datasets made by the catalog's and storage's own calls, then damaged one thing at a time.

mod breaches;
mod builder;
mod deep;
mod repair;
mod sound;
mod tools;

use super::{BreachKind, CheckReport};

/// The kinds of a report's breaches, sorted, each once.
fn kinds(report: &CheckReport) -> Vec<BreachKind> {
    let mut kinds: Vec<_> = report.breaches.iter().map(|breach| breach.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}
