//! Servers as formulas: what a controller would do to them, in virtual time.
//!
//! A discrete-event simulation of clients with endless work, each with a [`RateController`](super::RateController) of its own, and
//! one server. The server is a queue in front of slots, a bandwidth that all bodies share, a limiter, and what
//! else [`Scenario`] lists. Thousands of seconds take about one; equal seeds give equal runs to the last bit.
//!
//! [`Outcome`] compares with an oracle, who knows the server and gets `min(slots / E[service], rate,
//! bandwidth / E[size])` requests/s out of it with `C* = that x latency` under way.
//!
//! `cargo run --release --example rate_simulator` prints the table of `docs/BENCHMARKS.md`.

mod law;
mod outcome;
mod run;
mod scenario;
mod server;
mod table;

pub use law::Law;
pub use outcome::Outcome;
pub use run::run;
pub use scenario::{Kind, SCENARIOS, Scenario};
pub use server::{Ban, Limiter, ServerModel, Step};
pub use table::{Contender, contenders, tables};
