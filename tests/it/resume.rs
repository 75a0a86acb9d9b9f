//! Interrupted + resumed = uninterrupted, whatever the moment.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ddl::demo::{DemoFarm, FarmOptions, ServerBehaviour, farm_list, plain_server};

use crate::support::project::{Project, expect};

const NUM_SERVERS: u32 = 4;
const NUM_RECORDS: u64 = 3000;
const PART_IMAGES: u64 = 5;
const NUM_KILLS: u32 = 20;

/// Servers slow enough that a kill finds work under way.
fn slow_farm() -> DemoFarm {
    let slow = ServerBehaviour { latency: Duration::from_millis(40), ..ServerBehaviour::default() };
    let behaviours: BTreeMap<_, _> = (0..NUM_SERVERS).map(|n| (plain_server(n), slow.clone())).collect();
    DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap()
}

fn project(farm: &DemoFarm) -> Project {
    project_of(farm, NUM_RECORDS)
}

fn project_of(farm: &DemoFarm, num_records: u64) -> Project {
    // Without a gentle start: a kill soon after it is to find parts that it costs.
    let settings = format!(
        "rate_control: fixed\n\
         downloader_parameters: {{default_rate_limit: 0, max_connections_per_server: 4, batch_size: 60, \
         part_images: {PART_IMAGES}, part_seconds: 1s}}"
    );
    let project = Project::new(farm.addr(), &settings).with_rows(farm_list(num_records, NUM_SERVERS, 5));
    project.ok(&["ingest"]);
    project
}

/// Requests that a kill may cost: what is in flight, and what is in parts that are not sealed and committed.
/// Of each server one partition is at work and the one before may be ending; each has at most a part that is
/// being filled, one that waits and one on its way to the catalog, and images that wait for a processor.
const COST_OF_A_KILL: u64 = NUM_SERVERS as u64 * (2 * 3 * PART_IMAGES + 16);

fn assert_equals_uninterrupted(project: &Project) {
    project.ok(&["check", "--deep"]);
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let num_records = project.query("SELECT count(*) FROM urls").parse().unwrap();
    let undisturbed = project_of(&farm, num_records);
    undisturbed.ok(&["download"]);
    assert_eq!(project.images(), undisturbed.images());
    let orphans = project.ok(&["check", "--json"]);
    assert!(orphans.contains("\"num_orphans\": 0"), "a resumed run sweeps what it finds: {orphans}");
}

/// The number of requests of each URL that the catalog says is done.
fn requests_of_committed(project: &Project, farm: &DemoFarm) -> BTreeMap<String, u64> {
    let requests = farm.requests_per_url();
    let committed = project.query("SELECT identifier FROM urls WHERE disposition <> 'pending'");
    committed.lines().map(|url| (url.to_owned(), requests[url])).collect()
}

