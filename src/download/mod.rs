//! Downloading: what becomes of a claimed partition.
//!
//! # Where the bytes are, and what bounds them
//! ```text
//! manifest slice -> record tasks -> fetch -> imaging -> rows -> part writer -> sealed part -> report
//!   (512 records)   (window)       (bodies)  (pixels)  (row group)   (one job waiting, one in work)
//! ```
//! - record tasks of a partition: twice the server's connections and a few, so that the network never waits
//!   for pixels; requests under way in all: `max_in_flight`;
//! - bodies that are being received or wait for the CPU: `body_memory`;
//! - decoded pixels: `decode_memory`;
//! - rows that wait for their row group: `part_memory` over all open partitions. A row group's size is
//!   `part_memory` divided by thrice the number of open partitions (one being filled, one waiting, one being
//!   written), at most `row_group_bytes`.
//!
//! Whoever hits a limit waits, and so does what feeds it: nothing is dropped, nothing grows.

mod executor;
mod options;
mod part;
mod partition;
mod record;

pub use executor::{DownloadExecutor, DownloadSettings};
pub use options::DownloadOptions;
