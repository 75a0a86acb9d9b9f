//! The HTTP clients: the only place that builds a `reqwest::Client`.
//!
//! One client serves all servers; each target of `connect_to` has its own, whose resolver answers every name
//! with that target, so that the TLS server name and the certificate check stay those of the URL. The target's
//! port can only be passed in the URL; an explicit `Host` header keeps the original. HTTP/2 would take the
//! authority from the URL instead, hence these clients speak HTTP/1.1 only.
//!
//! Each comes as a pair: one with a pool of idle connections, one that always connects anew.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, dns::Resolve};
use rustls::ClientConfig;
use url::{Host, Url};

use super::connect_to::ConnectTo;
use super::dns::{Dns, GuardedResolver, TargetResolver};
use super::error::FetchError;
use super::guard::Guard;
use super::options::FetchOptions;
use super::tls;

/// How long an idle connection is kept. Apache closes after 5 s, nginx after 75 s; longer than this mostly
/// collects sockets of servers that have nothing more to give.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Headers that belong to the connection or to one server and cannot be set for all.
const RESERVED_HEADERS: [&str; 6] =
    ["host", "connection", "content-length", "transfer-encoding", "range", "upgrade"];

pub(super) struct Clients {
    direct: Pair,
    routes: Vec<(ConnectTo, Pair)>,
}

struct Pair {
    pooled: Client,
    fresh: Client,
}

/// A hop that is ready to be asked: which clients, which URL on the wire, which `Host`.
pub(super) struct Target<'a> {
    pair: &'a Pair,
    url: Url,
    host: Option<HeaderValue>,
}

impl Clients {
    /// `max_idle`: most connections to one server that are kept for later requests.
    pub fn new(options: &FetchOptions, max_idle: usize, dns: Dns, guard: &Guard) -> Result<Self, FetchError> {
        let headers = headers(options)?;
        let mut http1 = tls::client_config(options.ca_certificate.as_deref())?;
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http2 = http1.clone();
        http2.alpn_protocols.insert(0, b"h2".to_vec());

        let dns = Arc::new(dns);
        let guarded: Arc<dyn Resolve> =
            Arc::new(GuardedResolver { dns: Arc::clone(&dns), guard: guard.clone() });
        let direct = Pair::new(options, max_idle, &headers, &http2, &guarded)?;
        let mut routes = Vec::with_capacity(options.connect_to.len());
        for rule in &options.connect_to {
            // The user named the target, so it is not guarded. A rule that only changes the port named none.
            let resolver = match rule.to_host() {
                Some(target) => Arc::new(TargetResolver { dns: Arc::clone(&dns), target: target.clone() }),
                None => Arc::clone(&guarded),
            };
            routes.push((rule.clone(), Pair::new(options, max_idle, &headers, &http1, &resolver)?));
        }
        Ok(Self { direct, routes })
    }

    /// Where a URL's request goes.
    ///
    /// # Errors
    /// A message, if `connect_to` names a target for an https URL whose host is an IP address: its certificate
    /// would have to be checked for an address that is not connected to.
    pub fn target(&self, url: &Url) -> Result<Target<'_>, &'static str> {
        let Some((rule, pair)) = self.routes.iter().find(|(rule, _)| rule.matches(url)) else {
            return Ok(Target { pair: &self.direct, url: url.clone(), host: None });
        };
        let mut wire = url.clone();
        if let Some(target) = rule.to_host()
            && !matches!(url.host(), Some(Host::Domain(_)))
        {
            // The connector never resolves an IP address: the URL itself has to name the target.
            if url.scheme() == "https" {
                return Err("`connect_to` cannot send https for an IP address elsewhere");
            }
            wire.set_host(Some(&target.to_string())).map_err(|_| "`connect_to` names an unusable host")?;
        }
        // The target's port stands even where it is the scheme's default: the wire URL only has to reach it.
        if let Some(port) = rule.to_port() {
            wire.set_port(Some(port)).map_err(|()| "`connect_to` names an unusable port")?;
        }
        let host = HeaderValue::from_str(&authority(url)).map_err(|_| "the host is no header value")?;
        Ok(Target { pair, url: wire, host: Some(host) })
    }
}

