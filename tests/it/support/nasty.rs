//! A server that misbehaves on purpose, path by path, byte by byte.
//!
//! It writes its answers to the socket itself, since a real HTTP library would refuse to be this
//! rude. Every connection serves one request and is closed. A path that is not scripted is a 404.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ddl::demo::PhotoSpec;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Listener;

/// What a path does to whoever asks for it.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// A good JPEG of 160 x 120 pixels, [`good_jpeg`].
    Ok,
    /// 200 with these bytes under this media type.
    Body(&'static str, Vec<u8>),
    /// A bare status.
    Status(u16),
    /// 200 with a page of HTML that calls itself an image.
    Html,
    /// 200 with no bytes.
    Empty,
    /// The first half of a JPEG, correctly announced as that many bytes.
    HalfJpeg,
    /// Half of the announced bytes, then a proper end of the connection.
    TruncatedBody,
    /// More bytes than announced.
    ShortContentLength,
    /// A chunked body that never ends.
    Endless,
    /// A good JPEG, one byte at a time.
    Drip(Duration),
    /// A good JPEG after this time of silence.
    SlowFirstByte(Duration),
    /// The head and half of the body, then silence.
    HangInside,
    /// Silence.
    Hang,
    /// The connection ends properly before any byte.
    CloseAtOnce,
    /// The connection is reset before any byte.
    ResetBefore,
    /// The connection is reset in mid-body.
    ResetInside,
    /// Bytes that are not HTTP.
    Garbage,
    /// One header of 1 MiB, then a good JPEG.
    HugeHeader,
    /// Header lines without end.
    EndlessHeaders,
    /// 302 to this target.
    RedirectTo(String),
    /// 302 to the address where clouds keep credentials.
    RedirectToLinkLocal,
    /// 302 to itself.
    RedirectLoop,
    /// 302 to itself with another query each time, so that no URL comes twice.
    RedirectForever,
    /// 302 without a target.
    RedirectNowhere,
    /// A good JPEG, compressed with gzip.
    Gzip,
    /// 256 MiB of zeros in about 256 KiB of gzip.
    GzipBomb,
    /// Bytes announced as gzip that are not.
    CorruptGzip,
    /// A `Content-Encoding` that nobody knows.
    UnknownEncoding,
    /// [`huge_png`]: 900 megapixels in about 110 KiB.
    HugePng,
    /// This status for the first `times` requests, then a good JPEG.
    Refuse { status: u16, times: usize, retry_after: RetryAfter },
}

/// How a refusal says when to come back.
#[derive(Clone, Copy, Debug)]
pub enum RetryAfter {
    Absent,
    Seconds(u64),
    /// An HTTP date this far from now.
    Date(Duration),
    /// Whatever this is.
    Text(&'static str),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct NastyRequest {
    /// Path and query.
    pub path: String,
    /// When its head was complete.
    pub at: Instant,
    /// Request line and headers.
    pub head: String,
}

/// A running server.
#[derive(Debug)]
pub struct NastyServer {
    listener: Listener,
    log: Log,
}

type Log = Arc<Mutex<Vec<NastyRequest>>>;

impl NastyServer {
    /// Starts to serve; a path of the script also matches with any query behind it.
    pub fn start<P: Into<String>>(script: impl IntoIterator<Item = (P, Behaviour)>) -> Self {
        let script: HashMap<String, Behaviour> =
            script.into_iter().map(|(path, behaviour)| (path.into(), behaviour)).collect();
        // These take seconds to make. Made while serving, they would hold up every other answer.
        for behaviour in script.values() {
            match behaviour {
                Behaviour::GzipBomb => drop(gzip_bomb()),
                Behaviour::HugePng => drop(huge_png()),
                _ => drop(good_jpeg()),
            }
        }
        let script = Arc::new(script);
        let log = Log::default();
        let shared = log.clone();
        let listener = Listener::start(move |stream| {
            let (script, log) = (script.clone(), shared.clone());
            // An error is a client that left: what most of the behaviours are there for.
            async move { drop(serve(stream, &script, &log).await) }
        });
        Self { listener, log }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// `http://127.0.0.1:PORT` + path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// All requests, in the order of their arrival.
    pub fn log(&self) -> Vec<NastyRequest> {
        self.log.lock().unwrap().clone()
    }

    /// Requests for a path, whatever the query.
    pub fn num_requests(&self, path: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|request| without_query(&request.path) == path).count()
    }
}

/// A good JPEG of 160 x 120 pixels.
pub fn good_jpeg() -> &'static [u8] {
    static FILE: LazyLock<Vec<u8>> =
        LazyLock::new(|| PhotoSpec::jpeg(42, 160, 120).render().expect("a demo picture"));
    &FILE
}

