//! What servers see of us: gaps, parallel requests, pauses, connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use url::Url;

use super::support::*;
use crate::fetch::{Attempts, FetchOptions, FetchOutcome, Fetcher, Next, Retry, ServerRules};
use crate::model::{FailureCause, ServerName, SkipReason};

/// Fetches all paths at once and returns when all are done.
async fn fetch_all(fetcher: &Arc<Fetcher>, urls: Vec<Url>) {
    let tasks: Vec<_> = urls
        .into_iter()
        .map(|url| {
            let fetcher = Arc::clone(fetcher);
            tokio::spawn(async move { fetch(&fetcher, &url).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_kept_as_the_server_sees_it() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let name = ServerName::from_url(&server.url("/")).unwrap();
    let fetcher = Arc::new(Fetcher::new(options(), rate(&options(), &name, 20.0)).unwrap());
    fetch_all(&fetcher, (0..20).map(|n| server.url(&format!("/{n}"))).collect()).await;
    let seen = server.seen();
    let span = seen[19].at - seen[0].at;
    assert!(span >= Duration::from_millis(19 * 50 - 30), "{span:?}");
    // Arrivals jitter with the machine, departures do not bunch: few gaps are much under 50 ms.
    let short = seen.windows(2).filter(|pair| pair[1].at - pair[0].at < Duration::from_millis(25)).count();
    assert!(short <= 4, "{short} short gaps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_per_server_and_in_total() {
    let script = |_: &str, _| Reply::After(Duration::from_millis(20), Box::new(ok(b"x")));
    let (a, b) = (TestServer::start(script).await, TestServer::start(script).await);
    let urls = || {
        (0..24).map(|n| if n % 2 == 0 { a.url(&format!("/{n}")) } else { b.url(&format!("/{n}")) }).collect()
    };
    let polite = fetcher(FetchOptions { max_connections_per_server: 3, ..options() });
    fetch_all(&polite, urls()).await;
    assert_eq!((a.most_under_way(), b.most_under_way()), (3, 3));
    assert_eq!((a.num_connections(), b.num_connections()), (3, 3), "and they were kept");

    // One that goes by two names sees the requests to both.
    let both = async |max_in_flight| {
        let server = TestServer::start(script).await;
        let connect_to = vec![format!("::127.0.0.1:{}", server.address.port()).parse().unwrap()];
        let fetcher =
            fetcher(FetchOptions { max_in_flight, max_connections_per_server: 3, connect_to, ..options() });
        let url = |n| Url::parse(&format!("http://{}.example/{n}", if n % 2 == 0 { "a" } else { "b" }));
        fetch_all(&fetcher, (0..48).map(|n| url(n).unwrap()).collect()).await;
        assert_eq!((server.seen().len(), fetcher.under_way()), (48, 0));
        server.most_under_way()
    };
    assert_eq!((both(2).await, both(256).await), (2, 6));
}

#[tokio::test]
async fn connections_survive_errors_and_redirects() {
    let server = TestServer::start(|path, _| match path {
        "/404" => status("404 Not Found", ""),
        "/302" => redirect("/200"),
        _ => ok(b"x"),
    })
    .await;
    let fetcher = fetcher(options());
    for path in ["/200", "/404", "/302", "/200"] {
        fetch(&fetcher, &server.url(path)).await;
    }
    assert_eq!((server.seen().len(), server.num_connections()), (5, 1));
}

#[tokio::test]
async fn among_thousands_of_servers_idle_connections_are_not_kept() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let fetcher = fetcher(options());
    for number in 0..2048 {
        drop(fetcher.server(&ServerName::from_catalog(&format!("{number}.example"))));
    }
    for _ in 0..3 {
        body(&fetcher, &server.url("/")).await;
    }
    assert_eq!(server.num_connections(), 3);
}

/// A server's idle timeout ran out just as the request left: the connection closes without an answer.
#[tokio::test]
async fn a_connection_that_closes_as_it_is_reused_is_nobodys_failure() {
    let server = TestServer::start(|path, _| match path {
        "/first" => ok(b"x"),
        "/always" => Reply::Close(Vec::new()),
        _ => ok(b"x"),
    })
    .await;
    let stale =
        TestServer::start(|_, before| if before == 1 { Reply::Close(Vec::new()) } else { ok(b"x") }).await;
    let fetcher = fetcher(options());
    body(&fetcher, &stale.url("/first")).await;
    body(&fetcher, &stale.url("/second")).await;
    assert_eq!(stale.seen().iter().map(|seen| seen.connection).collect::<Vec<_>>(), [0, 0, 1]);

    body(&fetcher, &server.url("/first")).await;
    assert_eq!(failure(&fetcher, &server.url("/always")).await.cause, FailureCause::ConnectionLost);
    assert_eq!(server.seen().len(), 3, "once more, and only once");
}

#[tokio::test]
async fn a_429_slows_the_server_down_and_not_the_url() {
    let server = TestServer::start(|_, before| match before {
        0 => status("429 Too Many Requests", "Retry-After: 1\r\n"),
        1 => status("503 Busy", ""),
        _ => ok(b"x"),
    })
    .await;
    let name = ServerName::from_url(&server.url("/")).unwrap();
    let fetcher = Fetcher::new(options(), rate(&options(), &name, 50.0)).unwrap();
    let (mut attempts, mut rng) = (Attempts::default(), fastrand::Rng::with_seed(1));
    // Each time it waits a little longer than the others of its server.
    for (status, behind) in [(429, 100), (503, 200)] {
        let failure = failure(&fetcher, &server.url("/")).await;
        assert_eq!(failure.http_status, Some(status));
        let Retry::Throttled { until } = failure.retry else { panic!("{failure:?}") };
        assert_eq!(fetcher.server(&name).pause().map(|pause| pause.until), Some(until));
        let next = attempts.after(failure.retry, fetcher.options(), until, &mut rng);
        assert_eq!(next, Next::At(until + Duration::from_millis(behind)));
        tokio::time::sleep_until(until.into()).await;
    }
    assert_eq!(attempts, Attempts { failed: 0, throttled: 2 });
    assert!((fetcher.server(&name).rate() - 12.5).abs() < 0.1, "50, halved twice");
    body(&fetcher, &server.url("/")).await;
    let seen = server.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(990), "Retry-After");
    assert!(seen[2].at - seen[1].at >= Duration::from_millis(740), "1 s, less jitter");
}

#[tokio::test]
async fn retry_after_is_obeyed_up_to_its_cap() {
    let server =
        TestServer::start(|_, _| status("503 Later", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n")).await;
    let fetcher = fetcher(FetchOptions { max_retry_after: Duration::from_secs(100), ..options() });
    let Retry::Throttled { until } = failure(&fetcher, &server.url("/")).await.retry else { panic!() };
    let pause = until - Instant::now();
    assert!(pause > Duration::from_secs(90) && pause <= Duration::from_secs(100), "{pause:?}");
}

#[tokio::test]
async fn a_redirect_to_a_paused_server_does_not_wait_for_it() {
    let paused = TestServer::start(|_, _| status("429 Slow", "Retry-After: 600\r\n")).await;
    let target = paused.url("/x").to_string();
    let server = TestServer::start(move |_, _| redirect(&target)).await;
    let fetcher = fetcher(options());
    for _ in 0..2 {
        let failure = failure(&fetcher, &server.url("/")).await;
        assert_eq!((failure.cause, failure.http_status), (FailureCause::HttpStatus, Some(429)));
        let (Retry::Throttled { until } | Retry::ServerPaused { until }) = failure.retry else {
            panic!("{failure:?}")
        };
        assert!(failure.asked && until > Instant::now() + Duration::from_secs(500));
    }
    assert_eq!((server.seen().len(), paused.seen().len()), (2, 1));
}

#[tokio::test]
async fn nothing_but_errors_parks_the_server_and_costs_the_others_nothing() {
    let server = TestServer::start(|path, _| match path {
        "/asks" => status("500 Later", "Retry-After: 600\r\n"),
        _ => status("502 Bad Gateway", ""),
    })
    .await;
    let fetcher = fetcher(options());
    for number in 0..20 {
        let failure = failure(&fetcher, &server.url(&format!("/{number}"))).await;
        assert_eq!((failure.http_status, failure.retry), (Some(502), Retry::Backoff));
    }
    for number in 20..50 {
        let failure = failure(&fetcher, &server.url(&format!("/{number}"))).await;
        assert!(matches!(failure.retry, Retry::ServerPaused { .. }) && !failure.asked, "{failure:?}");
        assert_eq!((failure.cause, failure.http_status), (FailureCause::HttpStatus, Some(502)));
    }
    assert_eq!(server.seen().len(), 20);

    let other = self::fetcher(options());
    for asked in [true, false] {
        let failure = failure(&other, &server.url("/asks")).await;
        assert_eq!(failure.http_status, Some(500));
        let as_expected = match failure.retry {
            Retry::Throttled { .. } => asked,
            Retry::ServerPaused { .. } => !asked,
            _ => false,
        };
        assert!(as_expected, "{failure:?}");
    }
    assert_eq!(server.seen().len(), 21);
}

#[tokio::test]
async fn a_server_that_is_given_up_fails_its_urls_unasked() {
    let server = TestServer::start(|_, before| {
        status("429 Slow", if before < 3 { "Retry-After: 1\r\n" } else { "Retry-After: 600\r\n" })
    })
    .await;
    let fetcher = fetcher(FetchOptions {
        server_patience: Duration::ZERO,
        // Three pauses are not to slow it down as well.
        default_rate_limit: 1000.0,
        rate_multiplier: 0.0,
        ..options()
    });
    for _ in 0..3 {
        let failure = failure(&fetcher, &server.url("/")).await;
        let Retry::Throttled { until } = failure.retry else { panic!("{failure:?}") };
        tokio::time::sleep_until(until.into()).await;
    }
    for number in 0..10 {
        let failure = failure(&fetcher, &server.url(&format!("/{number}"))).await;
        assert_eq!((failure.cause, failure.http_status), (FailureCause::HttpStatus, Some(429)));
        assert_eq!(failure.retry, Retry::Never);
        assert_eq!(
            failure.message.contains("since") && failure.message.contains("`server_patience`"),
            number > 0
        );
    }
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn after_the_end_only_what_is_under_way_goes_on() {
    let server = TestServer::start(|_, _| Reply::After(Duration::from_millis(200), Box::new(ok(b"x")))).await;
    let fetcher = fetcher(FetchOptions { default_rate_limit: 0.01, ..options() });
    let start = |path| {
        let (fetcher, url) = (Arc::clone(&fetcher), server.url(path));
        tokio::spawn(async move { fetch(&fetcher, &url).await })
    };
    let under_way = start("/first");
    while server.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let waiting = start("/second");
    tokio::task::yield_now().await;
    fetcher.close();
    for outcome in [waiting.await.unwrap(), fetch(&fetcher, &server.url("/third")).await] {
        let FetchOutcome::Failure(failure) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(failure.retry, Retry::ServerPaused { .. }), "{failure:?}");
    }
    let FetchOutcome::Body(_) = under_way.await.unwrap() else { panic!("it was under way") };
    assert_eq!(server.seen().len(), 1);
}

/// Two hours without a word looked like a hang.
#[tokio::test]
async fn a_long_pause_is_told_once() {
    let server = TestServer::start(|path, _| match path {
        "/long" => status("429 Slow", "Retry-After: 600\r\n"),
        _ => status("429 Slow", "Retry-After: 1\r\n"),
    })
    .await;
    let logs = Logs::default();
    let _guard = logs.capture();
    let fetcher = fetcher(options());
    failure(&fetcher, &server.url("/short")).await;
    assert!(!logs.text().contains("left alone"), "{}", logs.text());
    until_ready(&fetcher, &server).await;
    failure(&fetcher, &server.url("/long")).await;
    failure(&fetcher, &server.url("/long")).await;
    assert_eq!(
        logs.text().matches("server is left alone for 599 s").count()
            + logs.text().matches("server is left alone for 600 s").count(),
        1,
        "{}",
        logs.text()
    );
}

/// Waits for the end of the server's pause.
async fn until_ready(fetcher: &Fetcher, server: &TestServer) {
    let server = fetcher.server(&ServerName::from_url(&server.url("/")).unwrap());
    while let Some(pause) = server.pause() {
        tokio::time::sleep_until(pause.until.into()).await;
    }
}

/// The pauses for one URL that is always answered with 503 doubled, as nothing else was asked in between, and held up all
/// others of its server.
#[tokio::test]
async fn a_url_in_trouble_by_itself_uses_up_its_own_attempts() {
    let server = TestServer::start(|path, _| match path {
        "/sick" => status("503 Busy", ""),
        _ => ok(b"x"),
    })
    .await;
    let name = ServerName::from_url(&server.url("/")).unwrap();
    let fetcher = fetcher(options());
    let (mut attempts, mut rng) = (Attempts::default(), fastrand::Rng::with_seed(1));
    for number in 1..=2 {
        body(&fetcher, &server.url("/well")).await;
        let failure = failure(&fetcher, &server.url("/sick")).await;
        attempts.after(failure.retry, fetcher.options(), Instant::now(), &mut rng);
        assert_eq!(attempts, Attempts { failed: number, throttled: 0 });
        let pause = fetcher.server(&name).pause().expect("a 503 is a complaint").until;
        assert!(pause <= Instant::now() + Duration::from_millis(1300), "the pause has grown");
        tokio::time::sleep_until(pause.into()).await;
    }
}

/// A `Retry-After` was heeded only beside statuses that ask for another try.
#[tokio::test]
async fn a_retry_after_holds_whatever_the_status() {
    for head in ["404 Not Found", "403 Forbidden", "200 OK", "451 Unavailable"] {
        let server = TestServer::start(move |_, _| status(head, "Retry-After: 30\r\n")).await;
        let name = ServerName::from_url(&server.url("/")).unwrap();
        let fetcher = fetcher(options());
        fetch(&fetcher, &server.url("/a")).await;
        let pause = fetcher.server(&name).pause().map(|pause| pause.until - Instant::now());
        assert!(pause.is_some_and(|left| left > Duration::from_secs(25)), "{head}: {pause:?}");
    }
}

#[tokio::test]
async fn a_redirect_to_an_ignored_server_is_not_followed() {
    let ignored = TestServer::start(|_, _| ok(b"x")).await;
    let target = ignored.url("/x").to_string();
    let server = TestServer::start(move |_, _| redirect(&target)).await;
    let names = [ServerName::from_url(&ignored.url("/")).unwrap()].into();
    let fetcher = Fetcher::new(options(), ServerRules::default()).unwrap().with_ignored(names);
    let skipped = skip(&fetcher, &server.url("/a")).await;
    assert_eq!(skipped.reason, SkipReason::IgnoredServer);
    assert!(skipped.signal.starts_with("a redirect leads to `127.0.0.1:"), "{}", skipped.signal);
    assert!(ignored.seen().is_empty());
    assert_eq!(skip(&fetcher, &ignored.url("/x")).await.reason, SkipReason::IgnoredServer);
}
