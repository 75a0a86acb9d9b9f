//! `fetch` against real sockets on loopback: scripted servers, and assertions on what they saw.

mod answers;
mod control;
mod failures;
mod hostile;
mod lending;
mod manners;
mod owners;
pub(super) mod support;
mod trust;
