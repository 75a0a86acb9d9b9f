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
    let snapshot = fetcher.server(&crate::model::ServerName::from_url(&server.url("/")).unwrap()).snapshot();
    assert_eq!((snapshot.requests, snapshot.bodies, snapshot.body_bytes, snapshot.under_way), (1, 1, 6, 0));
}

#[tokio::test]
async fn statuses_are_sorted() {
    let server = TestServer::start(|path, _| match &path[1..] {
        "203" => Reply::Send(response("203 Non-Authoritative", "", b"x")),
        "500-later" => status("500 X", "Retry-After: 7\r\n"),
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
    check("/500-later", Retry::After(Duration::from_secs(7))).await;
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
    let (twice, bomb) = (gzip(&gzipped), gzip(&vec![0; 3 << 20]));
    let server = TestServer::start(move |path, _| {
        let (encoding, body) = match path {
            "/gzip" => ("gzip", &gzipped[..]),
            "/zlib" => ("deflate", &zlib[..]),
            "/bare" => ("deflate", &bare[..]),
            "/twice" => ("gzip, gzip", &twice[..]),
            // "hello" as a stored meta-block.
            "/br" => ("br", &b"\x0b\x02\x80hello\x03"[..]),
            "/bomb" => ("gzip", &bomb[..]),
            "/cut" => ("gzip", &gzipped[..gzipped.len() / 2]),
            "/lie" => ("gzip", &b"\xff\xd8\xff\xe0 not gzip"[..]),
            _ => ("zstd", &b"x"[..]),
        };
        Reply::Send(response("200 OK", &format!("Content-Encoding: {encoding}\r\n"), body))
    })
    .await;
    let fetcher = fetcher(FetchOptions { max_body_bytes: 1 << 20, ..options() });
    for path in ["/gzip", "/zlib", "/bare", "/twice"] {
        assert!(body(&fetcher, &server.url(path)).await.bytes == text, "{path}");
    }
    assert_eq!(&*body(&fetcher, &server.url("/br")).await.bytes, b"hello");
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
    for (path, length, expect) in [("/announced", 2 << 20, 2 << 20), ("/unknown", 300 << 10, 1 << 20)] {
        let delay = Duration::from_millis(1500);
        let memory = SlowMemory { delay, reserved: AtomicU64::new(0), returned: std::sync::Arc::default() };
        let start = Instant::now();
        let FetchOutcome::Body(body) = fetcher.fetch(&server.url(path), &memory).await else {
            panic!("{path}")
        };
        assert!(start.elapsed() >= Duration::from_secs(3), "{path}: it waited twice at least");
        assert!(body.elapsed < Duration::from_secs(2), "{path}: {:?}", body.elapsed);
        assert_eq!(body.bytes.len(), length);
        assert_eq!(memory.returned.load(SeqCst), 0);
        drop(body);
        assert_eq!(memory.returned.load(SeqCst), expect, "{path}");
        assert!(memory.reserved.load(SeqCst) <= 512 << 10, "{path}: the first step is bounded");
    }
}
