//! `ddl tool resize`, `verify` and `placeholder` on a downloaded dataset, against what Pillow and pyarrow make of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddl::demo::{DemoFarm, FarmOptions, PhotoSpec, farm_list};

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};
use crate::support::skip;

/// MD5 can be computed without ddl's own code.
const SETTINGS: &str = "hash_algorithm: md5\ndownloader_parameters: {default_rate_limit: 0}";

/// Compares a tool's images with the downloaded ones: arguments are the dataset, the mode and the size.
const RESIZED: &str = r#"
import glob, hashlib, io, sys
import pyarrow.parquet as pq
from PIL import Image, ImageChops, ImageOps, ImageStat

root, mode, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
NEW = {"image", "image_bytes", "image_format", "resized_size", "hashsum_resized"}

def fitted(width, height):
    """Scaled and final size, (width, height), by the rules of the documentation."""
    longest = mode in ("keep_ratio_largest", "border")
    measured = max(width, height) if longest else min(width, height)
    if measured <= size:
        return (width, height), (width, height)
    ratio = size / measured
    clip = (lambda n: min(max(int(n * ratio), 1), size)) if longest else (lambda n: max(int(n * ratio), size))
    scaled = (size, clip(height)) if (height > width) != longest else (clip(width), size)
    return scaled, ((size, size) if mode in ("center_crop", "border") else scaled)

def expected(picture):
    scaled, final = fitted(*picture.size)
    picture = picture.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (final[0] - scaled[0]) // 2, (final[1] - scaled[1]) // 2
    if mode == "center_crop":
        left, top = (scaled[0] - final[0]) // 2, (scaled[1] - final[1]) // 2
        return picture.crop((left, top, left + final[0], top + final[1]))
    canvas = Image.new("RGB", final, "white")
    canvas.paste(picture, (left, top))
    return canvas

def as_jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling="4:2:0")
    return Image.open(file).convert("RGB")

def files(folder):
    return {path[len(folder):]: pq.ParquetFile(path) for path in glob.glob(f"{folder}/server_name=*/partition_id=*/successes.parquet")}

before, after = files(f"{root}/downloaded_images"), files(f"{root}/tools/resize")
assert {k for k, f in before.items() if f.metadata.num_rows} == set(after)
changed = kept = 0
for name, file in after.items():
    assert file.metadata.metadata[b"ddl.hash_algorithm"] == b"md5"
    old, new = before[name].read(), file.read()
    assert old.schema == new.schema, (old.schema, new.schema)
    assert all(old[c] == new[c] for c in old.column_names if c not in NEW)
    for old, new in zip(old.to_pylist(), new.to_pylist()):
        assert new["hashsum_resized"] == hashlib.md5(new["image"]).hexdigest()
        assert new["image_bytes"] == len(new["image"])
        source = ImageOps.exif_transpose(Image.open(io.BytesIO(old["image"]))).convert("RGB")
        made = Image.open(io.BytesIO(new["image"]))
        assert made.format.lower() == new["image_format"]
        if fitted(*source.size)[1] == source.size:
            assert new["image"] == old["image"] and new["resized_size"] == old["resized_size"]
            kept += 1
            continue
        expect = expected(source)
        assert list(reversed(expect.size)) == new["resized_size"], (expect.size, new["resized_size"])
        assert made.size == expect.size
        # 1.5 at most over 450 photos of all formats; chroma alone, which JPEG halves, can make 4.
        apart = max(ImageStat.Stat(ImageChops.difference(made.convert("RGB"), as_jpeg(expect))).mean)
        assert apart < 2.5, f"{new['identifier']}: {apart} levels on average from Pillow's"
        changed += 1
print(changed, kept)
"#;

/// Damages a few rows of the first file in ways that only looking at images shows; prints uuid and reason.
const DAMAGE: &str = r#"
import glob, hashlib, io, sys
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

path = sorted(glob.glob(f"{sys.argv[1]}/downloaded_images/*/*/successes.parquet"))[0]
table = pq.ParquetFile(path).read()
rows = table.to_pylist()

def store(row, image):
    row["image"], row["image_bytes"] = image, len(image)
    row["hashsum_resized"] = row["hashsum_original"] = hashlib.md5(image).hexdigest()

def encoded(picture, format):
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()

image = bytearray(rows[0]["image"])
image[len(image) // 2] ^= 1
rows[0]["image"] = bytes(image)
store(rows[1], rows[1]["image"][:-200])
rows[2]["resized_size"] = rows[2]["resized_size"][::-1]
store(rows[3], encoded(Image.open(io.BytesIO(rows[3]["image"])), "PNG"))
height, width = rows[4]["resized_size"]
rows[4]["image_format"] = "png"
store(rows[4], encoded(Image.new("RGB", (width, height), "gray"), "PNG"))
store(rows[5], b"")
reasons = ["hash_mismatch", "undecodable", "wrong_size", "wrong_format", "blank", "undecodable"]
pq.write_table(pa.Table.from_pylist(rows, table.schema.with_metadata(table.schema.metadata)), path)
for row, reason in zip(rows, reasons):
    print(row["uuid"], reason)
"#;

/// The interpreter with the readers: the virtual environment that `make test` makes.
fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
    path.exists().then_some(path)
}

