//! What the owners of servers ask for: robots.txt and opt-out headers.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::support::*;
use crate::fetch::{FetchOptions, FetchOutcome, Fetcher, Retry, ServerRules};
use crate::model::{FailureCause, ServerName, SkipReason};

fn obedient() -> FetchOptions {
    FetchOptions { respect_robots_txt: true, ..options() }
}

fn text(body: &str) -> Reply {
    Reply::Send(response("200 OK", "Content-Type: text/plain\r\n", body.as_bytes()))
}

/// A server whose `/robots.txt` is this, and where all else is an image.
async fn with_robots_txt(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> TestServer {
    TestServer::start(move |path, before| match path {
        "/robots.txt" => reply(before),
        _ => ok(b"image"),
    })
    .await
}

fn paths(server: &TestServer) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.path).collect()
}

#[tokio::test]
async fn robots_txt_is_asked_for_once_and_obeyed() {
    let server =
        with_robots_txt(|_| text("User-agent: *\nDisallow: /\n\nUser-agent: ddl-test\nDisallow: /private/"))
            .await;
    let fetcher = fetcher(obedient());
    let all: Vec<_> = (0..20)
        .map(|number| {
            let folder = if number % 2 == 0 { "private" } else { "open" };
            let (fetcher, url) = (Arc::clone(&fetcher), server.url(&format!("/{folder}/{number}?a#b")));
            tokio::spawn(async move { (url.path().to_owned(), fetch(&fetcher, &url).await) })
        })
        .collect();
    for task in all {
        match task.await.unwrap() {
            (path, FetchOutcome::Body(_)) => assert!(path.starts_with("/open/"), "{path}"),
            (path, FetchOutcome::Skip(skip)) => {
                assert!(path.starts_with("/private/"), "{path}");
                assert_eq!((skip.reason, skip.http_status), (SkipReason::Robots, None));
                assert_eq!(skip.signal, "robots.txt: Disallow: /private/ (User-agent: ddl-test)");
            }
            other => panic!("{other:?}"),
        }
    }
    let paths = paths(&server);
    assert_eq!(paths[0], "/robots.txt");
    assert_eq!(paths.iter().filter(|path| *path == "/robots.txt").count(), 1);
    assert_eq!(paths.len(), 11, "nothing that is disallowed was asked for: {paths:?}");
    assert!(server.seen()[0].head.to_ascii_lowercase().contains("user-agent: ddl-test (test@ddl.example)"));
}

#[tokio::test]
async fn what_cannot_be_a_robots_txt_allows_all() {
    let replies: [fn(usize) -> Reply; 9] = [
        |_| status("404 Not Found", ""),
        |_| status("401 Unauthorized", ""),
        |_| status("403 Forbidden", ""),
        |_| status("410 Gone", ""),
        |_| status("304 Not Modified", ""),
        |_| Reply::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        |_| text(""),
        |_| text("<!doctype html><title>Welcome</title>"),
        |_| Reply::Send(response("200 OK", "Content-Encoding: zip\r\n", b"Disallow: /")),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let server = with_robots_txt(reply).await;
        let fetcher = fetcher(obedient());
        for path in ["/a", "/b"] {
            assert_eq!(body(&fetcher, &server.url(path)).await.bytes, "image", "{number}");
        }
        assert_eq!(paths(&server), ["/robots.txt", "/a", "/b"], "{number}");
    }
}

#[tokio::test]
async fn until_robots_txt_is_there_nothing_else_is_asked_for() {
    let replies: [(fn() -> Reply, FailureCause); 9] = [
        (|| status("500 Oops", ""), FailureCause::HttpStatus),
        (|| status("501 What", ""), FailureCause::HttpStatus),
        (|| status("503 Later", "Retry-After: 1\r\n"), FailureCause::HttpStatus),
        (|| status("429 Slow", "Retry-After: 1\r\n"), FailureCause::HttpStatus),
        (|| status("408 Slow", ""), FailureCause::HttpStatus),
        (|| Reply::Close(Vec::new()), FailureCause::ConnectionLost),
        (
            || Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nUser".to_vec()),
            FailureCause::TruncatedBody,
        ),
        (|| Reply::Close(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()), FailureCause::BadResponse),
        (|| Reply::Hang(Vec::new()), FailureCause::FirstByteTimeout),
    ];
    for (reply, cause) in replies {
        let server = with_robots_txt(move |before| match before {
            0 => reply(),
            _ => text("User-agent: *\nDisallow: /private"),
        })
        .await;
        let fetcher = fetcher(FetchOptions { first_byte_timeout: Duration::from_secs(1), ..obedient() });
        let failure = failure(&fetcher, &server.url("/a")).await;
        assert_eq!(failure.cause, cause, "{}", failure.message);
        assert!(failure.message.starts_with("robots.txt: "), "{}", failure.message);
        let until = match failure.retry {
            Retry::Throttled { until } => until,
            Retry::Backoff => std::time::Instant::now(),
            other => panic!("{cause}: {other:?}"),
        };
        assert_eq!(paths(&server), ["/robots.txt"]);
        tokio::time::sleep_until(until.into()).await;
        body(&fetcher, &server.url("/a")).await;
        skip(&fetcher, &server.url("/private")).await;
        assert_eq!(paths(&server), ["/robots.txt", "/robots.txt", "/a"]);
    }
}

