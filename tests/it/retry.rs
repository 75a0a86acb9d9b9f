//! Failures that are tried again: nothing is lost, whatever the moment.

use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::{Project, expect};

/// Some pictures of a farm are larger, some smaller.
const TOO_SMALL: &str = "downloader_parameters.max_body_bytes=2500";
const MIXED: &str = "SELECT count(*) FROM partitions WHERE success > 0 AND failed > 0 AND stage = 'finished'";

fn project(farm: &DemoFarm) -> Project {
    let settings = "downloader_parameters: {default_rate_limit: 0, batch_size: 10, part_images: 4}";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(600, 3, 5));
    project.ok(&["ingest"]);
    project
}

/// Downloaded, but for the larger pictures.
fn with_failures(farm: &DemoFarm) -> Project {
    let project = project(farm);
    project.ok(&["download", "--set", TOO_SMALL]);
    assert!(project.query(MIXED).parse::<u32>().unwrap() > 33, "more than one transaction");
    project
}

fn number(project: &Project, sql: &str) -> u64 {
    project.query(sql).parse().unwrap()
}

/// The catalog, the files and SQL agree, and nobody is lost.
#[track_caller]
fn assert_sound(project: &Project) {
    project.ok(&["check", "--deep"]);
    assert_eq!(project.query("SELECT count(*) FROM urls"), "600");
    let sum = "SELECT sum(pending + success + failed + skipped) FROM partitions";
    assert_eq!(project.query(sum), "600");
    for (table, disposition) in [("images", "success"), ("errors", "failed")] {
        let found = number(project, &format!("SELECT count(*) FROM {table}"));
        let sql = format!("SELECT count(*) FROM urls WHERE disposition = '{disposition}'");
        assert_eq!(found, number(project, &sql), "{table}");
    }
}

#[test]
fn failures_that_are_set_back_become_images() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let undisturbed = project(&farm);
    undisturbed.ok(&["download"]);
    let project = with_failures(&farm);
    let failed = number(&project, "SELECT count(*) FROM errors");

    // What is not meant stays as it is.
    for none in [
        &["--cause", "dns"][..],
        &["--code", "404,-1"],
        &["--server", "nowhere.example"],
        &["--older-than", "1h"],
    ] {
        let output = project.run(&[&["retry"][..], none].concat());
        expect(&output, 0, none);
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing has changed"), "{none:?}");
    }
    assert_eq!(project.run(&["retry", "--cause", "bad_luck"]).status.code(), Some(2));

    // One server first, then the others; in between half of it fails again.
    let server = project.query("SELECT server_name FROM errors ORDER BY 1 LIMIT 1");
    let of_server = number(&project, &format!("SELECT count(*) FROM errors WHERE server_name = '{server}'"));
    let report = project.ok(&["retry", "--server", &server, "--older-than", "0s", "--json"]);
    assert!(report.contains(&format!("\"records\": {of_server}")), "{report}");
    assert_sound(&project);
    let pending = "SELECT count(*) FROM urls WHERE disposition = 'pending'";
    assert_eq!(number(&project, pending), of_server);
    project.ok(&["download", "--set", "downloader_parameters.max_body_bytes=3000"]);
    assert_sound(&project);
    assert_eq!(number(&project, pending), 0);
    assert!(number(&project, "SELECT count(*) FROM errors") < failed);

    let report = project.ok(&["retry", "--cause", "body_too_large", "--json"]);
    assert!(!report.contains("\"reopened\": 0"), "{report}");
    assert_sound(&project);
    // Open partitions, too: there is nothing left to set back, and a second time does no harm.
    project.ok(&["retry"]);
    project.ok(&["download"]);
    assert_sound(&project);
    assert_eq!(project.query("SELECT count(*) FROM errors"), "0");
    assert_eq!(project.images(), undisturbed.images());
    let orphans = project.ok(&["check", "--json"]);
    assert!(orphans.contains("\"num_orphans\": 0"), "{orphans}");
}

#[test]
fn a_killed_retry_loses_nothing() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let undisturbed = project(&farm);
    undisturbed.ok(&["download"]);
    let project = with_failures(&farm);
    let mut dice = fastrand::Rng::with_seed(5);
    let mut num_killed = 0;
    for _ in 0..12 {
        let mut child = project.start(&["retry"]);
        std::thread::sleep(Duration::from_millis(dice.u64(5..250)));
        child.kill().unwrap();
        num_killed += u32::from(!child.wait().unwrap().success());
        assert_sound(&project);
        // Failures again, for the next kill: some partitions are open then, some complete.
        project.ok(&["download", "--set", TOO_SMALL]);
    }
    assert!(num_killed > 3, "kills must find it at work");
    project.ok(&["retry"]);
    project.ok(&["download"]);
    assert_sound(&project);
    assert_eq!(project.images(), undisturbed.images());
}

#[test]
fn a_running_download_is_not_disturbed() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = with_failures(&farm);
    project.ok(&["retry"]);
    let mut download = project.start(&["download", "--rate", "5"]);
    while !project.path("out/catalog.redb.lock").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = project.run(&["retry"]);
    expect(&output, 1, &["retry"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    download.kill().unwrap();
    download.wait().unwrap();
    assert_sound(&project);
}
