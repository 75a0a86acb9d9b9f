//! Prints the tables of the rate controllers in `docs/BENCHMARKS.md`.
//!
//! `cargo run --release --example rate_simulator [SEEDS [WORD]]`: as many seeds for each cell (10), and only
//! the scenarios with that word in their name.

use ddl::fetch::rate::simulator::{SCENARIOS, Scenario, contenders, tables};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seeds = arguments.next().and_then(|seeds| seeds.parse().ok()).unwrap_or(10);
    let word = arguments.next().unwrap_or_default();
    let scenarios: Vec<Scenario> =
        SCENARIOS.iter().filter(|scenario| scenario.name.contains(&word)).copied().collect();
    print!("{}", tables(&scenarios, &contenders(), seeds));
}
