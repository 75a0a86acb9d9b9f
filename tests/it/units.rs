//! Work units: the same images as a plain download's, whatever engine runs them and whoever is killed.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::AsArray as _;
use ddl::catalog::{Catalog, CatalogOptions, Lease};
use ddl::demo::{DemoFarm, DemoOptions, FarmOptions, ServerBehaviour, farm_list, plain_server};
use ddl::units::UnitFile;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::support::project::{Project, expect};
use crate::support::skip;

const NUM_SERVERS: u32 = 4;
const NUM_RECORDS: u64 = 800;
const PART_IMAGES: u64 = 5;
/// Requests of one server that a kill may cost (see `resume.rs`).
const COST_OF_A_KILL: u64 = 2 * 3 * PART_IMAGES + 16;
const PROGRAM: &str = env!("CARGO_BIN_EXE_ddl");

fn farm(latency_ms: u64) -> DemoFarm {
    let latency = Duration::from_millis(latency_ms);
    let behaviour = ServerBehaviour { latency, ..ServerBehaviour::default() };
    let behaviours: BTreeMap<_, _> = (0..NUM_SERVERS).map(|n| (plain_server(n), behaviour.clone())).collect();
    DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap()
}

fn project_with(farm: &DemoFarm, num_records: u64, settings: &str) -> Project {
    let settings = format!(
        "rate_control: fixed\n{settings}\n\
         downloader_parameters: {{default_rate_limit: 0, max_connections_per_server: 4, batch_size: 60, \
         part_images: {PART_IMAGES}, part_seconds: 1s}}"
    );
    let project = Project::new(farm.addr(), &settings).with_rows(farm_list(num_records, NUM_SERVERS, 5));
    project.ok(&["ingest"]);
    project
}

fn project(farm: &DemoFarm) -> Project {
    project_with(farm, NUM_RECORDS, "")
}