/// A complete and valid PNG of 30,000 x 30,000 black pixels (one bit each).
pub fn huge_png() -> &'static [u8] {
    const SIDE: u32 = 30_000;
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let chunk = |kind: &[u8; 4], data: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(kind);
            crc.update(data);
            [&(data.len() as u32).to_be_bytes(), &kind[..], data, &crc.sum().to_be_bytes()].concat()
        };
        // One bit per pixel, greyscale, nothing interlaced.
        let header = [&SIDE.to_be_bytes()[..], &SIDE.to_be_bytes(), &[1, 0, 0, 0, 0]].concat();
        let row_bytes = u64::from(SIDE / 8 + 1);
        let mut pixels = ZlibEncoder::new(Vec::new(), Compression::default());
        io::copy(&mut io::Read::take(io::repeat(0), row_bytes * u64::from(SIDE)), &mut pixels).unwrap();
        let pixels = pixels.finish().unwrap();
        let signature = b"\x89PNG\r\n\x1a\n";
        [&signature[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &pixels), &chunk(b"IEND", b"")].concat()
    });
    &FILE
}

/// 256 MiB of zeros as gzip.
pub fn gzip_bomb() -> &'static [u8] {
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut file = GzEncoder::new(Vec::new(), Compression::default());
        io::copy(&mut io::Read::take(io::repeat(0), 256 << 20), &mut file).unwrap();
        file.finish().unwrap()
    });
    &FILE
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), Compression::default());
    file.write_all(bytes).unwrap();
    file.finish().unwrap()
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

async fn serve(mut stream: TcpStream, script: &HashMap<String, Behaviour>, log: &Log) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let head = read_head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
    let earlier = {
        let mut log = log.lock().unwrap();
        let key = without_query(&path);
        let earlier = log.iter().filter(|request| without_query(&request.path) == key).count();
        log.push(NastyRequest { path: path.clone(), at: Instant::now(), head });
        earlier
    };
    let behaviour = script.get(&path).or_else(|| script.get(without_query(&path)));
    respond(&mut stream, behaviour.unwrap_or(&Behaviour::Status(404)), &path, earlier).await?;
    stream.shutdown().await
}

