//! Downloading: what becomes of a claimed partition.
//!
//! # Where the bytes are, and what bounds them
//! ```text
//! manifest slice -> record tasks -> fetch -> imaging -> shelf -> part writer -> sealed part -> report
//!   (a few hundred)   (window)       (bodies)  (pixels)  (rows)    (one job waiting, one in work)
//! ```
//! - record tasks of a partition: the server's connections and a few, so that the network does not wait
//!   for pixels; requests under way in all: `max_in_flight`;
//! - records of a partition that wait for a retry or a paused server: 512, then no further ones are read;
//! - bodies that are being received or wait for the CPU: `body_memory`;
//! - what connections read ahead of that: `connection_memory`, and `http2_window` for each request over HTTP/2;
//! - decoded pixels: `decode_memory`;
//! - images on shelves and on their way to a file: `part_memory`, over all open partitions. A shelf is emptied
//!   into a row group at `row_group_bytes`, or earlier when memory runs short (`part_memory.rs`);
//! - row groups that are being written: the Parquet writer has a copy of each, of the four at most.
//!
//! Whoever hits a limit waits, and so does what feeds it: nothing is dropped, nothing grows.
//!
//! # Why nobody waits for ever
//! An image buys of the three budgets in the order body, pixels, part, and gives the first two back when it has
//! the third. So who waits for memory holds none of that budget and none of a later one (but for a body that
//! grows, for which `runtime/memory.rs` has an exception), and who holds part
//! memory waits for no memory at all: for the partition's loop to take it, and for the disk. The loop never waits
//! for a task, nor for the disk but through the queue of its part writer; and its shelf is empty when it does.
//!
//! # Renditions
//! Where a rule knows a smaller rendition that suffices (`rendition_size`), an attempt asks for that. When there is none,
//! the job stays with the image's own URL from then on, with all its attempts: one fallback, as another attempt with its
//! own permit.
//!
//! # Servers that are paused
//! A record whose server is paused is put off until the pause is over: in a folder that many servers share, the
//! others go on. A partition that only waits, for 10 s or more, is *parked*: the
//! rank may open another beside it. So is one of whose requests nothing has come for so long: a silent server holds its
//! own partitions and no others.

mod executor;
mod jobs;
mod options;
mod part;
mod part_memory;
mod partition;
mod record;
mod rendition;

pub use executor::{DownloadExecutor, DownloadSettings};
pub use options::DownloadOptions;
pub use rendition::{RenditionRule, Renditions};

#[cfg(test)]
mod tests;