/// Processes beneath a process, nearest first: `mpirun` gives each rank a process group of its own.
fn descendants(pid: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let processes: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let here = found[at];
        found.extend(processes.iter().filter(|(_, parent)| *parent == here).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// Starts, kills at the moment that `dice` gives, again and again; then lets it end.
fn kill_and_resume(project: &Project, farm: &DemoFarm, command: impl Fn() -> Command, latest_ms: u64) {
    let mut dice = fastrand::Rng::with_seed(11);
    let mut committed = BTreeMap::new();
    let mut asked = 0;
    for kill in 0..NUM_KILLS {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(dice.u64(20..latest_ms)));
        // SAFETY: the child has not been waited for, and its descendants were just found beneath it.
        let signal = |pid: u32, signal| unsafe { libc::kill(pid as libc::pid_t, signal) };
        // The launcher is stopped first, so that it starts no more ranks, and killed last: while it lives, the
        // numbers of its ranks are theirs.
        signal(child.id(), libc::SIGSTOP);
        for pid in descendants(child.id()).into_iter().rev().chain([child.id()]) {
            signal(pid, libc::SIGKILL);
        }
        assert!(!child.wait().unwrap().success(), "kill {kill} must find it at work");
        project.ok(&["check", "--deep"]);
        let now_committed = requests_of_committed(project, farm);
        let again: Vec<_> = committed.iter().filter(|(url, n)| now_committed[*url] != **n).collect();
        assert!(again.is_empty(), "what was committed before kill {kill} was asked for again: {again:?}");
        let now_asked = farm.image_log().len() as u64;
        let lost = (now_asked - asked) - (now_committed.len() - committed.len()) as u64;
        assert!(lost <= COST_OF_A_KILL, "kill {kill} cost {lost} requests");
        (committed, asked) = (now_committed, now_asked);
    }
    let output = command().output().unwrap();
    expect(&output, 0, &["the run that is left alone"]);
    assert!(!committed.is_empty(), "no run got anywhere");
    let left = project.query("SELECT count(*) FROM urls").parse::<u64>().unwrap() - committed.len() as u64;
    assert_eq!(farm.image_log().len() as u64 - asked, left, "the last run asks for what is left, once");
    assert_equals_uninterrupted(project);
}

#[test]
fn a_killed_process_resumes() {
    let farm = slow_farm();
    let project = project(&farm);
    kill_and_resume(&project, &farm, || project.command(&["download"]), 600);
}

#[test]
fn a_killed_mpi_job_resumes() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let farm = slow_farm();
    // More, since the launcher's own start takes a good part of the time until a kill.
    let project = project_of(&farm, 2 * NUM_RECORDS);
    kill_and_resume(&project, &farm, || project.mpi_command(4, &["download"]), 1500);
}

/// The process of a rank beneath `mpirun`.
fn process_of_rank(launcher: u32, rank: u32) -> u32 {
    let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
    let is_it = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|line| line == variable.as_bytes())
    };
    descendants(launcher).into_iter().find(is_it).expect("the rank runs")
}

