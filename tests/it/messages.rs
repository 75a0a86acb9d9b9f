//! What the user reads when something is wrong with what was asked for.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::support::project::{Project, expect};

fn project(settings: &str) -> Project {
    Project::new(SocketAddr::from(([127, 0, 0, 1], 1)), settings)
}

/// stderr of a command that must end with an error.
#[track_caller]
fn error_of(project: &Project, args: &[&str]) -> String {
    let output = project.run(args);
    expect(&output, 1, args);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_path_that_does_not_exist_is_told_with_its_place() {
    for (key, line) in [
        ("excluded_servers_path", "excluded_servers_path: no/such"),
        ("bounding_box_information_path", "bounding_box_information_path: no/such"),
        ("ingest_parameters.temp_folder", "ingest_parameters: {temp_folder: no/such}"),
    ] {
        let project = project(line).with_urls(["http://a.example/1"]);
        let error = error_of(&project, &["ingest"]);
        assert!(error.starts_with(&format!("error: ddl.yaml:5: `{key}` names `no/such`: ")), "{error}");
    }
    let project = project("");
    let error = error_of(&project, &["ingest"]);
    assert!(error.starts_with("error: ddl.yaml:1: `path_to_input` names `list.csv`: "), "{error}");
    let error = error_of(&project, &["ingest", "other.csv"]);
    assert!(error.starts_with("error: INPUT: `path_to_input` names `other.csv`: "), "{error}");
    assert!(!project.path("out/catalog.redb").exists(), "nothing is made before all is found");
}

#[test]
fn problems_beyond_a_screenful_are_counted() {
    let mut settings = String::new();
    (0..25).for_each(|n| writeln!(settings, "wrong_{n}: 1").unwrap());
    let error = error_of(&project(&settings), &["status"]);
    assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 20);
    assert!(error.ends_with("and 5 more\n"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let error = error_of(&project(""), &["init", "/proc/no-such-folder"]);
    assert!(error.starts_with("error: cannot create folder `/proc/no-such-folder`: "), "{error}");
}

#[test]
fn a_missing_url_column_is_asked_for() {
    let project = project("");
    std::fs::write(project.path("list.csv"), "urll,id\nhttp://a.example/1,1\n").unwrap();
    let error = error_of(&project, &["ingest"]);
    assert!(error.contains("hint: name it with `--url-column urll`"), "{error}");
}

#[test]
fn a_folder_without_a_configuration_says_how_to_begin() {
    let error = error_of(&Project::empty(), &["status"]);
    assert!(error.starts_with("error: there is no `ddl.yaml` in this folder"), "{error}");
    assert!(error.contains("`ddl init`") && error.contains("`--dataset DIR`"), "{error}");
}

/// Two of three ranks found the catalog in use, and `mpirun` ended the one that had it.
#[test]
fn of_several_ranks_the_first_ingests() {
    let project = project("").with_urls(["http://a.example/1"]);
    let ingest = |rank: &str| {
        let mut command = project.command(&["ingest"]);
        command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", rank);
        expect(&command.output().unwrap(), 0, &["ingest", rank]);
    };
    ingest("1");
    assert!(!project.path("out").exists());
    ingest("0");
    assert_eq!(project.query("SELECT count(*) FROM urls"), "1");
}

#[test]
fn a_label_that_comes_late_is_told() {
    let project = project("");
    std::fs::write(project.path("list.csv"), "url;species\nhttp://a.example/1;Puma concolor\n").unwrap();
    project.ok(&["ingest"]);
    let ingest = |args: &[&str]| {
        let output = project.run(&[&["ingest"][..], args].concat());
        expect(&output, 0, args);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = ingest(&["--label-column", "species"]);
    assert!(said.contains("`columns.label` differs from the last ingest, but 1 records"), "{said}");
    assert!(!ingest(&["--label-column", "species"]).contains("columns.label"), "it is told once");
    std::fs::write(project.path("list.csv"), "url\nhttp://a.example/2\n").unwrap();
    let said = ingest(&[]);
    assert!(said.contains("1 records of the dataset are not in this list; they stay"), "{said}");
}

#[test]
fn passwords_in_urls_are_kept_and_not_told() {
    let url = "http://me:s3cret@a.example/1";
    let settings =
        "downloader_parameters: {max_attempts: 1, logger_level: DEBUG}\nallow_private_networks: true";
    let project = project(settings).with_urls([url]);
    project.ok(&["ingest"]);
    let output = project.run(&["-vvv", "download"]);
    expect(&output, 0, &["download"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(project.path("out/logs/download-00.log")).unwrap();
    for said in [&*stderr, &log] {
        assert!(said.contains("a.example/1") && !said.contains("s3cret"), "{said}");
    }
    assert_eq!(project.query("SELECT identifier FROM errors"), url);
}

#[test]
fn servers_that_cannot_be_are_told_and_the_others_are_ignored() {
    let project = project("").with_urls(["http://a.example/1", "http://b.example/1"]);
    std::fs::create_dir(project.path("out")).unwrap();
    std::fs::write(project.path("out/ignored_servers.csv"), "server_name\nA.example:80\n*.b.example\n")
        .unwrap();
    let output = project.run(&["ingest"]);
    expect(&output, 0, &["ingest"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("`out/ignored_servers.csv`:3: `*.b.example` is no server"), "{stderr}");
    assert_eq!(project.query("SELECT disposition FROM urls ORDER BY identifier"), "skipped\npending");
    let configuration = project.query("SELECT configuration LIKE '%path_to_input:%' FROM ingests");
    assert_eq!(configuration, "true", "an ingest is stored with its configuration");
}
