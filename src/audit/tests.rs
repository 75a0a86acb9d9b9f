use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::{Rank, RequestEntry, RequestPurpose, RobotsPolicy, RobotsRequest};
use crate::storage::LedgerWriter;

const MS: i64 = 1000;
const START: i64 = 1_700_000_000_000_000;

/// Five requests per second at most, two at once.
fn request(server: &str, sent_ms: i64, took_ms: u64) -> RequestEntry {
    RequestEntry {
        server: ServerName::from_catalog(server),
        address: None,
        purpose: RequestPurpose::Image,
        is_https: false,
        target: "/".into(),
        sent_at: START + sent_ms * MS,
        took: Duration::from_millis(took_ms),
        received_bytes: 10,
        http_status: Some(200),
        retry_after: None,
        max_rate: 5.0,
        max_connections: 2,
        robots: None,
    }
}

fn refusal(sent_ms: i64, took_ms: u64, retry_after: u64) -> RequestEntry {
    RequestEntry {
        http_status: Some(429),
        retry_after: Some(Duration::from_secs(retry_after)),
        ..request("a.example", sent_ms, took_ms)
    }
}

fn policy() -> RobotsPolicy {
    RobotsPolicy { is_respected: true, agents: vec!["ddl".into()], max_crawl_delay: Duration::from_secs(30) }
}

/// Writes the requests of each rank in the order in which they ended.
fn write(folder: &Path, run: RunId, policy: &RobotsPolicy, ranks: &[Vec<RequestEntry>]) {
    for (rank, requests) in (0..).zip(ranks) {
        let writer = LedgerWriter::start(folder, run, rank, policy).unwrap();
        let mut requests = requests.clone();
        requests.sort_by_key(RequestEntry::ended_at);
        requests.into_iter().for_each(|request| writer.record(request));
    }
}

fn audit(ranks: &[Vec<RequestEntry>]) -> AuditReport {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1, &policy(), ranks);
    audit_ledger(folder.path(), &AuditOptions::default()).unwrap()
}

fn rules(report: &AuditReport) -> Vec<(Rule, Rank)> {
    report.violations.iter().map(|violation| (violation.rule, violation.rank)).collect()
}

#[test]
fn a_polite_run_is_clean_and_its_peaks_are_told() {
    let steady = |offset: i64| (0..50).map(move |n| request("a.example", offset + 400 * n, 300)).collect();
    let report = audit(&[steady(0), steady(200)]);
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!((report.num_requests, report.received_bytes, report.num_cut_off), (100, 1000, 0));
    assert_eq!((report.first_sent_at, report.last_sent_at), (Some(START), Some(START + 19_800 * MS)));
    let server = &report.servers[0];
    assert_eq!((server.peak_rate, server.peak_connections, server.num_requests), (5, 2, 100));
}

#[test]
fn a_third_request_at_once_is_found_whichever_rank_sent_it() {
    let long = request("a.example", 0, 5000);
    let report =
        audit(&[vec![long.clone(), request("a.example", 3000, 500)], vec![request("a.example", 400, 3000)]]);
    assert_eq!(rules(&report), [(Rule::Connections, 0)]);
    let other_server = request("b.example", 3000, 500);
    assert!(audit(&[vec![long.clone(), other_server], vec![request("a.example", 400, 3000)]]).is_clean());
    let after_the_end = request("a.example", 3401, 500);
    assert!(audit(&[vec![long, after_the_end], vec![request("a.example", 400, 3000)]]).is_clean());
}

#[test]
fn a_burst_is_too_fast_and_so_is_what_is_a_little_too_fast_for_long() {
    let every = |ms: i64, num: i64| (0..num).map(|n| request("a.example", ms * n, 1)).collect::<Vec<_>>();
    assert_eq!(rules(&audit(&[every(30, 8)])), [(Rule::Rate, 0), (Rule::Rate, 0)]);
    assert!(audit(&[every(30, 6)]).is_clean(), "five and one");
    let report = audit(&[every(180, 100)]);
    assert!(report.num_violations > 0 && report.violations[0].detail.contains("within 10 s"), "{report:?}");
    assert!(audit(&[every(200, 100)]).is_clean());
}

