//! What the user may set about sharing work.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DispatchOptions {
    /// From this many remaining partitions of a server on, so many ranks may work on it at once. The entry
    /// with the largest key that is not above the remaining number counts (distributed-downloader's rule).
    pub schedule_rules: BTreeMap<u32, u32>,
    /// A rank that has not been heard of for this long loses its claims. Two minutes outlast a stalled
    /// filesystem or a busy node, and cost at most that much at the end of a run.
    pub lease_timeout: Duration,
    /// Partitions that one rank has open at once.
    pub max_open_partitions: u32,
    /// Requests that one server may have under way, over all ranks.
    pub max_connections_per_server: u32,
    /// After a request to stop, what is under way may take so long to end (the workers' affair); rank 0 waits
    /// that long for their goodbyes, and a while.
    pub stop_grace: Duration,
    /// Claims that one rank may hold on one server: in a download a second one starts while the last records of the
    /// first are still being retried. Not the user's to set.
    #[serde(skip)]
    pub claims_per_rank_and_server: usize,
    /// How often rank 0 publishes `status/status.json`.
    pub status_interval: Duration,
}

impl Default for DispatchOptions {
    fn default() -> Self {
        Self {
            schedule_rules: BTreeMap::from([(1, 1)]),
            lease_timeout: Duration::from_secs(120),
            max_open_partitions: 256,
            max_connections_per_server: 4,
            stop_grace: Duration::from_secs(15),
            claims_per_rank_and_server: 2,
            status_interval: Duration::from_secs(2),
        }
    }
}

impl DispatchOptions {
    /// For work that asks no server for anything: any number of ranks on any partitions.
    #[must_use]
    pub fn without_servers(self) -> Self {
        Self {
            schedule_rules: BTreeMap::from([(1, u32::MAX)]),
            max_connections_per_server: u32::MAX,
            claims_per_rank_and_server: usize::MAX,
            ..self
        }
    }

    /// Ranks that may work at once on a server with so many partitions left.
    #[must_use]
    pub fn max_ranks_on_server(&self, remaining: u32) -> u32 {
        let rule = self.schedule_rules.range(..=remaining).next_back().map_or(1, |(_, &ranks)| ranks);
        rule.min(remaining).min(self.max_connections_per_server).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_rule_not_above_counts() {
        let options = DispatchOptions {
            schedule_rules: BTreeMap::from([(1, 1), (50, 2), (1000, 20)]),
            max_connections_per_server: 8,
            ..DispatchOptions::default()
        };
        let got: Vec<_> = [0, 1, 49, 50, 999, 1000].map(|n| options.max_ranks_on_server(n)).into();
        // 20 ranks could not each have a connection of their own.
        assert_eq!(got, [1, 1, 1, 2, 2, 8]);
    }
}