#[track_caller]
fn script(python: &Path, text: &str, project: &Project, args: &[&str]) -> String {
    let mut command = Command::new(python);
    let output = command.args(["-c", text]).arg(project.path("out")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn downloaded(farm: &DemoFarm) -> Project {
    let project = Project::new(farm.addr(), SETTINGS).with_rows(farm_list(60, 3, 5));
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project
}

#[test]
fn resized_images_are_those_that_pillow_makes() {
    let Some(python) = python() else { return skip("no .venv; `make test` makes it") };
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm);
    let downloaded = project.images();
    let side: u32 = project.query("SELECT max(original_size[2]) FROM images").parse().unwrap();
    let size = (side / 2 + 1).to_string();
    let modes = ["keep_ratio_largest", "keep_ratio", "center_crop", "border"];
    for mode in modes {
        // Another mode is another parameter: the tool starts again.
        let set = [
            format!("tools_parameters.resize_mode={mode}"),
            format!("tools_parameters.new_resize_size={size}"),
        ];
        project.ok(&["tool", "resize", "--set", &set[0], "--set", &set[1]]);
        let seen = script(&python, RESIZED, &project, &[mode, &size]);
        assert_eq!(seen.trim(), "60 0", "{mode}");
        project.ok(&["check", "--deep"]);
    }
    let set = format!("tools_parameters.new_resize_size={side}");
    project.ok(&["tool", "resize", "--set", &set]);
    assert_eq!(script(&python, RESIZED, &project, &["keep_ratio_largest", &side.to_string()]).trim(), "0 60");
    assert_eq!(project.images(), downloaded, "what was downloaded is as it was");
}

#[test]
fn images_of_a_tool_are_queried_and_exported() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm);
    let count = |args: &[&str]| {
        let query = ["query", "--format", "csv", "SELECT count(*), max(resized_size[2]) FROM images"];
        project.run(&[&query[..], args].concat())
    };
    let none = count(&["--from", "tools/resize"]);
    expect(&none, 1, &["query"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("the tool `resize` has made no images"));
    // Pixels as they are, in another encoding.
    let set = ["tools_parameters.resize_mode=no", "image_encoding=png"];
    project.ok(&["tool", "resize", "--set", set[0], "--set", set[1]]);
    let format = "SELECT DISTINCT image_format FROM images";
    assert_eq!(project.query(format), "jpeg");
    let absolute = project.path("out/tools/resize").display().to_string();
    for from in ["resize", "tools/resize", "tools/resize/", "out/tools/resize", &absolute] {
        let said = project.ok(&["query", "--format", "csv", format, "--from", from]);
        assert_eq!(said, "image_format\npng\n", "{from}");
        project.ok(&["export", "manifest", "-o", "new.csv", "--from", from]);
    }
    let manifest = std::fs::read_to_string(project.path("new.csv")).unwrap();
    assert_eq!(manifest.matches("tools/resize/server_name=").count(), 60, "{manifest}");
    let other = count(&["--from", "elsewhere/tools/resize"]);
    expect(&other, 1, &["query"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("`elsewhere/tools/resize` has made no images"));
    let verdicts = ["query", "--from", "resize", "--format", "csv", "SELECT count(*) AS n FROM tool_resize"];
    assert_eq!(project.ok(&verdicts), "n\n0\n");

    // A piece that is lost is told of, and made again.
    let file = project.query("SELECT file FROM images LIMIT 1");
    let (_, place) = file.split_once('/').unwrap();
    let piece = project.path("out/tools/resize").join(place);
    std::fs::remove_file(&piece).unwrap();
    let output = project.run(&["check"]);
    let said = expect(&output, 1, &["check"]);
    assert!(said.contains("what a tool has made is damaged: file is missing"), "{said}");
    assert!(said.contains("next: `ddl tool NAME --reset run`"), "{said}");
    project.ok(&["tool", "resize", "--reset", "run", "--set", set[0], "--set", set[1]]);
    project.ok(&["check", "--deep"]);
    assert!(piece.exists());

    // More images than it has seen.
    let project = project.with_rows(farm_list(20, 4, 9));
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    let output = project.run(&["query", "SELECT count(*) FROM images", "--from", "resize"]);
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warned.contains("the images have changed since `ddl tool resize` was run"), "{warned}");
    let args = ["export", "manifest", "-o", "stale.csv", "--from", "resize"];
    let refused = project.run(&args);
    expect(&refused, 1, &args);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.contains("have changed since the tool `resize`") && refused.contains("--allow-stale"),
        "{refused}"
    );
    project.ok(&[&args[..], &["--allow-stale"]].concat());
    project.ok(&["tool", "resize", "--stage", "filter", "--set", set[0], "--set", set[1]]);
    let output = project.run(&["query", "SELECT count(*) FROM images", "--from", "resize"]);
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warned.contains("`ddl tool resize` has not been completed"), "{warned}");

    // Pieces of partitions that have not changed are kept, but not where the run is to start again.
    for stage in ["run", "schedule"] {
        std::fs::remove_file(&piece).unwrap();
        project.ok(&["tool", "resize", "--stage", "filter", "--set", set[0], "--set", set[1]]);
        assert!(!piece.exists());
        project.ok(&["tool", "resize", "--reset", stage, "--set", set[0], "--set", set[1]]);
        assert!(piece.exists(), "--reset {stage}");
        project.ok(&["check", "--deep"]);
    }
}

