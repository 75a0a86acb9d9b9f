//! Images that are taken down: gone from every file, for good, whatever the moment of a kill.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::nasty::{Behaviour, NastyServer, good_jpeg};
use crate::support::project::{Project, expect};

/// Some pictures of a farm are larger, some smaller.
const TOO_SMALL: &str = "downloader_parameters.max_body_bytes=2500";
const SERVER: &str = "server-001.example";

fn project(farm: &DemoFarm) -> Project {
    let settings = "downloader_parameters: {default_rate_limit: 0, batch_size: 20, part_images: 4}";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(400, 3, 5));
    project.ok(&["ingest"]);
    project
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(self::files(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

/// Files of the dataset in which the bytes of any of these pictures stand. The end of a picture is its own: plain
/// pictures differ in a comment only.
fn files_with_bytes_of(project: &Project, farm: &DemoFarm, urls: &[String]) -> Vec<PathBuf> {
    let bodies: Vec<_> = urls
        .iter()
        .map(|url| {
            let (server, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
            farm.body(server, &format!("/{path}")).unwrap()
        })
        .collect();
    let has_any = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        // Every picture begins with the same two bytes.
        let starts = bytes.windows(2).enumerate().filter(|(_, window)| window == b"\xff\xd8");
        let starts: Vec<usize> = starts.map(|(at, _)| at).collect();
        bodies.iter().any(|body| starts.iter().any(|&at| bytes[at..].starts_with(body)))
    };
    files(&project.path("out")).into_iter().filter(has_any).collect()
}

/// The catalog, the files and SQL agree.
#[track_caller]
fn assert_sound(project: &Project) {
    project.ok(&["check", "--deep"]);
    assert_eq!(project.query("SELECT sum(pending + success + failed + skipped) FROM partitions"), "400");
    for (table, disposition) in [("images", "success"), ("errors", "failed")] {
        let found = project.query(&format!("SELECT count(*) FROM {table}"));
        let sql = format!("SELECT count(*) FROM urls WHERE disposition = '{disposition}'");
        assert_eq!(found, project.query(&sql), "{table}");
    }
}

fn lines(project: &Project, sql: &str) -> Vec<String> {
    project.query(sql).lines().map(str::to_owned).collect()
}

#[test]
fn what_is_retracted_is_gone_for_good() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    project.ok(&["download", "--set", TOO_SMALL]);
    // One server is asked again for what it did not give: some of it is pending when it is retracted.
    project.ok(&["retry", "--server", SERVER]);
    assert!(!project.query("SELECT 1 FROM partitions WHERE pending > 0 AND success > 0").is_empty());
    // All of a partition, and of the others every third record.
    let condition = "partition_id = 1 OR record % 3 = 0";
    let is_image = "disposition = 'success'";
    let chosen = lines(&project, &format!("SELECT identifier FROM urls WHERE {condition}"));
    let images = lines(&project, &format!("SELECT identifier FROM urls WHERE ({condition}) AND {is_image}"));
    let others =
        project.query(&format!("SELECT uuid FROM urls WHERE NOT ({condition}) AND {is_image} ORDER BY 1"));
    let of_each =
        project.query(&format!("SELECT disposition FROM urls WHERE {condition} GROUP BY 1 ORDER BY 1"));
    assert_eq!(of_each, "failed\npending\nsuccess");
    assert!(images.len() > 40);

    // What tools have made of it, and an export.
    let copy = "tools/resize/server_name=server-000.example/partition_id=1/successes.parquet";
    fs::create_dir_all(project.path("out").join(copy).parent().unwrap()).unwrap();
    fs::copy(
        project.path("out").join(copy.replace("tools/resize", "downloaded_images")),
        project.path("out").join(copy),
    )
    .unwrap();
    for (sql, name) in [
        ("SELECT uuid, identifier, image FROM images", "tools/own/images.parquet"),
        ("SELECT uuid FROM images", "tools/size/filter_table.parquet"),
    ] {
        fs::create_dir_all(project.path("out").join(name).parent().unwrap()).unwrap();
        project.ok(&["query", sql, "-o", &format!("out/{name}")]);
    }
    fs::create_dir_all(project.path("out/exports")).unwrap();
    fs::copy(project.path("out").join(copy), project.path("out/exports/images.parquet")).unwrap();
    fs::write(project.path("out/exports/images.tar"), "no Parquet").unwrap();

    let holders = files_with_bytes_of(&project, &farm, &images);
    assert!(holders.len() > 10, "they are found where they are");
    // As a kill of the retry leaves it: final files of a partition that is open.
    let parts = project.path(&format!("out/downloaded_images/server_name={SERVER}/partition_id=0/_parts"));
    let part = holders.iter().find(|path| path.starts_with(&parts)).unwrap();
    fs::copy(part, parts.with_file_name("successes.parquet")).unwrap();

    // Nothing without consent.
    let before = project.images();
    let plan = project.ok(&["retract", "--where", condition, "--dry-run"]);
    assert!(
        plan.contains(&format!("{} records to retract: {} images", chosen.len(), images.len())),
        "{plan}"
    );
    assert_eq!(project.run(&["retract", "--where", condition]).status.code(), Some(2), "nobody can be asked");
    assert_eq!(project.run(&["retract", "--yes"]).status.code(), Some(2));
    let unknown = project.run(&["retract", "--url", "http://server-000.example/none.jpg", "--yes"]);
    assert!(expect(&unknown, 1, &["retract"]).contains("http://server-000.example/none.jpg"));
    assert_eq!(project.images(), before);
    assert!(!project.path("out/logs/retractions/run-3.jsonl").exists());

    let args = ["retract", "--where", condition, "--yes", "--reason", "a request"];
    let text = expect(&project.run(&args), 1, &args);
    assert!(text.contains("FOUND") && text.contains("exports/images.parquet"), "{text}");
    assert!(text.contains("exports/images.tar"), "{text}");
    assert_eq!(files_with_bytes_of(&project, &farm, &images), [project.path("out/exports/images.parquet")]);
    fs::remove_file(project.path("out/exports/images.parquet")).unwrap();
    let text = project.ok(&args);
    assert!(text.contains("none found") && text.contains("no record was to be retracted"), "{text}");

    assert_sound(&project);
    // `status.json` tells of more images than there are now, and that is no sign of an older catalog.
    project.ok(&["check", "--repair"]);
    assert!(files_with_bytes_of(&project, &farm, &images).is_empty());
    assert_eq!(project.query("SELECT uuid FROM images ORDER BY 1"), others);
    let retracted = "SELECT count(*) FROM urls WHERE disposition = 'skipped' AND cause = 'retracted'";
    assert_eq!(project.query(retracted), chosen.len().to_string());
    let log = fs::read_dir(project.path("out/logs/retractions")).unwrap().map(|entry| entry.unwrap().path());
    let log: String = log.map(|path| fs::read_to_string(path).unwrap()).collect();
    let urls: HashSet<String> = log
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["reason"], "a request");
            assert!(line["time"].as_str().unwrap().ends_with('Z'));
            assert_eq!(line["hashsum_original"].is_null(), line["was"] != "success");
            line["url"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(urls, chosen.iter().cloned().collect());
    // Tools keep what is not retracted.
    let rows = |name: &str| {
        use parquet::file::reader::{FileReader as _, SerializedFileReader};
        let file = fs::File::open(project.path("out").join(name)).unwrap();
        SerializedFileReader::new(file).unwrap().metadata().file_metadata().num_rows()
    };
    assert_eq!(rows(copy), 0);
    assert_eq!(rows("tools/own/images.parquet"), others.lines().count() as i64);
    assert_eq!(rows("tools/size/filter_table.parquet"), others.lines().count() as i64);

    // Nothing brings it back: neither a list, nor a retry, nor a download.
    let asked = farm.requests_per_url();
    assert!(project.ok(&["ingest", "--json"]).contains("\"records_new\": 0"));
    project.ok(&["retry"]);
    project.ok(&["download"]);
    assert_sound(&project);
    let now = farm.requests_per_url();
    assert!(chosen.iter().all(|url| now.get(url) == asked.get(url)), "a retracted URL was asked for");
    assert_eq!(project.query(retracted), chosen.len().to_string());
    assert_eq!(project.query("SELECT count(*) FROM images"), (400 - chosen.len()).to_string());
    assert!(files_with_bytes_of(&project, &farm, &images).is_empty());
    let status = project.ok(&["status", "--json"]);
    assert!(status.contains(&format!("\"skipped\": {}", chosen.len())), "{status}");
    project.ok(&["export", "manifest", "-o", "m.csv"]);
    let manifest = fs::read_to_string(project.path("m.csv")).unwrap();
    assert!(chosen.iter().all(|url| !manifest.contains(&format!("{url},"))), "{manifest}");
}

#[test]
fn a_killed_retraction_goes_on() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    project.ok(&["download", "--set", TOO_SMALL]);
    let all = lines(&project, "SELECT identifier FROM urls WHERE disposition = 'success'");
    let mut dice = fastrand::Rng::with_seed(7);
    let mut num_killed = 0;
    for round in 0..9 {
        // Of every partition some: what is chosen now is not chosen any more once it is done.
        let condition = format!("record = {round} AND disposition <> 'skipped'");
        if round % 4 == 3 {
            // Open partitions, too.
            project.ok(&["retry"]);
        }
        let copy = project.path("out/tools/own/images.parquet");
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        project.ok(&["query", "SELECT uuid, image FROM images", "-o", "out/tools/own/images.parquet"]);
        let mut child = project.start(&["retract", "--where", &condition, "--yes"]);
        std::thread::sleep(Duration::from_millis(dice.u64(20..900)));
        child.kill().unwrap();
        num_killed += u32::from(!child.wait().unwrap().success());
        assert_sound(&project);
        match round % 3 {
            // The same command.
            0 => drop(project.ok(&["retract", "--where", &condition, "--yes"])),
            // Another one finishes what was begun, and no more.
            1 => drop(project.ok(&["retract", "--where", "false", "--yes"])),
            // A download does as far as its own files go, and the next retraction the rest.
            _ => {
                project.ok(&["download", "--set", TOO_SMALL]);
                project.ok(&["retract", "--where", "cause = 'retracted'", "--yes"]);
            }
        }
        assert_sound(&project);
        let orphans = project.ok(&["check", "--json"]);
        assert!(orphans.contains("\"num_orphans\": 0"), "round {round}: {orphans}");
        let images: HashSet<_> = lines(&project, "SELECT identifier FROM images").into_iter().collect();
        let gone: Vec<_> = all.iter().filter(|url| !images.contains(*url)).cloned().collect();
        let found = files_with_bytes_of(&project, &farm, &gone);
        assert!(found.is_empty(), "round {round}: {found:?}");
    }
    assert!(num_killed > 3, "kills must find it at work: {num_killed}");
    project.ok(&["retract", "--where", "record < 9", "--yes"]);
    project.ok(&["retry"]);
    project.ok(&["download"]);
    assert_sound(&project);
    assert_eq!(project.query("SELECT DISTINCT stage FROM partitions"), "finished");
    assert_eq!(project.query("SELECT min(record) FROM images"), "9");
    assert_eq!(project.query("SELECT count(*) FROM urls WHERE record < 9 AND cause <> 'retracted'"), "0");
}

