//! Names to addresses: the system's name servers and `/etc/hosts`, with a bounded cache, and the guard on the
//! way out.
//!
//! Each query takes a socket of its own, and names that nobody answers for take some seconds. So only
//! `max_name_lookups` names are asked for at once; those in the cache do not wait behind them.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hyper_util::client::legacy::connect::dns::Name;
use thiserror::Error;
use tokio::sync::Semaphore;
use tower_service::Service;
use url::Host;

use super::guard::Guard;
use super::options::FetchOptions;

/// Names in the cache, some 5 MB: servers of one run fit, a crawl's millions do not matter.
const CACHED_NAMES: usize = 16 * 1024;
/// Responses that hickory keeps: failures, and what several names share.
const CACHED_RESPONSES: u64 = CACHED_NAMES as u64;
/// Content networks answer with 20-60 s; asking again that often for a server under constant load is a waste.
const SHORTEST_TTL: Duration = Duration::from_secs(60);
const LONGEST_TTL: Duration = Duration::from_secs(3600);
/// A name that failed is asked for again soon: the next attempt is to have its own answer.
const LONGEST_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Queries under way on one TCP connection to a name server; hickory refuses more (its default is 32).
const MAX_ACTIVE_QUERIES: usize = 1024;

/// A name that did not resolve.
#[derive(Debug, Error)]
#[error("`{name}` does not resolve: {problem}")]
pub(super) struct DnsError {
    name: String,
    problem: String,
}

/// The one resolver of a `Fetcher`. Its cache belongs to it.
pub(super) struct Dns {
    /// Names whose addresses a test has set.
    #[cfg(test)]
    known: HashMap<String, Vec<IpAddr>>,
    /// Made on first use, for it wants a runtime; `None` where the system names no name server.
    resolver: OnceLock<Option<TokioResolver>>,
    /// What was found, and until when it holds. Beside hickory's own cache because that cannot be asked without
    /// starting a query.
    found: Mutex<HashMap<String, (Vec<IpAddr>, Instant)>>,
    /// One for each name that is being asked for.
    lookups: Semaphore,
}

impl Default for Dns {
    fn default() -> Self {
        Self::new(FetchOptions::default().max_name_lookups)
    }
}

impl Dns {
    /// `max_lookups`: names that are asked for at once.
    pub fn new(max_lookups: usize) -> Self {
        Self {
            #[cfg(test)]
            known: HashMap::new(),
            resolver: OnceLock::new(),
            found: Mutex::new(HashMap::new()),
            lookups: Semaphore::new(max_lookups.min(Semaphore::MAX_PERMITS)),
        }
    }

    #[cfg(test)]
    pub fn knowing(known: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { known, ..Self::default() }
    }

    /// The addresses of a name, in the order in which they are to be tried.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        #[cfg(test)]
        if let Some(addresses) = self.known.get(name) {
            return Ok(addresses.clone());
        }
        if let Some(addresses) = self.cached(name) {
            return Ok(addresses);
        }
        // Never closed.
        let _turn = self.lookups.acquire().await;
        if let Some(addresses) = self.cached(name) {
            return Ok(addresses);
        }
        let fail = |problem: String| DnsError { name: name.to_owned(), problem };
        let now = Instant::now();
        let (addresses, until): (Vec<IpAddr>, _) = match self.resolver.get_or_init(system_resolver) {
            Some(resolver) => {
                let found = resolver.lookup_ip(name).await.map_err(|error| fail(error.to_string()))?;
                (found.iter().collect(), found.valid_until())
            }
            // The C library knows more ways than `resolv.conf`; it costs a thread per query and has no cache.
            None => {
                let found =
                    tokio::net::lookup_host((name, 0)).await.map_err(|error| fail(error.to_string()))?;
                (found.map(|address| address.ip()).collect(), now)
            }
        };
        if addresses.is_empty() {
            return Err(fail("no address".to_owned()));
        }
        let mut found = self.found();
        if found.len() >= CACHED_NAMES {
            found.retain(|_, (_, until)| *until > now);
            // Else the next name would sweep again.
            if found.len() > CACHED_NAMES / 2 {
                found.clear();
            }
        }
        found
            .insert(name.to_owned(), (addresses.clone(), until.clamp(now + SHORTEST_TTL, now + LONGEST_TTL)));
        Ok(addresses)
    }

    fn cached(&self, name: &str) -> Option<Vec<IpAddr>> {
        let found = self.found();
        found.get(name).filter(|(_, until)| *until > Instant::now()).map(|(addresses, _)| addresses.clone())
    }

    fn found(&self) -> MutexGuard<'_, HashMap<String, (Vec<IpAddr>, Instant)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn system_resolver() -> Option<TokioResolver> {
    let mut builder = TokioResolver::builder_tokio()
        .inspect_err(|error| tracing::debug!(%error, "no name servers in the system configuration: asking the C library"))
        .ok()?;
    set_options(builder.options_mut());
    builder
        .build()
        .inspect_err(
            |error| tracing::warn!(%error, "cannot use the system's name servers: asking the C library"),
        )
        .ok()
}

fn set_options(options: &mut ResolverOpts) {
    // Both families: the connector tries the second when the first is slow (RFC 8305).
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = CACHED_RESPONSES;
    options.positive_min_ttl = Some(SHORTEST_TTL);
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.negative_max_ttl = Some(LONGEST_NEGATIVE_TTL);
    options.max_active_requests = MAX_ACTIVE_QUERIES;
}

