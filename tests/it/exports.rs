//! Exports that have the images: what real readers see of them, what hostile labels and URLs become, and what a kill leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions};

use crate::support::project::Project;
use crate::support::skip;

const SETTINGS: &str = "hash_algorithm: md5\ncolumns: {id: id, label: label, title: title, license: license}\n\
    downloader_parameters: {default_rate_limit: 0, batch_size: 40}";

/// The interpreter with the readers: the virtual environment that `make test` makes.
fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
    path.exists().then_some(path)
}

#[track_caller]
fn run_python(project: &Project, python: &Path, script: &str, args: &[&str]) -> String {
    let output = Command::new(python)
        .args(["-c", script])
        .args(args)
        .current_dir(project.path(""))
        .env("HOME", project.path(""))
        .env("HF_HOME", project.path("hf"))
        .env(
            "PICTURE_SIZE",
            project.query("SELECT DISTINCT resized_size[2] || 'x' || resized_size[1] FROM images"),
        )
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_DATASETS_OFFLINE", "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// One row of a list: its URL, label and title.
type Row = (String, Option<String>, String);

/// A dataset of these rows, downloaded, with a column `kingdom` that the list carries.
fn downloaded(farm: &DemoFarm, settings: &str, rows: impl IntoIterator<Item = Row>) -> Project {
    let project = Project::new(farm.addr(), settings);
    let mut list = csv::Writer::from_path(project.path("list.csv")).unwrap();
    list.write_record(["id", "url", "label", "title", "license", "kingdom"]).unwrap();
    for (number, (url, label, title)) in rows.into_iter().enumerate() {
        let license = ["https://creativecommons.org/licenses/by/4.0/", "CC0", ""][number % 3];
        let id = number.to_string();
        list.write_record([&id, &url, label.as_deref().unwrap_or(""), &title, license, "Plantae"]).unwrap();
    }
    list.flush().unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project
}

/// Some birds on some servers; every tenth has no label.
fn birds(num: u32) -> impl Iterator<Item = Row> {
    (0..num).map(|number| {
        let labels = ["Parus major", "Parus 'major'", "Corvus corax", "Turdus merula", "Erithacus rubecula"];
        let label = (number % 10 != 9).then(|| labels[(number * 7 % 5) as usize].to_owned());
        let url = format!("http://s{}.example/plain/{number}/medium.jpg", number % 3);
        (url, label, format!("Bird \"{number}\"\u{e9}"))
    })
}

/// Every file below a folder.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(&here).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

/// The lines of the journal in a folder.
fn num_units(folder: &Path) -> usize {
    let journal = fs::read_to_string(folder.join(".ddl-export")).unwrap_or_default();
    journal.lines().filter(|line| line.starts_with("{\"unit\"")).count()
}

#[test]
fn real_readers_read_every_format() {
    let Some(python) = python() else { return skip("no .venv; `make test` makes it") };
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, SETTINGS, birds(330));
    let expected = project.ok(&[
        "query",
        "SELECT uuid, hashsum_resized, coalesce(label, '') AS label FROM images",
        "--format",
        "csv",
    ]);
    fs::write(project.path("expected.csv"), &expected).unwrap();
    assert_eq!(expected.lines().count(), 331);
    let described = [
        "--dataset-name",
        "Birds",
        "--dataset-creator",
        "Museum of Birds",
        "--dataset-url",
        "https://birds.example",
        "--dataset-citation",
        "@misc{birds}",
        "--dataset-keywords",
        "birds,feathers",
    ];
    let export = |args: &[&str]| project.ok(&[&["export"], args, &described].concat());
    let script = include_str!("exports/readers.py");
    export(&[
        "webdataset",
        "-o",
        "wds/birds",
        "--text",
        "title",
        "--columns",
        "kingdom",
        "--max-shard-images",
        "20",
        "--max-shard-bytes",
        "300000",
    ]);
    run_python(&project, &python, script, &["webdataset=wds/birds"]);
    export(&["imagefolder", "-o", "folders", "--columns", "kingdom", "--croissant-version", "1.0"]);
    run_python(&project, &python, script, &["imagefolder=folders"]);
    export(&["parquet", "-o", "pq", "--columns", "kingdom"]);
    run_python(&project, &python, script, &["parquet=pq"]);
    export(&["croissant"]);
    run_python(&project, &python, script, &["dataset=out"]);

    let overview: serde_json::Value =
        serde_json::from_slice(&fs::read(project.path("folders/overview.json")).unwrap()).unwrap();
    assert_eq!(overview["summary"]["successful_downloads"], 330);
    assert_eq!(overview["export"]["images_without_label"], 33);
    let croissant: serde_json::Value =
        serde_json::from_slice(&fs::read(project.path("pq/croissant.json")).unwrap()).unwrap();
    assert_eq!(croissant["creator"]["@type"], "sc:Organization");
    assert_eq!(
        croissant["license"],
        serde_json::json!(["CC0", "https://creativecommons.org/licenses/by/4.0/"])
    );
}

