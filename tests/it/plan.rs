//! `ddl ingest --inspect` and `ddl plan`: what is in a list, and what a download of it would do and bring.

use std::time::Duration;

use serde_json::Value;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::nasty::good_jpeg;
use crate::support::project::{Project, expect};
use crate::support::street::{Manner, StreetServer};

fn json(project: &Project, args: &[&str]) -> Value {
    serde_json::from_str(&project.ok(args)).unwrap()
}

fn farm() -> (DemoFarm, Project) {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let settings = "downloader_parameters: {default_rate_limit: 20, batch_size: 25}\nrate_control: fixed";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(120, 3, 11));
    (farm, project)
}

#[test]
fn a_list_is_inspected_without_a_dataset() {
    let project = Project::empty();
    let list = "photo_url,taxon,site\nhttp://a.example/1,Puma,x\nhttp://a.example/2,Puma,y\n\
                http://b.example/1,Lynx,z\nhttp://a.example/1,Puma,x\nnothing,Lynx,z\n";
    std::fs::write(project.path("list.csv"), list).unwrap();
    let args = ["ingest", "--inspect", "--label", "taxon", "list.csv"];
    let text = project.ok(&args);
    assert!(text.starts_with("5 rows in 1 file: 4 records, 1 duplicates\n"), "{text}");
    let columns = "columns: url from photo_url, label from taxon; none for id, license, source, title, uuid; \
                   kept as they are: site\n";
    assert!(text.contains(columns), "{text}");
    let report = json(&project, &[&args[..], &["--json"]].concat());
    let count = |list: &str, at: usize| (report[list][at]["name"].clone(), report[list][at]["count"].clone());
    assert_eq!(count("servers", 0), ("a.example".into(), 3.into()));
    assert_eq!(count("labels", 0), ("Lynx".into(), 2.into()), "{report}");
    assert_eq!(report["skipped"]["bad_scheme"], 1, "{report}");
    let left: Vec<_> = std::fs::read_dir(project.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["list.csv"], "nothing is left behind");
}

