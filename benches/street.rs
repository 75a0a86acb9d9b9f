//! What healthy servers get done beside sick ones: `cargo bench --features mpi,turbojpeg --bench street`.
//!
//! Four MPI ranks download from three healthy servers, once alone and once among the servers of all manners that the
//! integration tests have. The servers' own logs say how many whole images each has sent per second, from its first
//! request to its last answer.

#[path = "../tests/it/support/mod.rs"]
mod support;

use support::project::expect;
use support::street::{StreetServer, healthy, street, street_project};

fn main() {
    let alone = run(&healthy());
    let among_others = run(&street());
    println!("| server | images/s, only healthy ones | among the whole street | ratio |\n|---|---|---|---|");
    for ((name, alone), (_, among)) in alone.iter().zip(&among_others) {
        println!("| {name} | {alone:.2} | {among:.2} | {:.2} |", among / alone);
    }
}

fn run(street: &[StreetServer]) -> Vec<(&'static str, f64)> {
    let project = street_project(street);
    expect(&project.mpi_command(4, &["download"]).output().unwrap(), 0, &["download"]);
    street.iter().map(|server| (server.name, server.goodput())).collect()
}