/// Labels that somebody will have, and labels that nobody should.
fn nasty_labels() -> Vec<String> {
    let mut labels: Vec<String> = [
        "..",
        ".",
        "...",
        "../../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a b",
        "a_b",
        "a'b",
        "a\"b",
        "A B",
        "~",
        "~root",
        "-rf",
        "--output",
        "$(reboot)",
        "`reboot`",
        "a;b",
        "a|b",
        "a&b",
        "a>b",
        "a*b",
        "a?b",
        "a:b",
        "a,b",
        "a\nb",
        "a\rb",
        "a\tb",
        "CON",
        "con",
        "Con.txt",
        "PRN",
        "AUX",
        "NUL",
        "nul.tar.gz",
        "COM1",
        "com1.x",
        "LPT9",
        "COM10",
        "trailing.",
        "trailing ",
        "trailing",
        ".hidden",
        "__private",
        "_",
        "__",
        "train",
        "test",
        "validation",
        "unknown",
        "output",
        "metadata.csv",
        "labels.csv",
        ".ddl-export",
        "label",
        "file",
        "0",
        "00000001",
        "null",
        "NaN",
        "true",
        "\u{1f98a}",
        "\u{1f98a}\u{1f98b}",
        "\u{e9}",
        "e\u{301}",
        "\u{c9}",
        "stra\u{df}e",
        "STRASSE",
        "\u{130}",
        "i\u{307}",
        "\u{202e}gpj.exe",
        "\u{200b}",
        "\u{feff}bom",
        "\u{6a61}\u{6811}",
        "\u{434}\u{443}\u{431}",
        "\u{414}\u{423}\u{411}",
        "%2e%2e",
        "%00",
        "a%2Fb",
        "a\u{2044}b",
        "a\u{2215}b",
        "\u{ff0e}\u{ff0e}",
        "Quercus robur",
        "Quercus_robur",
        "quercus robur",
        "Quercus  robur",
        "QUERCUS ROBUR",
        "Quercus robur L.",
        "Quercus robur L",
        "=1+1",
        "+1",
        "@cmd",
        "a\u{0}b",
        "\u{0}",
        "\u{7f}",
        "\u{1b}[31m",
    ]
    .map(str::to_owned)
    .into();
    for prefix in ["x", "y"] {
        // Alike in their first 299 bytes.
        labels.push(format!("{}{prefix}", "l".repeat(299)));
    }
    labels.push("\u{e9}".repeat(150));
    labels
}

