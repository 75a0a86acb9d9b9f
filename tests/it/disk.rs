//! Disks that are full or read-only, on real file systems of their own.
//!
//! They are mounted in a mount namespace, so that nothing of it is left behind. Where that is not allowed (no
//! root and no user namespaces), there is nothing to run.

use std::process::Output;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::{Project, expect, with_mounts};
use crate::support::skip;

/// The first try found the disk full and said what to do; the second ended with these records.
#[track_caller]
fn assert_went_on(output: &Output, records: &str) {
    let stdout = expect(output, 0, &["full disk"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stdout.contains("full: 1") && stdout.contains(records), "{stdout}\n{stderr}");
    for words in ["No space left on device", "run the same command again"] {
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn a_full_disk_stops_the_download_and_more_room_lets_it_go_on() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let settings = "downloader_parameters: {default_rate_limit: 0, batch_size: 100, part_images: 20}";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(1800, 3, 4));
    // 1,800 pictures have 5 MB: too much for the file system, whatever else is on it.
    let script = r#"
        set -u
        mkdir -p out
        mount -t tmpfs -o size=3m none out || exit 90
        "$ddl" ingest || exit 91
        "$ddl" download; echo "full: $?"
        "$ddl" check || exit 92
        mount -o remount,size=200m out || exit 93
        "$ddl" download || exit 94
        "$ddl" check --deep || exit 95
        "$ddl" query --format csv "SELECT disposition, count(*) FROM urls GROUP BY 1"
    "#;
    let Some(output) = with_mounts(&project, script) else {
        return skip("no mounts are allowed here");
    };
    assert_went_on(&output, "success,1800");
}

#[test]
fn a_full_disk_stops_the_ingest_and_more_room_lets_it_go_on() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), "").with_rows(farm_list(20_000, 3, 4));
    let script = r#"
        mkdir -p out
        mount -t tmpfs -o size=1600k none out || exit 90
        "$ddl" ingest; echo "full: $?"
        mount -o remount,size=200m out || exit 93
        "$ddl" ingest || exit 94
        "$ddl" check || exit 95
        "$ddl" query --format csv "SELECT disposition, count(*) FROM urls GROUP BY 1"
    "#;
    let Some(output) = with_mounts(&project, script) else {
        return skip("no mounts are allowed here");
    };
    assert_went_on(&output, "pending,20000");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), "").with_rows(farm_list(10, 1, 4));
    // A file where the folder should be.
    std::fs::write(project.path("out"), "in the way").unwrap();
    let output = project.run(&["ingest"]);
    expect(&output, 1, &["ingest"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("cannot create folder `out`: File exists"), "{stderr}");
    std::fs::remove_file(project.path("out")).unwrap();

    let script = r#"
        mkdir -p out
        mount -t tmpfs -o ro none out || exit 90
        "$ddl" ingest
    "#;
    let Some(output) = with_mounts(&project, script) else {
        return skip("no mounts are allowed here");
    };
    expect(&output, 1, &["ingest", "read-only"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("Read-only file system") && stderr.contains("`out/"), "{stderr}");
}