#[test]
fn a_rate_below_one_per_second_has_longer_windows() {
    let slow = |ms: i64| {
        let of = |n: i64| RequestEntry { max_rate: 0.1, ..request("a.example", ms * n, 1) };
        audit(&[(0..30).map(of).collect()])
    };
    assert!(slow(10_000).is_clean());
    assert!(!slow(4000).is_clean());
}

#[test]
fn without_a_limit_no_rate_is_too_fast() {
    let of = |n: i64| RequestEntry { max_rate: 0.0, ..request("a.example", n, 0) };
    assert!(audit(&[(0..3000).map(of).collect()]).is_clean());
}

/// Of a server that said stop and was sent nothing more, an administrator would have read that it had not.
#[test]
fn the_last_answer_counts_as_well_and_each_server_has_its_own_time() {
    let report = audit(&[vec![refusal(0, 50, 10), request("b.example", 5000, 1)]]);
    let server = &report.servers[0];
    assert_eq!((server.num_embargoes, server.num_refusals), (1, 1));
    assert_eq!(server.first_sent_at, server.last_sent_at);
    assert!(report.servers[1].first_sent_at > server.last_sent_at);
}

#[test]
fn nothing_may_leave_during_an_embargo_but_what_could_not_know() {
    let told = refusal(0, 50, 10);
    // Rank 0 was told; rank 1 hears of it within the grace.
    assert_eq!(
        rules(&audit(&[vec![told.clone(), request("a.example", 500, 1)], vec![]])),
        [(Rule::Embargo, 0)]
    );
    assert!(audit(&[vec![told.clone()], vec![request("a.example", 500, 1)]]).is_clean());
    assert_eq!(
        rules(&audit(&[vec![told.clone()], vec![request("a.example", 2000, 1)]])),
        [(Rule::Embargo, 1)]
    );
    assert!(audit(&[vec![told.clone(), request("a.example", 10_051, 1)]]).is_clean());
    // What left before the answer was there knew nothing, however long it took; a shorter one takes nothing back.
    let late = request("a.example", 40, 9000);
    let shorter = refusal(45, 10, 1);
    let mut third = request("a.example", 5000, 1);
    assert_eq!(rules(&audit(&[vec![told.clone(), late.clone(), third.clone()]])), [(Rule::Embargo, 0)]);
    third.max_connections = 3;
    assert_eq!(
        rules(&audit(&[vec![
            told,
            RequestEntry { max_connections: 9, ..late },
            RequestEntry { max_connections: 9, ..shorter },
            third
        ]])),
        [(Rule::Embargo, 0)]
    );
}

#[test]
fn a_run_without_a_ledger_is_an_error_with_a_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let options = AuditOptions { run: Some(3), ..AuditOptions::default() };
    let error = audit_ledger(folder.path(), &options).unwrap_err();
    assert!(error.to_string().contains("run 3") && error.hint().is_some(), "{error}");
}

/// An answer to a request for robots.txt that took 50 ms.
fn robots(sent_ms: i64, http_status: u16, text: &str) -> RequestEntry {
    let of = ServerName::from_catalog("a.example");
    let text = (http_status == 200).then(|| text.as_bytes().to_vec());
    RequestEntry {
        purpose: RequestPurpose::Robots,
        target: "/robots.txt".into(),
        http_status: (http_status != 0).then_some(http_status),
        robots: Some(RobotsRequest { server: of, is_https: false, text }),
        ..request("a.example", sent_ms, 50)
    }
}

fn image(sent_ms: i64, target: &str) -> RequestEntry {
    RequestEntry { target: target.into(), ..request("a.example", sent_ms, 1) }
}

const NO_PRIVATE: &str = "User-agent: *\nDisallow: /private/\n";

/// Checked, disallowed, not known.
fn robots_counts(report: &AuditReport) -> (u64, u64, u64) {
    let server = report.servers.iter().find(|server| server.server_name.as_str() == "a.example").unwrap();
    (server.num_robots_checked, server.num_robots_disallowed, server.num_robots_not_known)
}

