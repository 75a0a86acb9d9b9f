//! Each way in which a network fails, and the cause that it gets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use url::Url;

use super::support::*;
use crate::fetch::{FetchOptions, Fetcher, Retry};
use crate::model::FailureCause;

async fn check(fetcher: &Fetcher, url: &str, cause: FailureCause) {
    let failure = failure(fetcher, &Url::parse(url).unwrap()).await;
    assert_eq!(failure.cause, cause, "{url}: {}", failure.message);
    assert_eq!(failure.retry, Retry::Backoff, "{url}");
    assert!(!failure.message.is_empty());
}

#[tokio::test]
async fn no_connection() {
    let fetcher = fetcher(FetchOptions { connect_timeout: Duration::from_secs(1), ..options() });
    check(&fetcher, "http://no-such-server.invalid/", FailureCause::Dns).await;
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    check(&fetcher, &format!("http://127.0.0.1:{port}/"), FailureCause::Connect).await;
    // Accepted by the kernel, never answered: the TLS handshake counts as connecting.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    check(&fetcher, &format!("https://127.0.0.1:{port}/"), FailureCause::ConnectTimeout).await;
}

/// Answers a TLS hello with these bytes and hangs up.
async fn answers_hello_with(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // All of the hello has to be read, or hanging up becomes a reset.
                let mut hello = [0; 4096];
                let _ = stream.read(&mut hello).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
                let _ = stream.read(&mut hello).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn no_tls_where_https_is_asked_for() {
    let fetcher = fetcher(FetchOptions { connect_timeout: Duration::from_secs(5), ..options() });
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let address = answers_hello_with(answer).await;
        check(&fetcher, &format!("https://{address}/"), FailureCause::Tls).await;
    }
}

#[tokio::test]
async fn no_header() {
    let server = TestServer::start(|path, _| match path {
        "/hang" => Reply::Hang(Vec::new()),
        "/drip" => Reply::Drip(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), Duration::from_millis(20)),
        "/close" => Reply::Close(Vec::new()),
        "/half" => Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        "/reset" => Reply::Reset(Vec::new()),
        "/garbage" => Reply::Close(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n".to_vec()),
        "/status" => Reply::Close(b"HTTP/1.1 99999 OK\r\n\r\n".to_vec()),
        "/header" => Reply::Close(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n".to_vec()),
        "/lengths" => {
            Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy".to_vec())
        }
        _ => Reply::Close(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes()),
    })
    .await;
    let fetcher = fetcher(FetchOptions { first_byte_timeout: Duration::from_millis(500), ..options() });
    for (path, cause) in [
        ("/hang", FailureCause::FirstByteTimeout),
        ("/drip", FailureCause::FirstByteTimeout),
        ("/close", FailureCause::ConnectionLost),
        ("/half", FailureCause::ConnectionLost),
        ("/reset", FailureCause::ConnectionLost),
        ("/garbage", FailureCause::BadResponse),
        ("/status", FailureCause::BadResponse),
        ("/header", FailureCause::BadResponse),
        ("/lengths", FailureCause::BadResponse),
        ("/huge", FailureCause::BadResponse),
    ] {
        check(&fetcher, server.url(path).as_str(), cause).await;
    }
    assert_eq!(server.seen().len(), 10, "no connection could have been reused, so nothing is asked twice");
}

#[tokio::test]
async fn no_whole_body() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let server = TestServer::start(|path, _| match path {
        "/short" => Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfew".to_vec()),
        "/short-chunk" => Reply::Close(format!("{CHUNKED}5\r\nab").into_bytes()),
        "/no-last-chunk" => Reply::Close(format!("{CHUNKED}2\r\nab\r\n").into_bytes()),
        "/reset" => Reply::Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfew".to_vec()),
        "/bad-chunk" => Reply::Close(format!("{CHUNKED}zz\r\nab\r\n").into_bytes()),
        "/hang" => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfew".to_vec()),
        _ => Reply::Drip(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), Duration::from_millis(20)),
    })
    .await;
    let fetcher = fetcher(FetchOptions { request_timeout: Duration::from_millis(700), ..options() });
    for (path, cause) in [
        ("/short", FailureCause::TruncatedBody),
        ("/short-chunk", FailureCause::TruncatedBody),
        ("/no-last-chunk", FailureCause::TruncatedBody),
        ("/reset", FailureCause::ConnectionLost),
        ("/bad-chunk", FailureCause::BadResponse),
        ("/hang", FailureCause::RequestTimeout),
        ("/drip", FailureCause::RequestTimeout),
    ] {
        check(&fetcher, server.url(path).as_str(), cause).await;
    }
}

#[tokio::test]
async fn no_body_or_too_much_of_one() {
    let server = TestServer::start(|path, _| match path {
        "/empty" => ok(b""),
        "/empty-chunked" => {
            Reply::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec())
        }
        "/exact" => ok(&[1; 1000]),
        "/announced" => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_vec()),
        _ => Reply::Drip(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), Duration::ZERO),
    })
    .await;
    let fetcher = fetcher(FetchOptions { max_body_bytes: 1000, ..options() });
    assert_eq!(body(&fetcher, &server.url("/exact")).await.bytes.len(), 1000);
    for (path, cause) in [
        ("/empty", FailureCause::EmptyBody),
        ("/empty-chunked", FailureCause::EmptyBody),
        ("/announced", FailureCause::BodyTooLarge),
        ("/endless", FailureCause::BodyTooLarge),
    ] {
        let failure = failure(&fetcher, &server.url(path)).await;
        assert_eq!(
            (failure.cause, failure.retry, failure.http_status),
            (cause, Retry::Never, Some(200)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_total_time_spans_redirects() {
    let server = TestServer::start(|path, _| {
        Reply::After(Duration::from_millis(300), Box::new(redirect(&format!("{path}x"))))
    })
    .await;
    let fetcher = fetcher(FetchOptions { request_timeout: Duration::from_millis(700), ..options() });
    check(&fetcher, server.url("/").as_str(), FailureCause::RequestTimeout).await;
    assert_eq!(server.seen().len(), 3);
}
