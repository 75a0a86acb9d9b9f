//! Nasty servers, bad files, odd configurations: each gives the stated result and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use crate::support::nasty::{Behaviour, NastyServer, RetryAfter};
use crate::support::project::{Project, expect};

#[test]
fn every_nasty_answer_is_a_recorded_failure_with_its_cause() {
    use Behaviour as B;
    let script: Vec<(&str, B, &str)> = vec![
        ("/html", B::Html, "not_an_image"),
        ("/empty", B::Empty, "empty_body"),
        ("/half", B::HalfJpeg, "truncated_image"),
        ("/huge.png", B::HugePng, "too_many_pixels"),
        ("/endless", B::Endless, "body_too_large"),
        ("/drip", B::Drip(Duration::from_secs(1)), "request_timeout"),
        ("/loop", B::RedirectLoop, "too_many_redirects"),
        ("/forever", B::RedirectForever, "too_many_redirects"),
        ("/nowhere", B::RedirectNowhere, "bad_redirect"),
        ("/linklocal", B::RedirectToLinkLocal, "forbidden_address"),
        ("/truncated", B::TruncatedBody, "truncated_body"),
        ("/reset", B::ResetInside, "connection_lost"),
        ("/hang", B::Hang, "first_byte_timeout"),
        ("/hang-inside", B::HangInside, "request_timeout"),
        ("/garbage", B::Garbage, "bad_response"),
        ("/bomb", B::GzipBomb, "body_too_large"),
        ("/unknown", B::UnknownEncoding, "bad_content_encoding"),
        ("/gone", B::Status(410), "http_status"),
        ("/ok", B::Ok, ""),
        ("/gzip", B::Gzip, ""),
        ("/busy", B::Refuse { status: 429, times: 2, retry_after: RetryAfter::Seconds(1) }, ""),
        // More bytes than announced: the announced ones are half a picture.
        ("/short", B::ShortContentLength, "truncated_image"),
    ];
    let server = NastyServer::start(script.iter().map(|(path, behaviour, _)| (*path, behaviour.clone())));
    // A server of its own for each, which also has a good picture: it must come whatever else the server does.
    let host = |path: &str| format!("http://{}.example", path.trim_matches('/').replace('.', "-"));
    let nasty = |path: &str| format!("{}{path}", host(path));
    let good = |path: &str| format!("{}/ok?beside", host(path));
    let project = Project::new(
        server.addr(),
        "downloader_parameters: {default_rate_limit: 0, max_attempts: 2, retry_backoff: 100ms, connect_timeout: 2s, \
         first_byte_timeout: 2s, request_timeout: 5s, max_body_bytes: 4 MiB}",
    )
    .with_urls(script.iter().flat_map(|(path, ..)| [nasty(path), good(path)]));
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project.ok(&["check", "--deep"]);
    let found: BTreeMap<String, String> = project
        .query("SELECT identifier, coalesce(cause, '') FROM urls")
        .lines()
        .map(|line| {
            let (url, cause) = line.split_once(',').unwrap();
            (url.to_owned(), cause.trim_matches('"').to_owned())
        })
        .collect();
    let expected: BTreeMap<String, String> = script
        .iter()
        .flat_map(|(path, _, cause)| [(nasty(path), (*cause).to_owned()), (good(path), String::new())])
        .collect();
    assert_eq!(found, expected);
    // The deadlines are 2 s and 5 s, and each URL is tried at most twice.
    for (path, ..) in &script {
        assert!(server.num_requests(path) <= 6 || *path == "/ok", "{path}: redirects included");
    }
    assert_eq!(project.query("SELECT error_code FROM errors WHERE cause = 'http_status'"), "410");
    let strict = project.run(&["download", "--strict"]);
    expect(&strict, 3, &["download", "--strict"]);
}

#[test]
fn private_addresses_are_refused_unless_admitted() {
    let server = NastyServer::start([("/ok", Behaviour::Ok)]);
    let project = Project::new(server.addr(), "connect_to: []").with_urls([server.url("/ok")]);
    // The key twice would be an error: the last word is a file of its own.
    let yaml = fs::read_to_string(project.path("ddl.yaml")).unwrap();
    let yaml: String =
        yaml.lines().filter(|line| !line.starts_with("connect_to")).map(|l| format!("{l}\n")).collect();
    fs::write(project.path("ddl.yaml"), yaml).unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    assert_eq!(project.query("SELECT cause FROM urls"), "forbidden_address");
    assert!(server.log().is_empty(), "nothing was sent");

    fs::remove_dir_all(project.path("out")).unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download", "--set", "allow_private_networks=true"]);
    assert_eq!(project.query("SELECT disposition FROM urls"), "success");
}

/// Runs `ddl` on a project of one good list with something wrong, and expects an error that says so.
#[track_caller]
fn refused(prepare: impl FnOnce(&Project), args: &[&str], words: &[&str]) {
    let server = NastyServer::start([("/ok", Behaviour::Ok)]);
    let project = Project::new(server.addr(), "").with_urls(["http://a.example/ok"]);
    prepare(&project);
    let output = project.run(args);
    expect(&output, 1, args);
    let message = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(message.contains(word), "`{word}` is not in:\n{message}");
    }
}

