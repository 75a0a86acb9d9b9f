//! Requests under way to one address, over all servers of this process.
//!
//! Many small sites share a machine, and each of them by itself would get what one server gets. So an address has
//! places, and each request needs one besides its server's permit. It is had in this order: the head of a server's
//! line waits until its server would let it go, then for a place, and only then for one of the process-wide slots.
//! Whoever holds a slot needs nothing more, so nobody waits in a circle; and a place is given back when its server has
//! to wait again, so that a slow server does not sit on what others could use.
//!
//! A name with several addresses counts under the one that the connector tries first: the first that the guard
//! admits, except that IPv6 counts only where this machine has a way there. Behind a proxy the server's address counts,
//! if it is known. A name that does not resolve has no address, and its request fails where others do. What
//! `connect_to` sends elsewhere counts where it goes.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Host;

use super::dns::Dns;
use super::gap::{Gap, gap_of};
use super::guard::Guard;
use super::options::FetchOptions;
use super::rules::ServerRules;

/// Addresses at which the table is first swept; those in use stay, and those of which a moment is to be remembered.
const SWEEP_AT: usize = 4096;
/// Where nothing else is set: as many small servers as that may be busy at one address.
const SERVERS_PER_ADDRESS: usize = 4;

/// The addresses that this process asks.
pub(super) struct Addresses {
    dns: Arc<Dns>,
    guard: Guard,
    /// For resolving a name.
    timeout: Duration,
    /// Requests under way to one address.
    max_connections: usize,
    /// Time between two requests to one address.
    gap: Duration,
    spares_loopback: bool,
    has_ipv6: OnceLock<bool>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    addresses: HashMap<IpAddr, Arc<Address>>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Address {
    slots: Arc<Semaphore>,
    /// `None`: no rate is set.
    gap: Option<Mutex<Gap>>,
}

impl Addresses {
    /// For one of `num_ranks` processes: each has a whole part of the limits, at least one request. Where the limit is
    /// not set it is never less than what one server may have: few ranks work on one server.
    pub fn new(
        options: &FetchOptions,
        rules: &ServerRules,
        dns: Arc<Dns>,
        guard: Guard,
        num_ranks: u32,
    ) -> Self {
        let ranks = num_ranks.max(1) as usize;
        let one_server = rules.most_connections().max(Some(options.max_connections_per_server)).unwrap_or(1);
        let max_connections = match options.max_connections_per_address {
            Some(most) => most / ranks,
            None => (SERVERS_PER_ADDRESS * options.max_connections_per_server / ranks).max(one_server),
        };
        let rate = options.rate_limit_per_address / f64::from(num_ranks.max(1));
        Self {
            dns,
            guard,
            timeout: options.connect_timeout,
            max_connections: max_connections.clamp(1, Semaphore::MAX_PERMITS),
            gap: if rate > 0.0 { gap_of(rate) } else { Duration::ZERO },
            spares_loopback: options.max_connections_per_address.is_none() && rate == 0.0,
            has_ipv6: OnceLock::new(),
            table: Mutex::new(Table { addresses: HashMap::new(), sweep_at: SWEEP_AT }),
        }
    }

    /// The address that a request to this host most likely connects to.
    async fn resolve(&self, host: &Host) -> Option<IpAddr> {
        let name = match host {
            Host::Ipv4(address) => return Some((*address).into()),
            Host::Ipv6(address) => return Some(IpAddr::from(*address).to_canonical()),
            Host::Domain(name) => name,
        };
        let found = tokio::time::timeout(self.timeout, self.dns.lookup(name)).await.ok()?.ok()?;
        let mut admitted = found.into_iter().filter(|address| self.guard.check_address(*address).is_ok());
        let first = admitted.next()?;
        let is_dead_end = first.is_ipv6() && !first.is_loopback() && !*self.has_ipv6.get_or_init(has_ipv6);
        let other = if is_dead_end { admitted.find(IpAddr::is_ipv4) } else { None };
        Some(other.unwrap_or(first).to_canonical())
    }

