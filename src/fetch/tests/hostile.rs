//! URLs and redirects that are after machines in the user's network, and after passwords.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use url::Url;

use super::support::*;
use crate::fetch::dns::Dns;
use crate::fetch::{FetchOptions, FetchOutcome, Fetcher, ServerRules};
use crate::model::{FailureCause, ServerName};

/// Spellings of addresses that are not to be asked; `PORT` stands for the port of the trap.
const HOSTILE: &[&str] = &[
    // Loopback in all ways of writing it.
    "http://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://017700000001:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0177.0.0.01:PORT/",
    "http://127.255.255.254:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://127%2E0%2E0%2E1:PORT/",
    "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1:PORT/",
    "http://127\u{3002}0\u{3002}0\u{3002}1:PORT/",
    "http://\u{2460}27.0.0.1:PORT/",
    "https://127.0.0.1:PORT/",
    // Parts of URLs that look like other parts.
    "http://public.example@127.0.0.1:PORT/",
    "http://public.example:80@127.0.0.1:PORT/",
    "http://public.example%2f@127.0.0.1:PORT/",
    "http:\\\\127.0.0.1:PORT\\",
    "http:///127.0.0.1:PORT/",
    "http:127.0.0.1:PORT/",
    "\thttp://127.0.0.1:PORT/",
    "HTTP://127.0.0.1:PORT/",
    "ht\ntp://127.0.0.1:PORT/",
    // IPv6, and IPv4 within it.
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[::ffff:0:127.0.0.1]:PORT/",
    "http://[64:ff9b::127.0.0.1]:PORT/",
    "http://[64:ff9b::a9fe:a9fe]:PORT/",
    "http://[64:ff9b:1::1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2002:a9fe:a9fe::1]:PORT/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[fd00::1]:PORT/",
    "http://[fd00:ec2::254]:PORT/",
    "http://[fec0::1]:PORT/",
    "http://[ff02::1]:PORT/",
    "http://[2001:db8::1]:PORT/",
    // The other ranges that are no public servers.
    "http://0.0.0.0:PORT/",
    "http://0:PORT/",
    "http://0.1.2.3:PORT/",
    "http://10.0.0.1:PORT/",
    "http://172.16.0.1:PORT/",
    "http://192.168.1.1:PORT/",
    "http://169.254.169.254:PORT/latest/meta-data/",
    "http://2852039166:PORT/latest/meta-data/",
    "http://100.64.0.1:PORT/",
    "http://100.100.100.200:PORT/",
    "http://168.63.129.16:PORT/",
    "http://192.0.0.192:PORT/",
    "http://192.0.0.1:PORT/",
    "http://192.0.2.1:PORT/",
    "http://198.18.0.1:PORT/",
    "http://198.51.100.1:PORT/",
    "http://203.0.113.1:PORT/",
    "http://224.0.0.1:PORT/",
    "http://240.0.0.1:PORT/",
    "http://255.255.255.255:PORT/",
    // Names that lead there.
    "http://localhost:PORT/",
    "http://LOCALHOST.:PORT/",
    "http://loopback.example:PORT/",
    "http://mapped.example:PORT/",
    "http://zero.example:PORT/",
    "http://metadata.example:PORT/",
    "http://inside.example:PORT/",
];

/// Redirects only: relative forms, and schemes that a list's URL cannot have.
const HOSTILE_LOCATIONS: &[&str] = &[
    "//127.0.0.1:PORT/",
    "\\\\127.0.0.1:PORT/",
    "/\\127.0.0.1:PORT/",
    "http:/127.0.0.1:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[::1%lo]:PORT/",
    "http://127.0.0.1:PORT:80/",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/",
    "dict://127.0.0.1:PORT/",
    "ws://127.0.0.1:PORT/",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "data:image/png;base64,iVBORw0KGgo=",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
];

fn dns() -> Dns {
    let known = [
        ("loopback.example", "127.0.0.1"),
        ("mapped.example", "::ffff:127.0.0.1"),
        ("zero.example", "0.0.0.0 ::"),
        ("metadata.example", "169.254.169.254 fd00:ec2::254"),
        ("inside.example", "10.0.0.1 fd00::1 192.168.0.1"),
        ("mixed.example", "127.0.0.2 169.254.169.254 ::1 127.0.0.9"),
    ];
    let addresses = |text: &str| text.split(' ').map(|text| text.parse::<IpAddr>().unwrap()).collect();
    let known = known.map(|(name, text)| (name.to_owned(), addresses(text)));
    Dns::knowing(HashMap::from(known))
}

/// Nothing but public addresses, and one of this machine's.
fn fetcher_beside(options: FetchOptions) -> Arc<Fetcher> {
    let options = FetchOptions {
        allow_private_networks: false,
        allow_addresses: vec!["127.0.0.9".parse().unwrap()],
        ..options
    };
    Arc::new(Fetcher::with_dns(options, ServerRules::default(), dns()).unwrap())
}

/// Hears every connection to its port on any address of this machine.
struct Trap(TcpListener);

