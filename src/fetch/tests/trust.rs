//! TLS: whom `ca_certificate` makes us trust, for which names, over which protocol.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::support::*;
use crate::fetch::{
    BodyMemory, BodyReservation, FetchOptions, FetchOutcome, Fetcher, Retry, ServerRule, ServerRules,
    UnboundedMemory, Waiting,
};
use crate::model::{FailureCause, ServerName};

/// A certificate authority of its own, and a server certificate for the given names.
pub(super) struct Trust {
    folder: TempDir,
    server: ServerConfig,
}

impl Trust {
    pub fn new(names: &[&str]) -> Self {
        let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Twice: a file may hold several.
        std::fs::write(folder.path().join("ca.pem"), authority.pem().repeat(2)).unwrap();
        let server = config_of(&certificate, &key);
        Self { folder, server }
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.server.clone()))
    }

    pub fn options(&self) -> FetchOptions {
        FetchOptions { ca_certificate: Some(self.folder.path().join("ca.pem")), ..options() }
    }
}

/// A server with this certificate.
fn config_of(certificate: &rcgen::Certificate, key: &KeyPair) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap()
}

/// Self-signed, expired and of another name, all at once.
fn bad_certificate() -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let mut bad = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
    (bad.not_before, bad.not_after) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    let certificate = bad.self_signed(&key).unwrap();
    TlsAcceptor::from(Arc::new(config_of(&certificate, &key)))
}

#[tokio::test]
async fn one_servers_certificate_may_be_anything_and_no_others() {
    let other = TestServer::start_with(Some(bad_certificate()), |_, _| ok(b"x")).await;
    let elsewhere = other.url("/").to_string().replace("http:", "https:");
    let server = TestServer::start_with(Some(bad_certificate()), move |path, _| match path {
        "/moved" => redirect(&elsewhere),
        _ => ok(b"x"),
    })
    .await;
    let https =
        |server: &TestServer, path: &str| Url::parse(&format!("https://{}{path}", server.address)).unwrap();
    let rule = ServerRule { accept_invalid_certificates: Some(true), ..ServerRule::default() };
    let name = ServerName::from_url(&https(&server, "/")).unwrap();
    let rules = ServerRules::layered(&options(), [], [], [(name.clone(), rule)]);
    let logs = Logs::default();
    let _guard = logs.capture();
    let fetcher = Fetcher::new(options(), rules).unwrap();
    for path in ["/a", "/b"] {
        body(&fetcher, &https(&server, path)).await;
    }
    assert_eq!(logs.text().matches("the certificate is not checked").count(), 1, "{}", logs.text());
    assert!(logs.text().contains(name.as_str()));
    for url in [https(&server, "/moved"), https(&other, "/")] {
        let failure = failure(&fetcher, &url).await;
        assert_eq!(failure.cause, FailureCause::Tls, "{url}: {}", failure.message);
    }
    assert_eq!((server.seen().len(), other.seen().len()), (3, 0));

    let strict = self::fetcher(options());
    assert_eq!(failure(&strict, &https(&server, "/a")).await.cause, FailureCause::Tls, "off by default");
}

#[tokio::test]
async fn connect_to_keeps_name_certificate_and_host() {
    let trust = Trust::new(&["photos.example"]);
    let server = TestServer::start_with(Some(trust.acceptor()), |_, _| ok(b"x")).await;
    let connect_to = vec![format!("::127.0.0.1:{}", server.address.port()).parse().unwrap()];
    // The target is private and was named by the user: it needs no leave.
    let closed = FetchOptions { allow_private_networks: false, connect_to, ..trust.options() };
    let fetcher = fetcher(closed.clone());
    for (url, host) in [
        ("https://photos.example/a", "photos.example"),
        ("https://photos.example:8443/a", "photos.example:8443"),
    ] {
        body(&fetcher, &Url::parse(url).unwrap()).await;
        let head = server.seen().last().unwrap().head.to_ascii_lowercase();
        assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
    }
    let check = async |fetcher: &Fetcher, url: &str| {
        let failure = failure(fetcher, &Url::parse(url).unwrap()).await;
        assert_eq!(failure.cause, FailureCause::Tls, "{url}: {}", failure.message);
    };
    check(&fetcher, "https://other.example/a").await;
    let stranger =
        Fetcher::new(FetchOptions { ca_certificate: None, ..closed }, ServerRules::default()).unwrap();
    check(&stranger, "https://photos.example/a").await;
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn connect_to_moves_plain_http_and_keeps_the_servers_name() {
    let server = TestServer::start(|path, _| match path {
        "/a" => ok(b"x"),
        _ => status("429 Slow", "Retry-After: 600\r\n"),
    })
    .await;
    let port = server.address.port();
    let connect_to = ["a.example:80:127.0.0.1:", "8.8.8.8::localhost:"]
        .map(|rule| format!("{rule}{port}").parse().unwrap());
    let options =
        FetchOptions { connect_to: connect_to.to_vec(), allow_private_networks: false, ..options() };
    let fetcher = fetcher(options);
    for host in ["a.example", "8.8.8.8"] {
        body(&fetcher, &Url::parse(&format!("http://{host}/a")).unwrap()).await;
        assert!(
            server
                .seen()
                .last()
                .unwrap()
                .head
                .to_ascii_lowercase()
                .contains(&format!("\r\nhost: {host}\r\n"))
        );
        failure(&fetcher, &Url::parse(&format!("http://{host}/slow")).unwrap()).await;
        assert!(fetcher.server(&ServerName::from_catalog(host)).pause().is_some(), "limits are `{host}`'s");
    }
    // Nor does an https address that would have to be checked for another, however often it is asked for.
    let misdirected = failure(&fetcher, &Url::parse("https://8.8.8.8/").unwrap()).await;
    assert_eq!((misdirected.cause, misdirected.retry), (FailureCause::Connect, Retry::Never));
    // A private literal is refused before any rule looks at it.
    let refused = failure(&fetcher, &Url::parse("http://10.0.0.1/").unwrap()).await;
    assert_eq!(refused.cause, FailureCause::ForbiddenAddress);
}

/// A server that speaks nothing but HTTP/2; returns its port.
async fn http2_server<F>(
    trust: &Trust,
    serve: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> u16
where
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let mut config = trust.server.clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let serve = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(peer);
                    serve(request)
                });
                let _ = builder.serve_connection(stream, serve).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn https_speaks_http2_where_the_server_does() {
    let trust = Trust::new(&["localhost", "127.0.0.1"]);
    let serve = async |request: Request<Incoming>| {
        assert_eq!(request.version(), Version::HTTP_2);
        let body = format!("{} {}", request.uri().authority().unwrap(), request.uri().path());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
    };
    let port = http2_server(&trust, serve).await;
    let fetcher = fetcher(trust.options());
    for url in [format!("https://127.0.0.1:{port}/a"), format!("https://localhost:{port}/b")] {
        let url = Url::parse(&url).unwrap();
        let body = body(&fetcher, &url).await;
        let expect = format!("{}:{port} {}", url.host_str().unwrap(), url.path());
        assert_eq!(body.bytes, expect.as_bytes());
    }
}

