//! What servers answer: bodies, statuses, redirects, encodings.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use url::Url;

use super::support::*;
use crate::fetch::{BodyMemory, BodyReservation, FetchOptions, FetchOutcome, Retry, Waiting};
use crate::model::FailureCause;
use crate::runtime::{MemoryBudget, MemoryPermit};

#[tokio::test]
async fn a_body_comes_with_what_is_known_of_it() {
    let server = TestServer::start(|_, _| ok(b"pixels")).await;
    let fetcher =
        fetcher(FetchOptions { headers: vec![("From".into(), "me@ddl.example".into())], ..options() });
    let body = body(&fetcher, &server.url("/a.jpg?size=1#part")).await;
    assert_eq!(&*body.bytes, b"pixels");
    assert_eq!(body.content_type.as_deref(), Some("image/jpeg"));
    assert_eq!((body.http_status, body.final_url), (200, None));
    let [request] = &server.seen()[..] else { panic!("one request") };
    assert_eq!(request.path, "/a.jpg?size=1");
    let head = request.head.to_ascii_lowercase();
    for line in [
        "user-agent: ddl-test (test@ddl.example)",
        "accept: image/*,*/*;q=0.8",
        "accept-encoding: identity",
        "from: me@ddl.example",
        &format!("host: {}", server.address),
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
}

#[tokio::test]
async fn statuses_are_sorted() {
    let server = TestServer::start(|path, _| match &path[1..] {
        "203" => Reply::Send(response("203 Non-Authoritative", "", b"x")),
        code => status(&format!("{code} X"), ""),
    })
    .await;
    let fetcher = fetcher(options());
    assert_eq!(body(&fetcher, &server.url("/203")).await.http_status, 203);
    let check = async |path: &str, expect: Retry| {
        let failure = failure(&fetcher, &server.url(path)).await;
        assert_eq!((failure.cause, failure.retry), (FailureCause::HttpStatus, expect), "{path}");
        assert_eq!(failure.http_status, path[1..4].parse().ok(), "{path}");
    };
    for path in ["/201", "/206", "/300", "/304", "/400", "/401", "/403", "/404", "/410", "/418", "/501"] {
        check(path, Retry::Never).await;
    }
    for path in ["/408", "/500", "/502", "/504", "/522"] {
        check(path, Retry::Backoff).await;
    }
}

#[tokio::test]
async fn redirects_are_followed_by_hand() {
    let other = TestServer::start(|_, _| ok(b"there")).await;
    let there = other.url("/there").to_string();
    let server = TestServer::start(move |path, _| match path {
        "/a" => redirect("b?x=1"),
        "/b?x=1" => redirect("/\u{fc}#f"),
        "/%C3%BC" => redirect(&there),
        "/loop" => redirect("/loop#again"),
        "/ping" => redirect("/pong"),
        "/pong" => redirect("/ping"),
        "/none" => status("301 Moved", ""),
        "/empty" => redirect(""),
        "/ftp" => redirect("ftp://example.org/a"),
        "/bad" => redirect("http://exa mple:x/"),
        "/long" => redirect(&"x".repeat(9000)),
        path => redirect(&format!("{path}x")),
    })
    .await;
    let fetcher = fetcher(options());
    let body = body(&fetcher, &server.url("/a")).await;
    assert_eq!(body.final_url, Some(other.url("/there").to_string()));
    let check = async |path: &str, cause: FailureCause, num_requests: usize| {
        let before = server.seen().len();
        let failure = failure(&fetcher, &server.url(path)).await;
        assert_eq!((failure.cause, failure.retry), (cause, Retry::Never), "{path}");
        assert_eq!(server.seen().len() - before, num_requests, "{path}");
    };
    check("/loop", FailureCause::TooManyRedirects, 1).await;
    check("/ping", FailureCause::TooManyRedirects, 2).await;
    check("/endless", FailureCause::TooManyRedirects, 6).await;
    for path in ["/none", "/empty", "/ftp", "/bad", "/long"] {
        check(path, FailureCause::BadRedirect, 1).await;
    }
}

/// The first hop is reached by `connect_to`, so the guard is on and only the redirects are at stake.
#[tokio::test]
async fn no_redirect_leads_into_the_users_network() {
    let server = TestServer::start(|path, _| {
        let at = |host: &str| redirect(&format!("http://{host}{}", path.replace("/to/", "/from/")));
        match path.strip_prefix("/to/") {
            Some(host) => at(host),
            None => ok(b"secret"),
        }
    })
    .await;
    let port = server.address.port();
    let connect_to = vec![format!("public.example:80:127.0.0.1:{port}").parse().unwrap()];
    let closed =
        fetcher(FetchOptions { allow_private_networks: false, connect_to: connect_to.clone(), ..options() });
    let open = fetcher(FetchOptions { connect_to, ..options() });
    let check = async |fetcher, host: &str, expect: FailureCause| {
        let url = Url::parse(&format!("http://public.example/to/{host}")).unwrap();
        let failure = failure(fetcher, &url).await;
        assert_eq!((failure.cause, failure.retry), (expect, Retry::Never), "{host}: {}", failure.message);
    };
    let (literal, name) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    for host in [&literal, &name, &format!("[::ffff:127.0.0.1]:{port}"), &format!("0x7f.1:{port}")] {
        check(&closed, host, FailureCause::ForbiddenAddress).await;
    }
    for host in ["169.254.169.254", "0.0.0.0", "[fe80::1]"] {
        check(&open, host, FailureCause::ForbiddenAddress).await;
    }
    assert!(server.seen().iter().all(|seen| seen.path.starts_with("/to/")), "only the first hops were asked");
    let url = Url::parse(&format!("http://public.example/to/{name}")).unwrap();
    assert_eq!(&*body(&open, &url).await.bytes, b"secret");
    let url = server.url("/");
    assert_eq!(failure(&closed, &url).await.cause, FailureCause::ForbiddenAddress);
}

#[tokio::test]
async fn encodings_that_nobody_asked_for_are_undone() {
    let text = b"a picture is worth a thousand words, ".repeat(10_000);
    let gzip = |data: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&text).unwrap();
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
    bare.write_all(&text).unwrap();
    let (zlib, bare) = (zlib.finish().unwrap(), bare.finish().unwrap());
    let gzipped = gzip(&text);
    let (twice, bomb, exact) = (gzip(&gzipped), gzip(&vec![0; 3 << 20]), gzip(&vec![7; 1 << 20]));
    let server = TestServer::start(move |path, _| {
        let (encoding, body) = match path {
            "/gzip" => ("gzip", &gzipped[..]),
            "/zlib" => ("deflate", &zlib[..]),
            "/bare" => ("deflate", &bare[..]),
            "/twice" => ("gzip, gzip", &twice[..]),
            "/two-lines" => ("gzip\r\nContent-Encoding: gzip", &twice[..]),
            // "hello" as a stored meta-block.
            "/br" => ("br", &b"\x0b\x02\x80hello\x03"[..]),
            "/bomb" => ("gzip", &bomb[..]),
            "/exact" => ("gzip", &exact[..]),
            "/cut" => ("gzip", &gzipped[..gzipped.len() / 2]),
            "/lie" => ("gzip", &b"\xff\xd8\xff\xe0 not gzip"[..]),
            _ => ("zstd", &b"x"[..]),
        };
        Reply::Send(response("200 OK", &format!("Content-Encoding: {encoding}\r\n"), body))
    })
    .await;
    let fetcher = fetcher(FetchOptions { max_body_bytes: 1 << 20, ..options() });
    for path in ["/gzip", "/zlib", "/bare", "/twice", "/two-lines"] {
        assert!(body(&fetcher, &server.url(path)).await.bytes == text, "{path}");
    }
    assert_eq!(&*body(&fetcher, &server.url("/br")).await.bytes, b"hello");
    assert_eq!(body(&fetcher, &server.url("/exact")).await.bytes.len(), 1 << 20);
    for (path, cause) in [
        ("/bomb", FailureCause::BodyTooLarge),
        ("/cut", FailureCause::BadContentEncoding),
        ("/lie", FailureCause::BadContentEncoding),
        ("/zstd", FailureCause::BadContentEncoding),
    ] {
        let failure = failure(&fetcher, &server.url(path)).await;
        assert_eq!((failure.cause, failure.retry), (cause, Retry::Never), "{path}");
    }
}

