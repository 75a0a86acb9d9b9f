//! The farm: one loopback listener that plays many image servers, told apart by the `Host` header.
//!
//! It runs on a thread and a runtime of its own, so it can be started from blocking and from async
//! code and does not disturb the timers of what is measured against it. Dropping the farm closes the
//! listener and every connection, then waits for the thread.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use super::bodies::Bodies;
use super::error::DemoError;
use super::limits::ServerGate;
use super::list::plain_server;
use super::log::{LogEntry, OpenRequest, RequestLog, ServerCounts};
use super::options::FarmOptions;
use super::set::{DemoSet, Page};

const ROBOTS_TXT: &str = "/robots.txt";

/// Running image servers.
#[derive(Debug)]
pub struct DemoFarm {
    addr: SocketAddr,
    site: Arc<Site>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DemoFarm {
    /// Makes the pictures and starts to listen on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No socket or thread is to be had, or a picture cannot be encoded.
    pub fn start(options: FarmOptions) -> Result<Self, DemoError> {
        let max_connections = options.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        let site = Arc::new(Site::build(options)?);
        let (stop, stopped) = oneshot::channel();
        let (started, starts) = mpsc::sync_channel(1);
        let served = site.clone();
        let thread = thread::Builder::new()
            .name("demo-farm".into())
            .spawn(move || run(&served, max_connections, &started, stopped))
            .map_err(|source| DemoError::Start { source })?;
        let addr = starts
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
            .map_err(|source| DemoError::Start { source })?;
        Ok(Self { addr, site, stop: Some(stop), thread: Some(thread) })
    }

    /// Where all servers listen; what their names are to be connected to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The demo's list and servers, if the farm was started with them.
    #[must_use]
    pub fn demo(&self) -> Option<&DemoSet> {
        self.site.demo.as_ref()
    }

    /// Names of the demo's servers, the plain ones and those with a behaviour, sorted.
    #[must_use]
    pub fn server_names(&self) -> Vec<String> {
        let demo = self.site.demo.iter().flat_map(DemoSet::server_names).map(str::to_owned);
        let plain = (0..self.site.num_servers).map(plain_server);
        let names: BTreeSet<_> = demo.chain(plain).chain(self.site.gates.keys().cloned()).collect();
        names.into_iter().collect()
    }

    /// The bytes that a path (with its query) of a server answers with status 200.
    #[must_use]
    pub fn body(&self, server: &str, path: &str) -> Option<Bytes> {
        match self.site.find(server, path) {
            Answer { status: StatusCode::OK, body, .. } => Some(body),
            _ => None,
        }
    }

    /// Finished requests, in the order in which they ended.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        self.site.log.entries()
    }

    /// Finished requests that the log had no room for.
    #[must_use]
    pub fn num_unlogged(&self) -> u64 {
        self.site.log.num_dropped()
    }

    /// Finished requests for images: all but those for a robots.txt.
    #[must_use]
    pub fn image_log(&self) -> Vec<LogEntry> {
        let mut log = self.log();
        log.retain(|entry| entry.path != ROBOTS_TXT);
        log
    }

    /// How often each `http://server/path` of the log was asked for, whatever the answer; robots.txt left out.
    #[must_use]
    pub fn requests_per_url(&self) -> HashMap<String, u64> {
        let mut counts = HashMap::new();
        for entry in self.image_log() {
            *counts.entry(format!("http://{}{}", entry.server, entry.path)).or_default() += 1;
        }
        counts
    }

    /// Counts of one server, all zero if it was never asked.
    #[must_use]
    pub fn counts(&self, server: &str) -> ServerCounts {
        self.site.log.counts(server)
    }

    /// The most requests that a server had in flight at once.
    #[must_use]
    pub fn max_in_flight(&self, server: &str) -> u32 {
        self.counts(server).max_in_flight
    }

    /// Forgets all requests, so that a second run can be looked at alone.
    pub fn clear_log(&self) {
        self.site.log.clear();
    }
}

