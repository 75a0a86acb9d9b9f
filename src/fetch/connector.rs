//! Connections: TCP and TLS, to the server that a URL names or by way of a forward proxy.
//!
//! A proxy is asked for http URLs themselves (RFC 9112, 3.2.2), and for a tunnel to the servers of https URLs, whose
//! TLS begins where the tunnel ends.

use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{self, Connected, HttpConnector};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::dns::Resolver;

/// A peer that is silent for so long is asked whether it is there, and so often again after as long; then the connection
/// is given up.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;
/// What was sent is to be acknowledged within so long.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

type BoxError = Box<dyn Error + Send + Sync>;
/// TCP, or TLS over TCP, as the URL says.
type Https = HttpsConnector<HttpConnector<Resolver>>;

/// Connects one client.
#[derive(Clone)]
pub(super) struct Connector {
    way: Way,
    timeout: Duration,
}

#[derive(Clone)]
enum Way {
    Direct(Https),
    Proxied { proxy: Uri, to_proxy: Https, tunnel: Box<HttpsConnector<Tunnel<Https>>> },
}

impl Connector {
    /// Straight to servers, within `timeout` for names, TCP and TLS together.
    pub fn direct(resolver: Resolver, tls: ClientConfig, timeout: Duration) -> Self {
        Self { way: Way::Direct(Https::from((tcp(resolver, timeout), tls))), timeout }
    }

    /// By way of `proxy`, whose name `resolver` finds; `user_agent` is for it as well.
    ///
    /// # Errors
    /// If `proxy` has characters that no request can have.
    pub fn proxied(
        proxy: &Url,
        user_agent: Option<&HeaderValue>,
        resolver: Resolver,
        tls: ClientConfig,
        timeout: Duration,
    ) -> Result<Self, BoxError> {
        let uri = uri(proxy)?;
        // What it is asked is HTTP/1.1.
        let mut tls_to_proxy = tls.clone();
        tls_to_proxy.alpn_protocols.clear();
        let to_proxy = Https::from((tcp(resolver, timeout), tls_to_proxy));
        let mut headers = HeaderMap::new();
        headers.extend(user_agent.map(|value| (header::USER_AGENT, value.clone())));
        headers.extend(basic_auth(proxy).map(|value| (header::PROXY_AUTHORIZATION, value)));
        let tunnel = Tunnel::new(uri.clone(), to_proxy.clone()).with_headers(headers);
        let tunnel = Box::new(HttpsConnector::from((tunnel, tls)));
        Ok(Self { way: Way::Proxied { proxy: uri, to_proxy, tunnel }, timeout })
    }
}

fn tcp(resolver: Resolver, timeout: Duration) -> HttpConnector<Resolver> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    // Shared by a name's addresses, so that the second is tried in time.
    tcp.set_connect_timeout(Some(timeout));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(ACKNOWLEDGED_WITHIN));
    tcp
}

/// A URL as it is sent: without user name, password and fragment.
///
/// # Errors
/// If it has what no request can have, such as more than 64 KiB.
pub(super) fn uri(url: &Url) -> Result<Uri, BoxError> {
    let mut url = url.clone();
    // There is a host, so there may be neither.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(Uri::try_from(url.as_str())?)
}

/// What proves who asks (RFC 7617), if the URL has a user name or a password.
pub(super) fn basic_auth(url: &Url) -> Option<HeaderValue> {
    let (name, password) = (url.username(), url.password());
    if name.is_empty() && password.is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(name).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(password.unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl tower_service::Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Connection, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let within = self.timeout;
        let connecting = match &mut self.way {
            Way::Direct(https) => connection(https.call(server), false),
            Way::Proxied { tunnel, .. } if server.scheme() == Some(&Scheme::HTTPS) => {
                connection(tunnel.call(server), false)
            }
            Way::Proxied { proxy, to_proxy, .. } => connection(to_proxy.call(proxy.clone()), true),
        };
        Box::pin(async move {
            let late =
                |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {within:?}"));
            timeout(within, connecting).await.map_err(late)?
        })
    }
}

fn connection<T: Stream + 'static>(
    connecting: impl Future<Output = Result<T, BoxError>> + Send + 'static,
    is_to_proxy: bool,
) -> BoxFuture<'static, Result<Connection, BoxError>> {
    Box::pin(async move { Ok(Connection { stream: Box::new(connecting.await?), is_to_proxy }) })
}

trait Stream: Read + Write + connect::Connection + Send + Unpin {}

impl<T: Read + Write + connect::Connection + Send + Unpin> Stream for T {}

/// A connection, and whether whom it is with is to be told whole URLs.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    is_to_proxy: bool,
}

impl connect::Connection for Connection {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.is_to_proxy)
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_and_passwords_are_no_part_of_what_is_asked_for() {
        let check = |url: &str, asked: &str, auth: Option<&str>| {
            let url = Url::parse(url).unwrap();
            let value = basic_auth(&url);
            assert!(value.as_ref().is_none_or(HeaderValue::is_sensitive));
            assert_eq!(
                (uri(&url).unwrap().to_string().as_str(), value.as_ref().map(|v| v.to_str().unwrap())),
                (asked, auth)
            );
        };
        check("http://a.example/b?c#d", "http://a.example/b?c", None);
        // RFC 7617, section 2.
        let expect = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        check("http://Aladdin:open%20sesame@a.example:81/", "http://a.example:81/", expect);
        check("http://me@a.example/", "http://a.example/", Some("Basic bWU6"));
        check("http://:x@a.example/", "http://a.example/", Some("Basic Ong="));
    }
}
