//! What servers say of their limits on any answer: `RateLimit` headers and their kin.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use url::Url;

use super::support::*;
use crate::fetch::{FetchOptions, Fetcher, Landlord, RequestLog, Retry, ServerRules};
use crate::model::{Loan, RequestEntry, ServerName, ServerNews};

#[derive(Debug, Default)]
struct Entries(Mutex<Vec<RequestEntry>>);

impl RequestLog for Entries {
    fn record(&self, entry: RequestEntry) {
        self.0.lock().unwrap().push(entry);
    }
}

/// 200 with these header lines.
fn ok_with(headers: &str) -> Reply {
    Reply::Send(response("200 OK", headers, b"x"))
}

async fn start(headers: &'static str) -> (TestServer, ServerName) {
    let server = TestServer::start(move |_, _| ok_with(headers)).await;
    let name = ServerName::from_url(&server.url("/")).unwrap();
    (server, name)
}

#[tokio::test]
async fn a_server_that_grants_nothing_more_is_paused_until_the_reset() {
    for headers in [
        "RateLimit: \"default\";r=0;t=600\r\n",
        "RateLimit-Limit: 9\r\nRateLimit-Remaining: 0\r\nRateLimit-Reset: 600\r\n",
        "X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 600\r\n",
    ] {
        let (server, name) = start(headers).await;
        let log = Arc::new(Entries::default());
        let fetcher = Fetcher::new(options(), ServerRules::default()).unwrap().with_request_log(log.clone());
        body(&fetcher, &server.url("/a")).await;
        let refused = failure(&fetcher, &server.url("/b")).await;
        let Retry::ServerPaused { until } = refused.retry else { panic!("{refused:?}") };
        let pause = fetcher.server(&name).pause().unwrap();
        assert_eq!((pause.until, pause.given_up), (until, false));
        let left = until - Instant::now();
        assert!(left > Duration::from_secs(500) && left <= Duration::from_secs(600), "{left:?}");
        let entries = log.0.lock().unwrap();
        let told = entries[0].retry_after.unwrap();
        assert!(told > Duration::from_secs(500) && told <= Duration::from_secs(600), "{told:?}");
        assert_eq!((entries.len(), server.seen().len()), (1, 1));
    }
}

/// The pause begins with the header, and the ledger counts from the end of the request.
#[tokio::test]
async fn the_ledger_has_what_is_left_of_the_pause_after_a_slow_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The request is short, and comes whole.
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let header = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nRateLimit: \"a\";r=0;t=60\r\n\r\n";
        stream.write_all(header).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.write_all(b"x").await.unwrap();
        std::future::pending::<()>().await;
    });
    let log = Arc::new(Entries::default());
    let fetcher = Fetcher::new(options(), ServerRules::default()).unwrap().with_request_log(log.clone());
    body(&fetcher, &url).await;
    let told = log.0.lock().unwrap()[0].retry_after.unwrap();
    assert!(told > Duration::from_secs(30) && told <= Duration::from_millis(59_500), "{told:?}");
}

#[tokio::test]
async fn waiting_for_a_reset_is_no_complaint() {
    let (server, name) = start("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 0.2\r\n").await;
    // Three pauses would be enough to give it up.
    let fetcher = fetcher(FetchOptions { server_patience: Duration::ZERO, ..options() });
    for _ in 0..5 {
        body(&fetcher, &server.url("/")).await;
        let pause = fetcher.server(&name).pause().expect("it asked for one");
        assert!(!pause.given_up);
        tokio::time::sleep_until(pause.until.into()).await;
    }
    let seen = server.seen();
    assert!(seen.windows(2).all(|pair| pair[1].at - pair[0].at >= Duration::from_millis(195)));
}

