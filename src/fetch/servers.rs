//! The servers that this process knows: made on first use, forgotten when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::options::FetchOptions;
use super::rate::{
    AdaptiveOptions, AimdOptions, FixedOptions, LearntLimit, RateController, RateOptions, controller,
};
use super::rules::ServerRules;
use super::server::{Server, ServerLimits};
use crate::model::ServerName;

/// Entries at which the table is first swept: about 4 MiB. A crawl's list has millions of servers, but only
/// those in use, and those that must be remembered, are kept.
const SWEEP_AT: usize = 4096;
/// Entries at which even a server with something to remember (a pause, a lowered rate) is forgotten unless it is
/// in use: redirects to endless names of one domain must not fill the memory.
const FORGET_AT: usize = 16 * SWEEP_AT;

#[derive(Debug)]
pub(super) struct Servers {
    options: FetchOptions,
    rules: ServerRules,
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
    pub fn new(options: FetchOptions, rules: ServerRules) -> Self {
        let table = Table { servers: HashMap::new(), sweep_at: SWEEP_AT, share: 1.0 };
        let most = options.max_in_flight.min(Semaphore::MAX_PERMITS);
        // Half of them: as many servers as that can be mute at once before the others notice.
        let newcomers = Arc::new(Semaphore::new((most / 2).max(1)));
        Self {
            options,
            rules,
            in_flight: Arc::new(Semaphore::new(most)),
            newcomers,
            table: Mutex::new(table),
        }
    }

    pub fn rules(&self) -> &ServerRules {
        &self.rules
    }

    /// The limits of a server, over the whole cluster.
    pub fn limits(&self, name: &ServerName) -> ServerLimits {
        let rule = self.rules.of(name);
        ServerLimits {
            rate: rule.rate_limit.unwrap_or(self.options.default_rate_limit),
            max_connections: rule.max_connections.unwrap_or(self.options.max_connections_per_server),
            patience: self.options.server_patience,
        }
    }

    /// Requests under way, over all servers.
    pub fn under_way(&self) -> usize {
        self.options.max_in_flight.min(Semaphore::MAX_PERMITS) - self.in_flight.available_permits()
    }

    fn controller(&self, name: &ServerName, limits: ServerLimits) -> Box<dyn RateController> {
        let FetchOptions { rate_control, rate_multiplier, paarc, aimd, .. } = &self.options;
        let max_in_flight = limits.max_connections;
        let options = RateOptions {
            rate_control: self.rules.of(name).rate_control.unwrap_or(*rate_control),
            adaptive: AdaptiveOptions { max_in_flight, ..AdaptiveOptions::default() },
            paarc: paarc.clone(),
            aimd: AimdOptions { concurrent_downloads: max_in_flight, ..aimd.clone() },
            fixed: FixedOptions {
                default_rate_limit: limits.rate,
                rate_multiplier: *rate_multiplier,
                max_in_flight,
            },
        };
        // Ranks that share a server should not act in step.
        controller(&options, LearntLimit::default(), fastrand::u64(..))
    }

    pub fn get(&self, name: &ServerName) -> Arc<Server> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = table.servers.get(name) {
            return Arc::clone(server);
        }
        if table.servers.len() >= table.sweep_at {
            table.sweep();
        }
        let limits = self.limits(name);
        let (in_flight, newcomers) = (Arc::clone(&self.in_flight), Arc::clone(&self.newcomers));
        let controller = self.controller(name, limits);
        let server =
            Arc::new(Server::new(name.clone(), limits, controller, table.share, in_flight, newcomers));
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

    use super::super::rate::RateControl;
    use super::*;

    fn servers() -> Servers {
        let options = FetchOptions {
            default_rate_limit: 0.0,
            max_in_flight: 8,
            rate_control: RateControl::Fixed,
            ..FetchOptions::default()
        };
        let rates = [(ServerName::from_catalog("slow.example"), 0.5)];
        let rules = ServerRules::layered(&options, [], rates, []);
        Servers::new(options, rules)
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