/// Counts what is reserved, and makes everyone wait for it.
struct SlowMemory {
    delay: Duration,
    reserved: AtomicU64,
    returned: std::sync::Arc<AtomicU64>,
}

#[derive(Debug)]
struct SlowReservation {
    delay: Duration,
    bytes: u64,
    returned: std::sync::Arc<AtomicU64>,
}

impl BodyMemory for SlowMemory {
    fn reserve(&self, bytes: u64) -> Waiting<'_, Box<dyn BodyReservation>> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            self.reserved.fetch_add(bytes, SeqCst);
            let returned = std::sync::Arc::clone(&self.returned);
            Box::new(SlowReservation { delay: self.delay, bytes, returned }) as Box<dyn BodyReservation>
        })
    }
}

impl BodyReservation for SlowReservation {
    fn grow(&mut self, bytes: u64) -> Waiting<'_, ()> {
        self.bytes += bytes;
        Box::pin(tokio::time::sleep(self.delay))
    }

    fn shrink(&mut self, bytes: u64) {
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for SlowReservation {
    fn drop(&mut self) {
        self.returned.fetch_add(self.bytes, SeqCst);
    }
}

#[tokio::test]
async fn memory_is_reserved_before_it_is_used_and_waiting_for_it_is_not_the_servers_fault() {
    let server = TestServer::start(|path, _| match path {
        "/announced" => ok(&vec![7; 2 << 20]),
        _ => {
            let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
            bytes.resize(bytes.len() + (300 << 10), 7);
            Reply::Close(bytes)
        }
    })
    .await;
    let fetcher = fetcher(FetchOptions { request_timeout: Duration::from_secs(2), ..options() });
    for (path, length) in [("/announced", 2 << 20), ("/unknown", 300 << 10)] {
        let delay = Duration::from_millis(1500);
        let memory = SlowMemory { delay, reserved: AtomicU64::new(0), returned: std::sync::Arc::default() };
        let start = Instant::now();
        let FetchOutcome::Body(body) = fetcher.fetch(&server.url(path), &memory).await else {
            panic!("{path}")
        };
        assert!(start.elapsed() >= Duration::from_secs(3), "{path}: it waited twice at least");
        assert_eq!(body.bytes.len(), length);
        assert_eq!(memory.returned.load(SeqCst), 0);
        drop(body);
        assert_eq!(memory.returned.load(SeqCst), length as u64, "{path}: no more was held at the end");
        assert!(memory.reserved.load(SeqCst) <= 512 << 10, "{path}: the first step is bounded");
    }
}

/// Memory as downloads have it: a budget that is shared.
struct Budget(MemoryBudget);

#[derive(Debug)]
struct Share(MemoryPermit);

impl BodyMemory for Budget {
    fn reserve(&self, bytes: u64) -> Waiting<'_, Box<dyn BodyReservation>> {
        Box::pin(
            async move { Box::new(Share(self.0.acquire(bytes).await.unwrap())) as Box<dyn BodyReservation> },
        )
    }
}