/// Request line and headers; at most 64 KiB.
async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > 64 << 10 || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn respond(stream: &mut TcpStream, how: &Behaviour, path: &str, earlier: usize) -> io::Result<()> {
    let jpeg = good_jpeg();
    let half = &jpeg[..jpeg.len() / 2];
    match how {
        Behaviour::Ok => answer(stream, "image/jpeg", "", jpeg).await,
        Behaviour::Body(media_type, bytes) => answer(stream, media_type, "", bytes).await,
        Behaviour::Status(status) => bare(stream, *status, "").await,
        Behaviour::Html => {
            answer(stream, "image/jpeg", "", b"<!DOCTYPE html><html><body>Sign in</body></html>").await
        }
        Behaviour::Empty => answer(stream, "image/jpeg", "", b"").await,
        Behaviour::HalfJpeg => answer(stream, "image/jpeg", "", half).await,
        Behaviour::TruncatedBody => {
            stream.write_all(&head_of(jpeg.len(), "image/jpeg", "")).await?;
            stream.write_all(half).await
        }
        Behaviour::ShortContentLength => {
            stream.write_all(&head_of(half.len(), "image/jpeg", "")).await?;
            stream.write_all(jpeg).await
        }
        Behaviour::Endless => endless(stream).await,
        Behaviour::Drip(pause) => {
            stream.write_all(&head_of(jpeg.len(), "image/jpeg", "")).await?;
            for byte in jpeg {
                stream.write_all(&[*byte]).await?;
                sleep(*pause).await;
            }
            Ok(())
        }
        Behaviour::SlowFirstByte(pause) => {
            sleep(*pause).await;
            answer(stream, "image/jpeg", "", jpeg).await
        }
        Behaviour::HangInside => {
            stream.write_all(&head_of(jpeg.len(), "image/jpeg", "")).await?;
            stream.write_all(half).await?;
            until_the_client_leaves(stream).await
        }
        Behaviour::Hang => until_the_client_leaves(stream).await,
        Behaviour::CloseAtOnce => Ok(()),
        Behaviour::ResetBefore => reset(stream),
        Behaviour::ResetInside => {
            stream.write_all(&head_of(jpeg.len(), "image/jpeg", "")).await?;
            stream.write_all(half).await?;
            // A reset throws away what the client has not read yet: let it read the half first.
            sleep(Duration::from_millis(50)).await;
            reset(stream)
        }
        Behaviour::Garbage => stream.write_all(b"\x00\x01\x02 this is no HTTP\r\n\r\n\xff\xfe").await,
        Behaviour::HugeHeader => {
            let filler = format!("X-Filler: {}\r\n", "x".repeat(1 << 20));
            answer(stream, "image/jpeg", &filler, jpeg).await
        }
        Behaviour::EndlessHeaders => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(b"X-Filler: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await?;
            }
        }
        Behaviour::RedirectTo(target) => redirect(stream, target).await,
        Behaviour::RedirectToLinkLocal => {
            redirect(stream, "http://169.254.169.254/latest/meta-data/image.jpg").await
        }
        Behaviour::RedirectLoop => redirect(stream, path).await,
        Behaviour::RedirectForever => {
            redirect(stream, &format!("{}?hop={}", without_query(path), earlier + 1)).await
        }
        Behaviour::RedirectNowhere => bare(stream, 302, "").await,
        Behaviour::Gzip => answer(stream, "image/jpeg", "Content-Encoding: gzip\r\n", &gzip(jpeg)).await,
        Behaviour::GzipBomb => answer(stream, "image/jpeg", "Content-Encoding: gzip\r\n", gzip_bomb()).await,
        Behaviour::CorruptGzip => answer(stream, "image/jpeg", "Content-Encoding: gzip\r\n", jpeg).await,
        Behaviour::UnknownEncoding => {
            answer(stream, "image/jpeg", "Content-Encoding: x-zebra\r\n", jpeg).await
        }
        Behaviour::HugePng => answer(stream, "image/png", "", huge_png()).await,
        Behaviour::Refuse { times, .. } if earlier >= *times => answer(stream, "image/jpeg", "", jpeg).await,
        Behaviour::Refuse { status, retry_after, .. } => {
            let header = match retry_after {
                RetryAfter::Absent => String::new(),
                RetryAfter::Seconds(seconds) => format!("Retry-After: {seconds}\r\n"),
                RetryAfter::Date(wait) => {
                    format!("Retry-After: {}\r\n", httpdate::fmt_http_date(SystemTime::now() + *wait))
                }
                RetryAfter::Text(text) => format!("Retry-After: {text}\r\n"),
            };
            bare(stream, *status, &header).await
        }
    }
}

/// The head of a 200; `headers` are whole lines.
fn head_of(length: usize, media_type: &str, headers: &str) -> Vec<u8> {
    let mut head = String::from("HTTP/1.1 200 OK\r\nConnection: close\r\n");
    // Writing to a string cannot fail.
    let _ = write!(head, "Content-Type: {media_type}\r\n{headers}Content-Length: {length}\r\n\r\n");
    head.into_bytes()
}

async fn answer(stream: &mut TcpStream, media_type: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    stream.write_all(&head_of(body.len(), media_type, headers)).await?;
    stream.write_all(body).await
}

async fn bare(stream: &mut TcpStream, status: u16, headers: &str) -> io::Result<()> {
    let head =
        format!("HTTP/1.1 {status} As Scripted\r\nConnection: close\r\n{headers}Content-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await
}

async fn redirect(stream: &mut TcpStream, target: &str) -> io::Result<()> {
    bare(stream, 302, &format!("Location: {target}\r\n")).await
}

/// Begins like a JPEG and goes on until the client has enough.
async fn endless(stream: &mut TcpStream) -> io::Result<()> {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(HEAD).await?;
    let mut chunk = good_jpeg().to_vec();
    chunk.resize(16 << 10, 0x55);
    let framed = [b"4000\r\n", &chunk[..], b"\r\n"].concat();
    loop {
        stream.write_all(&framed).await?;
    }
}

fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()?;
    // Not a proper end: the caller skips it on an error, and the drop sends the reset.
    Err(io::ErrorKind::ConnectionReset.into())
}

async fn until_the_client_leaves(stream: &mut TcpStream) -> io::Result<()> {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