impl Target<'_> {
    /// A GET on an idle connection if there is one, or (`fresh`) on one of its own that is closed afterwards.
    pub fn request(&self, fresh: bool) -> RequestBuilder {
        let client = if fresh { &self.pair.fresh } else { &self.pair.pooled };
        let request = client.get(self.url.clone());
        match &self.host {
            Some(host) => request.header(header::HOST, host),
            None => request,
        }
    }
}

/// `host[:port]`, the scheme's default port left out, as the `Host` header has it.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl Pair {
    fn new(
        options: &FetchOptions,
        max_idle: usize,
        headers: &HeaderMap,
        tls: &ClientConfig,
        resolver: &Arc<dyn Resolve>,
    ) -> Result<Self, FetchError> {
        let build = |max_idle| {
            Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::clone(resolver))
                .default_headers(headers.clone())
                .connect_timeout(options.connect_timeout)
                .pool_max_idle_per_host(max_idle)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .tcp_nodelay(true)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                // A retry is a request, and every request needs a permit.
                .retry(reqwest::retry::never())
                .no_proxy()
                .build()
                .map_err(|error| FetchError::Client(error.into()))
        };
        Ok(Self { pooled: build(max_idle)?, fresh: build(0)? })
    }
}

fn headers(options: &FetchOptions) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.8"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let user_agent = [("user-agent".to_owned(), options.user_agent.clone())];
    let user_agent = user_agent.iter().filter(|(_, value)| !value.is_empty());
    for (name, value) in user_agent.chain(&options.headers) {
        let bad = || FetchError::BadHeader { name: name.clone() };
        let key = HeaderName::try_from(name).map_err(|_| bad())?;
        if RESERVED_HEADERS.contains(&key.as_str()) {
            let problem = format!("has `{name}`, which ddl sets for each request");
            return Err(FetchError::BadOption { option: "headers", problem });
        }
        headers.insert(key, HeaderValue::try_from(value).map_err(|_| bad())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_user_replace_ours() {
        let mut options = FetchOptions {
            user_agent: "ddl (a@b.example)".into(),
            headers: vec![("Accept".into(), "image/webp".into()), ("From".into(), "a@b.example".into())],
            ..FetchOptions::default()
        };
        let map = headers(&options).unwrap();
        assert_eq!(map[header::ACCEPT], "image/webp");
        assert_eq!(map[header::USER_AGENT], "ddl (a@b.example)");
        assert_eq!(map[header::FROM], "a@b.example");
        for (name, value) in [("bad name", "x"), ("X-A", "line\nbreak"), ("Host", "x")] {
            options.headers = vec![(name.into(), value.into())];
            assert!(headers(&options).is_err(), "{name}");
        }
    }

    #[test]
    fn connect_to_changes_the_wire_but_not_the_host() {
        let check = |rule: &str, url: &str, expect: Result<(&str, &str), ()>| {
            let options = FetchOptions { connect_to: vec![rule.parse().unwrap()], ..FetchOptions::default() };
            let clients = Clients::new(&options, 4, Dns::default(), &Guard::new(false, &[])).unwrap();
            let url = Url::parse(url).unwrap();
            let got = clients.target(&url).map_err(|_| ());
            let got = got
                .as_ref()
                .map(|target| (target.url.as_str(), target.host.as_ref().unwrap().to_str().unwrap()));
            assert_eq!(got, expect.as_ref().copied(), "{rule} {url}");
        };
        check(
            "a.example:80:127.0.0.1:8080",
            "http://a.example/x",
            Ok(("http://a.example:8080/x", "a.example")),
        );
        check(
            "a.example::b.example:",
            "http://a.example:81/x",
            Ok(("http://a.example:81/x", "a.example:81")),
        );
        check("::localhost:443", "https://a.example:8443/x", Ok(("https://a.example/x", "a.example:8443")));
        check("::[::1]:81", "http://8.8.8.8/x", Ok(("http://[::1]:81/x", "8.8.8.8")));
        check("::[::1]:81", "https://8.8.8.8/x", Err(()));
        check(":::81", "http://[2606:4700::1]/x", Ok(("http://[2606:4700::1]:81/x", "[2606:4700::1]")));
    }
}
