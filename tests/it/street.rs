//! Sixteen servers, one of each kind, and four ranks: what the servers saw is the judge.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::support::nasty::good_jpeg;
use crate::support::project::{Project, expect};
use crate::support::street::{Manner, Refusal, Seen, StreetServer};

/// Requests per second that a server may be sent, where nothing else is set for it.
const RATE: usize = 20;
const CONNECTIONS: usize = 4;
const URLS: usize = 100;
/// Word of an embargo goes from one rank to the others through rank 0, on a machine that may be busy.
const GRACE: Duration = Duration::from_secs(1);
/// Requests leave on time, but arrive when both sides are given the CPU.
const A_SECOND: Duration = Duration::from_millis(950);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const ROBOTS: &str =
    "User-agent: *\nDisallow: /private/\nAllow: /private/but\n\nUser-agent: other\nDisallow: /\n";
const CRAWL_DELAY: &str = "User-agent: ddl-tests\nCrawl-delay: 0.5\n";
const NOBODY: &str = "User-agent: *\nDisallow: /\n";

/// Servers without a flaw: what they get done must not depend on the others.
fn healthy() -> Vec<StreetServer> {
    let slow = Manner { latency: ms(150), ..Manner::default() };
    vec![
        StreetServer::start("fast.example", Manner::default()),
        StreetServer::start("far.example", slow),
        StreetServer::start("small.example", Manner { latency: ms(20), ..Manner::default() }),
    ]
}

fn street() -> Vec<StreetServer> {
    let limited = |refusal| Manner { per_second: Some(10), refusal, latency: ms(20), ..Manner::default() };
    let mut street = healthy();
    street.extend([
        StreetServer::start("seconds.example", limited(Refusal::Seconds(3))),
        StreetServer::start("date.example", limited(Refusal::Date(4))),
        StreetServer::start("bare.example", limited(Refusal::Bare)),
        StreetServer::start("quota.example", Manner { quota: Some((10, ms(1000))), ..Manner::default() }),
        StreetServer::start(
            "crowded.example",
            Manner { at_once: Some(2), latency: ms(100), ..Manner::default() },
        ),
        StreetServer::start("mute.example", Manner { is_mute: true, ..Manner::default() }),
        StreetServer::start("banning.example", Manner { bans_after: Some(20), ..Manner::default() }),
        StreetServer::start("failing.example", Manner { fails_each: Some(7), ..Manner::default() }),
        StreetServer::start("cut.example", Manner { truncates: true, ..Manner::default() }),
        StreetServer::start("dripping.example", Manner { drips: Some(ms(1)), ..Manner::default() }),
        StreetServer::start("private.example", Manner { robots_txt: Some(ROBOTS), ..Manner::default() }),
        StreetServer::start("patient.example", Manner { robots_txt: Some(CRAWL_DELAY), ..Manner::default() }),
        StreetServer::start("closed.example", Manner { robots_txt: Some(NOBODY), ..Manner::default() }),
        StreetServer::start(
            "pointing.example",
            Manner { redirects_to: Some("content.example"), ..Manner::default() },
        ),
        StreetServer::start("content.example", Manner { latency: ms(30), ..Manner::default() }),
    ]);
    street
}

/// A project whose list has so many URLs of each server but `content.example`, which only redirects lead to.
fn project(street: &[StreetServer]) -> Project {
    let routes: Vec<String> = street.iter().map(|server| format!("'{}'", server.route())).collect();
    let settings = format!(
        "rate_control: fixed\n\
         connect_to: [{}]\n\
         servers: {{small.example: {{rate_limit: 1, max_connections: 1}}}}\n\
         schedule_rules: {{1: 4}}\n\
         downloader_parameters:\n  {{default_rate_limit: {RATE}, max_connections_per_server: {CONNECTIONS}, batch_size: 20,\n   \
          first_byte_timeout: 1s, request_timeout: 20s, server_patience: 6s, retry_backoff: 100ms, max_attempts: 3}}",
        routes.join(", "),
    );
    let mut urls = Vec::new();
    for server in street.iter().filter(|server| server.name != "content.example") {
        let number = match server.name {
            "small.example" => 10,
            "patient.example" => 12,
            "dripping.example" => 8,
            "mute.example" => 40,
            _ => URLS,
        };
        for n in 0..number {
            let folder = ["public", "private", "private/but"][n % 3];
            let mut url = String::new();
            write!(url, "http://{}/{folder}/{n}.jpg", server.name).unwrap();
            urls.push(url);
        }
    }
    let project = Project::routed(&settings).with_urls(urls);
    project.ok(&["ingest"]);
    project
}

