use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::{Rank, RequestEntry, RequestPurpose};
use crate::storage::LedgerWriter;

const MS: i64 = 1000;
const START: i64 = 1_700_000_000_000_000;

/// Five requests per second at most, two at once.
fn request(server: &str, sent_ms: i64, took_ms: u64) -> RequestEntry {
    RequestEntry {
        server: ServerName::from_catalog(server),
        address: None,
        purpose: RequestPurpose::Image,
        target: "/".into(),
        sent_at: START + sent_ms * MS,
        took: Duration::from_millis(took_ms),
        received_bytes: 10,
        http_status: Some(200),
        retry_after: None,
        max_rate: 5.0,
        max_connections: 2,
    }
}

fn refusal(sent_ms: i64, took_ms: u64, retry_after: u64) -> RequestEntry {
    RequestEntry {
        http_status: Some(429),
        retry_after: Some(Duration::from_secs(retry_after)),
        ..request("a.example", sent_ms, took_ms)
    }
}

/// Writes the requests of each rank in the order in which they ended, and audits them.
fn audit(ranks: &[Vec<RequestEntry>]) -> AuditReport {
    let folder = tempfile::tempdir().unwrap();
    for (rank, requests) in (0..).zip(ranks) {
        let writer = LedgerWriter::start(folder.path(), 1, rank).unwrap();
        let mut requests = requests.clone();
        requests.sort_by_key(RequestEntry::ended_at);
        requests.into_iter().for_each(|request| writer.record(request));
    }
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
