//! The HTTP clients: the only place that builds one.
//!
//! One client serves all servers; each target of `connect_to` has its own, whose resolver answers every name
//! with that target, so that the TLS server name and the certificate check stay those of the URL. The target's
//! port can only be passed in the URL; an explicit `Host` header keeps the original. HTTP/2 would take the
//! authority from the URL instead, hence these clients speak HTTP/1.1 only.
//!
//! What goes through a forward proxy has clients that connect to nothing but that proxy, so the guard has no say in
//! where it is. And servers whose certificates may be anything have clients of their own: no other server, not even
//! one that they redirect to, is ever asked without a check of its certificate.
//!
//! What a connection has read and nobody has taken yet is beyond the budget for bodies, so it is bounded here: by the
//! buffer of an HTTP/1 connection, and by the windows of HTTP/2. A connection's window is as large as those of all its
//! streams together, or bodies that wait for memory would keep those that have it from coming, for ever.
//!
//! Each comes as a pair: one with a pool of idle connections, one that always connects anew.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use url::{Host, Url};

use super::connect_to::ConnectTo;
use super::connector::{self, Connector, basic_auth};
use super::dns::{Dns, Resolver};
use super::error::FetchError;
use super::guard::Guard;
use super::options::{FetchOptions, MOST_HTTP2_WINDOW};
use super::proxy::{NoProxy, ProxyUrl};
use super::response::Response;
use super::rules::ServerRules;
use super::tls;
use crate::model::ServerName;

/// How long an idle connection is kept. Apache closes after 5 s, nginx after 75 s; longer than this mostly
/// collects sockets of servers that have nothing more to give.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Headers that belong to the connection or to one server and cannot be set for all.
const RESERVED_HEADERS: [&str; 6] =
    ["host", "connection", "content-length", "transfer-encoding", "range", "upgrade"];

pub(super) struct Clients {
    routes: Vec<ConnectTo>,
    no_proxy: NoProxy,
    verifying: Ways,
    /// For servers whose certificates may be anything; `None` where there are none.
    trusting: Option<Ways>,
    rules: ServerRules,
    /// Of these the user has been told.
    told: Mutex<HashSet<ServerName>>,
}

/// The clients of each way that a request may go.
struct Ways {
    direct: Pair,
    /// Over http and over https.
    proxied: [Option<Pair>; 2],
    /// Parallel to `connect_to`.
    routes: Vec<Pair>,
}

struct Pair {
    pooled: Client,
    fresh: Client,
    headers: HeaderMap,
    /// For requests that a proxy is told whole.
    proxy_auth: Option<HeaderValue>,
}

/// What connections may hold beyond the bodies that are read, in bytes.
#[derive(Clone, Copy)]
struct Buffers {
    connection: usize,
    stream_window: u32,
    connection_window: u32,
}

type Client = legacy::Client<Connector, Empty<Bytes>>;

/// A hop that is ready to be asked: which clients, which URL on the wire, which `Host`.
pub(super) struct Target<'a> {
    pair: &'a Pair,
    uri: Uri,
    host: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
    connects_to: Option<Host>,
    is_proxied: bool,
    ask: Ask,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ask {
    /// The whole body.
    #[default]
    Whole,
    /// The header alone (HEAD).
    Header,
    /// The first byte of the body, whose answer says how many there are.
    FirstByte,
}

impl Clients {
    /// `max_idle`: most connections to one server that are kept for later requests.
    pub fn new(
        options: &FetchOptions,
        rules: &ServerRules,
        max_idle: usize,
        dns: &Arc<Dns>,
        guard: &Guard,
    ) -> Result<Self, FetchError> {
        let trust = tls::client_config(options.ca_certificate.as_deref())?;
        let most_streams =
            rules.most_connections().max(Some(options.max_connections_per_server)).unwrap_or(1);
        let buffers = Buffers {
            connection: options.connection_buffer(),
            stream_window: options.http2_window,
            connection_window: u32::try_from(most_streams)
                .unwrap_or(u32::MAX)
                .saturating_mul(options.http2_window)
                .min(MOST_HTTP2_WINDOW),
        };
        let ways = |trust| Ways::new(options, max_idle, buffers, dns, guard, trust);
        let trusting =
            rules.any_invalid_certificates().then(|| ways(tls::without_verification(trust.clone())));
        Ok(Self {
            routes: options.connect_to.clone(),
            no_proxy: NoProxy::new(&options.no_proxy),
            verifying: ways(trust)?,
            trusting: trusting.transpose()?,
            rules: rules.clone(),
            told: Mutex::default(),
        })
    }

    /// The clients that may ask this URL's server.
    fn ways(&self, url: &Url) -> &Ways {
        let Some(trusting) = self.trusting.as_ref().filter(|_| url.scheme() == "https") else {
            return &self.verifying;
        };
        match ServerName::from_url(url).filter(|name| self.rules.accepts_invalid_certificates(name)) {
            Some(server) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if !told.contains(&server) {
                    tracing::warn!(%server, "the certificate is not checked: `accept_invalid_certificates`");
                    told.insert(server);
                }
                trusting
            }
            None => &self.verifying,
        }
    }

    /// Where a URL's request goes.
    ///
    /// # Errors
    /// A message, if no request can have this URL, or if `connect_to` names a target for an https URL whose host is an
    /// IP address: its certificate would have to be checked for an address that is not connected to.
    pub fn target(&self, url: &Url) -> Result<Target<'_>, &'static str> {
        let (ways, own_host) = (self.ways(url), url.host().map(|host| host.to_owned()));
        let uri = |url| connector::uri(url).map_err(|_| "no request can have this URL");
        let authorization = basic_auth(url);
        let Some(route) = self.routes.iter().position(|rule| rule.matches(url)) else {
            let proxied = ways.proxied[usize::from(url.scheme() == "https")].as_ref();
            let proxied = proxied.filter(|_| !self.no_proxy.contains(url));
            return Ok(Target {
                pair: proxied.unwrap_or(&ways.direct),
                uri: uri(url)?,
                host: None,
                authorization,
                connects_to: own_host,
                is_proxied: proxied.is_some(),
                ask: Ask::Whole,
            });
        };
        let (rule, pair) = (&self.routes[route], &ways.routes[route]);
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
        let connects_to = rule.to_host().cloned().or(own_host);
        let uri = uri(&wire)?;
        let host = Some(host);
        Ok(Target { pair, uri, host, authorization, connects_to, is_proxied: false, ask: Ask::Whole })
    }
}

