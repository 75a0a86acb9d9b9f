//! The servers that this process knows: made on first use, borrowed when something is asked of them, given back and
//! forgotten when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::landlord::Landlord;
use super::options::FetchOptions;
use super::rate::{
    AdaptiveOptions, AimdOptions, FixedOptions, LearntLimit, RateController, RateOptions, controller,
};
use super::rules::ServerRules;
use super::server::{Server, ServerLimits};
use crate::model::{ServerName, ServerNews};

/// Entries at which the table is first swept: about 4 MiB. A crawl's list has millions of servers, but only
/// those in use, and those that must be remembered, are kept.
const SWEEP_AT: usize = 4096;
/// Entries at which even a server with something to remember (a pause, a lowered rate) is forgotten unless it is
/// in use: redirects to endless names of one domain must not fill the memory.
const FORGET_AT: usize = 16 * SWEEP_AT;
/// How often loans are looked after: others get so much later what a rank does not use any more.
const TICK: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Servers {
    options: FetchOptions,
    rules: ServerRules,
    in_flight: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    landlord: Option<Arc<dyn Landlord>>,
    /// Set once the loans are looked after.
    keeper: OnceLock<()>,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    servers: HashMap<ServerName, Arc<Server>>,
    /// Doubles with what a sweep leaves, so that sweeping costs a constant per entry.
    sweep_at: usize,
}

impl Servers {
    pub fn new(options: FetchOptions, rules: ServerRules) -> Self {
        let table = Table { servers: HashMap::new(), sweep_at: SWEEP_AT };
        let most = options.max_in_flight.min(Semaphore::MAX_PERMITS);
        // Half of them: as many servers as that can be mute at once before the others notice.
        let newcomers = Arc::new(Semaphore::new((most / 2).max(1)));
        Self {
            options,
            rules,
            in_flight: Arc::new(Semaphore::new(most)),
            newcomers,
            landlord: None,
            keeper: OnceLock::new(),
            table: Arc::new(Mutex::new(table)),
        }
    }

    /// Servers that are met from now on are borrowed of `landlord`.
    pub fn set_landlord(&mut self, landlord: Arc<dyn Landlord>) {
        self.landlord = Some(landlord);
    }

    /// Starts, once, what looks after loans as long as these servers live.
    pub fn keep(&self) {
        if self.landlord.is_none() {
            return;
        }
        self.keeper.get_or_init(|| {
            let table = Arc::downgrade(&self.table);
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(TICK);
                loop {
                    ticks.tick().await;
                    let Some(table) = table.upgrade() else { return };
                    lock(&table).tick(Instant::now());
                }
            });
        });
    }

    /// Tells the landlord what only this process knows; `news` is made only if there is one.
    pub fn tell(&self, server: &ServerName, news: impl FnOnce() -> ServerNews) {
        if let Some(landlord) = &self.landlord {
            landlord.tell(server, news());
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
        // Ranks that share a server should not act in step. What is known of it comes with the first loan.
        controller(&options, LearntLimit::default(), fastrand::u64(..))
    }

    pub fn get(&self, name: &ServerName) -> Arc<Server> {
        let mut table = self.table();
        if let Some(server) = table.servers.get(name) {
            return Arc::clone(server);
        }
        if table.servers.len() >= table.sweep_at {
            table.sweep();
        }
        let limits = self.limits(name);
        let (in_flight, newcomers) = (Arc::clone(&self.in_flight), Arc::clone(&self.newcomers));
        let controller = self.controller(name, limits);
        let landlord = self.landlord.clone();
        let server = Arc::new(Server::new(name.clone(), limits, controller, landlord, in_flight, newcomers));
        table.servers.insert(name.clone(), Arc::clone(&server));
        server
    }

    /// The server of this name, if it was met and not forgotten since.
    pub fn known(&self, name: &ServerName) -> Option<Arc<Server>> {
        self.table().servers.get(name).map(Arc::clone)
    }

    /// Tells what was learnt and gives back everything that nobody uses at the moment.
    pub fn leave(&self) {
        for server in self.table().servers.values() {
            server.leave();
        }
    }

    /// No more permits, for nobody: who waits for one is sent away.
    pub fn close(&self) {
        self.in_flight.close();
        self.newcomers.close();
        for server in self.table().servers.values() {
            server.wake();
        }
    }

    /// Servers known, for deciding whether connections are kept.
    pub fn len(&self) -> usize {
        self.table().servers.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Nothing that holds this lock can panic half way through a change, so a poisoned lock is still sound.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// Looks after loans. Nobody but the table holds what has a count of one: whoever asks for it waits for the lock.
    fn tick(&mut self, now: Instant) {
        self.servers.retain(|_, server| server.tick(Arc::strong_count(server) > 1, now));
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        // What is borrowed goes when it is given back.
        let is_used = |server: &Arc<Server>| Arc::strong_count(server) > 1 || server.is_borrowed();
        self.servers.retain(|_, server| is_used(server) || !server.is_fresh(now));
        if self.servers.len() >= FORGET_AT {
            self.servers.retain(|_, server| is_used(server));
        }
        self.sweep_at = (2 * self.servers.len()).max(SWEEP_AT);
    }
}

#[cfg(test)]
mod tests {
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
