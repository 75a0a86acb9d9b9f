//! What pyarrow and DuckDB see: one schema everywhere, Hive columns, files without rows.

use std::path::{Path, PathBuf};
use std::process::Command;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::Project;

const SCRIPT: &str = r#"
import glob, sys
import duckdb, pyarrow.parquet as pq, pyarrow.dataset as ds

root = sys.argv[1]
db = duckdb.connect()
for name in ("successes", "errors"):
    files = sorted(glob.glob(f"{root}/downloaded_images/*/*/{name}.parquet"))
    schemas = {str(pq.ParquetFile(file).schema_arrow) for file in files}
    assert len(schemas) == 1, schemas
    rows = [pq.ParquetFile(file).metadata.num_rows for file in files]
    assert min(rows) == 0, "a file without rows is among them"
    total = db.execute(f"SELECT count(*), count(DISTINCT server_name), count(DISTINCT partition_id) "
                       f"FROM read_parquet('{root}/downloaded_images/*/*/{name}.parquet', hive_partitioning=true)").fetchone()
    assert total[0] == sum(rows), (total, rows)
    hive = ds.dataset(files, format="parquet", partitioning=ds.partitioning(flavor="hive"), partition_base_dir=f"{root}/downloaded_images")
    assert hive.to_table(columns=["uuid", "server_name", "partition_id"]).num_rows == sum(rows)
    print(name, total[0])

first = pq.ParquetFile(sorted(glob.glob(f"{root}/downloaded_images/*/*/successes.parquet"))[0]).schema_arrow
expected = ["uuid", "source_id", "identifier", "is_license_full", "license", "source", "title", "original_size",
            "resized_size", "hashsum_original", "hashsum_resized", "image"]
assert first.names[:12] == expected, first.names
types = {field.name: str(field.type) for field in first}
assert types["is_license_full"] == "bool" and types["image"] == "binary", types
assert types["original_size"] == "list<element: int64>", types

# Raw pixels, as distributed-downloader's consumers rebuild them.
import array
rows = db.execute(f"SELECT image, resized_size FROM read_parquet('{root}/downloaded_images/*/*/successes.parquet')").fetchall()
assert rows and all(len(image) == size[0] * size[1] * 3 for image, size in rows)
"#;

/// The interpreter with the readers: the virtual environment that `make test` makes.
fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
    path.exists().then_some(path)
}

#[test]
fn pyarrow_and_duckdb_read_every_partition() {
    let Some(python) = python() else {
        eprintln!("skipped: no .venv; `make test` makes it");
        return;
    };
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let mut rows: Vec<_> = farm_list(90, 3, 9).collect();
    // One server gives no image, so that there are files without rows of both kinds.
    for row in rows.iter_mut().filter(|row| row.identifier.contains("server-001")) {
        row.identifier = row.identifier.replace("/plain/", "/nothing/");
    }
    let project = Project::new(
        farm.addr(),
        "image_encoding: raw\ndownloader_parameters: {default_rate_limit: 0, image_size: 64}",
    )
    .with_rows(rows);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    let output = Command::new(python).args(["-c", SCRIPT]).arg(project.path("out")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = |sql: &str| project.query(sql);
    assert_eq!(
        counts.trim(),
        format!(
            "successes {}\nerrors {}",
            expected("SELECT count(*) FROM images"),
            expected("SELECT count(*) FROM errors")
        )
    );
}