/// A server that never has its robots.txt is parked like any other that only fails, so nobody waits for ever.
#[tokio::test]
async fn a_robots_txt_that_never_comes_parks_the_server() {
    let server = with_robots_txt(|_| status("501 Not Implemented", "")).await;
    let fetcher = fetcher(obedient());
    for number in 0..20 {
        let failure = failure(&fetcher, &server.url(&format!("/{number}"))).await;
        assert_eq!((failure.http_status, failure.retry), (Some(501), Retry::Backoff));
    }
    let failure = failure(&fetcher, &server.url("/")).await;
    assert!(matches!(failure.retry, Retry::ServerPaused { .. }), "{failure:?}");
    assert_eq!(paths(&server), ["/robots.txt"; 20]);
}

#[tokio::test]
async fn who_waits_for_the_same_answer_shares_the_failure() {
    let server =
        with_robots_txt(|_| Reply::After(Duration::from_millis(300), Box::new(status("500 Oops", "")))).await;
    let fetcher = fetcher(obedient());
    let all: Vec<_> = (0..10)
        .map(|number| {
            let (fetcher, url) = (Arc::clone(&fetcher), server.url(&format!("/{number}")));
            tokio::spawn(async move { failure(&fetcher, &url).await })
        })
        .collect();
    for task in all {
        assert_eq!(task.await.unwrap().http_status, Some(500));
    }
    assert_eq!(paths(&server), ["/robots.txt"]);
}

#[tokio::test]
async fn redirects_of_robots_txt_are_followed_five_times() {
    let rules = || text("User-agent: *\nDisallow: /");
    let elsewhere = TestServer::start(move |_, _| rules()).await;
    let there = elsewhere.url("/some/file").to_string();
    // What another server has counts for the one that was asked.
    let server = with_robots_txt(move |_| redirect(&there)).await;
    let fetcher = fetcher(obedient());
    skip(&fetcher, &server.url("/a")).await;
    assert_eq!(paths(&elsewhere), ["/some/file"]);

    for (hops, is_followed) in [(5, true), (6, false)] {
        let server = TestServer::start(move |path, _| match path {
            "/robots.txt" => redirect("/1"),
            "/image" => ok(b"image"),
            _ => match path[1..].parse::<u32>() {
                Ok(hop) if hop < hops => redirect(&format!("/{}", hop + 1)),
                _ => rules(),
            },
        })
        .await;
        let outcome = fetch(&fetcher, &server.url("/image")).await;
        assert_eq!(matches!(outcome, FetchOutcome::Skip(_)), is_followed, "{outcome:?}");
        assert_eq!(server.seen().len(), 6 + usize::from(!is_followed));
    }
    // One that leads nowhere is none.
    for location in ["/robots.txt", "ftp://a.example/", "http://169.254.169.254/robots.txt", "http://a b/"] {
        let server = with_robots_txt(move |_| redirect(location)).await;
        body(&fetcher, &server.url("/image")).await;
    }
    let down = with_robots_txt(|_| redirect("http://127.0.0.1:1/")).await;
    assert_eq!(failure(&fetcher, &down.url("/image")).await.cause, FailureCause::Connect);
}

#[tokio::test]
async fn the_target_of_a_redirect_has_rules_of_its_own() {
    let target = with_robots_txt(|_| text("User-agent: ddl\nDisallow: /media/")).await;
    let location = target.url("/media/1.jpg").to_string();
    let server = TestServer::start(move |path, _| match path {
        "/robots.txt" => status("404 Not Found", ""),
        _ => redirect(&location),
    })
    .await;
    let skip = skip(&fetcher(obedient()), &server.url("/1")).await;
    assert_eq!(skip.signal, "robots.txt: Disallow: /media/ (User-agent: ddl)");
    assert_eq!(paths(&server), ["/robots.txt", "/1"]);
    assert_eq!(paths(&target), ["/robots.txt"]);
}

