//! Tools over a real dataset: the same on any number of ranks, and however often they are killed.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ddl::demo::{DemoFarm, FarmOptions, ListRow, PhotoSpec, farm_list};
use image::{ImageFormat, Rgb, RgbImage};

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};
use crate::support::skip;

/// Every tool, with what it needs to have something to do here.
const TOOLS: &[&[&str]] = &[
    &["size", "--set", "tools_parameters.threshold_size=300"],
    &["resize", "--set", "tools_parameters.new_resize_size=100"],
    &["verify", "--set", "tools_parameters.remove_blank=true"],
    &["placeholder", "--set", "tools_parameters.placeholder_min_urls=2"],
    &["dedup", "--near", "16"],
];

const NUM_KILLS: u32 = 20;

/// Pictures of two kinds, each the same everywhere: one that is blank, and one photo.
const NUM_PLANTED: u64 = 24;

/// Pictures that are all different, and those that are planted: at three servers of their own.
fn downloaded(num_records: u64) -> ((DemoFarm, NastyServer), Project) {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let mut blank = Cursor::new(Vec::new());
    RgbImage::from_pixel(240, 180, Rgb([90, 120, 60])).write_to(&mut blank, ImageFormat::Png).unwrap();
    let photo = PhotoSpec::jpeg(7, 240, 180).render().unwrap();
    let bodies = [("image/png", blank.into_inner()), ("image/jpeg", photo)];
    let planted = NastyServer::start((0..NUM_PLANTED).map(|n| {
        let (media_type, bytes) = bodies[n as usize / 3 % 2].clone();
        (format!("/{n}"), Behaviour::Body(media_type, bytes))
    }));
    let routes: Vec<_> =
        (0..3).map(|server| format!("'planted-{server}.example:80:{}'", planted.addr())).collect();
    let project = Project::routed(&format!(
        "connect_to: [{}, '::{}']\nrate_control: fixed\n\
         downloader_parameters: {{default_rate_limit: 0, batch_size: 40, perceptual_hash: always}}",
        routes.join(", "),
        farm.addr()
    ));
    let rows: Vec<_> = farm_list(num_records, 4, 5).collect();
    let planted_rows = (0..NUM_PLANTED).map(|n| ListRow {
        gbif_id: n,
        identifier: format!("http://planted-{}.example/{n}", n % 3),
        ..rows[0].clone()
    });
    let project = project.with_rows(rows.iter().cloned().chain(planted_rows));
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    ((farm, planted), project)
}

/// Every file below a folder, with its bytes.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in std::fs::read_dir(&here).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

/// What a tool has made of the images: verdicts and new images, by their names.
fn made(project: &Project, tool: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = tree(&project.path("out/tools").join(tool));
    files.retain(|name, _| name.starts_with("server_name=") || name.starts_with("filter_table/"));
    files
}

#[test]
fn mpi_ranks_make_the_same_verdicts_and_exports() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let (_servers, project) = downloaded(600);
    let before = tree(&project.path("out/downloaded_images"));
    // Ranks that have done a partition, of the tool in which they are most.
    let mut num_workers = BTreeMap::<u32, usize>::new();
    for tool in TOOLS {
        let name = tool[0];
        let mut first = None;
        for ranks in [1, 2, 4] {
            let args = [&["tool"], *tool, &["--reset", "filter"]].concat();
            expect(&project.mpi_command(ranks, &args).output().unwrap(), 0, &args);
            let manifest = format!("{name}-{ranks}.parquet");
            project.ok(&["export", "manifest", "-o", &manifest, "--clean", name]);
            let made = (made(&project, name), std::fs::read(project.path(&manifest)).unwrap());
            assert!(made.0.keys().any(|file| file.starts_with("server_name=")), "{name} has made nothing");
            let done_by = tree(&project.path("out/tools").join(name).join("verification")).len();
            let most = num_workers.entry(ranks).or_default();
            *most = done_by.max(*most);
            let checkpoint =
                std::fs::read_to_string(project.path(&format!("out/tools/{name}/tool_checkpoint.yaml")));
            assert!(checkpoint.unwrap().contains("\ncompleted: true\n"));
            match &first {
                None => first = Some(made),
                Some(first) => assert!(*first == made, "{name} on {ranks} ranks is another"),
            }
        }
    }
    assert!(num_workers[&1] == 1 && num_workers[&2] == 2 && num_workers[&4] > 1, "{num_workers:?}");
    assert!(tree(&project.path("out/downloaded_images")) == before, "downloaded images have changed");
    project.ok(&["check", "--deep"]);
}

