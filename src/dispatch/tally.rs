//! What is left of each server, and how fast it goes.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::publish::ServerProgress;
use crate::catalog::ServerRow;
use crate::model::{ServerId, ServerName};

/// Servers named in the status.
const MAX_SLOWEST: usize = 5;

/// All servers of the catalog.
#[derive(Debug)]
pub(super) struct Tally(HashMap<ServerId, ServerTally>);

/// One server, or folder of servers.
#[derive(Debug)]
pub(super) struct ServerTally {
    pub folder: ServerName,
    pub shared: bool,
    pending: u64,
    done_in_run: u64,
}

impl ServerTally {
    /// What is left as a multiple of what the run has done; `None` as long as nothing has come.
    fn runs_left(&self) -> Option<f64> {
        (self.done_in_run > 0).then(|| self.pending as f64 / self.done_in_run as f64)
    }

    /// Longest first, then by pending records, then by name.
    fn by_time_left(&self, other: &Self) -> Ordering {
        let left = |server: &Self| server.runs_left().unwrap_or(f64::INFINITY);
        left(other)
            .total_cmp(&left(self))
            .then(other.pending.cmp(&self.pending))
            .then_with(|| self.folder.cmp(&other.folder))
    }
}

impl Tally {
    pub fn of(servers: impl IntoIterator<Item = ServerRow>) -> Self {
        let tally =
            |ServerRow { folder, shared, .. }| ServerTally { folder, shared, pending: 0, done_in_run: 0 };
        Self(servers.into_iter().map(|row| (row.id, tally(row))).collect())
    }

    pub fn get(&self, server: ServerId) -> Option<&ServerTally> {
        self.0.get(&server)
    }

    /// Counts records that are pending when the run begins.
    pub fn count_pending(&mut self, server: ServerId, records: u64) {
        if let Some(server) = self.0.get_mut(&server) {
            server.pending += records;
        }
    }

    /// Counts records that are not pending any more.
    pub fn count_done(&mut self, server: ServerId, records: u64) {
        if let Some(server) = self.0.get_mut(&server) {
            server.pending = server.pending.saturating_sub(records);
            server.done_in_run += records;
        }
    }

    /// Twice a second over all servers: nothing is allocated but for the few that are named.
    pub fn slowest(&self, seconds: f64) -> Vec<ServerProgress> {
        let mut slowest: Vec<&ServerTally> = Vec::with_capacity(MAX_SLOWEST + 1);
        for server in self.0.values().filter(|server| server.pending > 0) {
            let place = slowest.partition_point(|other| other.by_time_left(server) == Ordering::Less);
            if place < MAX_SLOWEST {
                slowest.insert(place, server);
                slowest.truncate(MAX_SLOWEST);
            }
        }
        let name = |server: &ServerTally| ServerProgress {
            server_name: server.folder.to_string(),
            pending: server.pending,
            per_second: server.done_in_run as f64 / seconds,
            seconds_left: server.runs_left().map(|runs| runs * seconds),
        };
        slowest.into_iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_servers_come_first() {
        let tally = |name: &str, pending, done_in_run| ServerTally {
            folder: ServerName::from_catalog(name),
            shared: false,
            pending,
            done_in_run,
        };
        let servers =
            [tally("b", 10, 0), tally("a", 10, 0), tally("c", 20, 10), tally("d", 90, 30), tally("e", 0, 9)];
        let servers = Tally(
            servers.into_iter().enumerate().map(|(id, server)| (ServerId(id as u32), server)).collect(),
        );
        let names: Vec<_> = servers.slowest(1.0).into_iter().map(|server| server.server_name).collect();
        assert_eq!(names, ["a", "b", "d", "c"]);
    }
}
