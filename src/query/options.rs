//! What the user may set about queries (`query_parameters`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryOptions {
    /// Memory that sorts, groups and joins may share, in bytes; beyond it they spill to disk.
    pub memory_bytes: u64,
    /// Folder for what is spilled; `tmp` in the dataset if none is given.
    pub temp_folder: Option<PathBuf>,
    /// Most that may lie there at once, in bytes.
    pub max_temp_bytes: u64,
    /// Threads that a query works on; 0 is one per core.
    pub threads: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, temp_folder: None, max_temp_bytes: 100 << 30, threads: 0 }
    }
}
