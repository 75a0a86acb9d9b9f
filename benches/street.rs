//! What healthy servers get done beside sick ones: `cargo bench --features mpi,turbojpeg --bench street`.
//!
//! Four MPI ranks download from three healthy servers, once alone and once among the servers of all manners that the
//! integration tests have; all of that several times. The servers' own logs say how many whole images each has sent per
//! second, from its first request to its last answer.

#[path = "../tests/it/support/mod.rs"]
mod support;

use support::project::expect;
use support::street::{RATE, StreetServer, healthy, street, street_project};

/// Twenty seconds at the limit, so that the first and the last of them do not decide.
const URLS: usize = 20 * RATE;
const ROUNDS: usize = 3;

fn main() {
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (run(&healthy()), run(&street()))).collect();
    println!(
        "| server | limit | only healthy ones | of the limit | whole street | of the limit | ratio | lowest |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (nth, (name, _)) in rounds[0].0.iter().enumerate() {
        let alone = median(rounds.iter().map(|(alone, _)| alone[nth].1));
        let among = median(rounds.iter().map(|(_, among)| among[nth].1));
        let ratios = || rounds.iter().map(|(alone, among)| among[nth].1 / alone[nth].1);
        let (ratio, lowest) = (median(ratios()), ratios().fold(f64::INFINITY, f64::min));
        let limit = if *name == "small.example" { 1.0 } else { RATE as f64 };
        println!(
            "| {name} | {limit} | {alone:.2} | {:.2} | {among:.2} | {:.2} | {ratio:.2} | {lowest:.2} |",
            alone / limit,
            among / limit
        );
    }
}

fn run(street: &[StreetServer]) -> Vec<(&'static str, f64)> {
    let project = street_project(street, URLS);
    expect(&project.mpi_command(4, &["download"]).output().unwrap(), 0, &["download"]);
    street.iter().map(|server| (server.name, server.goodput())).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
