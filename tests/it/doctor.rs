//! `ddl doctor`: what is wrong is told with what to do about it, and what is right is not complained of.

use std::process::Output;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};
use serde_json::Value;

use crate::support::project::{Project, expect, with_mounts};
use crate::support::skip;

fn farm() -> DemoFarm {
    DemoFarm::start(FarmOptions::default()).unwrap()
}

fn ingested(farm: &DemoFarm) -> Project {
    let project = Project::new(farm.addr(), "").with_rows(farm_list(60, 3, 5));
    project.ok(&["ingest"]);
    project
}

fn report(output: &Output, code: i32) -> Value {
    serde_json::from_str(&expect(output, code, &["doctor"])).unwrap()
}

/// The levels of all findings of one kind, with their messages.
fn found(report: &Value, check: &str) -> Vec<(String, String)> {
    let run = report["run"].as_array().unwrap();
    let nodes = report["nodes"].as_array().unwrap();
    let findings = run.iter().chain(nodes.iter().flat_map(|node| node["findings"].as_array().unwrap()));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    findings
        .filter(|finding| finding["check"] == check)
        .map(|finding| (text(&finding["level"]), text(&finding["message"])))
        .collect()
}

#[track_caller]
fn assert_found(report: &Value, check: &str, level: &str, words: &str) {
    let found = found(report, check);
    assert!(found.iter().any(|(is, message)| is == level && message.contains(words)), "{check}: {report:#}");
}

/// The trouble that has nothing to do with the machine that runs the tests: how full its disk is.
fn trouble(report: &Value) -> Vec<String> {
    let nodes = report["nodes"].as_array().unwrap();
    nodes
        .iter()
        .flat_map(|node| node["findings"].as_array().unwrap())
        .filter(|finding| ["warning", "failure"].contains(&finding["level"].as_str().unwrap()))
        .map(|finding| finding["check"].as_str().unwrap().to_owned())
        .filter(|check| check != "space" && check != "inodes")
        .collect()
}

fn left_behind(project: &Project) -> Vec<String> {
    let folders = [project.path("."), project.path("out")];
    let names = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("doctor") || name.contains(".lock")).collect()
}

#[test]
fn a_laptop_is_ready_and_one_request_says_so() {
    let farm = farm();
    let project = ingested(&farm);
    let text = project.ok(&["doctor"]);
    assert!(text.contains("ready"), "{text}");
    assert_eq!(farm.log().len(), 1, "{:?}", farm.log());
    let asked = &farm.log()[0];
    assert_eq!(asked.path, "/robots.txt");
    assert!(asked.user_agent.contains("tests@ddl.example"));

    let report = report(&project.run(&["doctor", "--json"]), 0);
    assert!(trouble(&report).is_empty(), "{report:#}");
    assert_found(&report, "egress", "ok", "/robots.txt answered 404");
    assert_found(&report, "catalog", "ok", "60 records, 60 pending");
    assert_found(&report, "locks", "ok", "file locks work");
    assert!(left_behind(&project).is_empty(), "{:?}", left_behind(&project));
}

#[test]
fn before_there_is_a_list_a_url_can_be_asked_for() {
    let farm = farm();
    let project = Project::new(farm.addr(), "");
    let before = report(&project.run(&["doctor", "--json"]), 0);
    assert_found(&before, "egress", "skipped", "ddl ingest");
    assert_found(&before, "catalog", "skipped", "ddl ingest");
    assert!(farm.log().is_empty() && !project.path("out").exists());

    let row = farm_list(1, 1, 5).next().unwrap();
    let asked = report(&project.run(&["doctor", "--json", "--url", &row.identifier]), 0);
    assert_found(&asked, "egress", "ok", "answered 200");
    let paths: Vec<_> = farm.log().into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths.len(), 2, "what a user names is asked for as a record is, robots.txt first: {paths:?}");
}

#[test]
fn without_a_contact_nothing_is_asked_for() {
    let farm = farm();
    let project = ingested(&farm);
    let output = project.run(&["doctor", "--json", "--set", "user_agent=nobody"]);
    let report = report(&output, 1);
    assert_found(&report, "settings", "failure", "");
    assert_found(&report, "egress", "skipped", "");
    assert!(farm.log().is_empty());
}

#[test]
fn few_open_files_are_told() {
    let farm = farm();
    let project = ingested(&farm);
    let script = format!("ulimit -n 64; exec {} doctor --json", env!("CARGO_BIN_EXE_ddl"));
    let report = report(&project.wrap("sh").args(["-c", &script]).output().unwrap(), 1);
    assert_found(&report, "open_files", "failure", "64 may be open");
    assert_eq!(trouble(&report), ["open_files"], "{report:#}");
}

