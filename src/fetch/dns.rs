//! Names to addresses: the system's name servers and `/etc/hosts`, with a bounded cache, and the guard on the
//! way out.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::Host;

use super::guard::Guard;

/// Responses in the cache, the oldest leave first: servers of one run fit, a crawl's millions do not matter.
const CACHE_RESPONSES: u64 = 16 * 1024;
/// Content networks answer with 20-60 s; asking again that often for a server under constant load is a waste.
const SHORTEST_TTL: Duration = Duration::from_secs(60);
const LONGEST_TTL: Duration = Duration::from_secs(3600);
/// A name that failed is asked for again soon: the next attempt is to have its own answer.
const LONGEST_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Queries under way on one connection to a name server; hickory refuses more (its default is 32).
const MAX_ACTIVE_QUERIES: usize = 1024;

/// A name that did not resolve.
#[derive(Debug, Error)]
#[error("`{name}` does not resolve: {problem}")]
pub(super) struct DnsError {
    name: String,
    problem: String,
}

/// The one resolver of a `Fetcher`. Its cache belongs to it.
#[derive(Default)]
pub(super) struct Dns {
    /// Names whose addresses a test has set.
    #[cfg(test)]
    known: std::collections::HashMap<String, Vec<IpAddr>>,
    /// Made on first use, for it wants a runtime; `None` where the system names no name server.
    resolver: OnceLock<Option<TokioResolver>>,
}

impl Dns {
    #[cfg(test)]
    pub fn knowing(known: std::collections::HashMap<String, Vec<IpAddr>>) -> Self {
        Self { known, ..Self::default() }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        #[cfg(test)]
        if let Some(addresses) = self.known.get(name) {
            return Ok(addresses.clone());
        }
        let fail = |problem: String| DnsError { name: name.to_owned(), problem };
        let addresses: Vec<IpAddr> = match self.resolver.get_or_init(system_resolver) {
            Some(resolver) => {
                resolver.lookup_ip(name).await.map_err(|error| fail(error.to_string()))?.iter().collect()
            }
            // The C library knows more ways than `resolv.conf`; it costs a thread per query and has no cache.
            None => tokio::net::lookup_host((name, 0))
                .await
                .map_err(|error| fail(error.to_string()))?
                .map(|address| address.ip())
                .collect(),
        };
        if addresses.is_empty() { Err(fail("no address".to_owned())) } else { Ok(addresses) }
    }
}

fn system_resolver() -> Option<TokioResolver> {
    let mut builder = TokioResolver::builder_tokio()
        .inspect_err(|error| tracing::debug!(%error, "no name servers in the system configuration: asking the C library"))
        .ok()?;
    let options = builder.options_mut();
    // Both families: the connector tries the second when the first is slow (RFC 8305).
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = CACHE_RESPONSES;
    options.positive_min_ttl = Some(SHORTEST_TTL);
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.negative_max_ttl = Some(LONGEST_NEGATIVE_TTL);
    options.max_active_requests = MAX_ACTIVE_QUERIES;
    builder
        .build()
        .inspect_err(
            |error| tracing::warn!(%error, "cannot use the system's name servers: asking the C library"),
        )
        .ok()
}

/// Resolves the name that is asked for, and lets through only addresses that may be asked.
pub(super) struct GuardedResolver {
    pub dns: Arc<Dns>,
    pub guard: Guard,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (dns, guard) = (Arc::clone(&self.dns), self.guard.clone());
        Box::pin(async move {
            let mut refused = None;
            let mut addresses = dns.lookup(name.as_str()).await?;
            addresses.retain(|&address| match guard.check_address(address) {
                Ok(()) => true,
                Err(forbidden) => {
                    refused = Some(forbidden);
                    false
                }
            });
            match refused {
                Some(forbidden) if addresses.is_empty() => Err(forbidden.into()),
                _ => Ok(socket_addresses(addresses)),
            }
        })
    }
}

/// Answers any name with the addresses of one target: the user's `connect_to`, hence not guarded.
pub(super) struct TargetResolver {
    pub dns: Arc<Dns>,
    pub target: Host,
}

impl Resolve for TargetResolver {
    fn resolve(&self, _name: Name) -> Resolving {
        let (dns, target) = (Arc::clone(&self.dns), self.target.clone());
        Box::pin(async move {
            Ok(socket_addresses(match target {
                Host::Ipv4(address) => vec![address.into()],
                Host::Ipv6(address) => vec![address.into()],
                Host::Domain(name) => dns.lookup(&name).await?,
            }))
        })
    }
}

/// Port 0 stands for the URL's.
fn socket_addresses(addresses: Vec<IpAddr>) -> Addrs {
    Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_resolves_and_the_guard_sees_it() {
        let dns = Arc::new(Dns::default());
        let name = || "localhost".parse::<Name>().unwrap();
        let resolver = |allow| GuardedResolver { dns: Arc::clone(&dns), guard: Guard::new(allow, &[]) };
        let addresses: Vec<_> = resolver(true).resolve(name()).await.unwrap().collect();
        assert!(
            addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 0),
            "{addresses:?}"
        );
        let error = resolver(false).resolve(name()).await.err().unwrap();
        assert!(error.is::<crate::fetch::guard::Forbidden>(), "{error}");
    }

    #[tokio::test]
    async fn a_target_answers_for_any_name() {
        let resolver = TargetResolver { dns: Arc::default(), target: Host::parse("[::1]").unwrap() };
        let addresses: Vec<_> = resolver.resolve("a.example".parse().unwrap()).await.unwrap().collect();
        assert_eq!(addresses, ["[::1]:0".parse().unwrap()]);
    }
}
