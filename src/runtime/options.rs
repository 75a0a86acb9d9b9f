//! What a user may set about the use of this machine.

use serde::{Deserialize, Serialize};

use super::MachineLimits;

/// Settings of one process; ranks on one node each have their own share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeOptions {
    /// Threads that decode, resize, hash and write; unset: one per core that the system grants this
    /// process (affinity and cgroup included).
    pub cpu_threads: Option<usize>,
    /// Bytes that bodies and decoded pixels may take together; unset: a quarter of the memory that this
    /// process may use, at most 2 GiB.
    pub memory_budget: Option<u64>,
}

/// More than this is no faster: it holds 4,000 bodies of 500 KB, and several ranks may share a node.
const MAX_DEFAULT_BUDGET: u64 = 2 << 30;
/// When the system does not say what there is: safe on a 4 GiB laptop.
const FALLBACK_BUDGET: u64 = 512 << 20;

impl RuntimeOptions {
    /// Threads of the CPU pool, at least 1.
    #[must_use]
    pub fn cpu_threads_on(&self, machine: &MachineLimits) -> usize {
        self.cpu_threads.unwrap_or(machine.cores).max(1)
    }

    /// Bytes of the memory budget.
    #[must_use]
    pub fn memory_budget_on(&self, machine: &MachineLimits) -> u64 {
        self.memory_budget.unwrap_or_else(|| {
            machine.memory_bytes.map_or(FALLBACK_BUDGET, |bytes| (bytes / 4).min(MAX_DEFAULT_BUDGET))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_machine_and_settings_override_it() {
        let laptop =
            MachineLimits { cores: 4, memory_bytes: Some(4 << 30), open_files: 1_024, max_open_files: 4_096 };
        let unset = RuntimeOptions::default();
        assert_eq!((unset.cpu_threads_on(&laptop), unset.memory_budget_on(&laptop)), (4, 1 << 30));
        let node = MachineLimits { memory_bytes: Some(1 << 40), ..laptop };
        assert_eq!(unset.memory_budget_on(&node), 2 << 30);
        let unknown = MachineLimits { memory_bytes: None, ..laptop };
        assert_eq!(unset.memory_budget_on(&unknown), 512 << 20);
        let set = RuntimeOptions { cpu_threads: Some(0), memory_budget: Some(7) };
        assert_eq!((set.cpu_threads_on(&node), set.memory_budget_on(&node)), (1, 7));
    }
}