impl Trap {
    fn new(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn everywhere() -> Self {
        // Both families on one socket, where there are both.
        let has_ipv6 = TcpListener::bind("[::]:0").is_ok();
        Self::new(if has_ipv6 { "[::]:0" } else { "0.0.0.0:0" })
    }

    fn arm(&self, url: &str) -> String {
        url.replace("PORT", &self.0.local_addr().unwrap().port().to_string())
    }

    fn assert_untouched(&self, after: &str) {
        match self.0.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("{after}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_trap_hears_who_connects() {
    let trap = Trap::everywhere();
    let fetcher = fetcher(options());
    for url in ["http://127.0.0.1:PORT/", "http://127.9.9.9:PORT/"] {
        let url = Url::parse(&trap.arm(url)).unwrap();
        let asked = tokio::time::timeout(std::time::Duration::from_millis(500), fetch(&fetcher, &url));
        assert!(asked.await.is_err(), "nobody answers");
        trap.0.accept().unwrap();
    }
}

#[tokio::test]
async fn no_packet_reaches_an_address_that_is_refused() {
    let trap = Trap::everywhere();
    // So slow that a permit that was taken shows.
    let options = FetchOptions { default_rate_limit: 0.001, respect_robots_txt: true, ..options() };
    for text in HOSTILE {
        let url = Url::parse(&trap.arm(text)).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        // Several are names of one server, which lets one pass for its name to be resolved.
        let fetcher = fetcher_beside(options.clone());
        let failure = failure(&fetcher, &url).await;
        assert_eq!(failure.cause, FailureCause::ForbiddenAddress, "{text:?}: {}", failure.message);
        assert_eq!(failure.retry, crate::fetch::Retry::Never, "{text:?}");
        let is_name = url.domain().is_some();
        let server = fetcher.server(&ServerName::from_url(&url).unwrap());
        assert!(is_name || server.is_fresh(std::time::Instant::now()), "{text:?}: nobody was let through");
        trap.assert_untouched(text);
    }
}

#[tokio::test]
async fn no_redirect_reaches_an_address_that_is_refused() {
    let trap = Trap::everywhere();
    let armed: Vec<String> = HOSTILE.iter().chain(HOSTILE_LOCATIONS).map(|text| trap.arm(text)).collect();
    let locations = armed.clone();
    let server = TestServer::start_at("127.0.0.9:0", move |path, _| match path[1..].parse::<usize>() {
        Ok(number) => redirect(&locations[number].replace('\n', "")),
        Err(_) => status("404 Not Found", ""),
    })
    .await;
    for respect_robots_txt in [false, true] {
        let fetcher = fetcher_beside(FetchOptions { respect_robots_txt, ..options() });
        for (number, location) in armed.iter().enumerate() {
            let outcome = fetch(&fetcher, &server.url(&format!("/{number}"))).await;
            let FetchOutcome::Failure(failure) = outcome else { panic!("{location:?}: {outcome:?}") };
            match failure.cause {
                FailureCause::ForbiddenAddress | FailureCause::BadRedirect => {}
                // With a base of the same scheme these are paths on it.
                FailureCause::HttpStatus
                    if location.starts_with("http:1") || location.starts_with("http:/1") => {}
                cause => panic!("{location:?}: {cause} {}", failure.message),
            }
            trap.assert_untouched(location);
        }
    }
}

#[tokio::test]
async fn of_several_addresses_only_those_that_may_be_asked_are() {
    let server = TestServer::start_at("127.0.0.9:0", |_, _| ok(b"x")).await;
    let port = server.address.port();
    let trap = Trap::new(&format!("127.0.0.2:{port}"));
    let url = Url::parse(&format!("http://mixed.example:{port}/")).unwrap();
    body(&fetcher_beside(options()), &url).await;
    trap.assert_untouched("mixed.example");
}

#[tokio::test]
async fn credentials_go_to_their_server_and_nowhere_else() {
    // `Basic` and base64 of `me:secret`.
    const AUTHORIZATION: &str = "authorization: basic bwu6c2vjcmv0";
    let other = TestServer::start(|_, _| ok(b"x")).await;
    let there = other.url("/x").to_string();
    let network_path = there.strip_prefix("http:").unwrap().to_owned();
    let server = TestServer::start(move |path, _| match path {
        "/other" => redirect(&there),
        "/network-path" => redirect(&network_path),
        "/relative" => redirect("/image"),
        "/circle" => redirect("/circle"),
        "/no-url" => redirect("http://you:secret@b ad/"),
        "/no-http" => redirect("ftp://you:secret@a.example/"),
        "/robots.txt" => status("401 Unauthorized", ""),
        _ => ok(b"x"),
    })
    .await;
    let logs = Logs::default();
    let _guard = logs.capture();
    let fetcher = fetcher(FetchOptions { respect_robots_txt: true, ..options() });
    let url = |path: &str| {
        let mut url = server.url(path);
        url.set_username("me").unwrap();
        url.set_password(Some("secret")).unwrap();
        url
    };
    for path in ["/image", "/relative", "/other", "/network-path"] {
        let body = body(&fetcher, &url(path)).await;
        assert!(!format!("{:?}", body.final_url).contains("secret"));
    }
    for path in ["/circle", "/no-url", "/no-http"] {
        let failure = failure(&fetcher, &url(path)).await;
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
    for seen in server.seen() {
        let has = seen.head.to_ascii_lowercase().contains(AUTHORIZATION);
        assert_eq!(has, seen.path != "/robots.txt", "{}", seen.head);
    }
    assert_eq!(other.seen().len(), 3);
    for seen in other.seen() {
        let head = seen.head.to_ascii_lowercase();
        assert!(!head.contains("authorization") && !head.contains("secret"), "{head}");
    }
    let text = logs.text();
    assert!(text.contains("127.0.0.1"), "the client's own events are there");
    assert!(!text.contains("secret") && !text.contains("bWU6c2VjcmV0"), "{text}");
}
