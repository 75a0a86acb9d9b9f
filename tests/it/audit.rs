//! The ledger says what the servers saw, and the audit what they should not have seen.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions, ServerBehaviour, farm_list, plain_server};
use ddl::model::{RequestEntry, RequestPurpose, RobotsPolicy, ServerName};
use ddl::storage::LedgerWriter;
use serde_json::Value;

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};

const NUM_SERVERS: u32 = 4;

/// Four servers, one of which refuses more than 20 requests per second and asks to be left alone then.
fn farm() -> DemoFarm {
    let latency = Duration::from_millis(20);
    let mut behaviours: BTreeMap<_, _> = (0..NUM_SERVERS)
        .map(|n| (plain_server(n), ServerBehaviour { latency, ..ServerBehaviour::default() }))
        .collect();
    let strict =
        ServerBehaviour { requests_per_second: Some(20.0), burst: 5, latency, ..ServerBehaviour::default() };
    behaviours.insert(plain_server(0), strict);
    DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap()
}

fn project(farm: &DemoFarm) -> Project {
    let settings = "rate_control: fixed\n\
                    downloader_parameters: {default_rate_limit: 40, max_connections_per_server: 3, batch_size: 20}\n\
                    schedule_rules: {1: 4}";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(400, NUM_SERVERS, 5));
    project.ok(&["ingest"]);
    project
}

fn the_ledger_agrees_with_the_servers(project: &Project, farm: &DemoFarm, download: Command) {
    let mut download = download;
    expect(&download.output().unwrap(), 0, &["download"]);
    let report: Value = serde_json::from_str(&project.ok(&["audit", "--json"])).unwrap();
    assert_eq!(report["num_requests"], farm.log().len(), "{report}");
    assert_eq!((&report["num_lost"], &report["num_cut_off"]), (&0.into(), &0.into()), "{report}");
    for server in report["servers"].as_array().unwrap() {
        let name = server["server_name"].as_str().unwrap();
        let counts = farm.counts(name);
        assert_eq!(server["num_requests"], counts.num_requests, "{server}");
        assert_eq!(server["num_refusals"], counts.num_refused, "{server}");
        assert_eq!(server["max_rate"], 40.0, "{server}");
        // On this side of the wire a request lasts longer than on the other.
        assert!(server["peak_connections"].as_u64().unwrap() >= u64::from(counts.max_in_flight), "{server}");
        assert!(server["peak_connections"].as_u64().unwrap() <= 3, "{server}");
    }
    assert!(farm.counts(&plain_server(0)).num_refused > 0, "the embargo was tried");
}

#[test]
fn a_run_alone_is_audited() {
    let farm = farm();
    let project = project(&farm);
    the_ledger_agrees_with_the_servers(&project, &farm, project.command(&["download"]));

    let text = project.ok(&["audit"]);
    assert!(text.ends_with("kept: no server saw more than it was promised\n"), "{text}");
    let letter = project.ok(&["audit", "--letter", &plain_server(0)]);
    assert!(letter.contains("at most 40 requests per second, and at most 3 at once"), "{letter}");
    let output = project.run(&["audit", "--letter", "unknown.example"]);
    expect(&output, 1, &["audit"]);
}

#[test]
fn mpi_ranks_are_audited_together() {
    if cfg!(feature = "mpi") {
        let farm = farm();
        let project = project(&farm);
        the_ledger_agrees_with_the_servers(&project, &farm, project.mpi_command(3, &["download"]));
    }
}

