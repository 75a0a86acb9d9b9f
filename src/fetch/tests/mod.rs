//! `fetch` against real sockets on loopback: scripted servers, and assertions on what they saw.

mod addresses;
mod answers;
mod control;
mod failures;
mod hostile;
mod lending;
mod limits;
mod manners;
mod owners;
mod proxies;
mod size;
pub(super) mod support;
mod trust;