#[test]
fn the_same_bytes_under_other_urls_are_told_of() {
    let server = NastyServer::start([
        ("/a.jpg", Behaviour::Ok),
        ("/b.jpg", Behaviour::Ok),
        ("/c.jpg", Behaviour::Body("image/jpeg", [good_jpeg(), &[b' '; 16]].concat())),
        ("/later.jpg", Behaviour::Ok),
    ]);
    let url = |name: &str| format!("http://images.example/{name}.jpg");
    let project = Project::new(server.addr(), "downloader_parameters: {default_rate_limit: 0}").with_urls([
        url("a"),
        url("b"),
        url("c"),
    ]);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    assert_eq!(project.query("SELECT count(*) FROM images"), "3");

    let text = project.ok(&["retract", "--url", &url("a"), "--yes"]);
    assert!(text.contains("--duplicates") && text.contains("1 images of other records"), "{text}");
    let images = "SELECT identifier FROM images ORDER BY 1";
    assert_eq!(project.query(images), format!("{}\n{}", url("b"), url("c")));
    let report = project.ok(&["retract", "--url", &url("a"), "--yes", "--duplicates", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["retracted"]["success"], 1);
    assert_eq!(report["plan"]["same_bytes_examples"][0]["url"], url("b"));
    assert_eq!(project.query(images), url("c"));

    // They come again under another URL, and are found.
    let project = project.with_urls([url("later")]);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    let text = project.ok(&["retract", "--where", "cause = 'retracted'", "--yes", "--duplicates"]);
    assert!(text.contains("retracted: 1 records (1 images"), "{text}");
    assert_eq!(project.query(images), url("c"));
    project.ok(&["check", "--deep"]);
}

#[test]
fn a_running_download_is_not_disturbed() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    let mut download = project.start(&["download", "--rate", "5"]);
    while !project.path("out/catalog.redb.lock").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = project.run(&["retract", "--server", SERVER, "--yes"]);
    expect(&output, 1, &["retract"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    let plan = project.ok(&["retract", "--server", SERVER, "--dry-run", "--json"]);
    assert!(!plan.contains("\"partitions\": 0"), "a dry run only reads: {plan}");
    download.kill().unwrap();
    download.wait().unwrap();
    project.ok(&["check", "--deep"]);

    // Before anything is downloaded, and after.
    project.ok(&["retract", "--server", SERVER, "--yes"]);
    project.ok(&["check", "--deep"]);
    let asked = farm.image_log().len();
    project.ok(&["download"]);
    assert!(farm.image_log()[asked..].iter().all(|entry| &*entry.server != SERVER));
    assert_eq!(project.query(&format!("SELECT count(*) FROM images WHERE server_name = '{SERVER}'")), "0");
    assert_sound(&project);
}