/// A server with rules, one that redirects to them, and one that has none.
#[test]
fn robots_txt_was_heeded_and_a_planted_request_is_found() {
    let text = b"User-agent: *\nDisallow: /private/\nAllow: /private/1.jpg$\nDisallow: /*.gif$\n".to_vec();
    let paths =
        ["/1.jpg", "/private/1.jpg", "/private/2.jpg", "/a/3.gif", "/a/3.gif?x=1", "/p%72ivate/4.jpg"];
    let server = NastyServer::start(
        paths
            .iter()
            .map(|path| (path.split('?').next().unwrap(), Behaviour::Ok))
            .chain([("/robots.txt", Behaviour::Body("text/plain", text))]),
    );
    let urls = paths.map(|path| format!("http://a.example{path}"));
    let project = Project::new(server.addr(), "").with_urls(urls);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    assert_eq!(project.query("SELECT count(*) FROM errors WHERE cause = 'robots'"), "3");
    let text = project.ok(&["audit"]);
    assert!(text.contains("robots.txt: 3 requests checked, 0 disallowed\nkept: "), "{text}");
    let letter = project.ok(&["audit", "--letter", "a.example"]);
    assert!(letter.contains("Your robots.txt, as we had read it, allowed all 3"), "{letter}");

    // By another run, long after.
    let policy = RobotsPolicy { is_respected: true, agents: vec!["ddl".into()], ..RobotsPolicy::default() };
    let ledger = LedgerWriter::start(&project.path("out/logs/requests"), 99, 0, &policy).unwrap();
    ledger.record(RequestEntry {
        server: ServerName::parse("a.example").unwrap(),
        address: None,
        purpose: RequestPurpose::Image,
        is_https: false,
        target: "/private/2.jpg".into(),
        sent_at: 4_000_000_000_000_000,
        took: Duration::from_millis(30),
        received_bytes: 0,
        http_status: Some(200),
        retry_after: None,
        max_rate: 10.0,
        max_connections: 4,
        robots: None,
    });
    drop(ledger);
    for args in [&["audit"][..], &["audit", "--run", "99"]] {
        let said = expect(&project.run(args), 1, args);
        assert!(
            said.contains("disallowed by robots.txt: `/private/2.jpg` by `Disallow: /private/`"),
            "{said}"
        );
    }
    let report: Value =
        serde_json::from_str(&expect(&project.run(&["audit", "--json"]), 1, &["audit"])).unwrap();
    assert_eq!(report["servers"][0]["num_robots_disallowed"], 1, "{report}");
    assert_eq!(report["violations"][0]["rule"], "robots", "{report}");
}

#[test]
fn a_run_that_heeds_no_robots_txt_is_said_to_be_one() {
    let server = NastyServer::start([("/1.jpg", Behaviour::Ok)]);
    let settings = "downloader_parameters: {respect_robots_txt: false}";
    let project = Project::new(server.addr(), settings).with_urls(["http://a.example/1.jpg"]);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    let text = project.ok(&["audit"]);
    assert!(text.contains("robots.txt: not heeded by 1 requests: run "), "{text}");
}

#[test]
fn a_request_that_was_put_into_the_ledger_is_found() {
    let farm = farm();
    let project = project(&farm);
    let output = project.run(&["audit"]);
    expect(&output, 1, &["audit"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("there is no ledger of any run"), "{said}");

    let entry = |sent_at: i64, http_status: u16| RequestEntry {
        server: ServerName::parse("a.example").unwrap(),
        address: None,
        purpose: RequestPurpose::Image,
        is_https: false,
        target: "/1.jpg".into(),
        sent_at,
        took: Duration::from_millis(30),
        received_bytes: 0,
        http_status: Some(http_status),
        retry_after: (http_status == 429).then_some(Duration::from_secs(60)),
        max_rate: 10.0,
        max_connections: 4,
        robots: None,
    };
    let ledger =
        LedgerWriter::start(&project.path("out/logs/requests"), 7, 0, &RobotsPolicy::default()).unwrap();
    ledger.record(entry(0, 429));
    ledger.record(entry(20_000_000, 200));
    drop(ledger);
    let output = project.run(&["audit", "--run", "7"]);
    expect(&output, 1, &["audit"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("too early: 20.0 s after the server asked to be left alone for 60.0 s"), "{said}");
}
