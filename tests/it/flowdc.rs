//! The guides for users of FLOW-DC and distributed-downloader: every command of theirs, as it stands there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use ddl::demo::{DemoFarm, FarmOptions, ListFormat, ListRow, farm_list, write_list};

use crate::support::project::{Project, expect};

/// All `sh` blocks of a document, one behind the other.
fn commands_of(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    let (mut script, mut is_inside) = (String::from("set -euo pipefail\n"), false);
    for line in fs::read_to_string(path).unwrap().lines() {
        match line {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            _ if is_inside => script = script + line + "\n",
            _ => {}
        }
    }
    script
}

/// Runs a script as a person would who has `ddl` on the path, with all servers on the farm.
fn run(project: &Project, farm: &DemoFarm, script: &str) -> Output {
    let ddl = PathBuf::from(env!("CARGO_BIN_EXE_ddl"));
    let path = format!("{}:{}", ddl.parent().unwrap().display(), std::env::var("PATH").unwrap());
    project
        .wrap("bash")
        .args(["-c", script])
        .env("PATH", path)
        .env("DDL_CONNECT_TO", format!("::{}", farm.addr()))
        .env("DDL_DOWNLOADER_PARAMETERS__DEFAULT_RATE_LIMIT", "0")
        .output()
        .unwrap()
}

fn rows() -> Vec<ListRow> {
    farm_list(60, 3, 21).collect()
}

/// The list as FLOW-DC's users have it, with two columns more.
fn write_photos(path: &Path, rows: &[ListRow]) {
    let texts = |of: fn(&ListRow) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(of)));
    let ids = UInt64Array::from_iter_values(rows.iter().map(|row| row.gbif_id));
    let batch = RecordBatch::try_from_iter([
        ("photo_id", Arc::new(ids) as _),
        ("photo_url", texts(|row| &row.identifier) as _),
        ("taxon_name", texts(|row| row.scientific_name) as _),
        ("creator", texts(|row| row.creator) as _),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn images_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for class in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if class.file_type().unwrap().is_dir() {
            for image in fs::read_dir(class.path()).unwrap() {
                let path = image.unwrap().path();
                found.insert(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_guide_for_flow_dc_works() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let (project, rows) = (Project::empty(), rows());
    write_photos(&project.path("photos.parquet"), &rows);
    let output = run(&project, &farm, &commands_of("from-flow-dc.md"));
    let stdout = expect(&output, 0, &["the commands of the guide"]);
    assert!(stdout.contains("60 rows in 1 file: 60 records, 0 duplicates"), "{stdout}");

    let folder = project.path("files/output/photos");
    let images = images_below(&folder);
    assert_eq!(images.len(), rows.len());
    let classes: BTreeSet<_> = rows.iter().map(|row| row.scientific_name.replace(' ', "_")).collect();
    let found: BTreeSet<_> = images.iter().map(|image| image.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(found, classes, "FLOW-DC's names of classes");
    assert!(images.iter().any(|image| image.ends_with("/00000001.jpg")), "{images:?}");
    let overview = json_of(&project.path("files/output/photos_overview.json"));
    assert_eq!(overview["summary"]["successful_downloads"], 60, "{overview}");
    let members = fs::read_to_string(project.path("members.txt")).unwrap();
    assert_eq!(members.lines().filter(|member| member.ends_with(".jpg")).count(), 60, "{members}");
    // What the manager looks for.
    assert!(stdout.contains("\nDownload time: ") && stdout.contains("\nTar creation time: "), "{stdout}");

    assert_eq!(images_below(&project.path("files/output/birds")).len(), 60);
    let croissant = json_of(&project.path("files/output/birds/croissant.json"));
    assert_eq!(croissant["name"], "Birds", "{croissant}");
    let asked = farm.requests_per_url();
    assert!(asked.len() >= 60);
}

#[test]
fn the_guide_for_distributed_downloader_works() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = Project::empty();
    write_list(&project.path("multimedia.tsv"), ListFormat::Tsv, rows()).unwrap();
    let output = run(&project, &farm, &commands_of("from-distributed-downloader.md"));
    expect(&output, 0, &["the commands of the guide"]);
    let ddl = |args: &[&str]| project.ok(&[&["-c", "config.yaml"][..], args].concat());
    let counts = ddl(&[
        "query",
        "SELECT count(*), max(greatest(resized_size[1], resized_size[2])) FROM images",
        "--format",
        "csv",
    ]);
    assert_eq!(counts.lines().nth(1), Some("60,64"), "{counts}");
    let tools = ddl(&["tool", "--list"]);
    for tool in ["size", "dedup", "resize", "verify"] {
        assert!(tools.contains(tool), "{tools}");
    }
    assert!(project.path("clean.parquet").exists());
    let resolved = fs::read_to_string(project.path("resolved.txt")).unwrap();
    assert!(resolved.contains("plants-project/1.0"), "{resolved}");
}

/// A second run finds all done, and says so; the list may have grown meanwhile.
#[test]
fn a_run_goes_on_where_it_was() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let (project, rows) = (Project::empty(), rows());
    write_photos(&project.path("photos.parquet"), &rows[..40]);
    let config = r#"{"input": "photos.parquet", "output": "out/photos", "url": "photo_url", "label": null,
                     "create_tar": false, "naming_mode": "row_id", "output_format": "webdataset"}"#;
    fs::write(project.path("flow.json"), config).unwrap();
    let start = |script: &str| run(&project, &farm, script);
    let output = start("ddl run flow.json");
    expect(&output, 1, &["run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: no user agent is set"), "{said}");
    assert!(!project.path("out").exists(), "nothing is begun without a contact");

    fs::write(project.path("ddl.yaml"), "user_agent: ddl-tests (tests@ddl.example)\n").unwrap();
    expect(&start("ddl run flow.json"), 0, &["run"]);
    let shards = || {
        let files = fs::read_dir(project.path("out/photos")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "tar")).count()
    };
    assert_eq!(shards(), 1);
    let asked = farm.image_log().len();
    expect(&start("ddl run flow.json"), 0, &["run"]);
    assert_eq!(farm.image_log().len(), asked, "nothing is asked for twice");
    let count = start("ddl -c ddl.yaml -c flow.json query 'SELECT count(*) FROM images' --format csv");
    assert_eq!(expect(&count, 0, &["query"]), "count(*)\n40\n");

    // A configuration of SplitParquet is no download.
    fs::write(
        project.path("split.json"),
        r#"{"parquet": "photos.parquet", "url_col": "photo_url", "groups": 4, "output_folder": "parts"}"#,
    )
    .unwrap();
    let output = start("ddl run split.json");
    expect(&output, 1, &["run"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("SplitParquet"), "{output:?}");
}

#[test]
fn a_run_is_no_work_for_ranks() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let project = Project::empty();
    fs::write(project.path("flow.json"), r#"{"input": "photos.parquet", "output": "out/photos"}"#).unwrap();
    let output = project.mpi_command(2, &["run", "flow.json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("`ddl run` is one process"), "{said}");
    assert!(!project.path("out").exists());
}
