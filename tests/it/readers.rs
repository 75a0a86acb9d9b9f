//! What pyarrow and DuckDB see: one schema everywhere, Hive columns, files without rows.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::Project;
use crate::support::skip;

const SCRIPT: &str = r#"
import glob, sys
import duckdb, pyarrow.parquet as pq, pyarrow.dataset as ds

root = sys.argv[1]
db = duckdb.connect()
for name in ("successes", "errors"):
    files = sorted(glob.glob(f"{root}/downloaded_images/*/*/{name}.parquet"))
    schemas = {str(pq.ParquetFile(file).schema_arrow.remove_metadata()) for file in files}
    assert len(schemas) == 1, schemas
    described = {str(db.execute(f"DESCRIBE SELECT * FROM read_parquet('{file}')").fetchall()) for file in files}
    assert len(described) == 1, described
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
types = [str(field.type) for field in first][:12]
sizes = "list<element: int64>"
assert types == ["string"] * 3 + ["bool"] + ["string"] * 3 + [sizes, sizes, "string", "string", "binary"], types

# Raw pixels, as distributed-downloader's consumers rebuild them: rows of blue, green, red.
rows = db.execute(f"SELECT identifier, image, resized_size FROM "
                  f"read_parquet('{root}/downloaded_images/*/*/successes.parquet') ORDER BY identifier").fetchall()
for url, image, (height, width) in rows:
    pixels = memoryview(image).cast("B", (height, width, 3))
    print(url, height, width, *[round(sum(image[channel::3]) / (height * width)) for channel in (2, 1, 0)])
"#;

/// The interpreter with the readers: the virtual environment that `make test` makes.
fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
    path.exists().then_some(path)
}

#[test]
fn pyarrow_and_duckdb_read_every_partition() {
    let Some(python) = python() else { return skip("no .venv; `make test` makes it") };
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
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = seen.lines();
    assert_eq!(lines.next().unwrap(), format!("successes {}", project.query("SELECT count(*) FROM images")));
    assert_eq!(lines.next().unwrap(), format!("errors {}", project.query("SELECT count(*) FROM errors")));
    let mut num_images = 0;
    for line in lines {
        let (url, numbers) = line.split_once(' ').unwrap();
        let numbers: Vec<u32> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        let [height, width, mean @ ..] = &numbers[..] else { panic!("{line}") };
        assert_eq!((*height).max(*width), 64);
        for (seen, sent) in mean.iter().zip(mean_colour(&farm, url)) {
            assert!(seen.abs_diff(sent) <= 3, "{line}: the server sent {:?}", mean_colour(&farm, url));
        }
        num_images += 1;
    }
    assert!(num_images > 0);
}

/// Mean red, green and blue of the picture behind a URL of the farm.
fn mean_colour(farm: &DemoFarm, url: &str) -> [u32; 3] {
    let path = url.strip_prefix("http://").unwrap();
    let (host, path) = path.split_at(path.find('/').unwrap());
    let mut stream = TcpStream::connect(farm.addr()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    let body = response.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let picture = image::load_from_memory(&response[body..]).unwrap().to_rgb8();
    let pixels = u64::from(picture.width() * picture.height());
    [0, 1, 2].map(|channel| {
        let sum: u64 = picture.pixels().map(|pixel| u64::from(pixel[channel])).sum();
        (sum / pixels) as u32
    })
}