#[test]
fn a_hundred_nasty_labels_and_urls_are_exported_safely_and_reversibly() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let paths = [
        "..%2f..%2fetc%2fpasswd",
        "a/../../b.jpg",
        "%00.jpg",
        "\u{1f98a}.jpg",
        "CON.jpg",
        "nul",
        "a.jpg?size=1",
        "A.jpg",
        "a.JPG",
        "a.b.c.png",
        ".htaccess",
        "photo.jpg.exe",
        "-rf",
        "%2e%2e",
        "medium.jpeg",
        "Medium.JPEG",
        "a~b.jpg",
        "",
    ];
    let labels = nasty_labels();
    assert!(labels.len() >= 100, "{}", labels.len());
    let rows = labels.iter().enumerate().flat_map(|(number, label)| {
        // Each label has two images whose names would meet.
        let path = match paths.get(number % 20) {
            Some(path) => (*path).to_owned(),
            None => "x".repeat(300),
        };
        [0, 1].map(|copy| {
            let url = format!("http://s.example/plain/{copy}/{number}/{path}");
            (url, Some(label.clone()), format!("{number}"))
        })
    });
    let project = downloaded(&farm, SETTINGS, rows);
    let images = project.query("SELECT count(*), count(DISTINCT label) FROM images");
    let (num_images, num_labels) = images.split_once(',').unwrap();
    let (num_images, num_labels): (usize, usize) = (num_images.parse().unwrap(), num_labels.parse().unwrap());
    // What cannot be a URL, and labels that are blank, are fewer.
    assert!(num_images >= 180 && num_labels >= 95, "{images}");
    let before: BTreeSet<_> =
        fs::read_dir(project.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();

    for mode in ["sequential", "url_based", "uuid"] {
        let export = project.path(&format!("export-{mode}"));
        let args = ["--naming-mode", mode, "--file-name-pattern", "{segment_last}"];
        let output = export.join("folders");
        project.ok(&[
            &["export", "imagefolder", "-o", output.to_str().unwrap(), "--metadata", "parquet"],
            &args[..],
        ]
        .concat());
        let files = tree(&output);
        let images: BTreeMap<_, _> = files.iter().filter(|(name, _)| name.contains('/')).collect();
        assert_eq!(images.len(), num_images, "{mode}");
        let folders: BTreeSet<_> =
            images.keys().map(|name| name.split_once('/').unwrap().0.to_owned()).collect();
        assert_eq!(folders.len(), num_labels, "{mode}");
        let folded: BTreeSet<_> = images.keys().map(|name| name.to_lowercase()).collect();
        assert_eq!(folded.len(), num_images, "{mode}: names that differ in case alone");
        for name in images.keys() {
            for part in name.split('/') {
                let reserved = ["con", "prn", "aux", "nul", "com1", "lpt9"];
                let base = part.split('.').next().unwrap().to_lowercase();
                assert!(!reserved.contains(&base.as_str()), "{name}");
                assert!(part.len() < 240 && !part.starts_with('.') && !part.starts_with("__"), "{name}");
                assert!(
                    !part.ends_with('.') && !part.contains(['\\', ':', '*', '?', '"', '<', '>', '|', '\0']),
                    "{name}"
                );
                assert!(!part.chars().any(char::is_control), "{name:?}");
            }
            assert!(name.ends_with(".jpg"), "{name}");
        }
        // Every file leads back to its label and URL.
        let table = output.join("metadata.parquet");
        let rows = read_parquet(&table, &["file_name", "uuid", "label", "identifier"]);
        let told: BTreeSet<_> = rows.iter().map(|row| row[1..].to_vec()).collect();
        assert_eq!(told, read_labels(&project, &["uuid", "label", "identifier"]), "{mode}");
        assert!(rows.iter().all(|row| images.contains_key(row[0].as_ref().unwrap())), "{mode}");
        let mut by_label: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for row in &rows {
            let folder = row[0].as_ref().unwrap().split_once('/').unwrap().0.to_owned();
            by_label.entry(folder).or_default().insert(row[2].clone());
        }
        assert!(by_label.values().all(|labels| labels.len() == 1), "{mode}: labels are merged");

        let output = export.join("shards");
        project.ok(&[
            &["export", "webdataset", "-o", output.to_str().unwrap(), "--text", "label,title"],
            &args[..],
        ]
        .concat());
        let listed = Command::new("tar").arg("tf").arg(output.join("shards-000000.tar")).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let keys: BTreeSet<_> =
            listed.lines().map(|name| name.split('.').next().unwrap().to_lowercase()).collect();
        assert_eq!(keys.len(), num_images, "{mode}");
        assert_eq!(listed.lines().count(), num_images * 5, "{mode}");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_~".contains(c);
        assert!(keys.iter().all(|key| key.chars().all(is_plain) && key.len() < 90), "{mode}");
    }
    let after: BTreeSet<_> =
        fs::read_dir(project.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let new: Vec<_> = after.difference(&before).map(|name| name.to_string_lossy().into_owned()).collect();
    assert_eq!(new, ["export-sequential", "export-url_based", "export-uuid"]);
}

/// Texts of a Parquet file.
fn read_parquet(path: &Path, columns: &[&str]) -> Vec<Vec<Option<String>>> {
    use arrow::array::{Array as _, AsArray as _};
    let file = fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mut rows = Vec::new();
    for batch in reader.build().unwrap().map(Result::unwrap) {
        for row in 0..batch.num_rows() {
            let text = |name: &&str| {
                let column = batch.column_by_name(name).unwrap().as_string::<i32>();
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            rows.push(columns.iter().map(text).collect());
        }
    }
    rows
}

fn read_labels(project: &Project, columns: &[&str]) -> BTreeSet<Vec<Option<String>>> {
    let sql = format!("SELECT {} FROM images", columns.join(", "));
    project.ok(&["query", &sql, "-o", "labels.parquet"]);
    let rows = read_parquet(&project.path("labels.parquet"), columns).into_iter().collect();
    fs::remove_file(project.path("labels.parquet")).unwrap();
    rows
}

/// A SIGKILL at any time costs what was not done, and nothing else.
#[test]
fn killed_exports_go_on_and_are_the_same() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, SETTINGS, birds(300));
    let formats: [&[&str]; 4] = [
        &["webdataset", "--max-shard-images", "5", "--text", "title"],
        &["webdataset", "--max-shard-images", "7", "--shuffle", "3", "--naming-mode", "uuid"],
        &["imagefolder", "--sync-every", "5", "--compress-tar", "--naming-mode", "url_based"],
        &["parquet", "--max-file-bytes", "60000"],
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let args = |folder: &str| -> Vec<String> {
            let folder = format!("{folder}-{number}/birds");
            ["export"].iter().chain(format).copied().chain(["-o", &folder]).map(str::to_owned).collect()
        };
        let run = |folder: &str| {
            let args = args(folder);
            project.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
        };
        run("whole");
        let whole = tree(&project.path(&format!("whole-{number}")));
        let (above, folder) =
            (project.path(&format!("killed-{number}")), project.path(&format!("killed-{number}/birds")));
        let mut kills = 0;
        let mut done: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        loop {
            let args = args("killed");
            let mut child = project.start(&args.iter().map(String::as_str).collect::<Vec<_>>());
            let goal = num_units(&folder) + 3;
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    assert!(status.success(), "{format:?}");
                    break true;
                }
                if num_units(&folder) >= goal {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break false;
                }
                thread::sleep(Duration::from_millis(1));
            };
            // Files of units that were done are those that they were.
            for (name, (inode, written)) in &done {
                let meta = fs::metadata(folder.join(name)).unwrap();
                assert_eq!(
                    (meta.ino(), meta.mtime_nsec()),
                    (*inode, *written),
                    "{format:?}: {name} is written again"
                );
            }
            if ended {
                break;
            }
            kills += 1;
            for name in done_files(&folder) {
                let meta = fs::metadata(folder.join(&name)).unwrap();
                done.insert(name, (meta.ino(), meta.mtime_nsec()));
            }
        }
        assert!(kills > 2, "{format:?}: killed {kills} times only");
        let resumed = tree(&above);
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&resumed), names(&whole), "{format:?}");
        for (name, bytes) in &whole {
            assert!(resumed[name] == *bytes, "{format:?}: {name} differs");
        }
        // Once more: nothing to do.
        run("killed");
        assert_eq!(names(&tree(&above)), names(&whole));
    }

    project.ok(&["export", "parquet", "-o", "empty", "--where", "false"]);
    assert!(fs::read_to_string(project.path("empty/README.md")).unwrap().starts_with("# empty\n"));

    // A folder of other images or options is left alone.
    let other = |args: &[&str]| {
        let output = project.run(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    };
    assert!(other(&["export", "webdataset", "-o", "whole-0/birds"]).contains("another export"));
    assert!(other(&["export", "parquet", "-o", "whole-0/birds"]).contains("another export"));
    assert!(other(&["export", "parquet", "-o", "out"]).contains("other files"));
    let uuid = project.query("SELECT uuid FROM images ORDER BY uuid LIMIT 1");
    project.ok(&["retract", "--uuid", &uuid, "--yes"]);
    let again = ["export", "webdataset", "--max-shard-images", "5", "--text", "title", "-o", "whole-0/birds"];
    assert!(other(&again).contains("another export"));
}

