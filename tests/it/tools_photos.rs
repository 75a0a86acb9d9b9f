//! All tools over images made of real photographs, counted again by DuckDB, Pillow and pyarrow.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};
use crate::support::skip;

const NUM_IMAGES: usize = 5_200;

/// MD5 can be computed without ddl's own code.
const SETTINGS: &str = "hash_algorithm: md5\n\
     downloader_parameters: {default_rate_limit: 0, batch_size: 200, perceptual_hash: always}";

#[test]
fn what_goes_of_photographs_is_what_other_programs_find() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python3");
    let example = Path::new(env!("CARGO_BIN_EXE_ddl")).with_file_name("examples").join("custom_tool");
    if !python.exists() || !example.exists() {
        return skip("no .venv or no examples; `make test` makes both");
    }
    let scripts = root.join("tests/it/photos");
    let photos = Path::new(env!("CARGO_TARGET_TMPDIR")).join("photos");
    fs::create_dir_all(&photos).unwrap();
    let mut make = Command::new(&python);
    make.arg(scripts.join("make.py")).arg(&photos).arg(NUM_IMAGES.to_string()).stdin(Stdio::null());
    expect(&make.output().unwrap(), 0, &["make.py"]);

    let images = (0..NUM_IMAGES).map(|n| {
        let bytes = fs::read(photos.join(format!("images/{n}"))).unwrap();
        (format!("/{n}"), Behaviour::Body("image/jpeg", bytes))
    });
    let server = NastyServer::start(images);
    let project = Project::new(server.addr(), SETTINGS);
    fs::copy(photos.join("list.csv"), project.path("list.csv")).unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    assert_eq!(project.query("SELECT count(*) FROM images"), NUM_IMAGES.to_string());

    project.ok(&["tool", "size", "--set", "tools_parameters.threshold_size=100"]);
    project.ok(&["tool", "resize", "--set", "tools_parameters.new_resize_size=128"]);
    project.ok(&["tool", "verify", "--set", "tools_parameters.remove_blank=true"]);
    project.ok(&["tool", "placeholder", "--set", "tools_parameters.placeholder_min_urls=10"]);
    project.ok(&["tool", "dedup", "--near", "16"]);
    // `grey` runs `python3`: the one that has pyarrow.
    let path = format!("{}:{}", root.join(".venv/bin").display(), std::env::var("PATH").unwrap());
    let grey = root.join("config/tools/grey.yaml");
    let grey = ["tool", grey.to_str().unwrap()];
    expect(&project.command(&grey).env("PATH", path).output().unwrap(), 0, &grey);
    let dull = ["tool", "dull"];
    expect(&project.wrap(example.to_str().unwrap()).args(dull).output().unwrap(), 0, &dull);

    let judge = Command::new(&python)
        .arg(scripts.join("judge.py"))
        .arg(project.path("out"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let found = expect(&judge, 0, &["judge.py"]);
    for line in found.lines() {
        let (tool, count) = line.split_once(' ').unwrap();
        let (what, from): (_, &[&str]) = match tool {
            "resize" => ("images".to_owned(), &["--from", "resize"]),
            _ => (format!("verdicts WHERE tool = '{tool}' AND verdict = 'remove'"), &[]),
        };
        let sql = format!("SELECT count(*) FROM {what}");
        let answer = project.ok(&[&["query", "--format", "csv", &sql], from].concat());
        assert_eq!(answer.lines().last(), Some(count), "{tool}");
    }
    project.ok(&["check", "--deep"]);
}