#[test]
fn bad_lists_are_refused_with_the_reason() {
    let list =
        |bytes: &'static [u8]| move |project: &Project| fs::write(project.path("list.csv"), bytes).unwrap();
    refused(list(b""), &["ingest"], &["list.csv"]);
    refused(list(b"url\n"), &["ingest"], &["list.csv"]);
    refused(list(b"name,link\na,b\n"), &["ingest"], &["list.csv", "link"]);
    refused(|project| fs::create_dir(project.path("empty")).unwrap(), &["ingest", "empty"], &["empty"]);
    refused(|_| {}, &["ingest", "no-such-list.csv"], &["no-such-list.csv"]);
    refused(
        |project| {
            let file = fs::File::create(project.path("list.csv.gz")).unwrap();
            let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            gzip.write_all(b"url\n").unwrap();
            for n in 0..100_000 {
                writeln!(gzip, "http://a.example/{n}/{}", fastrand::u64(..)).unwrap();
            }
            drop(gzip.finish().unwrap());
            let bytes = fs::read(project.path("list.csv.gz")).unwrap();
            fs::write(project.path("list.csv.gz"), &bytes[..bytes.len() / 2]).unwrap();
        },
        &["ingest", "list.csv.gz"],
        &["list.csv.gz"],
    );
}

#[test]
fn a_malformed_line_is_reported_and_the_rest_is_kept() {
    let server = NastyServer::start([("/ok", Behaviour::Ok)]);
    let project = Project::new(server.addr(), "");
    fs::write(project.path("list.csv"), "id,url\n1,http://a.example/1\n2\n3,http://a.example/3\n").unwrap();
    let report = project.ok(&["ingest", "--json"]);
    assert!(report.contains("\"malformed\": 1") && report.contains("\"line\": 3"), "{report}");
    assert_eq!(project.query("SELECT count(*) FROM urls"), "2");
    let strict = project.run(&["ingest", "--strict"]);
    expect(&strict, 1, &["ingest", "--strict"]);
}

/// A line of a gigabyte is one malformed line, read in little memory.
#[test]
fn a_line_of_a_gigabyte_costs_no_memory() {
    let server = NastyServer::start([("/ok", Behaviour::Ok)]);
    let project = Project::new(server.addr(), "");
    let mut list = fs::File::create(project.path("list.csv")).unwrap();
    list.write_all(b"url\nhttp://a.example/1\n").unwrap();
    // A hole in the file: a gigabyte of zeros that takes no room.
    list.seek(SeekFrom::Current(1 << 30)).unwrap();
    list.write_all(b"\nhttp://a.example/2\n").unwrap();
    drop(list);
    let (report, peak_bytes) = project.ok_with_peak_memory(&["ingest", "--json"]);
    assert!(report.contains("\"malformed\": 1") && report.contains("\"line\": 3"), "{report}");
    assert_eq!(project.query("SELECT identifier FROM urls ORDER BY 1").lines().count(), 2);
    assert!(peak_bytes < 256 << 20, "{} MiB", peak_bytes >> 20);
}

#[test]
fn bad_configurations_are_refused_with_file_line_and_nearest_key() {
    let append = |text: &'static str| {
        move |project: &Project| {
            let mut yaml = fs::read_to_string(project.path("ddl.yaml")).unwrap();
            yaml.push_str(text);
            fs::write(project.path("ddl.yaml"), yaml).unwrap();
        }
    };
    refused(
        append("downloader_parameters: {batch_sise: 5}\n"),
        &["ingest"],
        &[
            "ddl.yaml:",
            "unknown key `downloader_parameters.batch_sise`",
            "did you mean `downloader_parameters.batch_size`",
        ],
    );
    refused(
        append("downloader_parameters: {image_size: large}\n"),
        &["ingest"],
        &["ddl.yaml:", "image_size", "large"],
    );
    refused(|_| {}, &["ingest", "-c", "none.yaml"], &["none.yaml"]);
    refused(|_| {}, &["download", "--set", "user_agent=nobody"], &["contact"]);
    refused(|_| {}, &["download"], &["there is no catalog", "ddl ingest"]);
}

#[test]
fn damaged_catalogs_are_told_not_believed() {
    for keep in [0, 100, 5000] {
        refused(
            |project| {
                project.ok(&["ingest"]);
                let path = project.path("out/catalog.redb");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..keep]).unwrap();
            },
            &["download"],
            &["catalog", "damaged"],
        );
    }
}

/// "Run the same command again" would be said for ever.
#[test]
fn a_damaged_manifest_is_an_error_not_an_interruption() {
    let server = NastyServer::start([("/ok", Behaviour::Ok)]);
    let project = Project::new(server.addr(), "").with_urls(["http://a.example/ok", "http://b.example/ok"]);
    project.ok(&["ingest"]);
    fs::remove_file(
        project.path("out/servers_batched/server_name=a.example/partition_id=0/part-0000.parquet"),
    )
    .unwrap();
    let output = project.run(&["download"]);
    expect(&output, 1, &["download"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("was set aside") && message.contains("ddl check"), "{message}");
    let count = "SELECT count(*) AS n FROM images";
    assert_eq!(project.query(count), "1");
}