fn script(name: &str) -> String {
    format!("{}/scripts/engines/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

fn units(project: &Project) -> Vec<String> {
    files(&project.path("units"), ".parquet").iter().map(|path| path.display().to_string()).collect()
}

/// Imports all results, and returns what is said.
fn import(project: &Project, code: i32) -> String {
    let results = files(&project.path("results"), ".zip");
    let mut command = project.command(&["unit", "import"]);
    let output = command.args(&results).output().unwrap();
    expect(&output, code, &["unit", "import"]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_equals_plain_download(project: &Project) {
    project.ok(&["check", "--deep"]);
    let orphans = project.ok(&["check", "--json"]);
    assert!(orphans.contains("\"num_orphans\": 0"), "{orphans}");
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let num_records = project.query("SELECT count(*) FROM urls").parse().unwrap();
    let plain = project_with(&farm, num_records, "");
    plain.ok(&["download"]);
    assert_eq!(project.images(), plain.images());
    assert_eq!(project.query("SELECT count(*) FROM urls WHERE disposition = 'pending'"), "0");
}

/// What is imported again changes nothing, and a download finds nothing to do.
fn assert_is_complete(project: &Project, farm: &DemoFarm) {
    let asked = farm.log().len();
    let images = project.images();
    let again = import(project, 0);
    assert!(again.contains("0 partitions with 0 images") && again.contains("imported before"), "{again}");
    project.ok(&["download"]);
    assert_eq!(farm.log().len(), asked, "nothing is left to be asked for");
    assert_eq!(project.images(), images);
    project.ok(&["check", "--deep"]);
    let audit: Value = serde_json::from_str(&project.ok(&["audit", "--json"])).unwrap();
    assert_eq!(audit["violations"], Value::Array(Vec::new()), "{audit}");
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: the process was just found beneath this one, which has not waited for it.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// The processes of `ddl unit run` in a folder or below.
fn runs_in(folder: &Path) -> Vec<u32> {
    let folder = folder.canonicalize().unwrap();
    let is_run = |pid: &u32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let cmdline = fs::read(proc.join("cmdline")).unwrap_or_default();
        let mut words = cmdline.split(|byte| *byte == 0);
        let is_ddl = words.next().is_some_and(|program| program.ends_with(b"ddl"));
        is_ddl
            && words.next() == Some(b"unit")
            && words.next() == Some(b"run")
            && fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
    };
    let processes = fs::read_dir("/proc").unwrap();
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_run).collect()
}

fn wait_for(child: &mut Child, what: &str, happened: &dyn Fn() -> bool) {
    while !happened() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn xargs_with_a_killed_worker_equals_a_plain_download() {
    let farm = farm(40);
    let project = project(&farm);
    let said = project.run(&["unit", "export", "-o", "units", "--groups", "4"]);
    expect(&said, 0, &["unit", "export"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.starts_with("4 units in units: 800 records, 200 on average"), "{said}");
    assert_eq!(units(&project).len(), 4);
    let mut xargs = project.wrap(&script("xargs.sh"));
    xargs.args(["units", "results", "2", "--quiet"]).env("DDL", PROGRAM);
    let mut child = xargs.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, "it was at work", &|| farm.image_log().len() >= 150);
    let killed = runs_in(&project.path(""))[0];
    kill(killed, libc::SIGKILL);
    assert_eq!(child.wait().unwrap().code(), Some(123), "xargs tells that one has failed");
    assert_eq!(files(&project.path("results"), ".zip").len(), 3, "the others went on");
    expect(&xargs.output().unwrap(), 0, &["the same command"]);
    assert_eq!(files(&project.path("results"), "").len(), 4, "work folders go");
    let asked = farm.image_log().len() as u64;
    assert!(asked <= NUM_RECORDS + COST_OF_A_KILL, "{asked}: what was sealed is not fetched again");

    let said = import(&project, 0);
    assert_eq!(said.lines().count(), 4, "{said}");
    assert_equals_plain_download(&project);
    assert_is_complete(&project, &farm);
    assert_eq!(project.query("SELECT kind, success FROM runs ORDER BY run_id LIMIT 1"), "units,800");
}

#[test]
fn makeflow_on_work_queue_with_a_killed_worker_equals_a_plain_download() {
    if Command::new("makeflow").arg("--version").output().is_err() {
        return skip("Makeflow is not installed (scripts/install-debian.sh engines)");
    }
    let farm = farm(40);
    let project = project(&farm);
    project.ok(&["unit", "export", "-o", "units", "--groups", "4", "--method", "greedy"]);
    let mut generate = project.wrap(&script("makeflow.sh"));
    let flow = generate.args(["units", "results", "--quiet"]).env("DDL", PROGRAM).output().unwrap();
    fs::write(project.path("units.makeflow"), expect(&flow, 0, &["makeflow.sh"])).unwrap();
    // No catalog server of the engine is told: this stays on loopback.
    let engine = |program: &str| {
        let mut command = project.wrap(program);
        command.env("CATALOG_HOST", "127.0.0.1:9").env("TCP_LOW_PORT", "20000").env("TCP_HIGH_PORT", "32000");
        command
    };
    let mut makeflow = engine("makeflow")
        .args(["-T", "wq", "-p", "0", "-Z", "port", "--retry-count", "5", "units.makeflow"])
        .stdout(fs::File::create(project.path("makeflow.out")).unwrap())
        .stderr(fs::File::create(project.path("makeflow.err")).unwrap())
        .spawn()
        .unwrap();
    let port = || fs::read_to_string(project.path("port")).unwrap_or_default().trim().to_owned();
    wait_for(&mut makeflow, "it listened", &|| !port().is_empty());
    let worker = |name: &str| {
        fs::create_dir(project.path(name)).unwrap();
        engine("work_queue_worker")
            .args(["--cores", "1", "--timeout", "300", "--workdir", name, "127.0.0.1", &port()])
            .stdout(Stdio::null())
            .stderr(fs::File::create(project.path(&format!("{name}.err"))).unwrap())
            .spawn()
            .unwrap()
    };
    let (mut first, mut second) = (worker("first"), worker("second"));
    wait_for(&mut makeflow, "both were at work", &|| {
        farm.image_log().len() >= 100
            && ["first", "second"].iter().all(|name| !runs_in(&project.path(name)).is_empty())
    });
    // Its task lives on: the unit runs twice.
    kill(first.id(), libc::SIGKILL);
    first.wait().unwrap();
    let ended = makeflow.wait().unwrap();
    kill(second.id(), libc::SIGTERM);
    second.wait().unwrap();
    let said = fs::read_to_string(project.path("makeflow.err")).unwrap();
    assert!(ended.success(), "{said}");
    for orphan in runs_in(&project.path("first")) {
        kill(orphan, libc::SIGKILL);
    }
    assert_eq!(files(&project.path("results"), ".zip").len(), 4);
    import(&project, 0);
    assert_equals_plain_download(&project);
    project.ok(&["unit", "import", "results/partition_001.result.zip"]);
    project.ok(&["download"]);
}

#[test]
fn an_array_runs_units_by_their_numbers_and_stops_before_its_end() {
    let farm = farm(40);
    let project = project(&farm);
    project.ok(&["unit", "export", "-o", "units", "--groups", "2"]);
    let task = |number: &str| {
        let mut command = project.wrap("bash");
        command.arg(script("slurm-array.sh")).args(["units", "results", "--quiet"]).env("DDL", PROGRAM);
        command.env("SLURM_ARRAY_TASK_ID", number).env_remove("SLURM_JOB_ID");
        command
    };
    let mut child = task("1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, "it was at work", &|| farm.image_log().len() >= 50);
    // As `--signal=B:USR2@180` does: to the shell of the script.
    kill(child.id(), libc::SIGUSR2);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let so_far = farm.image_log().len() as u64;
    assert!(so_far < NUM_RECORDS / 2, "it was stopped early");
    for number in ["1", "2"] {
        expect(&task(number).output().unwrap(), 0, &["task", number]);
    }
    assert_eq!(farm.image_log().len() as u64, NUM_RECORDS, "nothing is asked for twice");
    import(&project, 0);
    assert_equals_plain_download(&project);
}

#[test]
fn leased_servers_are_left_alone_and_exports_take_the_rest() {
    let farm = farm(0);
    let project = project(&farm);
    let export = |folder: &str, more: &[&str]| -> Value {
        let args = [&["unit", "export", "--json", "--groups", "9", "-o", folder], more].concat();
        serde_json::from_str(&project.ok(&args)).unwrap()
    };
    let records = |export: &Value| -> u64 {
        export["units"].as_array().unwrap().iter().map(|unit| unit["records"].as_u64().unwrap()).sum()
    };
    let of_two = export("units", &["--server", &format!("{},{}", plain_server(0), plain_server(1))]);
    let in_units = records(&of_two);
    assert!(in_units > 0 && in_units < NUM_RECORDS);
    let in_the_way = project.run(&["unit", "export", "-o", "units", "--groups", "2"]);
    expect(&in_the_way, 1, &["into the same folder"]);
    let rest = export("rest", &["--server", &plain_server(2)]);
    assert_eq!(rest["units"].as_array().unwrap().len(), 1);
    let downloaded = NUM_RECORDS - in_units - records(&rest);

    // What is left is downloaded, and no more.
    let download = project.run(&["download"]);
    expect(&download, 75, &["download beside units"]);
    let said = String::from_utf8_lossy(&download.stderr).into_owned();
    let left_alone = format!("left alone: {} pending records", in_units + records(&rest));
    assert!(said.contains(&left_alone), "{said}");
    assert_eq!(project.query("SELECT count(*) FROM images"), downloaded.to_string());
    for server in 0..3 {
        assert_eq!(farm.counts(&plain_server(server)).num_requests, 0, "{server}");
    }
    assert!(project.ok(&["status"]).contains("partitions are out in work units"));
    let nothing = export("nothing", &[]);
    assert_eq!((records(&nothing), &nothing["leased_records"]), (0, &(in_units + records(&rest)).into()));

    for unit in units(&project).iter().chain([&"rest/partition_001.parquet".to_owned()]) {
        let stem = unit.replace(['/', '.'], "-");
        project.ok(&["unit", "run", unit, "-o", &format!("results/{stem}.zip")]);
    }
    import(&project, 0);
    assert_equals_plain_download(&project);
    assert_is_complete(&project, &farm);
}

/// Forgets all leases, as the first download after their end does.
fn expire(project: &Project) {
    let catalog = Catalog::open(&project.path("out/catalog.redb"), &CatalogOptions::default()).unwrap();
    assert!(catalog.expire_leases(u64::MAX).unwrap().is_empty());
}

#[test]
fn a_report_is_refused_when_others_have_taken_its_partitions() {
    let farm = farm(0);
    let project = project(&farm);
    project.ok(&["unit", "export", "-o", "units", "--groups", "2"]);
    for unit in units(&project) {
        project.ok(&["unit", "run", &unit, "-o", "results/"]);
    }
    // One comes in time; then the leases are over, and a download takes what they held.
    project.ok(&["unit", "import", "results/partition_001.result.zip"]);
    expire(&project);
    let asked = farm.image_log().len() as u64;
    project.ok(&["download"]);
    let in_second =
        UnitFile::open(&project.path("units/partition_002.parquet")).unwrap().header.num_pending();
    assert_eq!(farm.image_log().len() as u64 - asked, in_second);
    let images = project.images();
    let said = import(&project, 1);
    assert!(said.contains("it is not leased: others have taken it"), "{said}");
    assert!(said.contains("imported before"), "the first one is known: {said}");
    project.ok(&["unit", "import", "results/partition_001.result.zip"]);
    let late = project.run(&["unit", "import", "--late", "results/partition_002.result.zip"]);
    expect(&late, 1, &["--late is no force"]);
    assert_eq!(project.images(), images);
    assert_equals_plain_download(&project);
}

/// Has all leases end long ago.
fn make_late(project: &Project) {
    let catalog = Catalog::open(&project.path("out/catalog.redb"), &CatalogOptions::default()).unwrap();
    let leases = catalog.view().unwrap().leases().unwrap();
    let ended: Vec<_> = leases.iter().map(|(key, lease)| (*key, Lease { expires_at: 1, ..*lease })).collect();
    catalog.lease(&ended).unwrap();
}

#[test]
fn a_late_result_is_refused_unless_it_is_asked_for() {
    let farm = farm(0);
    let project = project(&farm);
    project.ok(&["unit", "export", "-o", "units", "--groups", "1"]);
    project.ok(&["unit", "run", "units/partition_001.parquet", "-o", "results/"]);
    make_late(&project);
    let said = import(&project, 1);
    assert!(said.contains("its lease has expired") && said.contains("--late"), "{said}");
    assert_eq!(project.query("SELECT count(*) FROM images"), "0");
    project.ok(&["check", "--deep"]);
    project.ok(&["unit", "import", "--late", "results/partition_001.result.zip"]);
    assert_equals_plain_download(&project);
    assert_is_complete(&project, &farm);
}

#[test]
fn a_unit_whose_lease_is_over_asks_nobody() {
    let farm = farm(0);
    let project = project(&farm);
    project.ok(&["unit", "export", "-o", "units", "--groups", "1", "--lease", "1s"]);
    let ends = UnitFile::open(&project.path("units/partition_001.parquet")).unwrap().header.expires_at;
    let ends = UNIX_EPOCH + Duration::from_millis(ends);
    std::thread::sleep(ends.duration_since(SystemTime::now()).unwrap_or_default());
    let late = project.run(&["unit", "run", "units/partition_001.parquet"]);
    expect(&late, 1, &["unit", "run"]);
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(said.contains("has expired"), "{said}");
    assert!(farm.log().is_empty());
    project.ok(&["download"]);
    assert_eq!(farm.image_log().len() as u64, NUM_RECORDS, "the lease is over for a download, too");
}

#[test]
fn an_import_that_is_killed_again_and_again_is_finished_by_the_next() {
    let farm = farm(0);
    let project = project(&farm);
    project.ok(&["unit", "export", "-o", "units", "--groups", "3"]);
    for unit in units(&project) {
        project.ok(&["unit", "run", &unit, "-o", "results/"]);
    }
    let mut dice = fastrand::Rng::with_seed(3);
    let results: Vec<_> =
        files(&project.path("results"), ".zip").iter().map(|path| path.display().to_string()).collect();
    let args: Vec<_> = ["unit", "import"].into_iter().chain(results.iter().map(String::as_str)).collect();
    for _ in 0..12 {
        let mut child = project.start(&args);
        std::thread::sleep(Duration::from_millis(dice.u64(5..250)));
        kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        project.ok(&["check", "--deep"]);
    }
    import(&project, 0);
    assert_equals_plain_download(&project);
    assert_is_complete(&project, &farm);
}

/// One server, four units: each second sees no more than the server's limits.
#[test]
fn units_at_once_keep_the_limits_of_a_server_that_they_share() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let settings = "rate_control: fixed\n\
                    downloader_parameters: {default_rate_limit: 30, max_connections_per_server: 3, batch_size: 10}";
    let project = Project::new(farm.addr(), settings).with_rows(farm_list(120, 1, 5));
    project.ok(&["ingest"]);
    project.ok(&["unit", "export", "-o", "units", "--groups", "4", "--method", "greedy"]);
    assert_eq!(units(&project).len(), 3, "there are three connections to deal");
    let rates: Vec<_> = units(&project)
        .iter()
        .map(|unit| UnitFile::open(Path::new(unit)).unwrap().header.budgets[&plain_server(0)])
        .map(|budget| (budget.rate, budget.max_connections))
        .collect();
    assert_eq!(rates, [(10.0, 1); 3]);
    let children: Vec<_> =
        units(&project).iter().map(|unit| project.start(&["unit", "run", unit, "-o", "results/"])).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    import(&project, 0);
    let audit: Value = serde_json::from_str(&project.ok(&["audit", "--json"])).unwrap();
    assert_eq!(audit["violations"], Value::Array(Vec::new()), "{audit}");
    assert_eq!(audit["num_requests"], farm.log().len(), "the ledgers came along: {audit}");
    assert_eq!(audit["servers"][0]["max_rate"], 30.0, "by the limits of the cluster: {audit}");
    assert!(farm.counts(&plain_server(0)).max_in_flight <= 3);
    assert_eq!(project.query("SELECT count(*) FROM images"), "120");
}

fn first_value(path: &Path, column: &str) -> String {
    let file = fs::File::open(path).unwrap();
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = batches.next().unwrap().unwrap();
    batch.column_by_name(column).unwrap().as_string::<i32>().value(0).to_owned()
}

#[test]
fn secrets_stay_at_home() {
    let farm = farm(0);
    let project = Project::new(
        farm.addr(),
        "https_proxy: http://me:pa55word@proxy.example:3128\n\
         downloader_parameters: {header: 'Authorization: Bearer t0ken', default_rate_limit: 0}",
    );
    let project = project.with_rows(farm_list(20, 1, 5));
    project.ok(&["ingest"]);
    let export = project.run(&["unit", "export", "-o", "units", "--groups", "1", "--host-column"]);
    expect(&export, 0, &["export"]);
    let said = String::from_utf8_lossy(&export.stderr).into_owned();
    assert!(said.contains("`downloader_parameters.header`"), "{said}");
    let unit = &units(&project)[0];
    let bytes = fs::read(unit).unwrap();
    for secret in ["pa55word", "proxy.example", "t0ken", "Authorization"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
    assert_eq!(first_value(Path::new(unit), "host"), plain_server(0));
    assert!(first_value(Path::new(unit), "identifier").starts_with("http://"));
    let without = project.run(&["unit", "run", unit, "-o", "result.zip"]);
    expect(&without, 1, &["without the header"]);
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(said.contains("DDL_DOWNLOADER_PARAMETERS__HEADER"), "{said}");
    let mut with = project.command(&["unit", "run", unit, "-o", "result.zip"]);
    with.env("DDL_DOWNLOADER_PARAMETERS__HEADER", "Authorization: Bearer t0ken");
    expect(&with.output().unwrap(), 0, &["with it"]);
    project.ok(&["unit", "import", "result.zip"]);
    assert_eq!(project.query("SELECT count(*) FROM images"), "20");
}

#[test]
fn damaged_results_and_those_of_others_change_nothing() {
    let farm = farm(0);
    let (project, other) = (project(&farm), project(&farm));
    for project in [&project, &other] {
        project.ok(&["unit", "export", "-o", "units", "--groups", "1"]);
    }
    project.ok(&["unit", "run", "units/partition_001.parquet", "-o", "good.zip"]);
    let again = project.run(&["unit", "run", "units/partition_001.parquet", "-o", "good.zip"]);
    expect(&again, 0, &["a result that is there"]);
    let good = fs::read(project.path("good.zip")).unwrap();

    // The same numbers, another dataset.
    fs::write(other.path("theirs.zip"), &good).unwrap();
    let theirs = other.run(&["unit", "import", "theirs.zip"]);
    expect(&theirs, 1, &["theirs"]);
    let said = String::from_utf8_lossy(&theirs.stderr).into_owned();
    assert!(said.contains("it is leased to another unit"), "{said}");
    let taken = other.run(&["unit", "run", "units/partition_001.parquet", "-o", "theirs.zip"]);
    expect(&taken, 1, &["the result of another unit is in the way"]);

    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(project.path("bad.zip"), &bad).unwrap();
    let output = project.run(&["unit", "import", "bad.zip"]);
    expect(&output, 1, &["a flipped bit of an image"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`bad.zip` is no result of a work unit: `server_name="), "{said}");
    assert_eq!(said.matches("parquet").count(), 1, "{said}");

    let mut dice = fastrand::Rng::with_seed(7);
    let mut seen = HashSet::new();
    for _ in 0..30 {
        let mut bad = good.clone();
        match dice.u8(0..3) {
            0 => bad.truncate(dice.usize(0..good.len())),
            1 => bad[dice.usize(0..good.len())] ^= 1 << dice.u8(0..8),
            _ => bad[..].rotate_left(dice.usize(1..good.len())),
        }
        fs::write(project.path("bad.zip"), &bad).unwrap();
        let output = project.run(&["unit", "import", "bad.zip"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        seen.insert(output.status.code());
        project.ok(&["check", "--deep"]);
    }
    assert!(seen.contains(&Some(1)), "damage is found");
    project.ok(&["unit", "import", "good.zip"]);
    fs::create_dir(project.path("results")).unwrap();
    fs::rename(project.path("good.zip"), project.path("results/good.zip")).unwrap();
    assert_equals_plain_download(&project);
    assert_is_complete(&project, &farm);
    for (args, expect_said) in [
        (["unit", "run", "list.csv"], "is no work unit"),
        (["unit", "import", "list.csv"], "is no result of a work unit"),
    ] {
        let output = project.run(&args);
        expect(&output, 1, &args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expect_said), "{said}");
    }
}

/// A part of a partition is done, failures and all: only what is pending goes out, and both become one.
#[test]
fn a_partition_that_was_begun_is_finished_by_a_unit() {
    let farm = farm(40);
    let project = project(&farm);
    let mut child = project.start(&["download"]);
    wait_for(&mut child, "it had sealed something", &|| farm.image_log().len() >= 150);
    kill(child.id(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let done = farm.image_log().len() as u64;
    project.ok(&["unit", "export", "-o", "units", "--groups", "3", "--method", "simple"]);
    let pending: u64 = units(&project)
        .iter()
        .map(|unit| UnitFile::open(Path::new(unit)).unwrap().header.num_pending())
        .sum();
    assert_eq!(done + pending, NUM_RECORDS);
    for unit in units(&project) {
        project.ok(&["unit", "run", &unit, "-o", "results/"]);
    }
    import(&project, 0);
    assert_eq!(farm.image_log().len() as u64, NUM_RECORDS);
    assert_equals_plain_download(&project);
    assert_is_complete(&project, &farm);
}

/// The demo's list: failures of all kinds, opt-outs, robots.txt, unusable URLs; small servers share folders.
#[test]
fn what_became_of_each_record_is_as_after_a_plain_download() {
    let farm = DemoFarm::start(FarmOptions { demo: Some(DemoOptions::default()), ..FarmOptions::default() })
        .unwrap();
    let rows = farm.demo().unwrap().rows().to_vec();
    let make = || {
        let settings = "initializer_type: gbif\n\
                        ingest_parameters: {max_server_folders: 1, share_servers_below: 60}\n\
                        downloader_parameters: {default_rate_limit: 100, image_size: 64, max_attempts: 2, batch_size: 50}";
        let project = Project::new(farm.addr(), settings).with_rows(rows.clone());
        project.ok(&["ingest"]);
        project
    };
    let (plain, project) = (make(), make());
    plain.ok(&["download"]);
    project.ok(&["unit", "export", "-o", "units", "--groups", "3"]);
    let shared = |unit: &String| {
        UnitFile::open(Path::new(unit)).unwrap().header.claims.iter().any(|claim| claim.shared)
    };
    assert!(units(&project).iter().any(shared), "or this shows nothing of shared folders");
    // At once: each waits for a server that hangs.
    let run = |unit: &String| project.start(&["unit", "run", unit, "-o", "results/"]);
    let runs: Vec<_> = units(&project).iter().map(run).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    import(&project, 0);
    project.ok(&["check", "--deep"]);
    let pending = project.query("SELECT count(*) FROM urls WHERE disposition = 'pending'");
    assert_eq!(pending, "0");
    // Partitions of unusable URLs only have nothing to be exported, and are completed by a download.
    project.ok(&["download"]);
    project.ok(&["check", "--deep"]);
    let states =
        "SELECT uuid, disposition, cause, server_name, partition_id FROM urls ORDER BY uuid, identifier";
    assert_eq!(project.query(states), plain.query(states));
    assert_eq!(project.images(), plain.images());
    let kinds = "SELECT count(DISTINCT cause) > 5, count(DISTINCT disposition) FROM urls";
    assert_eq!(project.query(kinds), "true,3", "the list has all kinds");
}
