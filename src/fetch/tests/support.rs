//! A server that does as its script says, and remembers who came when.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::fetch::rate::RateControl;
use crate::fetch::{
    FetchFailure, FetchOptions, FetchOutcome, FetchSkip, FetchedBody, Fetcher, Landlord, ServerRules,
    UnboundedMemory,
};
use crate::model::{ServerName, ServerNews};

/// What the server does with one request.
pub enum Reply {
    /// Sends these bytes and keeps the connection.
    Send(Vec<u8>),
    /// Sends these bytes and closes.
    Close(Vec<u8>),
    /// Sends these bytes and resets the connection.
    Reset(Vec<u8>),
    /// Sends these bytes, then nothing more, and keeps the connection open.
    Hang(Vec<u8>),
    /// Sends these bytes, then `x` bytes for ever, one per interval.
    Drip(Vec<u8>, Duration),
    /// Waits, then replies.
    After(Duration, Box<Reply>),
}

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub path: String,
    /// Request line and headers, as sent.
    pub head: String,
    /// Number of the connection, from 0.
    pub connection: usize,
    /// Requests under way when this one came, itself included.
    pub under_way: usize,
}

#[derive(Default)]
struct Log {
    seen: Vec<Seen>,
    connections: usize,
    under_way: usize,
}

/// Listens on 127.0.0.1 until dropped.
pub struct TestServer {
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestServer {
    /// `script` gets the path and how many requests came before this one.
    pub async fn start(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    pub async fn start_at(
        address: &str,
        script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(TcpListener::bind(address).await.unwrap(), None, script)
    }

    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, script)
    }

    fn serve(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (log, script) = (Arc::new(Mutex::new(Log::default())), Arc::new(script));
        let task = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (log, script, tls) = (Arc::clone(&log), Arc::clone(&script), tls.clone());
                    tokio::spawn(async move {
                        let connection = {
                            let mut log = log.lock().unwrap();
                            log.connections += 1;
                            log.connections - 1
                        };
                        // Errors are the client's hanging up: some tests are about just that.
                        let _ = match tls {
                            None => serve(stream, connection, &log, &*script).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => serve(stream, connection, &log, &*script).await,
                                Err(error) => Err(error),
                            },
                        };
                    });
                }
            }
        });
        Self { address, log, task }
    }

    pub fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().seen.clone()
    }

    pub fn num_connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }

    pub fn most_under_way(&self) -> usize {
        self.seen().iter().map(|seen| seen.under_way).max().unwrap_or(0)
    }
}

/// Streams that can be reset.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Connection for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn serve(
    mut stream: impl Connection,
    connection: usize,
    log: &Mutex<Log>,
    script: &(dyn Fn(&str, usize) -> Reply + Send + Sync),
) -> io::Result<()> {
    while let Some(head) = read_head(&mut stream).await? {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let before = {
            let mut log = log.lock().unwrap();
            log.under_way += 1;
            let seen =
                Seen { at: Instant::now(), path: path.clone(), head, connection, under_way: log.under_way };
            log.seen.push(seen);
            log.seen.len() - 1
        };
        let mut reply = script(&path, before);
        while let Reply::After(delay, then) = reply {
            tokio::time::sleep(delay).await;
            reply = *then;
        }
        log.lock().unwrap().under_way -= 1;
        match reply {
            Reply::Send(bytes) => stream.write_all(&bytes).await?,
            Reply::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Reset(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                // The client is to see the bytes before the reset overtakes them.
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.tcp().set_zero_linger()?;
                return Ok(());
            }
            Reply::Hang(bytes) => {
                stream.write_all(&bytes).await?;
                std::future::pending::<()>().await;
            }
            Reply::Drip(bytes, interval) => {
                stream.write_all(&bytes).await?;
                loop {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(interval).await;
                }
            }
            Reply::After(..) => unreachable!("unwrapped above"),
        }
    }
    Ok(())
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// A response with its length; `headers` are lines that end in CRLF.
pub fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub fn ok(body: &[u8]) -> Reply {
    Reply::Send(response("200 OK", "Content-Type: image/jpeg\r\n", body))
}

/// A permanent reply with this status and header line.
pub fn status(status: &str, headers: &str) -> Reply {
    Reply::Send(response(status, headers, b"sorry"))
}

pub fn redirect(location: &str) -> Reply {
    status("302 Found", &format!("Location: {location}\r\n"))
}

/// All events of this thread, as text.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Captures until the guard is dropped.
    pub fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let logs = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || logs.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Options for tests: loopback is admitted, there is no rate limit and nobody looks for one, and timeouts are long
/// enough for a busy machine.
pub fn options() -> FetchOptions {
    FetchOptions {
        user_agent: "ddl-test (test@ddl.example)".into(),
        allow_private_networks: true,
        default_rate_limit: 0.0,
        // What most tests are not about, so that a server sees what they ask for only.
        respect_robots_txt: false,
        rate_control: RateControl::Fixed,
        ..FetchOptions::default()
    }
}

pub fn fetcher(options: FetchOptions) -> Arc<Fetcher> {
    Arc::new(Fetcher::new(options, ServerRules::default()).unwrap())
}

/// The rule of one server: a rate.
pub fn rate(options: &FetchOptions, name: &ServerName, rate: f64) -> ServerRules {
    ServerRules::layered(options, [], [(name.clone(), rate)], [])
}

pub async fn fetch(fetcher: &Fetcher, url: &Url) -> FetchOutcome {
    tokio::time::timeout(Duration::from_secs(60), fetcher.fetch(url, &UnboundedMemory))
        .await
        .expect("it hangs")
}

pub async fn body(fetcher: &Fetcher, url: &Url) -> FetchedBody {
    match fetch(fetcher, url).await {
        FetchOutcome::Body(body) => body,
        other => panic!("{url}: {other:?}"),
    }
}

pub async fn failure(fetcher: &Fetcher, url: &Url) -> FetchFailure {
    match fetch(fetcher, url).await {
        FetchOutcome::Failure(failure) => failure,
        other => panic!("{url}: {other:?}"),
    }
}

pub async fn skip(fetcher: &Fetcher, url: &Url) -> FetchSkip {
    match fetch(fetcher, url).await {
        FetchOutcome::Skip(skip) => skip,
        other => panic!("{url}: {other:?}"),
    }
}

/// What a landlord hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    Borrow(u64),
    Accept(u64),
    GiveBack(u64),
    Tell(ServerNews),
}

/// A landlord that only listens.
#[derive(Debug, Default)]
pub struct Words(Mutex<Vec<(ServerName, Word)>>);

impl Words {
    /// What was said since the last time, of whatever server.
    pub fn take(&self) -> Vec<Word> {
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().map(|(_, word)| word).collect()
    }

    fn hear(&self, server: &ServerName, word: Word) {
        self.0.lock().unwrap().push((server.clone(), word));
    }
}

impl Landlord for Words {
    fn borrow(&self, server: &ServerName, received: u64) {
        self.hear(server, Word::Borrow(received));
    }

    fn accept(&self, server: &ServerName, number: u64, _: Duration) {
        self.hear(server, Word::Accept(number));
    }

    fn give_back(&self, server: &ServerName, received: u64, _: Duration) {
        self.hear(server, Word::GiveBack(received));
    }

    fn tell(&self, server: &ServerName, news: ServerNews) {
        self.hear(server, Word::Tell(news));
    }
}
