//! `ddl query` and `ddl export` from outside: what is written where, beside a download as well.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions, ServerBehaviour, farm_list, plain_server};

use crate::support::project::{Project, expect};

fn downloaded(farm: &DemoFarm, num_records: u64, settings: &str) -> Project {
    let settings =
        format!("initializer_type: gbif\ndownloader_parameters: {{default_rate_limit: 0{settings}}}");
    let project = Project::new(farm.addr(), &settings).with_rows(farm_list(num_records, 3, 3));
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project
}

fn with_stdin(project: &Project, args: &[&str], text: &str) -> Output {
    let mut command = project.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn statements_come_from_stdin() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, 9, "");
    let csv = ["query", "--format", "csv"];
    let script = "SELECT 1 AS a;\n\\d\nSELECT ';\n' AS b; -- two\nSELECT count(*) AS c\nFROM images";
    let said = expect(&with_stdin(&project, &csv, script), 0, &csv);
    assert!(said.starts_with("a\n1\nurls ") && said.ends_with("b\n\";\n\"\nc\n9\n"), "{said}");
    let output = with_stdin(&project, &csv, "SELECT nothing FROM urls;\nSELECT 2 AS a;");
    assert_eq!(expect(&output, 1, &csv), "a\n2\n");
    assert!(stderr(&output).contains("no column `nothing`"));
    // A comment at the end is no statement, and several may stand on a line or in a file.
    let said = expect(&with_stdin(&project, &csv, "SELECT 1 AS a; SELECT 2 AS b;\n-- the end\n"), 0, &csv);
    assert_eq!(said, "a\n1\nb\n2\n");
    std::fs::write(project.path("q.sql"), "-- two\nSELECT 1 AS a;\nSELECT 2\nAS b;\n/* the end */").unwrap();
    assert_eq!(project.ok(&["query", "--format", "csv", "-f", "q.sql"]), "a\n1\nb\n2\n");
    let output = project.run(&["query", "-f", "q.sql", "-o", "n.json"]);
    assert!(stderr(&output).contains("one statement at a time, found 2"), "{}", stderr(&output));
    let to_file = ["query", "-o", "n.json"];
    expect(&with_stdin(&project, &to_file, "SELECT 3 AS n"), 0, &to_file);
    assert_eq!(std::fs::read_to_string(project.path("n.json")).unwrap(), "[{\"n\":3}]\n");
    assert_eq!(project.run(&["query", "SELECT 1", "--format", "xml"]).status.code(), Some(2));
}

/// `-o` truncated whatever it named, the catalog too.
#[test]
fn an_answer_never_replaces_what_is_the_datasets() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, 9, "");
    let status = project.path("out/status/status.json");
    std::fs::copy(project.path("out/catalog.redb"), project.path("copy")).unwrap();
    for target in [
        "out/catalog.redb",
        "out/./status/../catalog.redb",
        "out/status/status.json",
        "out/servers_batched/x.csv",
    ] {
        for args in [
            &["query", "SELECT 1", "--format", "csv", "-o", target][..],
            &["export", "manifest", "-o", &format!("{target}.csv")],
        ] {
            // As a name of its own, `status.json.csv` is refused for where it is, `catalog.redb.csv` for what it
            // begins with.
            let output = project.run(args);
            expect(&output, 1, args);
            assert!(stderr(&output).contains("belongs to the dataset"), "{}", stderr(&output));
        }
    }
    assert!(std::fs::read(status).is_ok_and(|bytes| bytes.starts_with(b"{")));
    project.ok(&["check"]);
    let output = project.run(&["query", "SELECT 1", "-o", "a.xlsx"]);
    assert!(stderr(&output).contains("cannot tell a format from the name `a.xlsx`"), "{}", stderr(&output));
    let output = project.run(&["query", "SELECT 1", "-o", "list.csv/a.csv"]);
    assert!(stderr(&output).contains("list.csv"), "{}", stderr(&output));
}

/// A column `File` of a list made `file` mean itself, also in the manifest.
#[test]
fn a_dataset_is_found_by_any_name_of_its_folder() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, 9, "");
    std::fs::create_dir(project.path("aside")).unwrap();
    let count = ["query", "--format", "csv", "SELECT count(*) AS n FROM images", "--dataset"];
    let absolute = project.path("aside/../out").display().to_string();
    for folder in ["aside/../out", "./out", &absolute] {
        assert_eq!(project.ok(&[&count[..], &[folder]].concat()), "n\n9\n", "{folder}");
        project.ok(&["export", "manifest", "-o", "images.csv", "--dataset", folder]);
    }
}

