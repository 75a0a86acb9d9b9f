//! Dealing partitions to units: FLOW-DC's three ways, within what servers allow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{PartitionKey, ServerId};

/// How partitions are dealt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Servers as a whole, the largest first, each to the unit with the fewest records.
    #[default]
    Host,
    /// Partitions, likewise.
    Greedy,
    /// Stretches of equal length, in the order of the catalog.
    Simple,
}

/// A partition to be dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    pub partition: PartitionKey,
    /// Its pending records.
    pub records: u64,
}

/// Deals partitions, which come in the order of the catalog, to `groups` units at most. Returns what each has, in that
/// order; those that would have nothing are left out.
///
/// A server's partitions lie in no more units than `seats` has for it (at least one).
#[must_use]
pub fn deal(
    lots: &[Lot],
    groups: u32,
    method: Method,
    seats: &dyn Fn(ServerId) -> u32,
) -> Vec<Vec<PartitionKey>> {
    let mut table = Table {
        records: vec![0; groups.max(1) as usize],
        units: vec![Vec::new(); groups.max(1) as usize],
        holders: BTreeMap::new(),
    };
    match method {
        Method::Host => {
            let mut of_server: BTreeMap<ServerId, u64> = BTreeMap::new();
            for lot in lots {
                *of_server.entry(lot.partition.server_id).or_default() += lot.records;
            }
            let mut servers: Vec<_> = of_server.into_iter().collect();
            servers.sort_by_key(|&(server, records)| (Reverse(records), server));
            let unit_of: BTreeMap<_, _> = servers
                .into_iter()
                .map(|(server, records)| {
                    let unit = table.lightest();
                    table.records[unit] += records;
                    (server, unit)
                })
                .collect();
            for lot in lots {
                table.units[unit_of[&lot.partition.server_id]].push(lot.partition);
            }
        }
        Method::Greedy => {
            let mut lots = lots.to_vec();
            lots.sort_by_key(|lot| (Reverse(lot.records), lot.partition));
            for lot in lots {
                let wish = table.lightest();
                let unit = table.seat(lot.partition.server_id, wish, seats);
                table.give(unit, lot);
            }
            table.units.iter_mut().for_each(|unit| unit.sort());
        }
        Method::Simple => {
            let all: u64 = lots.iter().map(|lot| lot.records).sum();
            let mut before = 0;
            for lot in lots {
                // By where its middle lies.
                let middle = before + lot.records / 2;
                let wish = (middle * u64::from(groups.max(1)) / all.max(1)).min(u64::from(groups.max(1)) - 1);
                before += lot.records;
                let unit = table.seat(lot.partition.server_id, wish as usize, seats);
                table.give(unit, *lot);
            }
        }
    }
    table.units.into_iter().filter(|unit| !unit.is_empty()).collect()
}

struct Table {
    records: Vec<u64>,
    units: Vec<Vec<PartitionKey>>,
    holders: BTreeMap<ServerId, BTreeSet<usize>>,
}

impl Table {
    /// The unit with the fewest records, the first of several.
    fn lightest(&self) -> usize {
        (0..self.records.len()).min_by_key(|&unit| self.records[unit]).unwrap_or_default()
    }

    /// The unit that is wished for, or where the server has no seat left the lightest of its own.
    fn seat(&mut self, server: ServerId, wish: usize, seats: &dyn Fn(ServerId) -> u32) -> usize {
        let holders = self.holders.entry(server).or_default();
        if holders.len() < seats(server).max(1) as usize {
            holders.insert(wish);
        }
        if holders.contains(&wish) {
            return wish;
        }
        holders.iter().copied().min_by_key(|&unit| self.records[unit]).unwrap_or(wish)
    }

    fn give(&mut self, unit: usize, lot: Lot) {
        self.records[unit] += lot.records;
        self.units[unit].push(lot.partition);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lot(server: u32, partition_id: u32, records: u64) -> Lot {
        Lot { partition: PartitionKey { server_id: ServerId(server), partition_id }, records }
    }

    fn shown(units: &[Vec<PartitionKey>]) -> Vec<Vec<(u32, u32)>> {
        let one = |unit: &Vec<PartitionKey>| {
            unit.iter().map(|key| (key.server_id.0, key.partition_id)).collect::<Vec<_>>()
        };
        units.iter().map(one).collect()
    }

    #[test]
    fn host_keeps_servers_together_and_balances_them() {
        let lots = [lot(0, 0, 5), lot(0, 1, 5), lot(1, 0, 7), lot(2, 0, 4), lot(3, 0, 6)];
        let units = deal(&lots, 2, Method::Host, &|_| 9);
        // 10 | 7, then 6 to the second, then 4 to the first.
        assert_eq!(shown(&units), [vec![(0, 0), (0, 1), (2, 0)], vec![(1, 0), (3, 0)]]);
        assert_eq!(deal(&lots, 9, Method::Host, &|_| 9).len(), 4, "no more units than servers");
    }

    #[test]
    fn greedy_divides_a_large_server_as_far_as_it_has_seats() {
        let lots: Vec<_> = (0..6).map(|id| lot(0, id, 10)).chain([lot(1, 0, 3)]).collect();
        let sizes = |seats: u32| {
            let units = deal(&lots, 3, Method::Greedy, &move |_| seats);
            units.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(3), [3, 2, 2]);
        assert_eq!(sizes(2), [3, 3, 1], "the small server goes where nobody is");
        assert_eq!(sizes(0), [6, 1], "a server lies somewhere");
    }

    #[test]
    fn simple_keeps_the_order() {
        let lots: Vec<_> = (0..3).flat_map(|server| (0..2).map(move |id| lot(server, id, 10))).collect();
        let units = deal(&lots, 3, Method::Simple, &|_| 9);
        assert_eq!(shown(&units), [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(2, 0), (2, 1)]]);
        let units = deal(&lots, 2, Method::Simple, &|_| 1);
        assert_eq!(shown(&units), [vec![(0, 0), (0, 1), (1, 0), (1, 1)], vec![(2, 0), (2, 1)]]);
    }

    proptest! {
        #[test]
        fn every_partition_lies_in_one_unit_and_servers_in_no_more_than_they_have_seats(
            sizes in prop::collection::vec((0u32..6, 0u64..100), 0..40),
            groups in 0u32..9,
            seats in 0u32..4,
            method in prop::sample::select(vec![Method::Host, Method::Greedy, Method::Simple]),
        ) {
            let mut lots: Vec<_> =
                sizes.iter().enumerate().map(|(id, &(server, n))| lot(server, id as u32, n)).collect();
            lots.sort_by_key(|lot| lot.partition);
            let units = deal(&lots, groups, method, &move |_| seats);
            prop_assert!(units.len() <= groups.max(1) as usize);
            prop_assert!(units.iter().all(|unit| !unit.is_empty() && unit.is_sorted()));
            let mut all = units.concat();
            all.sort();
            prop_assert_eq!(all, lots.iter().map(|lot| lot.partition).collect::<Vec<_>>());
            for server in 0..6 {
                let holders = units.iter().filter(|unit| unit.iter().any(|key| key.server_id.0 == server)).count();
                let most = if method == Method::Host { 1 } else { seats.max(1) as usize };
                prop_assert!(holders <= most);
            }
        }
    }
}
