//! Commands that only read, beside a download, and around one that never came to anything.

use std::fs;
use std::time::{Duration, SystemTime};

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::{Project, expect};

const SETTINGS: &str = "downloader_parameters: {default_rate_limit: 0, batch_size: 20}";

/// Small partitions are completed all the time: parts that a check has just read of in the catalog become
/// final files under its hands.
#[test]
fn a_check_beside_a_download_finds_nothing_wrong() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(1500, 4, 5));
    project.ok(&["ingest"]);
    let mut download = project.start(&["download"]);
    let mut checks_beside = 0;
    while download.try_wait().unwrap().is_none() {
        let report = project.ok(&["check", "--deep", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["num_records"], 1500);
        checks_beside += u64::from(!report["in_use_by"].is_null());
    }
    assert!(download.wait().unwrap().success());
    assert!(checks_beside > 0, "the download was over before any check");
    let text = project.ok(&["check", "--deep"]);
    assert!(text.contains("1,500 images") && text.ends_with("sound: catalog and files agree\n"), "{text}");
    assert!(!text.contains("no commit names"), "{text}");

    let log = fs::read_to_string(project.path("out/logs/download-00.log")).unwrap();
    let finished = log.matches("partition finished").count().to_string();
    assert_eq!(finished, project.query("SELECT count(*) FROM partitions"), "{log}");
    for told in ["coordinating the run", "run begins", "run ends", "ending=\"done\" images=1500 failed=0"] {
        assert!(log.contains(told), "`{told}` is missing: {log}");
    }
}

/// By an older copy of the catalog the images that came since were orphans: a repair removed them.
#[test]
fn a_repair_refuses_an_older_copy_of_the_catalog() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(60, 3, 5));
    project.ok(&["ingest"]);
    let older = fs::read(project.path("out/catalog.redb")).unwrap();
    project.ok(&["download"]);
    let newest = fs::read(project.path("out/catalog.redb")).unwrap();
    let images = project.images();

    fs::write(project.path("out/catalog.redb"), &older).unwrap();
    let output = project.run(&["check", "--repair"]);
    expect(&output, 1, &["check", "--repair"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("newer than the catalog") && stderr.contains("--discard-newer"), "{stderr}");
    fs::write(project.path("out/catalog.redb"), newest).unwrap();
    project.ok(&["check", "--deep"]);

    // Without a newer one the older is gone on from.
    fs::write(project.path("out/catalog.redb"), &older).unwrap();
    project.ok(&["download"]);
    assert_eq!(project.images(), images);
    project.ok(&["check", "--deep"]);
    fs::write(project.path("out/catalog.redb"), &older).unwrap();
    project.ok(&["check", "--repair", "--discard-newer"]);
    assert!(!project.path("out/downloaded_images").exists() || project.images().is_empty());
    project.ok(&["download"]);
    assert_eq!(project.images(), images);
}

/// The node of a job died with the catalog open, and never comes back.
#[test]
fn a_lock_of_a_silent_node_holds_no_reader_up() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(30, 2, 5));
    project.ok(&["ingest"]);
    let lock = project.path("out/catalog.redb.lock");
    fs::write(&lock, r#"{"node":"elsewhere","pid":7,"process_start":7,"job":null,"since":7}"#).unwrap();
    let status =
        || -> serde_json::Value { serde_json::from_str(&project.ok(&["status", "--json"])).unwrap() };
    assert_eq!(status()["in_use_by"], "process 7 on node elsewhere");

    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().append(true).open(&lock).unwrap().set_modified(long_ago).unwrap();
    assert!(status()["in_use_by"].is_null());
    assert!(!project.ok(&["check"]).contains("elsewhere"));
    project.ok(&["check", "--repair"]);
}

#[test]
fn a_refused_list_leaves_no_dataset() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS);
    fs::write(project.path("list.csv"), "name,colour\na,red\n").unwrap();
    expect(&project.run(&["ingest"]), 1, &["ingest"]);
    assert!(!project.path("out/catalog.redb").exists());
    let output = project.run(&["download"]);
    expect(&output, 1, &["download"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("there is no catalog") && stderr.contains("hint: make one"), "{stderr}");

    // A refused list does no harm to a dataset that is there.
    let project = project.with_rows(farm_list(3, 1, 5));
    project.ok(&["ingest"]);
    fs::write(project.path("list.csv"), "name,colour\na,red\n").unwrap();
    expect(&project.run(&["ingest"]), 1, &["ingest"]);
    assert_eq!(project.query("SELECT count(*) FROM urls"), "3");
}

#[test]
fn a_download_of_nothing_is_not_done() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    // All rows are filtered out: nothing is refused, and nothing comes in.
    let project = Project::new(farm.addr(), &format!("initializer_type: gbif\n{SETTINGS}"));
    fs::write(project.path("list.csv"), "gbifID,identifier,type\n1,http://a.example/1.ogg,Sound\n").unwrap();
    project.ok(&["ingest"]);
    let output = project.run(&["download"]);
    expect(&output, 1, &["download"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("nothing was ingested"), "{stderr}");
}

#[test]
fn watching_ends_with_the_download() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(60, 2, 5));
    project.ok(&["ingest"]);
    let watch =
        project.command(&["status", "--watch", "--json"]).stdout(std::process::Stdio::piped()).spawn();
    let watch = watch.unwrap();
    project.ok(&["download"]);
    let output = watch.wait_with_output().unwrap();
    let shown = expect(&output, 0, &["status", "--watch"]);
    let last: serde_json::Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    assert_eq!((&last["counts"]["success"], &last["num_servers"]), (&60.into(), &2.into()));
}

/// By a catalog of another dataset all images here are orphans: a repair would have removed them.
#[test]
fn a_repair_refuses_the_catalog_of_another_dataset() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let make = |num_servers, seed| {
        let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(60, num_servers, seed));
        project.ok(&["ingest"]);
        project.ok(&["download"]);
        project
    };
    let (project, other) = (make(3, 5), make(2, 6));
    let own = fs::read(project.path("out/catalog.redb")).unwrap();
    fs::copy(other.path("out/catalog.redb"), project.path("out/catalog.redb")).unwrap();
    let output = project.run(&["check", "--repair"]);
    expect(&output, 1, &["check", "--repair"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the catalog of another dataset?"));
    fs::write(project.path("out/catalog.redb"), own).unwrap();
    project.ok(&["check", "--deep"]);
}
