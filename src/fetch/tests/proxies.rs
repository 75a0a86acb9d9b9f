//! Forward proxies: what goes through them, what does not, and what the guard refuses on the way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::support::*;
use super::trust::Trust;
use crate::fetch::dns::Dns;
use crate::fetch::{FetchOptions, Fetcher, ProxyUrl, Retry, ServerRules};
use crate::model::FailureCause;

/// A proxy that takes every name for that of one server, and remembers what it was asked.
struct TestProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&log);
                // Errors are somebody's hanging up.
                tokio::spawn(async move { forward(client, target, &log).await.ok() });
            }
        });
        Self { address, heads }
    }

    fn url(&self) -> Option<ProxyUrl> {
        Some(ProxyUrl::new(&format!("http://me:secret@{}", self.address)))
    }

    /// Request lines.
    fn asked(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

async fn forward(mut client: TcpStream, target: SocketAddr, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    log.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    let mut server = TcpStream::connect(target).await?;
    if head.starts_with(b"CONNECT ") {
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    } else {
        server.write_all(&head).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn fetcher_with(options: FetchOptions) -> Fetcher {
    let known = [
        ("photos.example", "8.8.8.8"),
        ("direct.example", "127.0.0.1"),
        ("inside.example", "10.0.0.1"),
        ("mixed.example", "8.8.8.8 10.0.0.1"),
    ];
    let addresses = |text: &str| text.split(' ').map(|text| text.parse().unwrap()).collect();
    let known: HashMap<_, _> = known.map(|(name, text)| (name.to_owned(), addresses(text))).into();
    Fetcher::with_dns(options, ServerRules::default(), Dns::knowing(known)).unwrap()
}

#[tokio::test]
async fn http_goes_through_the_proxy_and_the_guard_stands_before_it() {
    let server = TestServer::start(|path, _| match path {
        "http://photos.example/inside" => redirect("http://inside.example/"),
        "http://photos.example/literal" => redirect("http://10.0.0.1/"),
        _ => ok(b"x"),
    })
    .await;
    let proxy = TestProxy::start(server.address).await;
    let options = FetchOptions { http_proxy: proxy.url(), allow_private_networks: false, ..options() };
    let logs = Logs::default();
    let _guard = logs.capture();
    let fetcher = fetcher_with(options);
    for url in ["http://photos.example/a", "http://nowhere.invalid/b"] {
        body(&fetcher, &Url::parse(url).unwrap()).await;
    }
    let head = proxy.heads.lock().unwrap()[0].clone();
    // "me:secret" in Base64.
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0"), "{head}");
    assert!(head.to_ascii_lowercase().contains("host: photos.example"), "{head}");
    for url in [
        "http://inside.example/",
        "http://mixed.example/",
        "http://10.0.0.1/",
        "http://photos.example/inside",
        "http://photos.example/literal",
        // Of this machine, so not even the proxy is asked.
        "http://127.0.0.1:1/",
    ] {
        let failure = failure(&fetcher, &Url::parse(url).unwrap()).await;
        assert_eq!(failure.cause, FailureCause::ForbiddenAddress, "{url}: {}", failure.message);
    }
    let seen: Vec<String> = server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(
        seen,
        [
            "http://photos.example/a",
            "http://nowhere.invalid/b",
            "http://photos.example/inside",
            "http://photos.example/literal"
        ]
    );
    assert!(!logs.text().contains("secret"), "{}", logs.text());
}

#[tokio::test]
async fn https_goes_through_a_tunnel_and_certificates_are_the_servers() {
    let trust = Trust::new(&["photos.example"]);
    let server = TestServer::start_with(Some(trust.acceptor()), |_, _| ok(b"x")).await;
    let proxy = TestProxy::start(server.address).await;
    let fetcher = fetcher_with(FetchOptions { https_proxy: proxy.url(), ..trust.options() });
    body(&fetcher, &Url::parse("https://photos.example/a").unwrap()).await;
    let misnamed = failure(&fetcher, &Url::parse("https://nowhere.invalid/").unwrap()).await;
    assert_eq!(misnamed.cause, FailureCause::Tls, "{}", misnamed.message);
    assert_eq!(
        proxy.asked(),
        ["CONNECT photos.example:443 HTTP/1.1", "CONNECT nowhere.invalid:443 HTTP/1.1"]
    );
    assert_eq!(server.seen()[0].path, "/a");
}

#[tokio::test]
async fn what_no_proxy_names_is_asked_directly() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let proxy = TestProxy::start(server.address).await;
    let no_proxy = vec!["direct.example".to_owned()];
    let fetcher = fetcher_with(FetchOptions { http_proxy: proxy.url(), no_proxy, ..options() });
    let port = server.address.port();
    for host in ["direct.example", "localhost", "127.0.0.1", "photos.example"] {
        body(&fetcher, &Url::parse(&format!("http://{host}:{port}/")).unwrap()).await;
    }
    assert_eq!(proxy.asked(), [format!("GET http://photos.example:{port}/ HTTP/1.1")]);
    assert_eq!(server.seen().len(), 4);
}

/// A wrong password for the proxy says nothing of servers, and so costs no record.
#[tokio::test]
async fn a_proxy_that_refuses_is_asked_again_later() {
    let proxy = TestServer::start(|_, _| status("407 Proxy Authentication Required", "")).await;
    for respect_robots_txt in [true, false] {
        let http_proxy = Some(ProxyUrl::new(&format!("http://{}", proxy.address)));
        let fetcher = fetcher_with(FetchOptions { http_proxy, respect_robots_txt, ..options() });
        let failure = failure(&fetcher, &Url::parse("http://photos.example/a").unwrap()).await;
        assert_eq!((failure.cause, failure.retry), (FailureCause::Connect, Retry::Backoff), "{failure:?}");
    }
    let server = TestServer::start(|path, _| match path {
        "/robots.txt" => status("407 Proxy Authentication Required", ""),
        _ => ok(b"x"),
    })
    .await;
    let fetcher = fetcher_with(FetchOptions { respect_robots_txt: true, ..options() });
    assert_eq!(body(&fetcher, &server.url("/a")).await.bytes, b"x"[..], "a 4xx: there is no robots.txt");
}

#[tokio::test]
async fn what_a_url_says_of_itself_replaces_what_is_set_for_all() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let headers = vec![("Authorization".to_owned(), "Bearer all".to_owned())];
    let fetcher = fetcher_with(FetchOptions { headers, ..options() });
    let mut url = server.url("/a");
    url.set_username("me").unwrap();
    url.set_password(Some("secret")).unwrap();
    body(&fetcher, &url).await;
    let head = server.seen()[0].head.to_ascii_lowercase();
    let lines: Vec<_> = head.lines().filter(|line| line.starts_with("authorization:")).collect();
    assert_eq!(lines, ["authorization: basic bwu6c2vjcmv0"]);
}