#[tokio::test]
async fn rules_grow_old_and_may_be_ignored() {
    let server = with_robots_txt(|before| {
        text(if before == 0 { "User-agent: *\nDisallow: /" } else { "User-agent: *\nAllow: /" })
    })
    .await;
    let url = server.url("/a");
    let forgetful = fetcher(FetchOptions { robots_txt_max_age: Duration::ZERO, ..obedient() });
    skip(&forgetful, &url).await;
    body(&forgetful, &url).await;
    assert_eq!(paths(&server), ["/robots.txt", "/robots.txt", "/a"]);
    let rude = fetcher(FetchOptions { respect_robots_txt: false, ..obedient() });
    body(&rude, &url).await;
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn crawl_delay_is_a_rate_up_to_its_cap() {
    let check = async |delay: &'static str, rate: f64| {
        let server = with_robots_txt(move |_| text(&format!("User-agent: *\nCrawl-delay: {delay}"))).await;
        let fetcher = fetcher(FetchOptions {
            default_rate_limit: 20.0,
            max_crawl_delay: Duration::from_millis(200),
            ..obedient()
        });
        for path in ["/a", "/b"] {
            body(&fetcher, &server.url(path)).await;
        }
        let name = ServerName::from_url(&server.url("/")).unwrap();
        assert!((fetcher.server(&name).rate() - rate).abs() < 1e-9, "{delay}");
        let seen = server.seen();
        let gap = Duration::from_secs_f64(0.8 / rate);
        assert!(seen.windows(2).all(|pair| pair[1].at - pair[0].at >= gap), "{delay}: from the file on");
    };
    check("0.1", 10.0).await;
    check("0.01", 20.0).await;
    check("86400", 5.0).await;
}

#[tokio::test]
async fn only_the_start_of_an_endless_file_is_read() {
    let server = with_robots_txt(|_| {
        Reply::Drip(
            [b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /a\n", vec![b'#'; 600 << 10].as_slice()]
                .concat(),
            Duration::ZERO,
        )
    })
    .await;
    let fetcher = fetcher(obedient());
    skip(&fetcher, &server.url("/a")).await;
    body(&fetcher, &server.url("/b")).await;
}

#[tokio::test]
async fn robots_txt_goes_the_way_of_the_images() {
    let server = with_robots_txt(|_| text("User-agent: *\nDisallow: /private")).await;
    let connect_to = vec![format!("::127.0.0.1:{}", server.address.port()).parse().unwrap()];
    let fetcher = fetcher(FetchOptions { connect_to, allow_private_networks: false, ..obedient() });
    for host in ["a.example", "a.example:81", "b.example"] {
        skip(&fetcher, &Url::parse(&format!("http://{host}/private")).unwrap()).await;
        let head = server.seen().last().unwrap().head.to_ascii_lowercase();
        assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
    }
    assert_eq!(paths(&server), ["/robots.txt"; 3], "one for each server");
    // A server that may not be asked for images is not asked for its rules.
    let refused = failure(&fetcher, &Url::parse("http://10.0.0.1/").unwrap()).await;
    assert_eq!(refused.cause, FailureCause::ForbiddenAddress);
}

#[tokio::test]
async fn headers_that_opt_out_are_obeyed_before_the_body_is_read() {
    let server = TestServer::start(|path, _| match path {
        // A body that never comes.
        "/tag" => Reply::Hang(
            b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noai, noimageai\r\nContent-Length: 90000000\r\n\r\n".to_vec(),
        ),
        "/agent" => Reply::Send(response("200 OK", "X-Robots-Tag: ddl-test: noindex\r\n", b"image")),
        "/usage" => Reply::Send(response("203 Fine", "Content-Usage: train-ai=n\r\n", b"image")),
        "/tdm" => Reply::Send(response("200 OK", "TDM-Reservation: 1\r\n", b"image")),
        "/other" => Reply::Send(response("200 OK", "X-Robots-Tag: googlebot: noai\r\n", b"image")),
        "/gone" => status("404 Not Found", "X-Robots-Tag: noai\r\n"),
        _ => status("302 Found", "X-Robots-Tag: noai\r\nLocation: /other\r\n"),
    })
    .await;
    let fetcher = fetcher(options());
    for (path, http_status, signal) in [
        ("/tag", 200, "x-robots-tag: noai, noimageai"),
        ("/agent", 200, "x-robots-tag: ddl-test: noindex"),
        ("/usage", 203, "content-usage: train-ai=n"),
        ("/tdm", 200, "tdm-reservation: 1"),
    ] {
        let skip = skip(&fetcher, &server.url(path)).await;
        assert_eq!((skip.reason, skip.http_status), (SkipReason::OptOut, Some(http_status)), "{path}");
        assert_eq!(skip.signal, signal);
    }
    body(&fetcher, &server.url("/other")).await;
    body(&fetcher, &server.url("/redirect")).await;
    assert_eq!(failure(&fetcher, &server.url("/gone")).await.http_status, Some(404));

    let owner = Fetcher::new(
        FetchOptions {
            respect_x_robots_tag: false,
            respect_content_usage: false,
            respect_tdm_reservation: false,
            ..options()
        },
        ServerRules::default(),
    )
    .unwrap();
    for path in ["/agent", "/usage", "/tdm"] {
        body(&owner, &server.url(path)).await;
    }
}

#[tokio::test]
async fn a_long_signal_is_cut() {
    let server = TestServer::start(|_, _| {
        let header = format!("X-Robots-Tag: noai, {}\r\n", "\u{e9}".repeat(2000));
        Reply::Send(response("200 OK", &header, b"image"))
    })
    .await;
    assert!(skip(&fetcher(options()), &server.url("/")).await.signal.len() <= 500);
}