#[test]
fn an_ingest_says_what_columns_became() {
    let project = Project::new(([127, 0, 0, 1], 1).into(), "");
    std::fs::write(project.path("list.csv"), "photo_url;taxon;license\nhttp://a.example/1;Puma;CC0\n")
        .unwrap();
    let output = project.run(&["ingest", "--label-column", "taxon"]);
    expect(&output, 0, &["ingest"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let columns = "columns: url from photo_url, label from taxon, license from license; none for id, source, title, uuid\n";
    assert!(said.contains(columns), "{said}");
    let report = json(&project, &["ingest", "--label-column", "taxon", "--json"]);
    assert_eq!(report["columns"][0]["url"][0], "photo_url", "{report}");
}

#[test]
fn workbooks_and_xml_are_lists() {
    let project = Project::new(([127, 0, 0, 1], 1).into(), "");
    for (file, num_urls) in [("list.xlsx", 3), ("list.xls", 3)] {
        let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
        let dataset = format!("of-{file}");
        project.ok(&["-d", &dataset, "ingest", fixture.to_str().unwrap(), "--label", "taxon_name"]);
        let sql =
            "SELECT identifier, label, \"gbifID\", seen FROM urls WHERE disposition = 'pending' ORDER BY 1";
        let rows = project.ok(&["-d", &dataset, "query", sql, "--format", "csv"]);
        assert_eq!(rows.lines().count(), 1 + num_urls, "{file}: {rows}");
        assert!(
            rows.contains("http://a.example/2.jpg,Quercus robur,007,2023-12-31T23:59:30\n"),
            "{file}: {rows}"
        );
    }
    let xml = "<data><row><url>http://a.example/1?a=1&amp;b=2</url><label>Puma</label></row>\
               <row url='http://a.example/2' label='Lynx'/></data>";
    std::fs::write(project.path("list.xml"), xml).unwrap();
    project.ok(&["-d", "of-xml", "ingest", "list.xml"]);
    let rows = project.ok(&[
        "-d",
        "of-xml",
        "query",
        "SELECT identifier, label FROM urls ORDER BY 1",
        "--format",
        "csv",
    ]);
    assert_eq!(rows, "identifier,label\nhttp://a.example/1?a=1&b=2,Puma\nhttp://a.example/2,Lynx\n");

    std::fs::write(
        project.path("bomb.xml"),
        "<!DOCTYPE a [<!ENTITY b 'c'>]><a><row><url>&b;</url></row></a>",
    )
    .unwrap();
    let output = project.run(&["-d", "of-bomb", "ingest", "bomb.xml"]);
    expect(&output, 1, &["bomb"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`bomb.xml` is not usable as XML") && said.contains("`&b;`"), "{said}");
    assert!(!project.path("of-bomb/catalog.redb").exists());
}

#[test]
fn a_plan_says_what_bounds_a_download() {
    let (farm, project) = farm();
    project.ok(&["ingest"]);
    let plan = json(&project, &["plan", "--json"]);
    assert_eq!((&plan["counts"]["pending"], &plan["num_servers"]), (&120.into(), &3.into()), "{plan}");
    let slowest = &plan["servers"][0];
    let pending = slowest["pending"].as_f64().unwrap();
    assert_eq!(plan["slowest_server"], slowest["server_name"]);
    assert!((plan["least_seconds"].as_f64().unwrap() - pending / 20.0).abs() < 1e-9, "{plan}");
    assert_eq!(plan["requests_per_second"], 60.0);
    assert_eq!(plan["ranks"]["helpful"], 1);
    assert_eq!(plan["estimate"], Value::Null);
    assert!(farm.log().is_empty(), "no server was asked");
    // One of its own limit, slower than all.
    let args = ["plan", "--set", "servers={server-001.example: {rate_limit: 0.5}}"];
    let text = project.ok(&args);
    assert!(text.contains("at least, for server-001.example\n"), "{text}");
    assert!(text.contains("one rank is enough"), "{text}");
    // With rules that let several ranks on, more of them have work.
    let args = ["plan", "--json", "--set", "schedule_rules={1: 4}"];
    assert!(json(&project, &args)["ranks"]["at_work"].as_u64().unwrap() > 3);

    project.ok(&["download"]);
    let plan = json(&project, &["plan", "--json"]);
    assert_eq!((&plan["counts"]["pending"], &plan["num_servers"]), (&0.into(), &0.into()));
    assert!(project.ok(&["plan"]).contains("0 of 120 records are pending"));
}

#[test]
fn servers_that_share_a_folder_are_told_apart() {
    let (farm, project) = farm();
    project.ok(&["ingest", "--set", "ingest_parameters.max_server_folders=1"]);
    let args = ["--json", "--set", "downloader_parameters.default_rate_limit=0"];
    let plan = json(&project, &[&["plan", "--estimate", "--sample", "120"][..], &args].concat());
    let servers = plan["servers"].as_array().unwrap();
    let names: Vec<_> = servers.iter().map(|server| server["server_name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{plan}");
    assert!(names.iter().all(|name| name.starts_with("server-00")), "{names:?}");
    assert!(servers.iter().all(|server| server["partitions"].is_null()), "{plan}");
    let pending: u64 = servers.iter().map(|server| server["pending"].as_u64().unwrap()).sum();
    assert_eq!((pending, &plan["estimate"]["sized"]), (120, &120.into()), "{plan}");
    assert_eq!(farm.requests_per_url().len(), 120);
}

#[test]
fn an_estimate_is_what_the_download_brings() {
    let (farm, project) = farm();
    project.ok(&["ingest"]);
    let all = json(
        &project,
        &[
            "plan",
            "--estimate",
            "--sample",
            "120",
            "--json",
            "--set",
            "downloader_parameters.default_rate_limit=0",
        ],
    );
    let estimate = &all["estimate"];
    assert_eq!((&estimate["asked"], &estimate["sized"]), (&120.into(), &120.into()), "{estimate}");
    assert!(farm.image_log().iter().all(|entry| entry.status == 200));

    let args = [
        "plan",
        "--estimate",
        "--sample",
        "30",
        "--json",
        "--set",
        "downloader_parameters.default_rate_limit=0",
    ];
    let sampled = json(&project, &args);
    let asked = sampled["estimate"]["asked"].as_u64().unwrap();
    assert!((28..=32).contains(&asked), "{asked}");
    let again = json(&project, &args);
    assert_eq!(sampled["estimate"]["bytes"], again["estimate"]["bytes"], "the same sample each time");

    project.ok(&["download"]);
    let bytes: f64 = project.query("SELECT sum(image_bytes) FROM images").parse().unwrap();
    assert_eq!(estimate["bytes"]["mean"], bytes, "of all, nothing is left to chance");
    assert_eq!(
        (estimate["bytes"]["low"].clone(), estimate["bytes"]["high"].clone()),
        (bytes.into(), bytes.into())
    );
    let of_sample = &sampled["estimate"]["bytes"];
    let bound = |name: &str| of_sample[name].as_f64().unwrap();
    assert!(bound("low") < bytes && bytes < bound("high"), "{bytes}: {of_sample}");
    let sum: f64 = all["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["estimate"]["bytes"]["mean"].as_f64().unwrap())
        .sum();
    assert!((sum - bytes).abs() < 1.0, "per server and in total");

    // Parquet's own bytes, and files.
    let on_disk = estimate["disk_bytes"].as_f64().unwrap();
    let (mut found, mut num_files) = (0, 0);
    walk(&project.path("out/downloaded_images"), &mut |length| {
        found += length;
        num_files += 1;
    });
    assert!((on_disk / found as f64 - 1.0).abs() < 0.5, "{on_disk} and {found}");
    assert_eq!(all["new_files"], num_files, "partitions, their files and their servers' folders");
}

/// Goes through all below a folder, with the length of files.
fn walk(folder: &std::path::Path, each: &mut dyn FnMut(u64)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let is_folder = entry.file_type().unwrap().is_dir();
        each(if is_folder { 0 } else { entry.metadata().unwrap().len() });
        if is_folder {
            walk(&entry.path(), each);
        }
    }
}

#[test]
fn an_estimate_is_polite_and_tells_what_it_does_not_know() {
    const RATE: usize = 10;
    const ROBOTS: &str = "User-agent: *\nDisallow: /private/\n";
    let polite =
        StreetServer::start("polite.example", Manner { robots_txt: Some(ROBOTS), ..Manner::default() });
    let mute = StreetServer::start("mute.example", Manner { is_mute: true, ..Manner::default() });
    let routes = format!("['{}', '{}']", polite.route(), mute.route());
    let settings = format!(
        "connect_to: {routes}\nrate_control: fixed\n\
         downloader_parameters: {{default_rate_limit: {RATE}, first_byte_timeout: 1s, retry_backoff: 10ms}}"
    );
    let urls = |server: &str, folder: &str, count: usize| -> Vec<String> {
        (0..count).map(|n| format!("http://{server}/{folder}/{n}.jpg")).collect()
    };
    let urls = [
        urls("polite.example", "open", 20),
        urls("polite.example", "private", 10),
        urls("mute.example", "x", 2),
    ];
    let project = Project::routed(&settings).with_urls(urls.concat());
    project.ok(&["ingest"]);
    let report = json(&project, &["plan", "--estimate", "--sample", "32", "--json"]);
    let estimate = &report["estimate"];
    let counts = ["asked", "sized", "absent", "unresolved"].map(|name| estimate[name].as_u64().unwrap());
    assert_eq!(counts, [32, 20, 10, 2], "{estimate}");
    assert_eq!(estimate["bytes"]["mean"], (20 * good_jpeg().len()) as f64);
    assert_eq!(estimate["unresolved_records"], 2);
    // Like the others: two thirds of theirs are images.
    assert_eq!(
        estimate["unresolved_bytes"].as_f64().unwrap().round(),
        (2.0 * 20.0 / 30.0 * good_jpeg().len() as f64).round()
    );
    assert_eq!(estimate["causes"][0], serde_json::json!(["robots", 10]));
    assert!(polite.log().iter().all(|seen| !seen.path.starts_with("/private/")), "robots.txt is obeyed");
    // Requests leave on time, but may arrive late on a busy machine: without the limit all would be there at once.
    let log = polite.log();
    let took = log.last().unwrap().at - log[0].at;
    assert!(
        took >= Duration::from_secs_f64(log.len() as f64 / RATE as f64 / 2.0),
        "the limit is kept: {took:?}"
    );
    assert!(polite.most_at_once() <= 8);
    let text = project.ok(&["plan", "--estimate", "--sample", "4"]);
    assert!(text.contains("of unknown size"), "{text}");

    // Without a contact nobody is asked.
    let output = project.run(&["plan", "--estimate", "--set", "user_agent=nobody"]);
    expect(&output, 1, &["plan"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no contact"));
}
