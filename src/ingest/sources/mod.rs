//! The kinds of lists, one file each.
//!
//! They follow distributed-downloader's initializers, with their faults mended: ids are kept, UUIDs
//! are made from URLs, and each row that is left out is counted under a reason.

mod eol;
mod fathom_net;
mod gbif;
mod generic;
mod lila;
mod tol200m;

pub use eol::Eol;
pub use fathom_net::FathomNet;
pub use gbif::Gbif;
pub use generic::Generic;
pub use lila::Lila;
pub use tol200m::{Tol200mFathomNet, Tol200mGeneral};

#[cfg(test)]
mod tests;
