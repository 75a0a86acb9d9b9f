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

/// Tools that make images and verdicts. Images are carried as they are.
const TOOLS: [&[&str]; 2] = [
    &["tool", "resize", "--set", "tools_parameters.new_resize_size=10000"],
    &["tool", "size", "--set", "tools_parameters.threshold_size=10000"],
];

/// What the tools have, in what ddl reads: URLs of the new images, and of the images of which verdicts speak.
fn urls_of_tools(project: &Project) -> Vec<String> {
    let output =
        project.run(&["query", "--from", "resize", "--format", "csv", "SELECT identifier FROM images"]);
    let mut urls = lines(project, "SELECT u.identifier FROM verdicts AS v JOIN urls AS u ON u.uuid = v.uuid");
    if !String::from_utf8_lossy(&output.stderr).contains("has made no images") {
        urls.extend(expect(&output, 0, &["query"]).lines().skip(1).map(str::to_owned));
    }
    urls
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
    TOOLS.iter().for_each(|tool| drop(project.ok(tool)));
    assert!(images.iter().all(|url| urls_of_tools(&project).contains(url)));
    let piece = "tools/resize/server_name=server-000.example/partition_id=1/successes.parquet";
    for (sql, name) in [
        ("SELECT uuid, identifier, image FROM images", "tools/own/images.parquet"),
        ("SELECT uuid FROM images", "tools/size/own.parquet"),
    ] {
        fs::create_dir_all(project.path("out").join(name).parent().unwrap()).unwrap();
        project.ok(&["query", sql, "-o", &format!("out/{name}")]);
    }
    fs::create_dir_all(project.path("out/exports")).unwrap();
    fs::copy(project.path("out").join(piece), project.path("out/exports/images.parquet")).unwrap();
    fs::write(project.path("out/exports/images.tar"), "no Parquet").unwrap();
    // What commands that were killed have left.
    let work = project.path("out").join(piece).with_file_name("work-9-1/output/left.jpg");
    fs::create_dir_all(work.parent().unwrap()).unwrap();
    fs::write(&work, "an image").unwrap();
    let torn = project.path("out/tools/size/filter_table/filter.parquet.tmp-filter");
    fs::write(&torn, "torn").unwrap();
    fs::write(project.path("out/tools/own/images.tar"), "no Parquet").unwrap();

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
    assert!(text.contains("exports/images.tar") && text.contains("tools/own/images.tar"), "{text}");
    assert!(text.contains("`ddl tool resize`, `ddl tool size`") && !text.contains("left.jpg"), "{text}");
    assert!(!text.contains("could NOT be searched") && !torn.exists() && !work.exists(), "{text}");
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
    assert_eq!(rows("tools/own/images.parquet"), others.lines().count() as i64);
    assert_eq!(rows("tools/size/own.parquet"), others.lines().count() as i64);
    assert!(!project.path("out").join(piece).exists() && urls_of_tools(&project).is_empty());
    TOOLS.iter().for_each(|tool| drop(project.ok(tool)));
    let left: HashSet<_> = urls_of_tools(&project).into_iter().collect();
    assert_eq!(left, lines(&project, "SELECT identifier FROM images").into_iter().collect());

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
        TOOLS.iter().for_each(|tool| drop(project.ok(tool)));
        let mut child = project.start(&["retract", "--where", &condition, "--yes"]);
        std::thread::sleep(Duration::from_millis(dice.u64(20..900)));
        child.kill().unwrap();
        num_killed += u32::from(!child.wait().unwrap().success());
        assert_sound(&project);
        let there: HashSet<_> = lines(&project, "SELECT identifier FROM images").into_iter().collect();
        assert!(
            urls_of_tools(&project).iter().all(|url| there.contains(url)),
            "round {round}: tools have more"
        );
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

/// Rows of tools were known by their uuid alone: verdicts on one record went with another, and those that were left then
/// stood for records of other partitions.
#[test]
fn a_record_of_the_same_uuid_loses_nothing() {
    let server = NastyServer::start([
        ("/a.jpg", Behaviour::Ok),
        ("/b.jpg", Behaviour::Body("image/jpeg", [good_jpeg(), &[b' '; 16]].concat())),
    ]);
    let project = Project::new(server.addr(), "downloader_parameters: {default_rate_limit: 0}");
    let uuids = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
    let rows = [("one", "a", 0), ("two", "none", 0), ("two", "b", 1)];
    let rows =
        rows.map(|(server, name, uuid)| format!("{},http://{server}.example/{name}.jpg\n", uuids[uuid]));
    fs::write(project.path("list.csv"), format!("uuid,url\n{}", rows.concat())).unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project.ok(TOOLS[1]);
    let verdicts = "SELECT uuid, server_name, record, verdict FROM tool_size ORDER BY 1";
    let before = project.query(verdicts);
    assert_eq!(before.lines().count(), 2, "{before}");
    project.ok(&["retract", "--url", "http://two.example/none.jpg", "--yes"]);
    project.ok(TOOLS[1]);
    assert_eq!(project.query(verdicts), before);
    project.ok(&["check", "--deep"]);
    project.ok(&["retract", "--url", "http://one.example/a.jpg", "--yes"]);
    assert_eq!(project.query(verdicts).lines().count(), 1);
    project.ok(TOOLS[1]);
    assert_eq!(project.query(verdicts), before.lines().nth(1).unwrap());
    project.ok(&["check", "--deep"]);
}

/// The retraction was committed, and then ended with an error before it had cleaned or searched anything.
#[test]
fn damage_to_a_manifest_of_earlier_retractions_is_told_of() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    project.ok(&["download"]);
    TOOLS.iter().for_each(|tool| drop(project.ok(tool)));
    let condition = format!("server_name = '{SERVER}' AND partition_id = 0 AND record = 0");
    let gone = lines(&project, &format!("SELECT identifier FROM images WHERE {condition}"));
    project.ok(&["retract", "--where", &condition, "--yes"]);
    TOOLS.iter().for_each(|tool| drop(project.ok(tool)));
    let folder = project.path(&format!("out/servers_batched/server_name={SERVER}/partition_id=0"));
    let manifest = files(&folder).pop().unwrap();
    fs::write(&manifest, "damaged").unwrap();

    let args = ["retract", "--server", "server-000.example", "--yes"];
    let text = expect(&project.run(&args), 1, &args);
    assert!(text.contains(&format!("NOT done: `{SERVER}` partition 0")), "{text}");
    assert!(text.contains("written down in") && text.contains("none found"), "{text}");
    let chosen = lines(&project, "SELECT identifier FROM urls WHERE server_name = 'server-000.example'");
    assert!(chosen.len() > 20);
    assert!(files_with_bytes_of(&project, &farm, &[gone, chosen].concat()).is_empty());
    assert_eq!(project.query("SELECT count(*) FROM runs WHERE kind = 'retract' AND ending IS NULL"), "0");
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
