//! What the user may set.

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckOptions {
    /// Also read every image: hash it again, measure it, read its header.
    pub deep: bool,
    /// Partitions checked at a time; 0 for one per core.
    pub threads: usize,
    /// Breaches, and orphans, that the report lists. All are counted.
    pub max_breaches: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { deep: false, threads: 0, max_breaches: 100 }
    }
}
