//! A manifest as a lock file: the dataset is made again from it, and is the same.

use std::fs;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::{Project, expect};

const SETTINGS: &str = "downloader_parameters: {default_rate_limit: 0, batch_size: 20, image_size: 48, \
    perceptual_hash: always}";
const RECORDS: &str = "SELECT uuid, source_id, identifier, license, source, title, label, is_license_full, \
    hashsum_original, hashsum_resized, image_bytes, server_name FROM images ORDER BY uuid";

#[test]
fn a_dataset_is_made_again_from_its_manifest() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let rows = farm_list(120, 3, 5).enumerate().map(|(number, mut row)| {
        // Some say nothing of licence, source or title, some say it in odd ways.
        match number % 4 {
            0 => row.license = "",
            1 => (row.rights_holder, row.title) = ("", String::new()),
            2 => row.title = "\"Quoted\", with a comma,\ta tab and\\backslash".into(),
            _ => {}
        }
        row
    });
    let columns = "columns: {id: gbifID, label: scientificName, source: rightsHolder}";
    let original = Project::new(farm.addr(), &format!("{columns}\n{SETTINGS}")).with_rows(rows);
    original.ok(&["ingest"]);
    original.ok(&["download"]);
    let records = original.query(RECORDS);
    assert_eq!(records.lines().count(), 120);
    assert!(records.contains("Not provided") && records.contains(",false,") && records.contains(",true,"));

    for name in ["images.parquet", "images.csv", "images.jsonl", "images.csv.gz"] {
        original.ok(&["export", "manifest", "-o", name]);
        let text = original.ok(&["check", "--manifest", name]);
        assert!(text.contains("120 equal") && text.contains("\nequal: "), "{name}: {text}");

        let again = Project::new(farm.addr(), SETTINGS);
        fs::copy(original.path(name), again.path(name)).unwrap();
        again.ok(&["ingest", name]);
        let output = again.run(&["check", "--manifest", name]);
        let text = expect(&output, 1, &["check", name]);
        assert!(text.contains("120 missing here") && text.contains("missing: 110 more"), "{name}: {text}");
        again.ok(&["download"]);
        again.ok(&["check", "--manifest", name]);
        again.ok(&["check", "--deep"]);
        assert!(again.query(RECORDS) == records, "{name}: {}", again.query(RECORDS));
        // And from that once more: the manifest says the same of every image.
        again.ok(&["export", "manifest", "-o", "again.csv"]);
        let output = original.run(&["check", "--manifest", again.path("again.csv").to_str().unwrap()]);
        expect(&output, 0, &["check", "again.csv"]);
    }

    let uuid = original.query("SELECT uuid FROM images ORDER BY uuid LIMIT 1");
    original.ok(&["retract", "--uuid", &uuid, "--yes"]);
    let report = expect(&original.run(&["check", "--manifest", "images.csv", "--json"]), 1, &["check"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["equal"], &report["missing"]), (&119.into(), &1.into()));
    assert_eq!(report["missing_examples"][0]["uuid"], uuid);
    original.ok(&["export", "manifest", "-o", "less.csv"]);
    original.ok(&["check", "--manifest", "less.csv"]);

    // Bytes as they came are other ones than those of 48 pixels.
    let larger = Project::new(farm.addr(), "downloader_parameters: {default_rate_limit: 0}");
    fs::copy(original.path("images.csv"), larger.path("list.csv")).unwrap();
    larger.ok(&["ingest"]);
    larger.ok(&["download"]);
    let text = expect(&larger.run(&["check", "--manifest", "list.csv", "--examples", "1"]), 1, &["check"]);
    assert!(text.contains("120 different, 0 missing here") && text.contains("images: width"), "{text}");
    assert!(!text.contains("hashsum_original"), "{text}");
}

/// Rows stood partition by partition, and which records are in one depends on the order of the list.
#[test]
fn portable_manifests_of_equal_images_are_equal_to_the_byte() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let settings = "downloader_parameters: {default_rate_limit: 0, batch_size: 2, part_images: 1}";
    // Some uuids stand for two URLs.
    let rows: Vec<_> = farm_list(60, 3, 5).map(|row| row.identifier).collect();
    let line = |(number, url): (usize, &String)| {
        format!("00000000-0000-4000-8000-{:012},{url},set-{},CC0\n", number / 2, number % 4)
    };
    let lines: Vec<_> = rows.iter().enumerate().map(line).collect();
    let reversed: Vec<_> = lines.iter().rev().cloned().collect();
    let exports = [&lines, &reversed].map(|lines| {
        let project = Project::new(farm.addr(), settings);
        let list = format!("uuid,url,datasetKey,license\n{}", lines.concat());
        fs::write(project.path("list.csv"), list).unwrap();
        project.ok(&["ingest"]);
        project.ok(&["download"]);
        assert!(project.query("SELECT max(partition_id) FROM images").parse::<u32>().unwrap() > 5);
        ["m.parquet", "m.csv", "m.jsonl"].map(|name| {
            let args = ["export", "manifest", "-o", name, "--derived-dataset", "sets.csv"];
            project.ok(&[&args[..], &["--portable"]].concat());
            assert_eq!(
                fs::read_to_string(project.path("sets.csv")).unwrap(),
                "datasetKey,count\nset-0,15\nset-1,15\nset-2,15\nset-3,15\n"
            );
            project.ok(&["check", "--manifest", name]);
            fs::read(project.path(name)).unwrap()
        })
    });
    assert!(exports[0] == exports[1], "{}", String::from_utf8_lossy(&exports[1][1]));
}
