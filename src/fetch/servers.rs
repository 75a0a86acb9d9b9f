//! The servers that this process knows: made on first use, forgotten when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::server::{Server, ServerLimits};
use crate::model::ServerName;

/// Entries at which the table is first swept: about 2 MiB. A crawl's list has millions of servers, but only
/// those in use, and those that must be remembered, are kept.
const SWEEP_AT: usize = 4096;
/// Entries at which even a server with something to remember (a pause, a lowered rate) is forgotten unless it is
/// in use: redirects to endless names of one domain must not fill the memory.
const FORGET_AT: usize = 16 * SWEEP_AT;

#[derive(Debug)]
pub(super) struct Servers {
    rates: HashMap<ServerName, f64>,
    default_limits: ServerLimits,
    in_flight: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    servers: HashMap<ServerName, Arc<Server>>,
    /// Doubles with what a sweep leaves, so that sweeping costs a constant per entry.
    sweep_at: usize,
    /// Share of the servers that nobody has set one for.
    share: f64,
}

impl Servers {
    pub fn new(default_limits: ServerLimits, rates: HashMap<ServerName, f64>, max_in_flight: usize) -> Self {
        let table = Table { servers: HashMap::new(), sweep_at: SWEEP_AT, share: 1.0 };
        let in_flight = Arc::new(Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS)));
        // Half of them: as many servers as that can be mute at once before the others notice.
        let newcomers = Arc::new(Semaphore::new((max_in_flight / 2).clamp(1, Semaphore::MAX_PERMITS)));
        Self { rates, default_limits, in_flight, newcomers, table: Mutex::new(table) }
    }

    pub fn get(&self, name: &ServerName) -> Arc<Server> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = table.servers.get(name) {
            return Arc::clone(server);
        }
        if table.servers.len() >= table.sweep_at {
            table.sweep();
        }
        let rate = self.rates.get(name).copied().unwrap_or(self.default_limits.rate);
        let limits = ServerLimits { rate, ..self.default_limits };
        let (in_flight, newcomers) = (Arc::clone(&self.in_flight), Arc::clone(&self.newcomers));
        let server = Arc::new(Server::new(name.clone(), limits, table.share, in_flight, newcomers));
        table.servers.insert(name.clone(), Arc::clone(&server));
        server
    }

    pub fn set_default_share(&self, fraction: f64) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).share = fraction;
    }

    /// No more permits, for nobody: who waits for one is sent away.
    pub fn close(&self) {
        self.in_flight.close();
        self.newcomers.close();
        for server in self.table.lock().unwrap_or_else(PoisonError::into_inner).servers.values() {
            server.wake();
        }
    }

    /// Servers known, for deciding whether connections are kept.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).servers.len()
    }
}

impl Table {
    fn sweep(&mut self) {
        self.servers.retain(|_, server| Arc::strong_count(server) > 1 || !server.is_fresh());
        if self.servers.len() >= FORGET_AT {
            self.servers.retain(|_, server| Arc::strong_count(server) > 1);
        }
        self.sweep_at = (2 * self.servers.len()).max(SWEEP_AT);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn servers() -> Servers {
        let patience = Duration::from_secs(900);
        let limits = ServerLimits { rate: 0.0, rate_multiplier: 1.0, max_connections: 4, patience };
        let rates = HashMap::from([(ServerName::from_catalog("slow.example"), 0.5)]);
        Servers::new(limits, rates, 8)
    }

    #[test]
    fn a_server_has_its_own_rate() {
        let servers = servers();
        let rate = |name: &str| servers.get(&ServerName::from_catalog(name)).rate();
        assert!((rate("slow.example") - 0.5).abs() < 1e-9);
        assert!(rate("other.example").is_infinite());
        servers.set_default_share(0.5);
        let late = ServerName::from_catalog("slow.example");
        assert!((servers.get(&late).rate() - 0.5).abs() < 1e-9, "a known server keeps its share");
    }

    #[tokio::test]
    async fn idle_servers_are_forgotten_but_not_those_in_use_or_paused() {
        let servers = servers();
        let used = servers.get(&ServerName::from_catalog("used.example"));
        let paused = servers.get(&ServerName::from_catalog("paused.example"));
        paused.admit().await.unwrap().throttled(429, Some(Duration::from_secs(600)));
        drop(paused);
        for number in 0..3 * SWEEP_AT {
            drop(servers.get(&ServerName::from_catalog(&format!("{number}.example"))));
        }
        assert!(servers.len() <= SWEEP_AT);
        assert!(Arc::ptr_eq(&used, &servers.get(&ServerName::from_catalog("used.example"))));
        assert!(servers.get(&ServerName::from_catalog("paused.example")).pause().is_some());
    }
}
