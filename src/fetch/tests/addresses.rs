//! Several servers at one address: what they see together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use url::Url;

use super::support::*;
use crate::fetch::{FetchOptions, Fetcher, ServerRules};
use crate::model::ServerName;

fn slow() -> impl Fn(&str, usize) -> Reply + Send + Sync + 'static {
    |_, _| Reply::After(Duration::from_millis(20), Box::new(ok(b"x")))
}

/// Asks for ten paths of each of eight servers at once, which are all at this one's address.
async fn fetch_from_many(fetcher: &Arc<Fetcher>, urls: impl Fn(usize, usize) -> Url) {
    let tasks: Vec<_> = (0..80)
        .map(|number| {
            let (fetcher, url) = (Arc::clone(fetcher), urls(number % 8, number / 8));
            tokio::spawn(async move { body(&fetcher, &url).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn by_name(server: &TestServer) -> (FetchOptions, impl Fn(usize, usize) -> Url) {
    let connect_to = vec![format!("::127.0.0.1:{}", server.address.port()).parse().unwrap()];
    let options = FetchOptions { connect_to, max_connections_per_server: 4, ..options() };
    (options, |server, path| Url::parse(&format!("http://{server}.example/{path}")).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_at_one_address_share_its_places() {
    let check = async |most: Option<usize>, ranks: u32, max_in_flight: usize| {
        let server = TestServer::start(slow()).await;
        let (options, urls) = by_name(&server);
        let options = FetchOptions { max_connections_per_address: most, max_in_flight, ..options };
        let fetcher = Fetcher::new(options, ServerRules::default()).unwrap().with_num_ranks(ranks);
        let fetcher = Arc::new(fetcher);
        fetch_from_many(&fetcher, urls).await;
        assert_eq!((server.seen().len(), fetcher.under_way()), (80, 0));
        server.most_under_way()
    };
    assert_eq!(check(Some(6), 1, 256).await, 6);
    assert_eq!(check(Some(6), 2, 256).await, 3);
    assert_eq!(check(Some(6), 100, 256).await, 1);
    // Fewer slots than places, and fewer than servers.
    assert_eq!(check(Some(6), 1, 2).await, 2);
    // This machine's own addresses are spared unless the limit is set.
    let spared = check(None, 1, 256).await;
    assert!(spared > 16, "{spared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_counted_one_by_one() {
    let servers = [
        TestServer::start_at("127.0.0.1:0", slow()).await,
        TestServer::start_at("127.0.0.2:0", slow()).await,
        TestServer::start_at("127.0.0.2:0", slow()).await,
    ];
    let options = FetchOptions { max_connections_per_address: Some(3), ..options() };
    let fetcher = fetcher(options);
    fetch_from_many(&fetcher, |server, path| servers[server % 3].url(&format!("/{server}/{path}"))).await;
    assert_eq!(servers[0].most_under_way(), 3);
    // Requests that overlap at the two servers of one address.
    let mut events: Vec<(Instant, i32)> = Vec::new();
    for seen in servers[1].seen().into_iter().chain(servers[2].seen()) {
        // A request is over 20 ms after it came at the earliest.
        events.extend([(seen.at, 1), (seen.at + Duration::from_millis(19), -1)]);
    }
    events.sort();
    let (mut now, mut most) = (0, 0);
    for (_, change) in events {
        now += change;
        most = most.max(now);
    }
    assert!(most <= 3, "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_an_address_is_that_of_its_servers_together() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let (options, urls) = by_name(&server);
    let options = FetchOptions { rate_limit_per_address: 160.0, ..options };
    let fetcher = Arc::new(Fetcher::new(options, ServerRules::default()).unwrap().with_num_ranks(2));
    fetch_from_many(&fetcher, urls).await;
    let seen = server.seen();
    let span = seen[79].at - seen[0].at;
    assert!(span >= Duration::from_millis(79 * 1000 / 80 - 30), "{span:?}");
}

/// Waiting for an address costs a server neither its moment nor anything of the process.
#[tokio::test]
async fn who_waits_for_an_address_holds_up_nobody() {
    let busy = TestServer::start(|_, _| Reply::Hang(Vec::new())).await;
    let other = TestServer::start_at("127.0.0.3:0", |_, _| ok(b"x")).await;
    let fetcher = fetcher(FetchOptions {
        max_connections_per_address: Some(1), // Half of them for servers that have not answered yet: the one that hangs, and one more.
        max_in_flight: 4,
        ..options()
    });
    let start = |url: Url| {
        let fetcher = Arc::clone(&fetcher);
        tokio::spawn(async move { fetch(&fetcher, &url).await })
    };
    let hangs = start(busy.url("/"));
    while busy.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    // Another server at the same address.
    let neighbour = TestServer::start(|_, _| ok(b"x")).await;
    let waits: Vec<_> = (0..5).map(|number| start(neighbour.url(&format!("/{number}")))).collect();
    for number in 0..5 {
        body(&fetcher, &other.url(&format!("/{number}"))).await;
    }
    assert_eq!((neighbour.seen().len(), fetcher.under_way()), (0, 1));
    assert!(fetcher.server(&ServerName::from_url(&neighbour.url("/")).unwrap()).pause().is_none());
    hangs.abort();
    for wait in waits {
        assert!(wait.await.unwrap().asked());
    }
    let paths: Vec<String> = neighbour.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/0", "/1", "/2", "/3", "/4"], "first come, first served");
}

#[tokio::test]
async fn a_slow_server_does_not_sit_on_its_address() {
    let server = TestServer::start(|_, _| ok(b"x")).await;
    let (options, urls) = by_name(&server);
    let options = FetchOptions { max_connections_per_address: Some(1), ..options };
    let slow = ServerName::from_catalog("0.example");
    let fetcher = Arc::new(Fetcher::new(options.clone(), rate(&options, &slow, 0.001)).unwrap());
    body(&fetcher, &urls(0, 0)).await;
    let waits = {
        let (fetcher, url) = (Arc::clone(&fetcher), urls(0, 1));
        tokio::spawn(async move { fetch(&fetcher, &url).await })
    };
    for path in 0..5 {
        body(&fetcher, &urls(1, path)).await;
    }
    waits.abort();
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn who_waits_for_an_address_is_sent_away_at_the_end() {
    let busy = TestServer::start(|_, _| Reply::Hang(Vec::new())).await;
    let neighbour = TestServer::start(|_, _| ok(b"x")).await;
    let fetcher = fetcher(FetchOptions { max_connections_per_address: Some(1), ..options() });
    let start = |url: Url| {
        let fetcher = Arc::clone(&fetcher);
        tokio::spawn(async move { fetch(&fetcher, &url).await })
    };
    let _hangs = start(busy.url("/"));
    while busy.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let waits = start(neighbour.url("/"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    fetcher.close();
    assert!(!waits.await.unwrap().asked());
}
