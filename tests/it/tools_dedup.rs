//! `ddl tool dedup` from outside: what goes is what DuckDB says, and another dataset's images are found.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use ddl::demo::PhotoSpec;

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};
use crate::support::skip;

const SETTINGS: &str = "rate_control: fixed\ncolumns: {uuid: uuid}\n\
    downloader_parameters: {default_rate_limit: 0, perceptual_hash: always";

/// Pictures, of each three files: one, an equal one elsewhere, and one that was compressed again.
const PICTURES: u64 = 16;
const FILES: u64 = 3 * PICTURES;

fn photo(picture: u64, quality: u8) -> Behaviour {
    let photo = PhotoSpec { quality, ..PhotoSpec::jpeg(picture, 320, 240) };
    Behaviour::Body("image/jpeg", photo.render().unwrap())
}

fn server() -> NastyServer {
    NastyServer::start((0..FILES).map(|file| {
        let quality = if file < 2 * PICTURES { 85 } else { 60 };
        (format!("/{file}.jpg"), photo(file % PICTURES, quality))
    }))
}

/// In an order that has nothing to do with that of the files.
fn uuid(file: u64) -> String {
    format!("{:08x}-0000-4000-8000-{file:012}", file.wrapping_mul(2_654_435_761) as u32)
}

fn downloaded(server: &NastyServer, files: impl Iterator<Item = u64>, settings: &str) -> Project {
    let project = Project::new(server.addr(), &format!("{SETTINGS}{settings}}}\n"));
    let mut list = String::from("uuid,url\n");
    for file in files {
        let host = ["a.example", "b.example", "c.example"][file as usize % 3];
        writeln!(list, "{},http://{host}/{file}.jpg", uuid(file)).unwrap();
    }
    fs::write(project.path("list.csv"), list).unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project
}

const VERDICTS: &str = "SELECT uuid, verdict, reason, witness, distance FROM tool_dedup ORDER BY uuid";

const WINDOW: &str = "
import sys, duckdb
images = f\"\"\"
    SELECT uuid, hashsum_original, partition_id, coalesce(shared_server_name, server_name) AS server_name
    FROM read_parquet('{sys.argv[1]}/downloaded_images/*/*/successes.parquet', hive_partitioning = true,
        hive_types = {{'server_name': VARCHAR, 'partition_id': INTEGER}})\"\"\"