    async fn place(self: Arc<Self>, host: Host) -> Place {
        let address = match self.resolve(&host).await {
            Some(address) if !(self.spares_loopback && address.is_loopback()) => self.address(address),
            _ => return Place::default(),
        };
        // Never closed.
        let slot = Arc::clone(&address.slots).acquire_owned().await.ok();
        Place { address: Some(address), _slot: slot }
    }

    fn address(&self, address: IpAddr) -> Arc<Address> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.addresses.len() >= table.sweep_at {
            let now = Instant::now();
            table
                .addresses
                .retain(|_, address| Arc::strong_count(address) > 1 || address.next_at() > Some(now));
            table.sweep_at = (2 * table.addresses.len()).max(SWEEP_AT);
        }
        let entry = table.addresses.entry(address).or_insert_with(|| {
            let gap = (!self.gap.is_zero()).then(|| {
                let mut gap = Gap::default();
                gap.set_least(self.gap);
                Mutex::new(gap)
            });
            Arc::new(Address { slots: Arc::new(Semaphore::new(self.max_connections)), gap })
        });
        Arc::clone(entry)
    }

    /// Addresses known.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.lock().unwrap().addresses.len()
    }
}

impl Address {
    fn gap(&self) -> Option<MutexGuard<'_, Gap>> {
        self.gap.as_ref().map(|gap| gap.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next_at(&self) -> Option<Instant> {
        self.gap().and_then(|gap| gap.next_at())
    }
}

/// Whether this machine has a way to public IPv6 addresses. Nothing is sent: connecting a UDP socket only looks.
fn has_ipv6() -> bool {
    UdpSocket::bind("[::]:0").and_then(|socket| socket.connect("[2001:db8::1]:9")).is_ok()
}

/// One request's place at its address, as long as it is under way; the default is that of who needs none.
#[derive(Debug, Default)]
pub(super) struct Place {
    address: Option<Arc<Address>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// When the address lets the next request go; `None`: whenever it likes.
    pub fn next_at(&self) -> Option<Instant> {
        self.address.as_ref().and_then(|address| address.next_at())
    }

