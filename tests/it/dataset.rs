//! From a list to a dataset: alone and with ranks.

use std::collections::HashSet;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::{Project, expect};

const SETTINGS: &str = "initializer_type: gbif\n\
    schedule_rules: {1: 1, 2: 2}\n\
    downloader_parameters: {default_rate_limit: 0, batch_size: 40}";

#[test]
fn a_list_becomes_a_dataset_that_is_sound() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let rows: Vec<_> = farm_list(300, 5, 7).collect();
    let project = Project::new(farm.addr(), SETTINGS).with_rows(rows.clone());
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project.ok(&["check", "--deep"]);
    assert_eq!(project.query("SELECT disposition, count(*) FROM urls GROUP BY 1"), "success,300");
    assert_eq!(project.query("SELECT count(DISTINCT hashsum_original) FROM images"), "300");
    let requests = farm.requests_per_url();
    assert_eq!(requests.len(), 300);
    assert!(requests.values().all(|&n| n == 1), "no URL is fetched twice");
    assert!(farm.max_in_flight("server-000.example") <= 4, "max_connections_per_server");

    // Again: nothing is new, nothing is pending, nothing is asked for.
    let again = project.ok(&["ingest", "--json"]);
    assert!(again.contains("\"records_new\": 0") && again.contains("\"records_known\": 300"), "{again}");
    project.ok(&["download"]);
    assert_eq!(farm.image_log().len(), 300);

    // A newer list adds only what is new.
    let project = project.with_rows(rows.into_iter().skip(50).chain(farm_list(20, 5, 8)));
    let newer = project.ok(&["ingest", "--json"]);
    for expected in ["\"records_new\": 20", "\"records_known\": 250", "\"records_gone\": 50"] {
        assert!(newer.contains(expected), "{newer}");
    }
    project.ok(&["download"]);
    project.ok(&["check", "--deep"]);
    assert_eq!(project.query("SELECT count(*) FROM images"), "320");
    assert!(farm.requests_per_url().values().all(|&n| n == 1));

    project.ok(&["export", "manifest", "-o", "images.csv"]);
    let exported = std::fs::read_to_string(project.path("images.csv")).unwrap();
    let uuids: HashSet<&str> = exported.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(uuids.len(), 320);
    let status = project.ok(&["status", "--json"]);
    assert!(status.contains("\"success\": 320"), "{status}");
}

#[test]
fn mpi_ranks_make_the_same_dataset_as_one_process() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let rows: Vec<_> = farm_list(600, 6, 3).collect();
    let alone = Project::new(farm.addr(), SETTINGS).with_rows(rows.clone());
    alone.ok(&["ingest"]);
    alone.ok(&["download"]);
    farm.clear_log();

    let ranks = Project::new(farm.addr(), SETTINGS).with_rows(rows);
    ranks.ok(&["ingest"]);
    let output = ranks.mpi_command(4, &["download"]).output().unwrap();
    expect(&output, 0, &["mpirun", "download"]);
    ranks.ok(&["check", "--deep"]);
    assert_eq!(ranks.images(), alone.images());
    let requests = farm.requests_per_url();
    assert_eq!(requests.len(), 600);
    assert!(requests.values().all(|&n| n == 1), "no URL is fetched twice");
    for server in farm.server_names() {
        assert!(farm.max_in_flight(&server) <= 4, "{server}: limits hold over all ranks together");
    }
    assert_eq!(ranks.query("SELECT num_ranks, ending FROM runs"), "4,done");
}