#[test]
fn columns_of_a_list_do_not_hide_ours() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let url = &farm_list(1, 1, 3).next().unwrap().identifier;
    let project = Project::new(farm.addr(), "");
    std::fs::write(project.path("list.csv"), format!("url,File,Stage,Row,taxonKey\n{url},f,s,r,t\n"))
        .unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    assert_eq!(project.query("SELECT stage FROM partitions"), "finished");
    assert!(project.query("SELECT file, row FROM images").ends_with("successes.parquet,0"));
    assert_eq!(project.query("SELECT \"File\", taxonkey FROM urls"), "f,t");
    project.ok(&["export", "manifest", "-o", "m.csv"]);
    assert!(
        std::fs::read_to_string(project.path("m.csv")).unwrap().trim_end().ends_with("successes.parquet,0")
    );
}

/// Parts went away under queries that had begun before, and two in three failed.
#[test]
fn queries_and_exports_run_beside_a_download() {
    let slow = ServerBehaviour { latency: Duration::from_millis(40), ..ServerBehaviour::default() };
    let behaviours: BTreeMap<_, _> = (0..3).map(|n| (plain_server(n), slow.clone())).collect();
    let farm = DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap();
    let settings = "downloader_parameters: {default_rate_limit: 0, batch_size: 6, part_images: 1}";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(600, 3, 3));
    project.ok(&["ingest"]);
    let mut download = project.start(&["download"]);
    let mut num_beside = 0;
    while download.try_wait().unwrap().is_none() {
        let images = project.query("SELECT uuid, hashsum_original, record FROM images ORDER BY uuid");
        let mut uuids: Vec<_> = images.lines().map(|line| line.split(',').next().unwrap()).collect();
        uuids.dedup();
        assert_eq!(uuids.len(), images.lines().count(), "an image shows once");
        num_beside += usize::from((1..600).contains(&uuids.len()));
        project.ok(&["export", "manifest", "-o", "m.parquet"]);
    }
    assert!(num_beside > 0, "no query has seen a download that was under way");
    assert_eq!(project.query("SELECT count(*) FROM images"), "600");
}

#[test]
fn equal_lists_make_equal_manifests() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let manifest = |settings: &str| {
        let project = downloaded(&farm, 60, settings);
        project.ok(&["export", "manifest", "-o", "m.csv"]);
        let text = std::fs::read_to_string(project.path("m.csv")).unwrap();
        // All but `file` and `row`.
        let rows: Vec<_> = text.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_owned()).collect();
        assert!(rows.len() == 61 && rows[0].ends_with(",content_type"), "{text}");
        rows
    };
    assert_eq!(manifest(""), manifest(", part_images: 7, max_connections_per_server: 1"));
}

/// What does not fit into memory goes beside the dataset, where the configuration does not say otherwise.
#[test]
fn a_query_spills_where_it_is_told() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), "").with_rows(farm_list(3, 1, 3));
    project.ok(&["ingest"]);
    let sql = "SELECT value * 7919 % 1000003 AS k, repeat('x', 100) AS x FROM generate_series(1, 400000) ORDER BY k";
    let query = |more: &[&str]| {
        let few = ["-o", "x.csv", "--set", "query_parameters.memory_bytes=24MiB"];
        project.run(&[&["query", sql, "--set", "query_parameters.threads=1"][..], &few, more].concat())
    };
    expect(&query(&[]), 0, &["default"]);
    let left: Vec<_> = std::fs::read_dir(project.path("out/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let refused = query(&["--set", "query_parameters.temp_folder=list.csv/x"]);
    assert!(stderr(&refused).contains("cannot write to `list.csv/x`"), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("hint: raise `query_parameters.memory_bytes`"), "{}", stderr(&refused));
    let refused = query(&["--set", "query_parameters.max_temp_bytes=1MiB"]);
    assert!(
        stderr(&refused).contains("hint: raise `query_parameters.max_temp_bytes`"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn plans_can_be_read() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, 9, "");
    let plan =
        project.ok(&["query", "EXPLAIN ANALYZE SELECT uuid, title FROM images WHERE http_status = 200"]);
    assert!(plan.lines().count() >= 2 && !plan.contains("\\n") && !plan.starts_with('+'), "{plan}");
    assert!(plan.contains("bytes_scanned="), "{plan}");
}

#[test]
fn a_demo_has_one_place() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::new(farm.addr(), "");
    for args in [["demo", "d", "-d", "x"], ["demo", "d", "--set", "path_to_output_folder=x"]] {
        let output = project.run(&args);
        expect(&output, 2, &args);
        assert!(stderr(&output).contains("hint: `ddl demo DIR`"), "{}", stderr(&output));
    }
    assert!(!project.path("d").exists());
}