    /// Takes the right to send one request at `now`, if there is one.
    pub fn try_take(&self, now: Instant) -> bool {
        self.address.as_ref().and_then(|address| address.gap()).is_none_or(|mut gap| gap.try_take(now))
    }
}

/// The way to a [`Place`]; the default is that of a request that needs none.
#[derive(Default)]
pub(super) struct Turn {
    host: Option<(Arc<Addresses>, Host)>,
    waiting: Option<BoxFuture<'static, Place>>,
    place: Option<Place>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Turn {
    pub fn at(addresses: &Arc<Addresses>, host: Option<Host>) -> Self {
        Self { host: host.map(|host| (Arc::clone(addresses), host)), ..Self::default() }
    }

    /// Whether a request may leave at `now` as far as its address is concerned.
    pub fn is_ready(&self, now: Instant) -> bool {
        match &self.place {
            Some(place) => place.next_at().is_none_or(|at| at <= now),
            None => self.host.is_none(),
        }
    }

    /// Waits until it may. When this is dropped half way the place in the address's line is kept.
    pub async fn wait(&mut self) {
        if let (None, Some((addresses, host))) = (&self.place, &self.host) {
            let place =
                || -> BoxFuture<'static, Place> { Box::pin(Arc::clone(addresses).place(host.clone())) };
            let place = self.waiting.get_or_insert_with(place).await;
            (self.waiting, self.place) = (None, Some(place));
        }
        if let Some(at) = self.place.as_ref().and_then(Place::next_at) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Takes the moment of the address, if it is one.
    pub fn try_take(&self, now: Instant) -> bool {
        self.place.as_ref().is_none_or(|place| place.try_take(now))
    }

    /// Hands the place over to the request.
    pub fn take(&mut self) -> Place {
        self.place.take().unwrap_or_default()
    }

    /// Gives the place back, to come again later.
    pub fn leave(&mut self) {
        (self.waiting, self.place) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(options: &FetchOptions, num_ranks: u32) -> Arc<Addresses> {
        let (dns, guard) = (Arc::new(Dns::default()), Guard::new(true, &[]));
        Arc::new(Addresses::new(options, &ServerRules::default(), dns, guard, num_ranks))
    }

    #[test]
    fn each_rank_has_its_part() {
        let check = |most: Option<usize>, ranks: u32, expect: usize| {
            let options = FetchOptions { max_connections_per_address: most, ..FetchOptions::default() };
            assert_eq!(addresses(&options, ranks).max_connections, expect, "{most:?} {ranks}");
        };
        check(None, 1, 32);
        check(None, 2, 16);
        check(None, 100, 8);
        check(Some(20), 1, 20);
        check(Some(20), 8, 2);
        check(Some(20), 100, 1);
    }

    #[tokio::test]
    async fn a_name_counts_where_it_is_connected_to() {
        let check = async |known: &str, has_ipv6: bool, expect: Option<&str>| {
            let found = known.split(' ').map(|text| text.parse().unwrap()).collect();
            let dns = Arc::new(Dns::knowing([("a.example".to_owned(), found)].into()));
            let (options, guard) = (FetchOptions::default(), Guard::new(false, &[]));
            let addresses = Addresses::new(&options, &ServerRules::default(), dns, guard, 1);
            addresses.has_ipv6.set(has_ipv6).unwrap();
            let got = addresses.resolve(&Host::Domain("a.example".to_owned())).await;
            assert_eq!(got, expect.map(|text| text.parse().unwrap()), "{known} {has_ipv6}");
        };
        check("9.9.9.9 8.8.8.8 2606:4700::1", true, Some("9.9.9.9")).await;
        check("2606:4700::1 9.9.9.9", true, Some("2606:4700::1")).await;
        check("2606:4700::1 9.9.9.9", false, Some("9.9.9.9")).await;
        check("2606:4700::1", false, Some("2606:4700::1")).await;
        check("10.0.0.1 9.9.9.9", true, Some("9.9.9.9")).await;
        check("10.0.0.1", true, None).await;
    }

    #[tokio::test]
    async fn a_million_addresses_leave_no_trace() {
        let addresses = addresses(&FetchOptions::default(), 1);
        let kept = Arc::clone(&addresses).place(Host::Ipv4([9, 9, 9, 9].into())).await;
        for number in 0..1_000_000u32 {
            drop(addresses.address(IpAddr::from(number.to_be_bytes())));
        }
        assert!(addresses.len() <= SWEEP_AT);
        assert!(addresses.table.lock().unwrap().addresses.contains_key(&IpAddr::from([9, 9, 9, 9])));
        drop(kept);
    }

    #[tokio::test]
    async fn a_wait_that_is_broken_off_keeps_its_place_in_line() {
        let options = FetchOptions { max_connections_per_address: Some(1), ..FetchOptions::default() };
        let addresses = addresses(&options, 1);
        let host = || Some(Host::Ipv4([9, 9, 9, 9].into()));
        let turn = || Turn::at(&addresses, host());
        let [mut first, mut second, mut third] = [turn(), turn(), turn()];
        first.wait().await;
        assert!(first.is_ready(Instant::now()) && !second.is_ready(Instant::now()));
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::ZERO, second.wait()).await.is_err());
            assert!(tokio::time::timeout(Duration::ZERO, third.wait()).await.is_err());
        }
        drop(first.take());
        assert!(tokio::time::timeout(Duration::ZERO, third.wait()).await.is_err());
        second.wait().await;
        second.leave();
        third.wait().await;
    }
}