/// All requests went on the connection that hung until they had no attempts left.
#[tokio::test]
async fn a_connection_that_hangs_is_not_used_again() {
    let trust = Trust::new(&["localhost"]);
    let first = Arc::new(std::sync::Mutex::new(None));
    let serve = move |request: Request<Incoming>| {
        // The first connection answers one request, and no other.
        let hangs = request.uri().path() != "/first" && {
            let connection = request.extensions().get::<SocketAddr>().copied();
            *first.lock().unwrap().get_or_insert(connection) == connection
        };
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"here"))))
        }
    };
    let port = http2_server(&trust, serve).await;
    let fetcher = fetcher(FetchOptions { first_byte_timeout: Duration::from_millis(300), ..trust.options() });
    let url = |path| Url::parse(&format!("https://localhost:{port}/{path}")).unwrap();
    body(&fetcher, &url("first")).await;
    let timeout = failure(&fetcher, &url("second")).await;
    assert_eq!(timeout.cause, FailureCause::FirstByteTimeout);
    for _ in 0..3 {
        assert_eq!(body(&fetcher, &url("second")).await.bytes, b"here"[..], "and not after an answer either");
    }
}

/// Grants memory at once, or when it is told to.
struct Grant<'a>(Option<&'a Semaphore>);

impl BodyMemory for Grant<'_> {
    fn reserve(&self, _: u64) -> Waiting<'_, Box<dyn BodyReservation>> {
        Box::pin(async {
            if let Some(told) = self.0 {
                told.acquire().await.unwrap().forget();
            }
            Box::new(UnboundedMemory) as Box<dyn BodyReservation>
        })
    }
}

/// What came for bodies that waited filled the window of the connection that they share: the one that all waited for
/// could not go on.
#[tokio::test]
async fn a_body_that_waits_for_memory_holds_up_no_other_on_its_connection() {
    const LARGE: usize = 24 << 20;
    const WAITING: usize = 7;
    let trust = Trust::new(&["localhost"]);
    let body = Bytes::from(vec![7; LARGE]);
    let serve = move |request: Request<Incoming>| {
        let length = if request.uri().path() == "/first" { 1 } else { LARGE };
        let body = Full::new(body.slice(..length));
        async { Ok::<_, Infallible>(Response::new(body)) }
    };
    let port = http2_server(&trust, serve).await;
    let fetcher = fetcher(trust.options());
    let url = |path| Url::parse(&format!("https://localhost:{port}/{path}")).unwrap();
    // So that there is a connection to share.
    self::body(&fetcher, &url("first")).await;
    let told = Semaphore::new(0);
    let fetch = async |path, memory| match fetcher.fetch(&url(path), &memory).await {
        FetchOutcome::Body(body) => body.bytes.len(),
        other => panic!("{path}: {other:?}"),
    };
    let waiting = join_all((0..WAITING).map(|_| fetch("waits", Grant(Some(&told)))));
    let granted = async {
        let length = fetch("granted", Grant(None)).await;
        told.add_permits(WAITING);
        length
    };
    let both = async { tokio::join!(granted, waiting) };
    let (granted, waiting) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it hangs");
    assert_eq!((granted, waiting), (LARGE, vec![LARGE; WAITING]));
}