#[test]
fn what_robots_txt_disallows_is_found_whichever_rank_read_it() {
    let report = audit(&[
        vec![robots(0, 200, NO_PRIVATE), image(1000, "/a.jpg"), image(2000, "/private/a.jpg")],
        vec![image(3000, "/private/b.jpg?x=1")],
    ]);
    assert_eq!(rules(&report), [(Rule::Robots, 0), (Rule::Robots, 1)]);
    assert_eq!(robots_counts(&report), (3, 2, 0));
    assert!(report.violations[1].detail.contains("/private/b.jpg?x=1"), "{report:?}");

    let other_scheme = RequestEntry { is_https: true, ..image(2000, "/private/a.jpg") };
    let report = audit(&[vec![robots(0, 200, NO_PRIVATE), other_scheme]]);
    assert_eq!((rules(&report), robots_counts(&report)), (vec![], (0, 0, 1)));
}

#[test]
fn what_left_before_the_file_came_could_not_know() {
    let report = audit(&[vec![robots(0, 200, NO_PRIVATE), image(40, "/private/a.jpg"), image(60, "/a.jpg")]]);
    assert_eq!((rules(&report), robots_counts(&report)), (vec![], (1, 0, 1)));
}

#[test]
fn answers_that_are_no_file() {
    let private = || image(1000, "/private/a.jpg");
    let verdict = |answers: &[RequestEntry]| {
        let report = audit(&[answers.iter().cloned().chain([private()]).collect()]);
        let (checked, disallowed, not_known) = robots_counts(&report);
        assert_eq!(report.num_violations, disallowed);
        (checked, disallowed, not_known)
    };
    assert_eq!(verdict(&[robots(0, 404, "")]), (1, 0, 0));
    assert_eq!(verdict(&[robots(0, 429, "")]), (1, 0, 0));
    assert_eq!(verdict(&[robots(0, 503, "")]), (1, 1, 0));
    assert_eq!(verdict(&[robots(0, 0, "")]), (1, 1, 0), "no answer");
    assert_eq!(verdict(&[]), (0, 0, 1));
    // What is known counts while the server is in trouble, and no longer.
    assert_eq!(verdict(&[robots(0, 200, "User-agent: *\nDisallow: /b"), robots(300, 503, "")]), (1, 0, 0));
    assert_eq!(verdict(&[robots(0, 503, ""), robots(300, 200, NO_PRIVATE)]), (1, 1, 0));
    assert_eq!(verdict(&[robots(0, 200, NO_PRIVATE), robots(300, 404, "")]), (1, 0, 0));
    // A redirect to another server: the file there is this one's.
    let elsewhere =
        RequestEntry { server: ServerName::from_catalog("b.example"), ..robots(300, 200, NO_PRIVATE) };
    assert_eq!(verdict(&[robots(0, 302, ""), elsewhere]), (1, 1, 0));
    assert_eq!(verdict(&[robots(0, 302, "")]), (1, 0, 0));
    let too_much = RequestEntry {
        robots: robots(0, 200, "").robots.map(|robots| RobotsRequest { text: None, ..robots }),
        ..robots(0, 200, "")
    };
    assert_eq!(verdict(&[too_much]), (0, 0, 1));
}

#[test]
fn a_change_of_the_file_leaves_time_to_what_stands_in_line() {
    let report = |later_ms: i64| {
        let now = robots(1000, 200, NO_PRIVATE);
        audit(&[vec![robots(0, 200, "User-agent: *\nDisallow: /b"), now, image(later_ms, "/private/a.jpg")]])
    };
    assert!(report(2000).is_clean());
    assert_eq!(rules(&report(700_000)), [(Rule::Robots, 0)]);
}