impl Target<'_> {
    /// Where the request goes, names as names; through a proxy, what it is asked for.
    pub fn connects_to(&self) -> Option<&Host> {
        self.connects_to.as_ref()
    }

    /// Whether it goes through a proxy.
    pub fn is_proxied(&self) -> bool {
        self.is_proxied
    }

    /// The name that a proxy is going to resolve by itself.
    pub fn name_for_proxy(&self) -> Option<&str> {
        match &self.connects_to {
            Some(Host::Domain(name)) if self.is_proxied => Some(name),
            _ => None,
        }
    }

    /// The same, but for something else than the whole body.
    pub fn asking(self, ask: Ask) -> Self {
        Self { ask, ..self }
    }

    /// A request on an idle connection if there is one, or (`fresh`) on one of its own that is closed afterwards; up to
    /// the end of the response's header.
    pub async fn send(&self, fresh: bool) -> Result<Response, legacy::Error> {
        let client = if fresh { &self.pair.fresh } else { &self.pair.pooled };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        if self.ask == Ask::Header {
            *request.method_mut() = Method::HEAD;
        }
        let headers = request.headers_mut();
        headers.clone_from(&self.pair.headers);
        if self.uri.scheme() == Some(&Scheme::HTTP)
            && let Some(value) = &self.pair.proxy_auth
        {
            headers.entry(header::PROXY_AUTHORIZATION).or_insert_with(|| value.clone());
        }
        for (name, value) in [(header::HOST, &self.host), (header::AUTHORIZATION, &self.authorization)] {
            value.iter().for_each(|value| drop(headers.insert(&name, value.clone())));
        }
        if self.ask == Ask::FirstByte {
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        }
        client.request(request).await.map(Response::new)
    }
}

/// `host[:port]`, the scheme's default port left out, as the `Host` header has it.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl Ways {
    fn new(
        options: &FetchOptions,
        max_idle: usize,
        buffers: Buffers,
        dns: &Arc<Dns>,
        guard: &Guard,
        mut http1: ClientConfig,
    ) -> Result<Self, FetchError> {
        let headers = headers(options)?;
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http2 = http1.clone();
        http2.alpn_protocols.insert(0, b"h2".to_vec());

        let guarded = || Resolver::Guarded { dns: Arc::clone(dns), guard: guard.clone() };
        let target = |target| Resolver::Target { dns: Arc::clone(dns), target };
        let within = options.connect_timeout;
        let pair = |connector, proxy_auth| Pair::new(max_idle, buffers, &headers, connector, proxy_auth);
        let proxied = |option, proxy: &Option<ProxyUrl>| {
            let Some(proxy) = proxy else { return Ok(None) };
            let url = proxy.url().map_err(|problem| FetchError::BadOption { option, problem })?;
            // The user named it. Its clients connect to nothing else.
            let resolver = url.host().map_or_else(guarded, |host| target(host.to_owned()));
            let user_agent = headers.get(header::USER_AGENT);
            let connector = Connector::proxied(&url, user_agent, resolver, http2.clone(), within)
                .map_err(FetchError::Client)?;
            Ok(Some(pair(connector, basic_auth(&url))))
        };
        let mut routes = Vec::with_capacity(options.connect_to.len());
        for rule in &options.connect_to {
            // The user named the target, so it is not guarded. A rule that only changes the port named none.
            let resolver = rule.to_host().map_or_else(guarded, |host| target(host.clone()));
            routes.push(pair(Connector::direct(resolver, http1.clone(), within), None));
        }
        Ok(Self {
            direct: pair(Connector::direct(guarded(), http2.clone(), within), None),
            proxied: [
                proxied("http_proxy", &options.http_proxy)?,
                proxied("https_proxy", &options.https_proxy)?,
            ],
            routes,
        })
    }
}

impl Pair {
    fn new(
        max_idle: usize,
        buffers: Buffers,
        headers: &HeaderMap,
        connector: Connector,
        proxy_auth: Option<HeaderValue>,
    ) -> Self {
        let build = |max_idle| {
            legacy::Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(max_idle)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .http1_max_buf_size(buffers.connection)
                .http2_initial_stream_window_size(buffers.stream_window)
                .http2_initial_connection_window_size(buffers.connection_window)
                .build(connector.clone())
        };
        Self { pooled: build(max_idle), fresh: build(0), headers: headers.clone(), proxy_auth }
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
            let (dns, guard) = (Arc::default(), Guard::new(false, &[]));
            let clients = Clients::new(&options, &ServerRules::default(), 4, &dns, &guard).unwrap();
            let url = Url::parse(url).unwrap();
            let got = clients.target(&url).map_err(drop);
            let got = got
                .as_ref()
                .map(|target| (target.uri.to_string(), target.host.as_ref().unwrap().to_str().unwrap()));
            let got = got.as_ref().map(|(uri, host)| (uri.as_str(), *host)).map_err(|&()| ());
            assert_eq!(got, expect, "{rule} {url}");
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
