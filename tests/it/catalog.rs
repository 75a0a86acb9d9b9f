//! Copies of the catalog: made while it is in use, looked through, and put back.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions, ServerBehaviour, farm_list, plain_server};
use serde_json::Value;

use crate::support::project::{Project, expect};

const SETTINGS: &str = "rate_control: fixed\n\
    downloader_parameters: {default_rate_limit: 0, batch_size: 20, part_images: 5, part_seconds: 1s}";

fn stderr_of(project: &Project, args: &[&str]) -> String {
    let output = project.run(args);
    expect(&output, 1, args);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn summary(project: &Project, file: &str) -> Value {
    serde_json::from_str(&project.ok(&["catalog", "check", file, "--json"])).unwrap()
}

#[test]
fn a_copy_made_beside_a_download_is_whole_and_can_be_gone_back_to() {
    let slow = ServerBehaviour { latency: Duration::from_millis(30), ..ServerBehaviour::default() };
    let behaviours: BTreeMap<_, _> = (0..3).map(|n| (plain_server(n), slow.clone())).collect();
    let farm = DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(900, 3, 5));
    project.ok(&["ingest"]);
    let mut download = project.start(&["download"]);
    let mut copies = 0;
    let mut last = 0;
    while download.try_wait().unwrap().is_none() {
        project.ok(&["catalog", "backup", "copy.redb", "--force"]);
        let summary = summary(&project, "copy.redb");
        let counts = &summary["counts"];
        let count = |word: &str| counts[word].as_u64().unwrap();
        assert_eq!(
            count("pending") + count("success") + count("failed") + count("skipped"),
            900,
            "{summary}"
        );
        assert!(count("success") >= last, "{summary}");
        last = count("success");
        if last > 0 && last < 900 {
            fs::copy(project.path("copy.redb"), project.path("older.redb")).unwrap();
            copies += 1;
        }
    }
    assert!(download.wait().unwrap().success());
    assert!(copies > 0, "the download was over before any copy");
    let images = project.images();
    project.ok(&["catalog", "backup", "newest.redb"]);
    let in_the_way = stderr_of(&project, &["catalog", "backup", "newest.redb"]);
    assert!(in_the_way.contains("is there already") && in_the_way.contains("--force"), "{in_the_way}");
    let itself = stderr_of(&project, &["catalog", "backup", "out/catalog.redb", "--force"]);
    assert!(itself.contains("is the catalog itself"), "{itself}");

    // Gone back to, the older copy says what it misses, and removes nothing.
    let output = project.run(&["catalog", "restore", "older.redb"]);
    expect(&output, 0, &["catalog", "restore"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("restored: 900 records") && told.contains("catalog.redb.replaced-"), "{told}");
    let output = project.run(&["check"]);
    let text = expect(&output, 1, &["check"]);
    assert!(text.contains("breach: ") && text.contains("NOT sound"), "{text}");
    let refused = stderr_of(&project, &["check", "--repair"]);
    assert!(refused.contains("newer than the catalog"), "{refused}");

    project.ok(&["catalog", "restore", "newest.redb"]);
    project.ok(&["check", "--deep"]);
    assert_eq!(project.images(), images);
}

#[test]
fn only_a_sound_copy_of_this_dataset_is_put_in_place() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(60, 3, 5));
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project.ok(&["catalog", "backup", "copies/copy.redb"]);
    let catalog = fs::read(project.path("out/catalog.redb")).unwrap();

    let other = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(60, 3, 6));
    other.ok(&["ingest"]);
    let path = other.path("out/catalog.redb").display().to_string();
    let refused = stderr_of(&project, &["catalog", "restore", &path]);
    assert!(refused.contains("the catalog of another dataset") && refused.contains("--force"), "{refused}");

    let mut damaged = fs::read(project.path("copies/copy.redb")).unwrap();
    let middle = damaged.len() / 2;
    let end = damaged.len() - 4096;
    for at in (middle..end).step_by(512) {
        damaged[at] ^= 0x55;
    }
    fs::write(project.path("damaged.redb"), damaged).unwrap();
    for args in [["catalog", "check", "damaged.redb"], ["catalog", "restore", "damaged.redb"]] {
        let told = stderr_of(&project, &args);
        assert!(told.contains("damaged"), "{told}");
    }
    fs::write(project.path("text.redb"), "no catalog").unwrap();
    assert!(stderr_of(&project, &["catalog", "check", "text.redb"]).contains("damaged"));
    assert!(stderr_of(&project, &["catalog", "check", "none.redb"]).contains("there is no catalog"));
    assert!(fs::read(project.path("out/catalog.redb")).unwrap() == catalog, "nothing has changed");

    // A dataset whose catalog is lost.
    fs::remove_file(project.path("out/catalog.redb")).unwrap();
    project.ok(&["catalog", "restore", "copies/copy.redb"]);
    project.ok(&["check", "--deep"]);
    project.ok(&["catalog", "check"]);
    project.ok(&["catalog", "compact"]);
    project.ok(&["catalog", "check"]);
    project.ok(&["check", "--deep"]);
    assert_eq!(project.query("SELECT count(*) FROM images"), "60");
}

/// The next run had the number of one that was forgotten, whose ledger stood in its way: it kept none.
#[test]
fn runs_after_a_restored_copy_have_numbers_of_their_own() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(20, 2, 5));
    project.ok(&["ingest"]);
    project.ok(&["catalog", "backup", "copy.redb"]);
    project.ok(&["download"]);
    project.ok(&["catalog", "restore", "copy.redb"]);
    project.ok(&["download"]);
    assert_eq!(project.query("SELECT run_id FROM runs"), "2");
    assert!(project.path("out/logs/requests/run-000002-rank-0000.arrows").exists());
    project.ok(&["audit", "--all"]);
    project.ok(&["check", "--deep"]);
}

#[test]
fn a_catalog_that_is_in_use_is_neither_checked_nor_replaced() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(20, 2, 5));
    project.ok(&["ingest"]);
    project.ok(&["catalog", "backup", "copy.redb"]);
    let lock = project.path("out/catalog.redb.lock");
    fs::write(&lock, r#"{"node":"elsewhere","pid":7,"process_start":7,"job":null,"since":7}"#).unwrap();
    for args in [&["catalog", "check"][..], &["catalog", "compact"], &["catalog", "restore", "copy.redb"]] {
        let told = stderr_of(&project, args);
        assert!(told.contains("in use by process 7 on node elsewhere"), "{told}");
    }
    project.ok(&["catalog", "check", "copy.redb"]);
    project.ok(&["catalog", "backup", "again.redb"]);
}
