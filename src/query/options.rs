//! What the user may set about queries.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryOptions {
    /// Memory that sorts, groups and joins may share, in bytes; beyond it they spill to disk.
    pub memory_bytes: u64,
    /// Most that may lie on disk at once, in bytes.
    pub spill_bytes: u64,
    /// Folder for what is spilled; the system's temporary folder if none is given.
    pub spill_folder: Option<PathBuf>,
    /// Threads that a query works on; 0 is one per core.
    pub threads: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, spill_bytes: 100 << 30, spill_folder: None, threads: 0 }
    }
}