#[test]
fn files_of_earlier_runs_count_and_runs_that_heed_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1, &policy(), &[vec![robots(0, 200, NO_PRIVATE)]]);
    write(folder.path(), 2, &policy(), &[vec![image(10_000, "/private/a.jpg"), image(11_000, "/a.jpg")]]);
    let heedless = RobotsPolicy { is_respected: false, ..policy() };
    write(folder.path(), 3, &heedless, &[vec![image(20_000, "/private/a.jpg")]]);
    let report = |run| audit_ledger(folder.path(), &AuditOptions { run, ..AuditOptions::default() }).unwrap();
    assert_eq!(robots_counts(&report(Some(2))), (2, 1, 0));
    assert_eq!(robots_counts(&report(None)), (2, 1, 0));
    let third = report(Some(3));
    assert_eq!((robots_counts(&third), third.is_clean()), ((0, 0, 0), true));
    assert_eq!(third.servers[0].num_robots_not_heeded, 1);
    assert_eq!(third.runs_without_robots, [3].into());
}

#[test]
fn a_name_that_a_run_had_decides_which_group_it_had_to_heed() {
    let folder = tempfile::tempdir().unwrap();
    let text = "User-agent: *\nDisallow: /a\n\nUser-agent: herbarium\nDisallow: /b\n";
    write(folder.path(), 1, &policy(), &[vec![robots(0, 200, text), image(1000, "/b")]]);
    let herbarium = RobotsPolicy { agents: vec!["ddl".into(), "Herbarium".into()], ..policy() };
    write(folder.path(), 2, &herbarium, &[vec![image(20_000, "/b"), image(21_000, "/a")]]);
    let report = audit_ledger(folder.path(), &AuditOptions::default()).unwrap();
    assert_eq!((report.num_violations, report.violations[0].sent_at), (1, START + 20_000 * MS));
}

#[test]
fn a_crawl_delay_holds_over_the_cluster_and_no_longer_than_promised() {
    let delay = |seconds: u32| robots(0, 200, &format!("User-agent: *\nCrawl-delay: {seconds}\n"));
    let run = |first: RequestEntry, ms: i64| {
        audit(&[std::iter::once(first).chain((1..30).map(|n| image(n * ms, "/a"))).collect()])
    };
    assert!(run(delay(10), 10_000).is_clean());
    let report = run(delay(10), 5000);
    assert!(rules(&report).contains(&(Rule::CrawlDelay, 0)) && !rules(&report).contains(&(Rule::Rate, 0)));
    assert!(run(delay(3600), 30_000).is_clean(), "bounded by max_crawl_delay");
    assert!(!run(delay(3600), 15_000).is_clean());
    assert!(run(robots(0, 200, NO_PRIVATE), 1000).is_clean());
    // Two ranks that each keep to half.
    let of = |offset: i64| {
        std::iter::once(delay(4))
            .chain((1..30).map(move |n| image(n * 8000 + offset, "/a")))
            .collect::<Vec<_>>()
    };
    assert!(audit(&[of(0), of(4000)]).is_clean());
    assert!(!audit(&[of(0), of(100), of(200), of(300), of(400)]).is_clean());
}

proptest! {
    /// Whatever order requests ended in, they are replayed in the order in which they left: the peaks are those
    /// that counting them all at once gives.
    #[test]
    fn peaks_are_those_of_a_plain_count(
        requests in proptest::collection::vec((0_i64..20_000, 1_u64..8000, 0_usize..3), 1..150),
    ) {
        let mut ranks = vec![Vec::new(); 3];
        for &(sent, took, rank) in &requests {
            ranks[rank].push(RequestEntry { max_connections: 1000, max_rate: 0.0, ..request("a.example", 50 * sent, 50 * took) });
        }
        let report = audit(&ranks);
        prop_assert!(report.is_clean());
        let all: Vec<&RequestEntry> = ranks.iter().flatten().collect();
        let most = |counts: &dyn Fn(i64, &RequestEntry) -> bool| {
            all.iter().map(|at| all.iter().filter(|other| counts(at.sent_at, other)).count()).max().unwrap() as u64
        };
        let at_once = most(&|now, other| other.sent_at <= now && other.ended_at() > now);
        let within_a_second = most(&|now, other| other.sent_at <= now && other.sent_at > now - 1000 * MS);
        prop_assert_eq!(report.servers[0].peak_connections, at_once);
        prop_assert_eq!(report.servers[0].peak_rate, within_a_second);
    }
}