impl BodyReservation for Share {
    fn grow(&mut self, bytes: u64) -> Waiting<'_, ()> {
        Box::pin(async move { self.0.grow(bytes).await.unwrap() })
    }

    fn shrink(&mut self, bytes: u64) {
        self.0.shrink(bytes);
    }
}

/// Encoded bodies that fill the budget, each of which has to be decoded before any of it comes back.
#[tokio::test]
async fn encoded_bodies_that_fill_the_memory_are_decoded_one_after_the_other() {
    const LENGTH: usize = 300 << 10;
    let mut pixels = vec![0; LENGTH];
    fastrand::Rng::with_seed(1).fill(&mut pixels);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&pixels).unwrap();
    let gzipped = encoder.finish().unwrap();
    let server = TestServer::start(move |_, _| {
        Reply::Send(response("200 OK", "Content-Encoding: gzip\r\n", &gzipped))
    })
    .await;
    let max_body_bytes = 400 << 10;
    let fetcher = fetcher(FetchOptions { max_body_bytes, max_connections_per_server: 8, ..options() });
    let memory = std::sync::Arc::new(Budget(MemoryBudget::new(600 << 10, 2 * max_body_bytes + (1 << 20))));
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (fetcher, memory) = (std::sync::Arc::clone(&fetcher), std::sync::Arc::clone(&memory));
            let url = server.url(&format!("/{number}"));
            tokio::spawn(async move {
                let FetchOutcome::Body(body) = fetcher.fetch(&url, &*memory).await else { panic!("{url}") };
                assert_eq!(body.bytes.len(), LENGTH);
                assert!(memory.0.used() >= LENGTH as u64);
            })
        })
        .collect();
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("all wait for each other");
    assert_eq!(memory.0.used(), 0);
}

/// Each connection held up to 408 KiB beside its body: 2,000 requests under way took two gigabytes.
#[tokio::test]
async fn a_connection_reads_no_more_at_once_than_it_may() {
    const LENGTH: usize = 4 << 20;
    let server = TestServer::start(|_, _| ok(&[1; LENGTH])).await;
    for connection_buffer in [16 << 10, 48 << 10] {
        let (max_in_flight, connection_memory) = (4, 4 * connection_buffer as u64);
        let fetcher = fetcher(FetchOptions { max_in_flight, connection_memory, ..options() });
        let target = fetcher.target(&server.url("/")).await.unwrap();
        for _ in 0..2 {
            let mut response = target.send(false).await.unwrap();
            let mut left = LENGTH;
            while let Some(chunk) = response.chunk().await.unwrap() {
                assert!(chunk.len() <= connection_buffer, "{} bytes", chunk.len());
                left -= chunk.len();
            }
            assert_eq!(left, 0);
        }
    }
}