/// Files that the journal has, those of the last unit included.
fn done_files(folder: &Path) -> Vec<String> {
    let journal = fs::read_to_string(folder.join(".ddl-export")).unwrap();
    let units = journal.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let files = units.flat_map(|line| line["unit"]["files"].as_array().cloned().unwrap_or_default());
    files.map(|file| file["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn subsets_are_balanced_and_the_same_for_every_format() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm, SETTINGS, birds(200));
    let uuids = |args: &[&str]| -> BTreeSet<String> {
        let _ = fs::remove_file(project.path("subset.csv"));
        project.ok(&[&["export", "manifest", "-o", "subset.csv"], args].concat());
        let text = fs::read_to_string(project.path("subset.csv")).unwrap();
        text.lines().filter(|line| line.contains("http://")).map(|line| line[..36].to_owned()).collect()
    };
    let groups = |column: &str, uuids: &BTreeSet<String>| -> BTreeMap<String, usize> {
        let rows = project.query(&format!("SELECT uuid, coalesce({column}, '-') FROM images"));
        let mut groups = BTreeMap::new();
        for (uuid, group) in rows.lines().map(|line| line.split_once(',').unwrap()) {
            *groups.entry(group.to_owned()).or_default() += usize::from(uuids.contains(uuid));
        }
        groups
    };
    let labels = groups("label", &uuids(&["--max-per", "label=7"]));
    assert!(labels.len() == 6 && labels.values().all(|&images| images == 7), "{labels:?}");
    let both = uuids(&["--max-per", "label=20", "--max-per", "server=10", "--sample", "25"]);
    assert_eq!(both.len(), 25);
    assert!(groups("server_name", &both).values().all(|&images| images <= 10));
    let (small, large) = (uuids(&["--sample", "10"]), uuids(&["--sample", "50"]));
    assert!(small.len() == 10 && large.len() == 50 && small.is_subset(&large));
    assert_ne!(small, uuids(&["--sample", "10", "--seed", "1"]));
    assert_eq!(uuids(&["--sample", "1000"]).len(), 200);

    let subset = ["--max-per", "license=9", "--sample", "20", "--where", "label IS NOT NULL"];
    let chosen = uuids(&subset);
    assert_eq!(chosen.len(), 20);
    for format in ["webdataset", "imagefolder", "parquet"] {
        project.ok(&[&["export", format, "-o", format, "--naming-mode", "uuid"], &subset[..]].concat());
    }
    let named: BTreeSet<_> =
        tree(&project.path("imagefolder")).into_keys().filter(|name| name.contains('/')).collect();
    let named: BTreeSet<_> =
        named.iter().map(|name| name.split_once('/').unwrap().1[..36].to_owned()).collect();
    assert_eq!(named, chosen);
    let shards = fs::read_to_string(project.path("webdataset/webdataset-000000.idx")).unwrap();
    assert!(chosen.iter().all(|uuid| shards.contains(uuid)) && shards.lines().count() == 21);
    let files = fs::read_dir(project.path("parquet/data")).unwrap().map(|entry| entry.unwrap().path());
    let rows: BTreeSet<_> =
        files.flat_map(|path| read_parquet(&path, &["uuid"])).map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(rows, chosen);
}

#[test]
fn raw_pixels_become_pictures_and_an_archive_has_the_folder() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let settings =
        format!("image_encoding: raw\n{}", SETTINGS.replace("batch_size", "image_size: 64, batch_size"));
    let project = downloaded(&farm, &settings, birds(20));
    project.ok(&["export", "imagefolder", "-o", "raw", "--compress-tar", "--metadata", "jsonl"]);
    let files = tree(&project.path("raw"));
    let images: Vec<_> = files.iter().filter(|(name, _)| name.contains('/')).collect();
    assert_eq!(images.len(), 20);
    for (name, bytes) in images {
        assert!(name.ends_with(".png"), "{name}");
        let picture = image::load_from_memory(bytes).unwrap();
        assert_eq!(picture.width().max(picture.height()), 64);
    }
    fs::create_dir(project.path("unpacked")).unwrap();
    let mut tar = Command::new("tar");
    let status =
        tar.arg("xzf").arg(project.path("raw.tar.gz")).arg("-C").arg(project.path("unpacked")).status();
    assert!(status.unwrap().success());
    let mut unpacked = tree(&project.path("unpacked/raw"));
    unpacked.insert(".ddl-export".into(), files[".ddl-export"].clone());
    assert!(unpacked == files);
    let plain = ["export", "imagefolder", "-o", "plain", "--create-tar", "--croissant", "no_croissant"];
    project.ok(&plain);
    assert!(project.path("plain.tar").exists() && !project.path("plain/croissant.json").exists());
}

/// What the README says of reading exports in Python, word for word.
#[test]
fn the_readme_reads_exports_in_python() {
    let Some(python) = python() else { return skip("no .venv; `make test` makes it") };
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Exports\n").unwrap();
    let section = section.split_once("\n## ").unwrap().0;
    let fences = |language: &str| -> Vec<&str> {
        let fence = format!("```{language}\n");
        let fences = section.split(&*fence).skip(1);
        fences.map(|text| text.split_once("```").unwrap().0).collect()
    };
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let rows = birds(40).collect::<Vec<_>>();
    let project = Project::new(farm.addr(), SETTINGS);
    let mut list = csv::Writer::from_path(project.path("list.csv")).unwrap();
    list.write_record(["id", "url", "label", "title", "license", "country"]).unwrap();
    for (number, (url, label, title)) in rows.iter().enumerate() {
        list.write_record([&number.to_string(), url, label.as_deref().unwrap_or(""), title, "CC0", "NL"])
            .unwrap();
    }
    list.flush().unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    let mut exports = 0;
    for command in fences("sh").iter().flat_map(|text| text.lines()) {
        let args: Vec<String> = command.split(' ').skip(1).map(|word| word.replace('\'', "")).collect();
        project.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        exports += 1;
    }
    assert_eq!(exports, 3);
    let snippets = fences("python");
    assert_eq!(snippets.len(), 4);
    for snippet in snippets {
        run_python(&project, &python, snippet, &[]);
    }
}
