//! Files that the catalog names and storage writes.

use serde::{Deserialize, Serialize};

use super::PartId;

/// A Parquet file that the catalog vouches for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    pub num_rows: u64,
    pub bytes: u64,
    /// CRC-32 of the whole file, footer and all.
    pub crc32: u32,
}

/// A sealed part: a file of successes, a file of errors, or both (no file where there are no rows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    pub part: PartId,
    pub successes: DataFile,
    pub errors: DataFile,
}
