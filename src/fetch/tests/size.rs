//! Sizes of images that are not fetched.

use super::support::*;
use crate::fetch::{Retry, SizeOutcome};
use crate::model::SkipReason;

/// What comes of a URL where these answer the first request and those that follow.
async fn ask(replies: &'static [&'static str]) -> (SizeOutcome, Vec<Seen>) {
    let server = TestServer::start(move |_, before| {
        let reply = replies.get(before).expect("no more requests");
        Reply::Send(format!("HTTP/1.1 {reply}\r\n\r\n").into_bytes())
    })
    .await;
    let outcome = fetcher(options()).size_of(&server.url("/a")).await;
    (outcome, server.seen())
}

fn told(outcome: &SizeOutcome) -> Option<u64> {
    match outcome {
        SizeOutcome::Told { bytes, .. } => Some(*bytes),
        _ => None,
    }
}

#[tokio::test]
async fn a_head_tells_and_else_the_first_byte() {
    let (outcome, seen) = ask(&["200 OK\r\nContent-Length: 123456\r\nContent-Type: image/png"]).await;
    assert_eq!((told(&outcome), seen.len()), (Some(123_456), 1));
    assert!(seen[0].head.starts_with("HEAD /a "), "{}", seen[0].head);
    assert!(matches!(outcome, SizeOutcome::Told { content_type: Some(kind), .. } if kind == "image/png"));

    let part = "206 Partial Content\r\nContent-Range: bytes 0-0/777\r\nContent-Length: 1\r\n\r\nx";
    for head in
        ["405 Method Not Allowed\r\nContent-Length: 0", "200 OK", "200 OK\r\nContent-Length: 0", "500 Oh"]
    {
        let (outcome, seen) = ask(Box::leak(Box::new([head, part]))).await;
        assert_eq!((told(&outcome), seen.len()), (Some(777), 2), "{head}: {outcome:?}");
        let head = seen[1].head.to_ascii_lowercase();
        assert!(head.starts_with("get /a ") && head.contains("range: bytes=0-0"), "{head}");
    }
    // One that knows no ranges; the body is not read.
    let (outcome, _) = ask(&["501 No", "200 OK\r\nContent-Length: 100000000"]).await;
    assert_eq!(told(&outcome), Some(100_000_000));
    let (outcome, _) =
        ask(&["200 OK", "206 Part\r\nContent-Range: bytes 0-0/*\r\nContent-Length: 1\r\n\r\nx"]).await;
    assert!(matches!(outcome, SizeOutcome::Untold), "{outcome:?}");
    let (outcome, _) =
        ask(&["302 Found\r\nContent-Length: 0\r\nLocation: /b", "200 OK\r\nContent-Length: 5"]).await;
    assert_eq!(told(&outcome), Some(5));
}

#[tokio::test]
async fn servers_are_heeded_as_by_a_fetch() {
    let (outcome, seen) = ask(&["404 Not Found", "404 Not Found\r\nContent-Length: 0"]).await;
    let SizeOutcome::Failure(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.http_status, failure.retry, seen.len()), (Some(404), Retry::Never, 2));

    let (outcome, seen) = ask(&["429 Too Many Requests\r\nRetry-After: 9"]).await;
    let SizeOutcome::Failure(failure) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(failure.retry, Retry::Throttled { .. }) && seen.len() == 1, "{failure:?}");

    let (outcome, _) = ask(&["200 OK\r\nContent-Length: 7\r\nX-Robots-Tag: noai"]).await;
    assert!(matches!(&outcome, SizeOutcome::Skip(skip) if skip.reason == SkipReason::OptOut), "{outcome:?}");

    let server = TestServer::start(|path, _| match path {
        "/robots.txt" => Reply::Send(response("200 OK", "", b"User-agent: *\nDisallow: /")),
        _ => panic!("asked for {path}"),
    })
    .await;
    let obedient = crate::fetch::FetchOptions { respect_robots_txt: true, ..options() };
    let outcome = fetcher(obedient).size_of(&server.url("/a")).await;
    assert!(matches!(&outcome, SizeOutcome::Skip(skip) if skip.reason == SkipReason::Robots), "{outcome:?}");
}
