//! The farm seen from outside, through plain sockets.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::model::RecordState;

/// A connection that asks and reads answers with a `Content-Length`.
struct Client(TcpStream);

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Client {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn send(&mut self, server: &str, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: test\r\n\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        answer.body.resize(length, 0);
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    fn get(&mut self, server: &str, path: &str) -> Answer {
        self.send(server, path);
        self.receive()
    }
}

/// A plain farm where `slow.example` behaves as given.
fn farm(behaviour: ServerBehaviour) -> DemoFarm {
    let behaviours = BTreeMap::from([("slow.example".to_owned(), behaviour)]);
    DemoFarm::start(FarmOptions { behaviours, picture_side: 32, ..FarmOptions::default() }).unwrap()
}

#[test]
fn one_connection_serves_many_servers_and_the_log_knows() {
    let farm = farm(ServerBehaviour::default());
    let mut client = Client::connect(farm.addr());
    let row = farm_list(1, 1, 9).next().unwrap();
    let path = row.identifier.strip_prefix("http://server-000.example").unwrap();
    let answer = client.get("server-000.example:80", path);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/jpeg")));
    assert_eq!(farm.body("server-000.example", path).unwrap(), answer.body);
    let other = client.get("OTHER.example", path);
    assert_ne!(other.body, answer.body);
    assert_eq!(client.get("other.example", "/nothing").status, 404);
    assert_eq!(client.get("other.example", "/robots.txt").status, 404);
    let log = farm.log();
    let seen: Vec<_> = log.iter().map(|entry| (&*entry.server, entry.status)).collect();
    let expected =
        [("server-000.example", 200), ("other.example", 200), ("other.example", 404), ("other.example", 404)];
    assert_eq!(seen, expected);
    assert!(log.iter().all(|entry| &*entry.user_agent == "test" && entry.in_flight == 1));
    assert_eq!(farm.requests_per_url()[&row.identifier], 1);
    assert_eq!(farm.counts("other.example").num_requests, 3);
    farm.clear_log();
    assert!(farm.log().is_empty());
}

#[test]
fn a_limited_server_answers_429_and_says_when() {
    let farm = farm(ServerBehaviour {
        requests_per_second: Some(0.001),
        burst: 2,
        retry_after: Duration::from_secs(7),
        ..ServerBehaviour::default()
    });
    let mut client = Client::connect(farm.addr());
    let statuses = [1, 2, 3].map(|n| client.get("slow.example", &format!("/plain/{n}")).status);
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(client.get("slow.example", "/plain/4").header("retry-after"), Some("7"));
    assert_eq!(client.get("free.example", "/plain/1").status, 200);
    assert_eq!(farm.counts("slow.example").num_refused, 2);
}

#[test]
fn requests_in_flight_are_counted_and_bounded() {
    let latency = Duration::from_millis(300);
    let farm = farm(ServerBehaviour { latency, max_in_flight: Some(3), ..ServerBehaviour::default() });
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(farm.addr())).collect();
    let start = Instant::now();
    for client in &mut clients {
        client.send("slow.example", "/plain/1");
    }
    let mut statuses: Vec<_> = clients.iter_mut().map(|client| client.receive().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert!(start.elapsed() >= latency);
    assert_eq!(farm.max_in_flight("slow.example"), 4);
    assert_eq!(farm.log().iter().filter(|entry| entry.ended - entry.started >= latency).count(), 3);
}

#[test]
fn a_server_with_few_workers_lets_requests_wait() {
    let latency = Duration::from_millis(50);
    let farm = farm(ServerBehaviour { latency, num_workers: Some(1), ..ServerBehaviour::default() });
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(farm.addr())).collect();
    let start = Instant::now();
    for client in &mut clients {
        client.send("slow.example", "/plain/1");
    }
    assert!(clients.iter_mut().all(|client| client.receive().status == 200));
    assert!(start.elapsed() >= 4 * latency, "{:?}", start.elapsed());
}

#[test]
fn a_client_that_leaves_is_no_longer_in_flight() {
    let latency = Duration::from_secs(3_600);
    let farm = farm(ServerBehaviour { latency, ..ServerBehaviour::default() });
    let mut client = Client::connect(farm.addr());
    client.send("slow.example", "/plain/1");
    let waited = |until: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !until() && start.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(2));
        }
        assert!(until());
    };
    waited(&|| farm.counts("slow.example").in_flight == 1);
    drop(client);
    waited(&|| farm.counts("slow.example").in_flight == 0);
    assert_eq!(farm.log()[0].status, 0);
}

#[test]
fn a_dropped_farm_closes_its_port_and_its_connections() {
    let farm = farm(ServerBehaviour::default());
    let addr = farm.addr();
    let mut client = Client::connect(addr);
    assert_eq!(client.get("a.example", "/plain/1").status, 200);
    drop(farm);
    assert_eq!(client.0.read(&mut [0]).unwrap_or(0), 0);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_farm_can_be_started_and_dropped_in_async_code() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let addr = runtime.block_on(async { farm(ServerBehaviour::default()).addr() });
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn the_demo_answers_as_its_list_expects() {
    // 250 rows have each special case; the full 600 would only cost more time.
    let demo = DemoOptions { num_records: 250, ..DemoOptions::default() };
    let start = Instant::now();
    let farm = DemoFarm::start(FarmOptions { demo: Some(demo), ..FarmOptions::default() }).unwrap();
    println!("ready after {:?}", start.elapsed());
    let demo = farm.demo().unwrap();
    assert!(demo.server_names().all(|name| farm.server_names().contains(&name.to_owned())));
    let (mut hashes, mut images) = (HashSet::new(), 0);
    for row in demo.rows() {
        if row.expected != Some(RecordState::Success) || row.identifier.contains("portal-h") {
            continue;
        }
        let url = url::Url::parse(&row.identifier).unwrap();
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let body = farm.body(url.host_str().unwrap(), path).unwrap();
        assert!(image::guess_format(&body).is_ok(), "{url}");
        hashes.insert(blake3::hash(&body));
        images += 1;
    }
    assert!(images > 150 && hashes.len() < images && hashes.len() + 25 > images, "{images} {}", hashes.len());

    let mut client = Client::connect(farm.addr());
    let moved = client.get("portal-h.example", "/object/0");
    assert_eq!((moved.status, moved.header("location")), (302, Some("/files/0.jpg")));
    assert_eq!(client.get("portal-h.example", "/files/0.jpg").status, 200);
    let html = client.get("attic-g.example", "/box/1.jpg");
    assert_eq!((html.status, html.header("content-type")), (200, Some("text/html")));
    assert_eq!(client.get("attic-g.example", "/box/2.jpg").header("content-length"), Some("0"));
    assert_eq!(client.get("attic-g.example", "/box/5.jpg").status, 410);
    let half = client.get("attic-g.example", "/box/0.jpg").body;
    assert!(half.starts_with(&[0xff, 0xd8]) && !half.ends_with(&[0xff, 0xd9]));
    let opted_out = demo.rows().iter().find(|row| row.expected.is_none()).unwrap();
    let path = opted_out.identifier.strip_prefix("http://garden-d.example").unwrap();
    assert_eq!(client.get("garden-d.example", path).header("x-robots-tag"), Some("noai, noimageai"));
    let robots = client.get("garden-d.example", "/robots.txt").body;
    assert!(String::from_utf8(robots).unwrap().contains("Disallow: /private/"));
}