#[test]
fn a_server_that_does_not_answer_is_told() {
    let farm = farm();
    let project = ingested(&farm);
    drop(farm);
    let text = expect(&project.run(&["doctor"]), 1, &["doctor"]);
    assert!(text.contains("FAILURE  egress") && text.contains("-> "), "{text}");
    assert!(text.contains("NOT ready: 1 failure"), "{text}");
}

#[test]
fn a_proxy_that_cannot_be_reached_is_told_without_its_password() {
    let settings = "http_proxy: 'http://me:s3cret@127.0.0.1:1'\nallow_private_networks: true";
    let project = Project::routed(settings);
    let output = project.run(&["doctor", "--json", "--url", "http://198.51.100.7/1.jpg"]);
    let report = report(&output, 1);
    assert_found(&report, "proxy", "failure", "127.0.0.1:1");
    assert_found(&report, "proxy", "failure", "refused");
    assert_found(&report, "egress", "failure", "");
    assert!(!report.to_string().contains("s3cret"), "{report:#}");
}

#[test]
fn a_full_disk_and_one_that_cannot_be_written_are_told() {
    let farm = farm();
    let project = Project::new(farm.addr(), "");
    let script = r#"
        mkdir -p out
        mount -t tmpfs -o size=1m none out || exit 90
        head -c 2000000 /dev/zero > out/full 2>/dev/null
        "$ddl" doctor; echo "full: $?"
        rm out/full
        mount -o remount,ro out || exit 91
        "$ddl" doctor; echo "read-only: $?"
    "#;
    let Some(output) = with_mounts(&project, script) else {
        return skip("no mounts are allowed here");
    };
    let text = expect(&output, 0, &["full disk"]);
    let (full, read_only) = text.split_once("full: 1").unwrap();
    assert!(full.contains("FAILURE  space") && full.contains("0.0 GB free"), "{full}");
    assert!(full.contains("No space left on device") && full.contains("free space, or point it"), "{full}");
    assert!(read_only.contains("Read-only file system") && read_only.contains("read-only: 1"), "{read_only}");
}

#[test]
fn a_job_of_slurm_is_told_of() {
    let farm = farm();
    let project = ingested(&farm);
    let mut command = project.command(&["doctor", "--json"]);
    command.env("SLURM_JOB_ID", "81234").env("SLURM_JOB_NUM_NODES", "4").env("SLURM_NTASKS", "8");
    let report = report(&command.output().unwrap(), 0);
    assert_found(&report, "slurm", "ok", "job 81234, 4 nodes, 8 tasks");
    assert_found(&report, "launch", "warning", "in a job with 8 tasks");
    assert_found(&report, "launch", "warning", "the job has 4 nodes, ranks run on 1");
}

/// `mpirun` of one MPI around a program of another: each of the processes thinks that it is alone.
#[test]
fn a_wrong_launcher_is_told_once() {
    let farm = farm();
    let project = ingested(&farm);
    let started_as = |rank: &str| {
        let mut command = project.command(&["doctor"]);
        command.env("PMI_SIZE", "4").env("PMI_RANK", rank);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.output().unwrap()
    };
    let text = expect(&started_as("0"), 1, &["doctor"]);
    assert!(text.contains("FAILURE  launch") && text.contains("4 processes (`PMI_SIZE`)"), "{text}");
    assert!(text.contains("ok       egress"), "the rest is looked at all the same: {text}");
    assert_eq!(expect(&started_as("1"), 0, &["doctor"]), "");
}

#[test]
fn mpi_ranks_on_two_nodes_are_looked_at_together() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let farm = farm();
    let project = ingested(&farm);
    let mut command = project.mpi_command(1, &["doctor", "--json"]);
    command.args([
        ":",
        "-n",
        "1",
        "-x",
        "SLURMD_NODENAME=second",
        env!("CARGO_BIN_EXE_ddl"),
        "doctor",
        "--json",
    ]);
    command.env("SLURMD_NODENAME", "first");
    let report = report(&command.output().unwrap(), 0);
    assert_eq!(
        (&report["num_ranks"], &report["num_nodes"]),
        (&Value::from(2), &Value::from(2)),
        "{report:#}"
    );
    assert!(trouble(&report).is_empty(), "{report:#}");
    assert_found(&report, "launch", "ok", "2 ranks have found each other, started by OpenMPI's `mpirun`");
    assert_found(&report, "clock", "ok", "that of rank 0's node");
    assert_found(&report, "shared_folder", "ok", "");
    assert_found(&report, "locks", "ok", "from this rank");
    assert_eq!(found(&report, "egress").len(), 2, "one node after another: {report:#}");
    assert_eq!(farm.log().len(), 2, "{:?}", farm.log());
    assert!(left_behind(&project).is_empty(), "{:?}", left_behind(&project));
}