/// Finds the addresses that the connections of one client may go to.
#[derive(Clone)]
pub(super) enum Resolver {
    /// Those of the name that is asked for, as far as they may be asked.
    Guarded { dns: Arc<Dns>, guard: Guard },
    /// Those of one target, whatever is asked for: the user's `connect_to` or proxy, hence not guarded.
    Target { dns: Arc<Dns>, target: Host },
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl Resolver {
    async fn resolve(self, name: &str) -> Result<Vec<IpAddr>, BoxError> {
        let (dns, guard) = match self {
            Self::Guarded { dns, guard } => (dns, guard),
            Self::Target { target: Host::Ipv4(address), .. } => return Ok(vec![address.into()]),
            Self::Target { target: Host::Ipv6(address), .. } => return Ok(vec![address.into()]),
            Self::Target { dns, target: Host::Domain(name) } => return Ok(dns.lookup(&name).await?),
        };
        let mut refused = None;
        let mut addresses = dns.lookup(name).await?;
        addresses.retain(|&address| match guard.check_address(address) {
            Ok(()) => true,
            Err(forbidden) => {
                refused = Some(forbidden);
                false
            }
        });
        match refused {
            Some(forbidden) if addresses.is_empty() => Err(forbidden.into()),
            _ => Ok(addresses),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            // Port 0 stands for the URL's.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    use super::*;

    /// A name server that answers each query for an address with 192.0.2.1, late; and what it has seen.
    struct NameServer {
        address: SocketAddr,
        seen: Arc<Mutex<Seen>>,
    }

    #[derive(Default)]
    struct Seen {
        queries: usize,
        under_way: usize,
        most_under_way: usize,
    }

    impl NameServer {
        async fn start(delay: Duration) -> Self {
            let socket = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
            let address = socket.local_addr().unwrap();
            let seen = Arc::new(Mutex::new(Seen::default()));
            let log = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut query = [0; 512];
                loop {
                    let (length, from) = socket.recv_from(&mut query).await.unwrap();
                    let (answer, socket, log) =
                        (answer(&query[..length]), Arc::clone(&socket), Arc::clone(&log));
                    {
                        let mut seen = log.lock().unwrap();
                        seen.queries += 1;
                        seen.under_way += 1;
                        seen.most_under_way = seen.most_under_way.max(seen.under_way);
                    }
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        log.lock().unwrap().under_way -= 1;
                        socket.send_to(&answer, from).await.unwrap();
                    });
                }
            });
            Self { address, seen }
        }

        fn dns(&self, max_lookups: usize) -> Dns {
            let mut connection = ConnectionConfig::udp();
            connection.port = self.address.port();
            let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            set_options(builder.options_mut());
            let resolver = OnceLock::from(Some(builder.build().unwrap()));
            Dns { resolver, ..Dns::new(max_lookups) }
        }
    }

    /// The answer to a query of one question (RFC 1035, 4): the same again, and an address if one was asked for.
    fn answer(query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_a = query[end - 4..end - 2] == [0, 1];
        let mut answer = query[..end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 1]);
        }
        answer
    }

    /// Each query takes a socket: 5,000 names at once took 10,000.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn names_are_asked_for_some_at_a_time() {
        let server = NameServer::start(Duration::from_millis(20)).await;
        let dns = Arc::new(server.dns(50));
        let lookups: Vec<_> = (0..5000)
            .map(|number| {
                let dns = Arc::clone(&dns);
                tokio::spawn(async move { dns.lookup(&format!("{number}.names.example")).await.unwrap() })
            })
            .collect();
        for lookup in lookups {
            assert_eq!(lookup.await.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
        }
        let seen = server.seen.lock().unwrap();
        assert!(seen.most_under_way <= 100, "two queries a name: {}", seen.most_under_way);
        assert!(seen.most_under_way > 10, "several at once: {}", seen.most_under_way);
        assert!(seen.queries >= 10_000, "{}", seen.queries);
        assert_eq!(dns.found().len(), 5000);
    }

    #[tokio::test]
    async fn known_names_do_not_wait_behind_slow_ones() {
        let server = NameServer::start(Duration::ZERO).await;
        let dns = server.dns(1);
        dns.lookup("known.example").await.unwrap();
        let all = dns.lookups.acquire().await.unwrap();
        dns.lookup("known.example").await.unwrap();
        drop(all);
        assert_eq!(server.seen.lock().unwrap().queries, 2, "A and AAAA, once");
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let server = NameServer::start(Duration::ZERO).await;
        let dns = server.dns(1);
        let forever = (vec![IpAddr::from([192, 0, 2, 2])], Instant::now() + LONGEST_TTL);
        dns.found().extend((0..CACHED_NAMES).map(|number| (number.to_string(), forever.clone())));
        dns.lookup("one.more.example").await.unwrap();
        assert_eq!(dns.found().len(), 1);
    }

    #[tokio::test]
    async fn localhost_resolves_and_the_guard_sees_it() {
        let dns = Arc::new(Dns::default());
        let resolver = |allow| Resolver::Guarded { dns: Arc::clone(&dns), guard: Guard::new(allow, &[]) };
        let addresses = resolver(true).resolve("localhost").await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        let error = resolver(false).resolve("localhost").await.err().unwrap();
        assert!(error.is::<crate::fetch::guard::Forbidden>(), "{error}");
    }

    #[tokio::test]
    async fn a_target_answers_for_any_name() {
        let mut resolver = Resolver::Target { dns: Arc::default(), target: Host::parse("[::1]").unwrap() };
        let addresses: Vec<_> = resolver.call("a.example".parse().unwrap()).await.unwrap().collect();
        assert_eq!(addresses, ["[::1]:0".parse().unwrap()]);
    }
}
