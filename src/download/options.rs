//! What the user may set about downloading a partition.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DownloadOptions {
    /// A part is sealed after so many images, so many bytes of images, or so long, whichever comes first:
    /// the most that a kill costs a partition.
    pub part_images: u32,
    pub part_bytes: u64,
    pub part_seconds: Duration,
    /// Bytes of images at which a partition writes a row group; earlier when `part_memory` runs short.
    pub row_group_bytes: u64,
    /// Images that wait to be written, over all partitions of a rank, in bytes.
    pub part_memory: u64,
    /// Bodies that are being received or wait for a CPU, in bytes.
    pub body_memory: u64,
    /// Decoded pixels, in bytes.
    pub decode_memory: u64,
    /// Threads that decode, resize and hash; 0 is one per core.
    pub cpu_threads: usize,
    /// After a request to stop, what is under way may take so long to end.
    pub stop_grace: Duration,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            part_images: 1000,
            part_bytes: 128 << 20,
            part_seconds: Duration::from_secs(60),
            row_group_bytes: 8 << 20,
            part_memory: 128 << 20,
            body_memory: 128 << 20,
            decode_memory: 512 << 20,
            cpu_threads: 0,
            stop_grace: Duration::from_secs(15),
        }
    }
}