#[test]
fn planted_damage_is_found_and_listed() {
    let Some(python) = python() else { return skip("no .venv; `make test` makes it") };
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = downloaded(&farm);
    project.ok(&["tool", "image_verification"]);
    assert_eq!(project.query("SELECT count(*) FROM tool_verify"), "0");
    let list = project.path("out/tools/verify/corrupted/corrupted.csv");
    assert_eq!(std::fs::read_to_string(&list).unwrap(), "uuid,error,server_name,partition_id\n");

    let planted = script(&python, DAMAGE, &project, &[]);
    let planted: BTreeMap<&str, &str> = planted.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(planted.len(), 6);
    project.ok(&["tool", "verify", "--reset", "run"]);
    let found = |sql: &str| -> BTreeMap<String, String> {
        let rows = project.query(sql);
        rows.lines().map(|row| row.split_once(',').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
    };
    let expect_with = |blank: bool| -> BTreeMap<String, String> {
        let rows = planted.iter().filter(|(_, reason)| blank || **reason != "blank");
        rows.map(|(&uuid, &reason)| (uuid.to_owned(), reason.to_owned())).collect()
    };
    assert_eq!(found("SELECT uuid, reason FROM tool_verify"), expect_with(false));
    // The list is that of a completed run.
    assert!(list.exists());
    project.ok(&["tool", "verify", "--set", "tools_parameters.remove_blank=true", "--stage", "filter"]);
    assert!(!list.exists());
    project.ok(&["tool", "verify", "--set", "tools_parameters.remove_blank=true"]);
    assert_eq!(found("SELECT uuid, reason FROM tool_verify WHERE verdict = 'remove'"), expect_with(true));
    let sql = "SELECT uuid, reason, server_name, partition_id FROM tool_verify \
               ORDER BY server_name, partition_id, record";
    let expected = format!("uuid,error,server_name,partition_id\n{}\n", project.query(sql));
    assert_eq!(std::fs::read_to_string(&list).unwrap(), expected);

    // What cannot be decoded is left out of new images, and ends nothing. `resize` looks at pixels only.
    project.ok(&["tool", "resize", "--set", "tools_parameters.new_resize_size=20"]);
    let left_out = project.query("SELECT uuid FROM tool_resize WHERE reason = 'undecodable' ORDER BY uuid");
    let undecodable: Vec<&str> =
        planted.iter().filter(|(_, reason)| **reason == "undecodable").map(|(uuid, _)| *uuid).collect();
    for uuid in &undecodable {
        assert!(left_out.contains(uuid), "{left_out}");
    }
    let count =
        project.ok(&["query", "--from", "resize", "--format", "csv", "SELECT count(*) AS n FROM images"]);
    assert_eq!(count, format!("n\n{}\n", 60 - left_out.lines().count()));
}

#[test]
fn one_picture_from_many_urls_of_a_server_is_a_placeholder() {
    let photo = |seed: u64| PhotoSpec::jpeg(seed, 80, 60).render().unwrap();
    // The first three are one picture, which another server has, too.
    let pictures = (0..6).map(|n| (format!("/{n}.jpg"), Behaviour::Body("image/jpeg", photo(n.max(2)))));
    let server = NastyServer::start(pictures);
    let urls = (0..6).map(|n| format!("http://a.example/{n}.jpg"));
    let urls = urls.chain((2..4).map(|n| format!("http://b.example/{n}.jpg")));
    let project = Project::new(server.addr(), SETTINGS).with_urls(urls);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    let of = |min_urls: u32| {
        let set = format!("tools_parameters.placeholder_min_urls={min_urls}");
        project.ok(&["tool", "placeholder", "--set", &set]);
        let sql = "SELECT identifier, reason FROM tool_placeholder JOIN images USING (uuid) ORDER BY 1";
        project.query(sql)
    };
    assert_eq!(of(3), [0, 1, 2].map(|n| format!("http://a.example/{n}.jpg,placeholder")).join("\n"));
    assert_eq!(of(4), "");
    assert_eq!(project.query("SELECT completed FROM tools WHERE tool = 'placeholder'"), "true");
}