fn wait_for(child: &mut Child, what: &str, happened: &dyn Fn() -> bool) {
    while !happened() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A rank is frozen with a part open (hence small row groups: the file is made with the first), loses its lease,
/// and wakes up when another has swept that part.
#[test]
fn an_mpi_rank_that_was_frozen_goes_on() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let slow = ServerBehaviour { latency: Duration::from_millis(200), ..ServerBehaviour::default() };
    let behaviours: BTreeMap<_, _> = (0..NUM_SERVERS).map(|n| (plain_server(n), slow.clone())).collect();
    let farm = DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap();
    let project = Project::new(
        farm.addr(),
        "downloader_parameters: {default_rate_limit: 0, batch_size: 60, part_seconds: 4s, row_group_bytes: 64 KiB, \
         max_open_partitions: 2}\n\
         catalog_parameters: {lease_timeout: 5s, status_interval: 100ms}",
    );
    let project = project.with_rows(farm_list(1500, NUM_SERVERS, 5));
    project.ok(&["ingest"]);
    let mut child =
        project.mpi_command(3, &["download"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let requests_reach = |number: usize| farm.image_log().len() >= number;
    wait_for(&mut child, "its ranks were at work", &|| requests_reach(100));
    let frozen = process_of_rank(child.id(), 1) as libc::pid_t;
    // SAFETY: `mpirun` has not been waited for and would say if a rank had ended.
    unsafe { libc::kill(frozen, libc::SIGSTOP) };
    let status = || std::fs::read_to_string(project.path("out/status/status.json")).unwrap_or_default();
    wait_for(&mut child, "the rank was lost", &|| status().contains("\"lost_ranks\": 1"));
    let so_far = farm.image_log().len();
    wait_for(&mut child, "others had taken over", &|| requests_reach(so_far + 80));
    // SAFETY: as above.
    unsafe { libc::kill(frozen, libc::SIGCONT) };
    let output = child.wait_with_output().unwrap();
    expect(&output, 0, &["mpirun", "download"]);
    project.ok(&["check", "--deep"]);
    let undisturbed =
        Project::new(farm.addr(), "downloader_parameters: {default_rate_limit: 0, batch_size: 60}")
            .with_rows(farm_list(1500, NUM_SERVERS, 5));
    undisturbed.ok(&["ingest"]);
    undisturbed.ok(&["download"]);
    assert_eq!(project.images(), undisturbed.images());
    assert_eq!(project.query("SELECT ending FROM runs"), "done");
}

#[test]
fn mpi_ranks_leave_together_when_rank_zero_cannot_begin() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let farm = slow_farm();
    let project = project(&farm);
    let mut child = project.start(&["download"]);
    wait_for(&mut child, "it asked for anything", &|| !farm.image_log().is_empty());
    // A launcher that lets the others live: without a word from rank 0 they would wait for ever.
    let mut ranks = project.mpi_command(3, &["download"]);
    ranks.env("OMPI_MCA_orte_abort_on_non_zero_status", "0");
    let output = ranks.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("in use by process"), "{message}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_terminal_that_is_gone_stops_it_as_sigterm_does() {
    let farm = slow_farm();
    let project = project(&farm);
    let mut child = project.start(&["download"]);
    wait_for(&mut child, "it could be stopped", &|| farm.image_log().len() >= 50);
    // SAFETY: the child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGHUP) };
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(project.query("SELECT count(*) FROM images"), farm.image_log().len().to_string());
}

#[test]
fn sigterm_seals_commits_and_exits_75() {
    let farm = slow_farm();
    let project = project(&farm);
    let mut child = project.start(&["download"]);
    wait_for(&mut child, "it could be stopped", &|| farm.image_log().len() >= 50);
    // SAFETY: the child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let done: u64 = project.query("SELECT count(*) FROM images").parse().unwrap();
    assert!(done > 0 && done < NUM_RECORDS, "{done} images are committed");
    assert_eq!(farm.image_log().len() as u64, done, "all that was asked for is kept");
    project.ok(&["check", "--deep"]);
    project.ok(&["download"]);
    assert_eq!(farm.image_log().len() as u64, NUM_RECORDS);
    assert_equals_uninterrupted(&project);
}

#[test]
fn sigterm_ends_an_ingest_resumably() {
    let server = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let project = Project::new(server, "");
    let mut command = project.command(&["ingest", "--format", "csv", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut list = child.stdin.take().unwrap();
    let line = |n: u64| format!("http://server-{}.example/{n}\n", n % 7);
    let rows: String = std::iter::once("url\n".to_owned()).chain((0..20_000).map(line)).collect();
    // More than a pipe holds: it is reading, so it listens.
    list.write_all(rows.as_bytes()).unwrap();
    // SAFETY: the child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    // A list without end: only the signal can end it.
    while list.write_all(line(1).repeat(1000).as_bytes()).is_ok() {}
    let output = child.wait_with_output().unwrap();
    expect(&output, 75, &["ingest"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("run the same command again"), "{stderr}");
    assert!(!project.path("out/servers_batched/_ingest-tmp").exists());
    project.ok(&["check"]);
}

#[test]
fn two_downloads_do_not_meet_and_readers_follow_one() {
    let farm = slow_farm();
    let project = project(&farm);
    let mut child = project.start(&["download"]);
    wait_for(&mut child, "it asked for anything", &|| !farm.image_log().is_empty());
    let second = project.run(&["download"]);
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    expect(&second, 1, &["second download"]);
    assert!(message.contains(&format!("in use by process {} on node", child.id())), "{message}");
    let status = project.ok(&["status", "--json"]);
    assert!(status.contains("\"source\": \"catalog\""), "{status}");
    assert_eq!(project.query("SELECT count(*) FROM urls"), NUM_RECORDS.to_string());
    assert!(child.wait().unwrap().success());
    project.ok(&["check", "--deep"]);
}