for row in duckdb.execute(f\"\"\"
    SELECT uuid, main FROM (
        SELECT uuid, row_number() OVER ranked AS place, first_value(uuid) OVER ranked AS main FROM ({images})
        WINDOW ranked AS (PARTITION BY hashsum_original ORDER BY partition_id, server_name, uuid))
    WHERE place > 1 ORDER BY uuid\"\"\").fetchall():
    print(*row, sep=',')
";

#[test]
fn what_goes_is_what_a_window_of_duckdb_says() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
    if !python.exists() {
        return skip("no .venv; `make test` makes it");
    }
    let server = server();
    let project = downloaded(&server, 0..FILES, ", batch_size: 5");
    assert!(project.query("SELECT max(partition_id) FROM images").parse::<u32>().unwrap() > 1);
    project.ok(&["tool", "dedup"]);
    let output = Command::new(python).args(["-c", WINDOW]).arg(project.path("out")).output().unwrap();
    let window = expect(&output, 0, &["duckdb"]);
    assert_eq!(window.lines().count() as u64, PICTURES);
    let found = project.query("SELECT uuid, witness FROM tool_dedup ORDER BY uuid");
    assert_eq!(found, window.trim_end());
    assert_eq!(
        project.query("SELECT DISTINCT verdict, reason, distance FROM verdicts WHERE tool = 'dedup'"),
        "remove,exact_duplicate,0"
    );
    // As distributed-downloader has it.
    let csv = fs::read_to_string(project.path("out/tools/dedup/filter_table/filter.csv")).unwrap();
    assert!(csv.starts_with(
        "uuid,source_id,server_name,partition_id,uuid_main,source_id_main,server_name_main,partition_id_main\n"
    ));
    assert_eq!(csv.lines().count() as u64, 1 + PICTURES);
    // By its other name, and nothing to do.
    let again = project.run(&["tool", "duplication_based"]);
    expect(&again, 0, &["again"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("was done before"));
    project.ok(&["check"]);
}

#[test]
fn the_order_of_a_list_changes_nothing() {
    let server = server();
    let in_order = downloaded(&server, 0..FILES, "");
    let shuffled = downloaded(&server, (0..FILES).map(|file| (file * 29 + 11) % FILES), ", part_images: 3");
    let verdicts = [&in_order, &shuffled].map(|project| {
        project.ok(&["tool", "dedup", "--near", "16"]);
        project.query(VERDICTS)
    });
    assert_eq!(verdicts[0], verdicts[1]);
    let (exact, near): (Vec<_>, Vec<_>) =
        verdicts[0].lines().partition(|line| line.contains("exact_duplicate"));
    assert_eq!(exact.len() as u64, PICTURES);
    assert_eq!(near.len() as u64, PICTURES, "{near:?}");
    for line in verdicts[0].lines() {
        let fields: Vec<&str> = line.split(',').collect();
        let picture = |uuid: &str| uuid[24..].parse::<u64>().unwrap() % PICTURES;
        assert_eq!(picture(fields[0]), picture(fields[3]), "{line}");
    }
    let report = fs::read_to_string(in_order.path("out/tools/dedup/near_report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["removed"], &report["without_hash"]), (&PICTURES.into(), &0.into()));
}

#[test]
fn leaks_into_another_dataset_are_found() {
    let server = server();
    let train = downloaded(&server, 0..FILES, "");
    let photos = (0..5).map(|picture| (picture, 85)).chain((6..9).map(|picture| (picture, 70)));
    let photos: Vec<_> = photos.chain((100..104).map(|picture| (picture, 85))).collect();
    let test_server = NastyServer::start(
        photos.iter().map(|&(picture, quality)| (format!("/{picture}.jpg"), photo(picture, quality))),
    );
    let test = downloaded(&test_server, photos.iter().map(|&(picture, _)| picture), "");
    train.ok(&["tool", "dedup"]);
    let duplicates = train.query(VERDICTS);
    test.ok(&["export", "manifest", "-o", "images.parquet"]);
    let mut answers = Vec::new();
    for other in ["out", "ddl.yaml", "images.parquet"] {
        let other = test.path(other).display().to_string();
        train.ok(&["tool", "dedup", "--against", &other, "--near", "16"]);
        answers.push(train.query("SELECT uuid, reason, witness FROM tool_dedup_against ORDER BY uuid"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let num = |reason: &str| answers[0].lines().filter(|line| line.contains(reason)).count();
    assert_eq!((num("exact_in_other"), num("near_in_other")), (10, 14), "{}", answers[0]);
    assert!(answers[0].lines().all(|line| {
        let [uuid, _, witness] = line.split(',').collect::<Vec<_>>()[..] else { return false };
        uuid[24..].parse::<u64>().unwrap() % PICTURES == witness[24..].parse::<u64>().unwrap()
    }));
    // Hashes of another algorithm may have as many digits; that none is equal would pass for a clean dataset.
    let settings = "}\nhash_algorithm: sha256\nquery_parameters: {threads: 1";
    let of_sha256 = downloaded(&test_server, photos.iter().map(|&(picture, _)| picture), settings);
    of_sha256.ok(&["export", "manifest", "-o", "images.parquet"]);
    for other in ["out", "images.parquet"] {
        let other = of_sha256.path(other).display().to_string();
        let output = train.run(&["tool", "dedup", "--against", &other]);
        expect(&output, 1, &[&other]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("the hashes here are of blake3") && said.contains("of sha256"), "{said}");
    }
    // A file may say nothing of it.
    let file = test.path("plain.parquet").display().to_string();
    test.ok(&["query", "SELECT uuid, hashsum_original FROM images", "--format", "parquet", "-o", &file]);
    let output = train.run(&["tool", "dedup", "--against", &file]);
    expect(&output, 0, &[&file]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("does not say of which algorithm its hashes are"), "{said}");
    // What is within this dataset is another tool's word.
    assert_eq!(train.query(VERDICTS), duplicates);
    for (path, error) in [("out", "is this dataset itself"), ("nowhere", "cannot read `nowhere`")] {
        let output = train.run(&["tool", "dedup", "--against", path]);
        expect(&output, 1, &[path]);
        assert!(String::from_utf8_lossy(&output.stderr).contains(error), "{output:?}");
    }
}