#[tokio::test]
async fn retry_after_wins_and_both_are_bounded() {
    let check = async |reply: fn() -> Reply, max: u64, expect: u64| {
        let server = TestServer::start(move |_, _| reply()).await;
        let max_retry_after = Duration::from_secs(max);
        let fetcher = fetcher(FetchOptions { max_retry_after, ..options() });
        fetch(&fetcher, &server.url("/")).await;
        let pause = fetcher.server(&ServerName::from_url(&server.url("/")).unwrap()).pause().unwrap();
        let left = (pause.until - Instant::now()).as_secs_f64();
        assert!(left > expect as f64 - 30.0 && left <= expect as f64, "{left} {expect}");
    };
    let both = || ok_with("Retry-After: 100\r\nRateLimit: \"a\";r=0;t=600\r\n");
    check(both, 3600, 100).await;
    check(|| status("429 Slow", "Retry-After: 100\r\nRateLimit: \"a\";r=0;t=600\r\n"), 3600, 100).await;
    check(|| status("429 Slow", "RateLimit: \"a\";r=0;t=600\r\n"), 3600, 600).await;
    check(|| status("404 Not Found", "RateLimit: \"a\";r=0;t=600\r\n"), 3600, 600).await;
    check(|| ok_with("RateLimit: \"a\";r=0;t=999999999\r\n"), 100, 100).await;
}

#[tokio::test]
async fn a_quota_is_a_limit_of_the_whole_cluster() {
    let check = async |options: FetchOptions, expect: f64| {
        let (server, name) = start("RateLimit-Policy: \"a\";q=100;w=10, \"day\";q=8640000;w=86400\r\n").await;
        let fetcher = fetcher(options);
        let held = fetcher.server(&name);
        body(&fetcher, &server.url("/")).await;
        let rate = held.rate();
        assert!((rate / expect - 1.0).abs() < 0.01 || rate == expect, "{rate} {expect}");
    };
    check(options(), 10.0).await;
    check(FetchOptions { default_rate_limit: 4.0, ..options() }, 4.0).await;
    check(FetchOptions { default_rate_limit: 40.0, ..options() }, 10.0).await;
    check(FetchOptions { max_crawl_delay: Duration::from_millis(20), ..options() }, 50.0).await;
    check(FetchOptions { respect_rate_limit_headers: false, ..options() }, f64::INFINITY).await;
}

/// A rank with half of the connections keeps to half of the quota.
#[tokio::test]
async fn a_quota_is_divided_as_the_limits_are() {
    let (server, name) = start("RateLimit-Policy: \"a\";q=100;w=10\r\n").await;
    let asked = Arc::new(Asked::default());
    let fetcher = Fetcher::new(options(), ServerRules::default()).unwrap().with_landlord(asked.clone());
    let held = fetcher.server(&name);
    let lend = async {
        asked.0.notified().await;
        fetcher.lend(
            &name,
            Loan { number: 1, rate: 0.0, max_connections: 4, bytes: None, rest: Duration::ZERO },
            None,
        );
    };
    let url = server.url("/");
    tokio::join!(body(&fetcher, &url), lend);
    let rate = held.rate();
    assert!((rate / 5.0 - 1.0).abs() < 0.01, "{rate}");
}

/// Says when it was asked for a loan.
#[derive(Debug, Default)]
struct Asked(tokio::sync::Notify);

impl Landlord for Asked {
    fn borrow(&self, _: &ServerName, _: u64) {
        self.0.notify_one();
    }

    fn accept(&self, _: &ServerName, _: u64, _: Duration) {}

    fn give_back(&self, _: &ServerName, _: u64, _: Duration) {}

    fn tell(&self, _: &ServerName, _: ServerNews) {}
}

#[tokio::test]
async fn limits_that_are_not_heeded_do_nothing() {
    let (server, name) = start("RateLimit: \"a\";r=0;t=600\r\n").await;
    let fetcher = fetcher(FetchOptions { respect_rate_limit_headers: false, ..options() });
    for _ in 0..2 {
        body(&fetcher, &server.url("/")).await;
    }
    assert!(fetcher.server(&name).pause().is_none());
}
