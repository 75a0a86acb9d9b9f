//! `fetch` against real sockets on loopback: scripted servers, and assertions on what they saw.

mod answers;
mod control;
mod failures;
mod manners;
mod support;
mod trust;