fn limits_of(name: &str) -> (usize, usize) {
    if name == "small.example" { (1, 1) } else { (RATE, CONNECTIONS) }
}

fn found(images: &[Seen], status: u16) -> usize {
    images.iter().filter(|seen| seen.status == status).count()
}

#[test]
fn no_server_of_the_street_sees_more_than_it_was_promised_over_mpi() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let street = street();
    let project = project(&street);
    expect(&project.mpi_command(4, &["download"]).output().unwrap(), 0, &["download"]);

    for server in &street {
        let name = server.name;
        let (rate, connections) = limits_of(name);
        let seen = server.most_in(A_SECOND);
        assert!(seen <= rate, "{name}: {seen} requests in a second");
        let at_once = server.most_at_once();
        assert!(at_once <= connections, "{name}: {at_once} at once");
        let broken = server.embargoes_broken(GRACE);
        assert!(broken.is_empty(), "{name}: {broken:?}");
        let images = server.images();
        match name {
            "fast.example" | "far.example" => assert_eq!(images.len(), URLS, "{name}"),
            "small.example" => assert_eq!(images.len(), 10, "{name}"),
            "private.example" => {
                let private =
                    |seen: &Seen| seen.path.starts_with("/private/") && !seen.path.contains("/but/");
                assert!(!images.iter().any(private), "{name}");
                assert_eq!(images.len(), URLS - URLS.div_ceil(3) + 1, "{name}");
            }
            "closed.example" => assert_eq!(images.len(), 0, "{name}"),
            "patient.example" => {
                let mut times: Vec<_> = images.iter().map(|seen| seen.at).collect();
                times.sort();
                let closest = times.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
                assert!(closest >= ms(450), "{name}: {closest:?} apart");
            }
            "seconds.example" | "date.example" | "bare.example" | "quota.example" | "crowded.example" => {
                assert_eq!(found(&images, 200), URLS, "{name}");
            }
            "content.example" => assert_eq!(found(&images, 200), URLS, "{name}"),
            _ => {}
        }
    }
    let counts = project.query(
        "SELECT server_name, count(*) FROM images WHERE image IS NOT NULL GROUP BY server_name ORDER BY server_name",
    );
    assert!(counts.contains("far.example,100") && counts.contains("pointing.example,100"), "{counts}");
    assert!(counts.contains("dripping.example,8") || good_jpeg().len() > 10_000, "{counts}");

    let report: Value = serde_json::from_str(&project.ok(&["audit", "--json"])).unwrap();
    assert_eq!(report["num_violations"], 0, "{report}");
    let num_seen: usize = street.iter().map(|server| server.log().len()).sum();
    assert_eq!(report["num_requests"], num_seen, "{report}");
    for server in &street {
        let audited = report["servers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|audited| audited["server_name"] == server.name);
        assert_eq!(
            audited.map_or(&Value::from(0), |audited| &audited["num_requests"]),
            server.log().len(),
            "{}",
            server.name
        );
    }
}

/// Needs a quiet machine: it says how fast something is.
#[test]
#[ignore = "a benchmark"]
fn healthy_servers_do_not_notice_the_others() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let run = |street: Vec<StreetServer>| {
        let project = project(&street);
        expect(&project.mpi_command(4, &["download"]).output().unwrap(), 0, &["download"]);
        street.into_iter().map(|server| (server.name, server.goodput())).collect::<Vec<_>>()
    };
    let alone = run(healthy());
    let among_others = run(street());
    println!("| server | images/s, only healthy ones | among the whole street | ratio |\n|---|---|---|---|");
    for (&(name, alone), &(_, among)) in alone.iter().zip(&among_others) {
        println!("| {name} | {alone:.2} | {among:.2} | {:.2} |", among / alone);
    }
}