impl Drop for DemoFarm {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// The farm's thread: listens until `stopped`, then drops the runtime and with it every connection.
fn run(
    site: &Arc<Site>,
    max_connections: usize,
    started: &mpsc::SyncSender<io::Result<SocketAddr>>,
    stopped: oneshot::Receiver<()>,
) {
    let serve = async |listener: TcpListener| {
        tokio::select! {
            () = accept(listener, site, max_connections) => {}
            _ = stopped => {}
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bound = runtime.and_then(|runtime| {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        Ok((listener.local_addr()?, listener, runtime))
    });
    match bound {
        Ok((addr, listener, runtime)) => {
            if started.send(Ok(addr)).is_ok() {
                runtime.block_on(serve(listener));
            }
        }
        // If nobody waits for the address any more, nobody waits for the error either.
        Err(error) => drop(started.send(Err(error))),
    }
}

async fn accept(listener: TcpListener, site: &Arc<Site>, max_connections: usize) {
    let free = Arc::new(Semaphore::new(max_connections));
    while let Ok(permit) = free.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                tokio::spawn(async move {
                    serve_connection(stream, site).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: some will come free.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, site: Arc<Site>) {
    // Only costs latency if it fails.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    // An error is a client that left or spoke something else: its own concern.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// What all connections share.
#[derive(Debug)]
struct Site {
    demo: Option<DemoSet>,
    num_servers: u32,
    gates: HashMap<String, ServerGate>,
    bodies: Bodies,
    log: Arc<RequestLog>,
}

/// An answer before it is counted and sent.
struct Answer {
    status: StatusCode,
    body: Bytes,
    media_type: &'static str,
    extra: Option<(header::HeaderName, HeaderValue)>,
}

impl Answer {
    fn new(status: StatusCode, body: Bytes, media_type: &'static str) -> Self {
        Self { status, body, media_type, extra: None }
    }

    fn bare(status: StatusCode) -> Self {
        let text = format!("{status}\n");
        Self::new(status, text.into(), "text/plain")
    }

    fn with(self, name: header::HeaderName, value: Option<HeaderValue>) -> Self {
        Self { extra: value.map(|value| (name, value)), ..self }
    }
}

impl Site {
    fn build(options: FarmOptions) -> Result<Self, DemoError> {
        let demo = options.demo.as_ref().map(DemoSet::plan);
        let pages = demo.iter().flat_map(|demo| demo.pages().values());
        let bodies = Bodies::render(pages, options.picture_side)?;
        let mut behaviours = demo.as_ref().map(|demo| demo.behaviours().clone()).unwrap_or_default();
        behaviours.extend(options.behaviours);
        let gates = behaviours.into_iter().map(|(name, how)| (name, ServerGate::new(how))).collect();
        let log = Arc::new(RequestLog::new(options.max_log_entries));
        Ok(Self { demo, num_servers: options.num_servers, gates, bodies, log })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<CountedBody> {
        let server = server_of(&request);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let mut open = self.log.open(&server, path, text(header::USER_AGENT).unwrap_or(""));
        let answer = match *request.method() {
            Method::GET | Method::HEAD => self.gated(&server, path, open.in_flight()).await,
            _ => Answer::bare(StatusCode::METHOD_NOT_ALLOWED),
        };
        open.set_status(answer.status.as_u16());
        let mut response = Response::new(CountedBody { rest: Some(answer.body), _open: open });
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.media_type));
        if let Some((name, value)) = answer.extra {
            headers.insert(name, value);
        }
        response
    }

    /// The answer after the server's own limits and delays.
    async fn gated(&self, server: &str, path: &str, in_flight: u32) -> Answer {
        let gate = self.gates.get(server);
        if path == ROBOTS_TXT {
            return match gate.and_then(|gate| gate.behaviour.robots_txt.clone()) {
                Some(text) => Answer::new(StatusCode::OK, text.into(), "text/plain"),
                None => Answer::bare(StatusCode::NOT_FOUND),
            };
        }
        if let Some(gate) = gate {
            if !gate.admits(in_flight, Instant::now()) {
                let wait = gate.retry_after_seconds().map(HeaderValue::from);
                return Answer::bare(StatusCode::TOO_MANY_REQUESTS).with(header::RETRY_AFTER, wait);
            }
            gate.work().await;
        }
        self.find(server, path)
    }

    /// What stands at a path.
    fn find(&self, server: &str, path: &str) -> Answer {
        let page = self.demo.as_ref().and_then(|demo| demo.pages().get(&format!("{server}{path}")));
        match page {
            Some(Page::Photo { spec, media_type, opt_out }) => {
                let header = opt_out.then(|| HeaderValue::from_static("noai, noimageai"));
                Answer::new(StatusCode::OK, self.bodies.photo(spec), media_type)
                    .with(header::HeaderName::from_static("x-robots-tag"), header)
            }
            Some(Page::HalfPhoto(spec)) => {
                Answer::new(StatusCode::OK, self.bodies.half(spec), spec.format.media_type())
            }
            Some(Page::FlawedPng(spec)) => {
                Answer::new(StatusCode::OK, self.bodies.flawed(spec), spec.format.media_type())
            }
            Some(Page::Text { body, media_type }) => {
                Answer::new(StatusCode::OK, Bytes::from_static(body.as_bytes()), media_type)
            }
            Some(Page::Redirect { status, location }) => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FOUND);
                Answer::bare(status).with(header::LOCATION, HeaderValue::from_str(location).ok())
            }
            Some(Page::Status(status)) => {
                Answer::bare(StatusCode::from_u16(*status).unwrap_or(StatusCode::NOT_FOUND))
            }
            None if path.starts_with("/plain/") => {
                Answer::new(StatusCode::OK, self.bodies.plain(server, path), "image/jpeg")
            }
            None => Answer::bare(StatusCode::NOT_FOUND),
        }
    }
}

/// The server that a request is meant for, without its port.
fn server_of(request: &Request<Incoming>) -> String {
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str()).or(header).unwrap_or("");
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => authority,
    };
    name.to_ascii_lowercase()
}

/// A body in one piece that keeps its request open until it is handed over.
struct CountedBody {
    rest: Option<Bytes>,
    _open: OpenRequest,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.rest.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
