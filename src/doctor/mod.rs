//! A look at what a run needs, before it starts: on each node the network, the filesystems and the limits, and over all
//! ranks whether they are one cluster.
//!
//! Everything is tried rather than inferred: a request is sent, a file written, a lock taken and asked for once more.
//! What is found is a [`Finding`]; whether that stops a run is its [`Level`], and what is no trouble on a laptop is none
//! here. Nothing stays behind.
//!
//! [`examine`] is run by all ranks together. Rank 0 gathers: each rank tells what it finds by itself, then is asked in
//! turn for its time, for the locks that rank 0 holds, and, one node after another so that no server sees a crowd, for one
//! request. A rank that does not answer is a finding.

mod clock;
mod filesystem;
mod finding;
mod machine;
mod network;
mod options;
mod ranks;

pub use finding::{Check, DoctorReport, Finding, Level, NodeFindings};
pub use options::{DoctorOptions, Folder};
pub use ranks::{Examined, examine};