#[test]
fn a_tool_that_is_killed_in_any_stage_goes_on_to_the_same_verdicts() {
    let (_servers, project) = downloaded(400);
    let before = tree(&project.path("out/downloaded_images"));
    let mut rng = fastrand::Rng::with_seed(7);
    for tool in TOOLS {
        let name = tool[0];
        let args = [&["tool"], *tool].concat();
        project.ok(&args);
        let undisturbed = made(&project, name);
        assert!(undisturbed.keys().any(|file| file.starts_with("server_name=")), "{name} has made nothing");
        for stage in ["filter", "schedule", "run"] {
            let args = [&args[..], &["--stage", stage]].concat();
            // What has come to its end starts again; the others go on.
            let again = [&args[..], &["--reset", stage]].concat();
            let started = Instant::now();
            project.ok(&again);
            let whole = started.elapsed();
            let (mut met, mut has_ended) = (0, true);
            for _ in 0..NUM_KILLS {
                let mut child = project.start(if has_ended { &again } else { &args });
                std::thread::sleep(whole.mul_f64(rng.f64()).max(Duration::from_millis(1)));
                has_ended = child.try_wait().unwrap().is_some();
                met += u32::from(!has_ended);
                let _ = child.kill();
                child.wait().unwrap();
            }
            assert!(met > NUM_KILLS / 4, "{name}, {stage}: only {met} kills have met it at work");
            project.ok(&args);
        }
        project.ok(&args);
        let after = made(&project, name);
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&undisturbed), "{name}: other files after kills");
        assert!(after == undisturbed, "{name}: other verdicts after kills");
        let completed = project.query(&format!("SELECT completed FROM tools WHERE tool = '{name}'"));
        assert_eq!(completed, "true");
    }
    assert!(tree(&project.path("out/downloaded_images")) == before, "downloaded images have changed");
    project.ok(&["check", "--deep"]);
}

/// The same numbers as distributed-downloader's rule gives, counted by DuckDB over the files.
#[test]
fn small_images_are_those_that_duckdb_finds() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
    if !python.exists() {
        return skip("no .venv; `make test` makes it");
    }
    let (_servers, project) = downloaded(400);
    project.ok(&[&["tool"], TOOLS[0]].concat());
    let script = "import duckdb\n\
        rows = duckdb.sql(\"\"\"SELECT uuid FROM read_parquet('out/downloaded_images/*/*/successes.parquet')\n\
        WHERE least(original_size[1], original_size[2]) < 300 ORDER BY uuid\"\"\").fetchall()\n\
        verdicts = duckdb.sql(\"\"\"SELECT uuid FROM read_parquet('out/tools/size/*/*/verdicts.parquet')\n\
        WHERE verdict = 'remove' ORDER BY uuid\"\"\").fetchall()\n\
        table = duckdb.sql(\"\"\"SELECT uuid FROM 'out/tools/size/filter_table/filter.csv' ORDER BY uuid\"\"\").fetchall()\n\
        assert rows == verdicts == [(str(u),) for (u,) in table], (len(rows), len(verdicts), len(table))\n\
        assert rows\n\
        print(len(rows))";
    let output =
        Command::new(python).args(["-c", script]).current_dir(project.path("")).stdin(Stdio::null()).output();
    let found = expect(&output.unwrap(), 0, &["python"]);
    let removed = project.query("SELECT count(*) FROM tool_size WHERE verdict = 'remove'");
    assert_eq!(found.trim(), removed);
}

/// A stop was heeded between partitions only: the filter of a large dataset went on for minutes.
#[test]
fn a_filter_stops_when_it_is_told_to() {
    let (_servers, project) = downloaded(40);
    let endless = "name: endless\n\
        filter: (SELECT count(*) FROM generate_series(1, 400000000000) WHERE value % 7 = 1) > 0\n";
    std::fs::write(project.path("endless.yaml"), endless).unwrap();
    let mut child = project.start(&["tool", "./endless.yaml"]);
    let begun = || project.path("out/tools/endless/filter_table").exists();
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its filter began");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: the child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(75));
    project.ok(&["check"]);
}
