//! A certificate authority for tests, and a farm that speaks for every name, with and without TLS.
//!
//! Certificates are minted when a name is first asked for, so lists of real servers can be downloaded
//! from the loopback interface: connect every name to [`TlsFarm::addr`] and trust
//! [`TestAuthority::pem_path`]. One port takes both: a TLS client begins with the byte 0x16.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Listener;

/// An authority that nobody trusts but who is told to.
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// One key for all servers: only names differ.
    server_key: KeyPair,
    minted: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    pem_path: PathBuf,
    _folder: TempDir,
}

impl TestAuthority {
    pub fn new() -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        let pem_path = folder.path().join("authority.pem");
        fs::write(&pem_path, issuer.pem()).unwrap();
        let server_key = KeyPair::generate().unwrap();
        Arc::new(Self { issuer, server_key, minted: Mutex::default(), pem_path, _folder: folder })
    }

    /// The authority's certificate; the file goes when the authority goes.
    pub fn pem_path(&self) -> &Path {
        &self.pem_path
    }

    /// Names that have a certificate so far.
    pub fn num_minted(&self) -> usize {
        self.minted.lock().unwrap().len()
    }

    /// The certificate of a name, or none if no certificate can hold the name.
    fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let mut minted = self.minted.lock().unwrap();
        if let Some(known) = minted.get(name) {
            return Some(known.clone());
        }
        let mut params = CertificateParams::new([name.to_owned()]).ok()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&self.server_key, &self.issuer).ok()?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.server_key.serialize_der()));
        let key = ring::sign::any_supported_type(&key).ok()?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        minted.insert(name.to_owned(), certified.clone());
        Some(certified)
    }
}

impl fmt::Debug for TestAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestAuthority").field("pem_path", &self.pem_path).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for TestAuthority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Without a name the client connects to an address.
        self.certificate(hello.server_name().unwrap_or("127.0.0.1"))
    }
}

/// What the farm answers to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub media_type: &'static str,
    pub body: Bytes,
}

impl Reply {
    /// 200 with a JPEG.
    pub fn jpeg(body: impl Into<Bytes>) -> Self {
        Self { status: 200, media_type: "image/jpeg", body: body.into() }
    }

    /// A bare status.
    pub fn status(status: u16) -> Self {
        Self { status, media_type: "text/plain", body: Bytes::new() }
    }
}

/// One request of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRequest {
    /// From the `Host` header, with its port if there is one.
    pub server: String,
    /// Path and query.
    pub path: String,
    /// Whether it came over TLS.
    pub over_tls: bool,
    /// When its head was complete.
    pub at: Instant,
}

/// A server of every name.
#[derive(Debug)]
pub struct TlsFarm {
    listener: Listener,
    log: Arc<Mutex<Vec<TlsRequest>>>,
}

type Answer = dyn Fn(&str, &str) -> Reply + Send + Sync;

impl TlsFarm {
    /// Starts to serve; `answer` is given the server and the path with its query.
    pub fn start(
        authority: Arc<TestAuthority>,
        answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(authority);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let answer: Arc<Answer> = Arc::new(answer);
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = log.clone();
        let listener =
            Listener::start(move |stream| serve(stream, acceptor.clone(), answer.clone(), shared.clone()));
        Self { listener, log }
    }

    /// Where https and http are spoken.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// All requests, in the order of their arrival.
    pub fn log(&self) -> Vec<TlsRequest> {
        self.log.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<TlsRequest>>>,
) {
    let mut first = [0];
    if stream.peek(&mut first).await.unwrap_or(0) == 0 {
        return;
    }
    let _ = stream.set_nodelay(true);
    if first == [0x16] {
        // An error is a client that does not trust us.
        if let Ok(stream) = acceptor.accept(stream).await {
            serve_http(stream, true, answer, log).await;
        }
    } else {
        serve_http(stream, false, answer, log).await;
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    over_tls: bool,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<TlsRequest>>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let (server, path) = (host.to_ascii_lowercase(), path.to_owned());
        let reply = answer(&server, &path);
        log.lock().unwrap().push(TlsRequest { server, path, over_tls, at: Instant::now() });
        let mut response = Response::new(Full::new(reply.body));
        *response.status_mut() = StatusCode::from_u16(reply.status).unwrap();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.media_type));
        async { Ok::<_, Infallible>(response) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
