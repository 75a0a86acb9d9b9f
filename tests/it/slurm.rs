//! `ddl submit`: what is written, what a site's scripts are told, and chains of jobs on a real Slurm of virtual nodes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use ddl::demo::{DemoFarm, FarmOptions, ServerBehaviour, farm_list, plain_server};

use crate::support::project::{Project, expect};
use crate::support::slurm::Cluster;

/// A farm whose servers take that long to answer.
fn farm(num_servers: u32, latency_ms: u64) -> DemoFarm {
    let latency = Duration::from_millis(latency_ms);
    let slow = ServerBehaviour { latency, ..ServerBehaviour::default() };
    let behaviours: BTreeMap<_, _> = (0..num_servers).map(|n| (plain_server(n), slow.clone())).collect();
    DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).unwrap()
}

fn project(farm: &DemoFarm, num_records: u64, num_servers: u32, settings: &str) -> Project {
    let settings = format!("rate_control: fixed\n{settings}");
    Project::new(farm.addr(), &settings).with_rows(farm_list(num_records, num_servers, 5))
}

/// Everything under the project's folder, and the program's, by names of their own.
fn neutral(project: &Project, text: &str) -> String {
    let folder = project.path("").display().to_string();
    let folder = folder.trim_end_matches('/');
    text.replace(env!("CARGO_BIN_EXE_ddl"), "DDL").replace(folder, "HERE")
}

#[test]
fn a_dry_run_prints_what_would_be_submitted() {
    let project = Project::routed(
        "account: PAS1\n\
         downloader_parameters: {max_nodes: 4, workers_per_node: 2, cpu_per_worker: 8}\n\
         tools_parameters: {max_nodes: 2, num_workers: 1}\n\
         slurm_parameters: {launcher: srun --mpi=pmix, modules: [openmpi/4.1], memory: 64G, tools: [size], time: 12h}",
    );
    let printed =
        neutral(&project, &project.ok(&["submit", "all", "--dry-run", "--set", "columns.url=link"]));
    assert!(!project.path("out").exists(), "nothing is written");
    // What is the same in each is in `src/slurm/job.sh`.
    let functions = include_str!("../../src/slurm/job.sh");
    assert_eq!(printed.matches(functions).count(), 5, "{printed}");
    insta::assert_snapshot!(printed.replace(functions, "(functions)\n"), @r###"
    ### ingest
    # sbatch ingest.sh
    #!/bin/bash
    #SBATCH --job-name=ddl-ingest
    #SBATCH --chdir=HERE
    #SBATCH --output=HERE/out/logs/jobs/0000/ingest.out
    #SBATCH --open-mode=append
    #SBATCH --nodes=1
    #SBATCH --ntasks-per-node=1
    #SBATCH --time=03:00:00
    #SBATCH --signal=B:USR2@180
    #SBATCH --requeue
    #SBATCH --account=PAS1
    #SBATCH --mem=64G

    module load openmpi/4.1
    ddl=(DDL -c HERE/ddl.yaml --set columns.url=link)
    launch=()
    max_requeues=3

    (functions)

    run "${ddl[@]}" ingest
    exit

    ### download-0000
    # sbatch --dependency=afterok:ingest --kill-on-invalid-dep=yes download-0000.sh
    #!/bin/bash
    #SBATCH --job-name=ddl-download-0000
    #SBATCH --chdir=HERE
    #SBATCH --output=HERE/out/logs/jobs/0000/download-0000.out
    #SBATCH --open-mode=append
    #SBATCH --nodes=4
    #SBATCH --ntasks-per-node=2
    #SBATCH --cpus-per-task=8
    #SBATCH --time=12:00:00
    #SBATCH --signal=B:USR2@180
    #SBATCH --requeue
    #SBATCH --account=PAS1
    #SBATCH --mem=64G

    module load openmpi/4.1
    export SRUN_CPUS_PER_TASK=8
    ddl=(DDL -c HERE/ddl.yaml --set columns.url=link)
    launch=(srun --mpi=pmix)
    max_requeues=3

    (functions)

    left=$("${ddl[@]}" submit verify 0) || exit
    if [ "$left" -eq 0 ]; then
        echo 'nothing is left to download'
        exit 0
    fi
    run "${launch[@]}" "${ddl[@]}" download
    code=$?
    left=$("${ddl[@]}" submit verify 0) || exit
    # Some launchers hide how ddl has ended; the catalog does not.
    [ "$code" -ne 0 ] || [ "$left" -eq 0 ] || code=75
    exit "$code"

    ### check-0000
    # sbatch --dependency=afterany:download-0000 --kill-on-invalid-dep=yes check-0000.sh
    #!/bin/bash
    #SBATCH --job-name=ddl-check-0000
    #SBATCH --chdir=HERE
    #SBATCH --output=HERE/out/logs/jobs/0000/check-0000.out
    #SBATCH --open-mode=append
    #SBATCH --nodes=1
    #SBATCH --ntasks-per-node=1
    #SBATCH --time=03:00:00
    #SBATCH --signal=B:USR2@180
    #SBATCH --requeue
    #SBATCH --account=PAS1
    #SBATCH --mem=64G

    module load openmpi/4.1
    ddl=(DDL -c HERE/ddl.yaml --set columns.url=link)
    launch=()
    max_requeues=3

    (functions)

    run "${ddl[@]}" check >HERE/out/logs/jobs/0000/check-0000.txt
    code=$?
    cat HERE/out/logs/jobs/0000/check-0000.txt
    left=$("${ddl[@]}" submit verify 0) || exit
    if [ "$code" -eq 0 ] && [ "$left" -gt 0 ]; then
        echo "$left partitions are left: the next ddl submit goes on with them"
        exit 75
    fi
    exit "$code"

    ### tool-size-0000
    # sbatch --dependency=afterok:check-0000 --kill-on-invalid-dep=yes tool-size-0000.sh
    #!/bin/bash
    #SBATCH --job-name=ddl-tool-size-0000
    #SBATCH --chdir=HERE
    #SBATCH --output=HERE/out/logs/jobs/0000/tool-size-0000.out
    #SBATCH --open-mode=append
    #SBATCH --nodes=2
    #SBATCH --ntasks-per-node=1
    #SBATCH --time=12:00:00
    #SBATCH --signal=B:USR2@180
    #SBATCH --requeue
    #SBATCH --account=PAS1
    #SBATCH --mem=64G

    module load openmpi/4.1
    ddl=(DDL -c HERE/ddl.yaml --set columns.url=link)
    launch=(srun --mpi=pmix)
    max_requeues=3

    (functions)

    run "${launch[@]}" "${ddl[@]}" tool size
    exit

    ### check-0001
    # sbatch --dependency=afterok:check-0000,afterany:tool-size-0000 --kill-on-invalid-dep=yes check-0001.sh
    #!/bin/bash
    #SBATCH --job-name=ddl-check-0001
    #SBATCH --chdir=HERE
    #SBATCH --output=HERE/out/logs/jobs/0000/check-0001.out
    #SBATCH --open-mode=append
    #SBATCH --nodes=1
    #SBATCH --ntasks-per-node=1
    #SBATCH --time=03:00:00
    #SBATCH --signal=B:USR2@180
    #SBATCH --requeue
    #SBATCH --account=PAS1
    #SBATCH --mem=64G

    module load openmpi/4.1
    ddl=(DDL -c HERE/ddl.yaml --set columns.url=link)
    launch=()
    max_requeues=3

    (functions)

    run "${ddl[@]}" check >HERE/out/logs/jobs/0000/check-0001.txt
    code=$?
    cat HERE/out/logs/jobs/0000/check-0001.txt
    exit "$code"
    "###);
}

/// A script that writes down what it is told, and prints a job id as `sbatch` does.
fn recorder(project: &Project, name: &str) {
    let script = project.path(name);
    fs::write(
        &script,
        "#!/bin/bash\n\
         number=$(($(cat jobs 2>/dev/null || echo 100) + 1))\n\
         echo $number >jobs\n\
         echo \"$number: ${0##*/} $*\" >>calls\n\
         env | grep -E '^(DDL|CONFIG_PATH|DISTRIBUTED_DOWNLOADER_PATH|ACCOUNT|PATH_TO|OUTPUT|DOWNLOADER|TOOLS)' | sort >env.$number\n\
         echo the queue is long today\n\
         echo Submitted batch job $number\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The names that `DDL`'s way of submitting has in distributed-downloader's configuration.
const SCRIPTS: &str = "scripts: {general_submitter: general.sh, mpi_submitter: mpi.sh, tools_submitter: tools.sh, \
    initialization_script: init.slurm, verify_script: verify.slurm, download_script: download.slurm, \
    tools_filter_script: filter.slurm, tools_scheduling_script: schedule.slurm, tools_worker_script: work.slurm, \
    tools_verification_script: check.slurm}";

fn scripts_project() -> Project {
    let project = Project::routed(&format!(
        "account: PAS1\n{SCRIPTS}\n\
         downloader_parameters: {{max_nodes: 3, workers_per_node: 2, num_downloads: 2, header: 'X-Lab: a b', image_size: 224}}\n\
         tools_parameters: {{num_workers: 2}}"
    ));
    for name in ["general.sh", "mpi.sh", "tools.sh"] {
        recorder(&project, name);
    }
    project
}

#[test]
fn scripts_of_a_site_get_their_arguments_and_variables() {
    let project = scripts_project();
    // They are not used unasked: distributed-downloader's own would start its programs.
    let own = project.run(&["submit", "download", "--dry-run"]);
    assert!(String::from_utf8_lossy(&own.stderr).contains("`--scripts` would"), "{own:?}");

    let printed =
        project.ok(&["submit", "all", "--tool", "size", "--scripts", "--set", "columns.url=my link"]);
    let calls = neutral(&project, &fs::read_to_string(project.path("calls")).unwrap());
    insta::assert_snapshot!(calls, @r"
    101: general.sh HERE/init.slurm
    102: mpi.sh HERE/download.slurm 0000 0000 101
    103: mpi.sh HERE/download.slurm 0000 0001 102
    104: mpi.sh HERE/verify.slurm 0000 0002 103
    105: tools.sh HERE/filter.slurm size 104 --spark
    106: tools.sh HERE/schedule.slurm size 105 --spark
    107: tools.sh HERE/work.slurm size 106
    108: tools.sh HERE/work.slurm size 107
    109: tools.sh HERE/check.slurm size 108 --spark
    ");
    assert!(printed.starts_with("101 ingest\n102 download-0000 afterany:101\n"), "{printed}");
    let stored = fs::read_to_string(project.path("out/logs/jobs/0000/jobs.csv")).unwrap();
    assert_eq!(stored.lines().count(), 10, "{stored}");

    let variables = neutral(&project, &fs::read_to_string(project.path("env.102")).unwrap());
    let variables: BTreeMap<&str, &str> = variables.lines().filter_map(|line| line.split_once('=')).collect();
    for (name, value) in [
        ("DDL", "DDL"),
        ("CONFIG_PATH", "HERE/ddl.yaml"),
        ("ACCOUNT", "PAS1"),
        ("PATH_TO_INPUT", "HERE/list.csv"),
        ("PATH_TO_OUTPUT", "HERE/out"),
        ("OUTPUT_PATH_TO_OUTPUT_FOLDER", "HERE/out"),
        ("OUTPUT_URLS_FOLDER", "HERE/out/servers_batched"),
        ("OUTPUT_LOGS_FOLDER", "HERE/out/logs"),
        ("OUTPUT_IMAGES_FOLDER", "HERE/out/downloaded_images"),
        ("OUTPUT_SCHEDULES_FOLDER", "HERE/out/schedules"),
        ("OUTPUT_PROFILES_TABLE", "HERE/out/servers_profiles.csv"),
        ("OUTPUT_IGNORED_TABLE", "HERE/out/ignored_servers.csv"),
        ("OUTPUT_INNER_CHECKPOINT_FILE", "HERE/out/inner_checkpoint.yaml"),
        ("OUTPUT_TOOLS_FOLDER", "HERE/out/tools"),
        ("DOWNLOADER_NUM_DOWNLOADS", "2"),
        ("DOWNLOADER_MAX_NODES", "3"),
        ("DOWNLOADER_WORKERS_PER_NODE", "2"),
        ("DOWNLOADER_CPU_PER_WORKER", "0"),
        ("DOWNLOADER_HEADER", "X-Lab: a b"),
        ("DOWNLOADER_IMAGE_SIZE", "224"),
        ("DOWNLOADER_LOGGER_LEVEL", "INFO"),
        ("DOWNLOADER_BATCH_SIZE", "10000"),
        ("DOWNLOADER_RATE_MULTIPLIER", "1"),
        ("DOWNLOADER_DEFAULT_RATE_LIMIT", "10"),
        ("TOOLS_NUM_WORKERS", "2"),
        ("TOOLS_MAX_NODES", "1"),
        ("TOOLS_WORKERS_PER_NODE", "1"),
        ("TOOLS_CPU_PER_WORKER", "0"),
        ("TOOLS_THRESHOLD_SIZE", "224"),
        ("TOOLS_NEW_RESIZE_SIZE", "720"),
        // What the command line sets.
        ("DDL_COLUMNS__URL", "my link"),
    ] {
        assert_eq!(variables.get(name), Some(&value), "{name}");
    }
    assert!(variables.contains_key("DISTRIBUTED_DOWNLOADER_PATH"));
    let of_tool = neutral(&project, &fs::read_to_string(project.path("env.107")).unwrap());
    assert!(of_tool.contains("OUTPUT_TOOLS_LOGS_FOLDER=HERE/out/tools/size/logs\n"), "{of_tool}");
}

#[test]
fn what_a_sites_scripts_get_wrong_is_told() {
    let project = scripts_project();
    let refused = |args: &[&str]| {
        let output = project.run(args);
        expect(&output, 1, args);
        String::from_utf8(output.stderr).unwrap()
    };
    let one_missing = ["submit", "download", "--scripts", "--set", "scripts.verify_script="];
    assert!(refused(&one_missing).contains("`scripts.verify_script` is not"));
    fs::write(project.path("mpi.sh"), "#!/bin/sh\necho done\n").unwrap();
    assert!(refused(&["submit", "download", "--scripts"]).contains("is no job id: `done"));
    fs::write(project.path("mpi.sh"), "#!/bin/sh\necho quota exceeded >&2; exit 1\n").unwrap();
    assert!(refused(&["submit", "download", "--scripts"]).contains("refused: quota exceeded"));
    assert!(refused(&["submit", "tool", "sise"]).contains("size"), "the tool that was meant");
}

/// What a job does first, as job `id`.
fn verify(project: &Project, id: u32, args: &[&str]) -> Output {
    let mut command = project.command(&["submit", "verify"]);
    command.args(args).env("SLURM_JOB_ID", id.to_string()).output().unwrap()
}

#[test]
fn a_chain_that_changes_nothing_ends() {
    let farm = farm(3, 0);
    let project = project(
        &farm,
        300,
        3,
        &format!(
            "{SCRIPTS}\ndownloader_parameters: {{default_rate_limit: 0, batch_size: 40, num_downloads: 3}}\n\
             schedule_rules: {{1: 1, 2: 3}}"
        ),
    );
    recorder(&project, "mpi.sh");
    project.ok(&["ingest"]);
    project.ok(&["submit", "download", "--scripts"]);
    let current = project.path("out/schedules/current");

    // The first job of a chain makes the schedule.
    assert_eq!(expect(&verify(&project, 101, &[]), 0, &["verify"]), "9\n");
    let config = fs::read_to_string(current.join("0000/_config.csv")).unwrap();
    assert!(config.contains("\n0,server-000.example,3,1,3\n"), "{config}");
    assert!(fs::read_to_string(current.join("0000/_jobs_ids.csv")).unwrap().ends_with("104,True\n"));
    assert!(!current.join("0000/_DONE").exists());
    // It was requeued: nothing is said of that.
    expect(&verify(&project, 101, &[]), 0, &["verify"]);

    let unchanged = verify(&project, 102, &[]);
    expect(&unchanged, 1, &["verify"]);
    let message = String::from_utf8(unchanged.stderr).unwrap();
    assert!(message.contains("a whole job has changed nothing: 9 partitions with 300 pending"), "{message}");
    assert!(message.contains("suppress_unchanged_error"), "{message}");
    assert!(current.join("0000/_UNCHANGED").exists());
    let suppressed = verify(&project, 103, &["--set", "suppress_unchanged_error=true"]);
    assert_eq!(expect(&suppressed, 0, &["verify"]), "9\n");

    project.ok(&["download"]);
    assert_eq!(expect(&verify(&project, 104, &[]), 0, &["verify"]), "0\n");
    assert!(current.join("0000/_DONE").exists() && !current.join("0000/_UNCHANGED").exists());
    let verified = fs::read_to_string(current.join("0000/_verification.csv")).unwrap();
    assert_eq!(verified.lines().count(), 10, "{verified}");
    assert!(verified.contains("\nserver-001.example,2,Completed\n"), "{verified}");
    let shown = project.ok(&["status", "--schedule"]);
    assert!(shown.contains("download-0002") && shown.contains("done"), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&project.ok(&["status", "--schedule", "--json"])).unwrap();
    assert_eq!(json["batches"][0]["finished"], 9);

    // A later chain has a schedule of its own.
    project.ok(&["retry"]);
    project.ok(&["submit", "download", "--scripts"]);
    assert_eq!(expect(&verify(&project, 105, &[]), 0, &["verify"]), "0\n");
    assert!(project.path("out/schedules/0000/0000/_DONE").exists());
    let unknown = project.run(&["submit", "verify", "7"]);
    expect(&unknown, 1, &["submit", "verify", "7"]);
}

/// A job was killed on another node, and the next begins at once: it waits until that one's lock counts for nothing.
#[test]
fn a_job_waits_for_the_lock_of_one_that_was_killed_elsewhere() {
    let farm = farm(1, 0);
    let project = project(&farm, 20, 1, "catalog_parameters: {lock_timeout: 2s}");
    project.ok(&["ingest"]);
    let lock = project.path("out/catalog.redb.lock");
    let holder =
        r#"{"node": "elsewhere", "pid": 1, "process_start": 1, "job": "41", "since": 0, "token": 7}"#;
    let hold = |sign_of_life: SystemTime| {
        fs::write(&lock, holder).unwrap();
        fs::File::options().append(true).open(&lock).unwrap().set_modified(sign_of_life).unwrap();
    };
    hold(SystemTime::now() + Duration::from_secs(3600));
    let refused = project.run(&["download"]);
    expect(&refused, 1, &["download"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("job 41"), "{refused:?}");

    hold(SystemTime::now());
    let waited = project.command(&["download"]).env("SLURM_JOB_ID", "42").output().unwrap();
    expect(&waited, 0, &["download"]);
    assert_eq!(project.query("SELECT disposition, count(*) FROM urls GROUP BY 1"), "success,20");
}

/// Submits, and returns the jobs by name.
fn submit(cluster: &Cluster, project: &Project, args: &[&str]) -> Vec<(String, u64)> {
    let output = cluster.enter(&mut project.command(args)).output().unwrap();
    let printed = expect(&output, 0, args);
    let job = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next().unwrap().parse().unwrap();
        (words.next().unwrap().to_owned(), id)
    };
    printed.lines().map(job).collect()
}

fn ids(jobs: &[(String, u64)]) -> Vec<u64> {
    jobs.iter().map(|(_, id)| *id).collect()
}

/// What the jobs have printed, for a test that fails.
fn printed(project: &Project) -> String {
    let mut text = String::new();
    let chains = fs::read_dir(project.path("out/logs/jobs")).unwrap();
    let in_chain = |chain: std::io::Result<fs::DirEntry>| fs::read_dir(chain.unwrap().path()).unwrap();
    let mut files: Vec<_> = chains.flat_map(in_chain).map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "out")) {
        text += &format!("--- {}\n{}\n", path.display(), fs::read_to_string(path).unwrap());
    }
    text
}

/// The whole chain, on four nodes: what it makes is what one process makes.
#[test]
fn submit_all_runs_through_and_equals_a_local_run() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let Some(cluster) = Cluster::start(4) else { return };
    let farm = farm(16, 0);
    let settings = "downloader_parameters: {default_rate_limit: 0, batch_size: 200, max_nodes: 4, num_downloads: 2}\n\
                    schedule_rules: {1: 1, 3: 4}\n\
                    tools_parameters: {max_nodes: 2, threshold_size: 60}\n\
                    slurm_parameters: {tools: [size], time: 10m, serial_time: 10m, warn_before: 1m}";
    let submitted = project(&farm, 20_000, 16, settings);
    let jobs = submit(&cluster, &submitted, &["submit", "all"]);
    let names: Vec<&str> = jobs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["ingest", "download-0000", "download-0001", "check-0000", "tool-size-0000", "check-0001"]
    );
    cluster.wait_for_end(&ids(&jobs));
    for (name, id) in &jobs {
        assert_eq!(cluster.job(*id).state, "COMPLETED", "{name}\n{}", printed(&submitted));
    }
    let logs = submitted.path("out/logs/jobs/0000");
    let said = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
    assert!(said("download-0000.out").contains("4 ranks"), "{}", said("download-0000.out"));
    assert_eq!(said("download-0001.out"), "nothing is left to download\n");
    for name in ["check-0000", "check-0001"] {
        assert!(said(&format!("{name}.txt")).ends_with("sound: catalog and files agree\n"));
    }
    let status = cluster.enter(&mut submitted.command(&["status", "--schedule"])).output().unwrap();
    let status = expect(&status, 0, &["status"]);
    assert_eq!(status.matches("COMPLETED").count(), 6, "{status}");
    assert_eq!(submitted.query("SELECT disposition, count(*) FROM urls GROUP BY 1"), "success,20000");
    submitted.ok(&["check", "--deep"]);

    let local = project(&farm, 20_000, 16, settings);
    local.ok(&["ingest"]);
    local.ok(&["download"]);
    local.ok(&["tool", "size"]);
    assert_eq!(submitted.images(), local.images());
    let verdicts = "SELECT * FROM verdicts ORDER BY uuid";
    assert_eq!(submitted.query(verdicts), local.query(verdicts));
}

/// More than one job can do within its limit: each ends by itself, and nothing is asked for twice. The first chain is
/// `srun`'s and told to stop, the second is `mpirun`'s and waits for the first.
#[test]
fn jobs_shorter_than_the_work_go_on_where_the_one_before_ended() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let Some(cluster) = Cluster::start(3) else { return };
    let farm = farm(4, 30);
    // 35 s at four servers' 10 requests per second; a job of a minute stops 46 s before its end.
    let settings = "downloader_parameters: {default_rate_limit: 10, max_connections_per_server: 4, batch_size: 100, \
                    max_nodes: 3, part_seconds: 2s}\n\
                    slurm_parameters: {time: 1m, warn_before: 46s}";
    let project = project(&farm, 1400, 4, settings);
    project.ok(&["ingest"]);
    let first = submit(&cluster, &project, &["submit", "download"]);
    let second = [
        "submit",
        "download",
        "--set",
        "downloader_parameters.num_downloads=6",
        "--set",
        "slurm_parameters.launcher=mpirun",
    ];
    let second = submit(&cluster, &project, &second);
    let stored = fs::read_to_string(project.path("out/logs/jobs/0001/jobs.csv")).unwrap();
    let waits_for = ids(&first).iter().map(|id| format!("afterany:{id}")).collect::<Vec<_>>().join(",");
    assert!(stored.contains(&format!("download-0000,download,\"{waits_for}\"")), "{stored}");

    // As Slurm tells a job whose time is nearly over.
    cluster.wait_until("images come", || farm.image_log().len() > 100);
    let warning = ["--signal=USR2", "--batch", &first[0].1.to_string()];
    assert!(cluster.command("scancel").args(warning).status().unwrap().success());
    cluster.wait_for_end(&ids(&second));

    let jobs = first.iter().chain(&second);
    let ended: Vec<_> = jobs.map(|(name, id)| (name.as_str(), cluster.job(*id))).collect();
    for (name, job) in &ended {
        let fine = matches!((&job.state[..], &job.exit_code[..]), ("COMPLETED", "0:0") | ("FAILED", "75:0"));
        assert!(fine, "{name}: {job:?}\n{}", printed(&project));
    }
    let codes: Vec<&str> = ended.iter().map(|(_, job)| job.exit_code.as_str()).collect();
    assert_eq!(codes[..3], ["75:0"; 3], "the first download, its check, the next download: {ended:?}");
    assert_eq!(codes.last(), Some(&"0:0"), "the last check");
    let with_images = project.query("SELECT count(*) FROM runs WHERE success > 0");
    assert!(with_images.parse::<u32>().unwrap() >= 4, "{with_images} jobs took part\n{}", printed(&project));
    assert_eq!(project.query("SELECT disposition, count(*) FROM urls GROUP BY 1"), "success,1400");
    project.ok(&["check", "--deep"]);
    let twice: Vec<_> = farm.requests_per_url().into_iter().filter(|(_, requests)| *requests > 1).collect();
    // What was in flight when a job stopped had its time to arrive.
    assert!(twice.is_empty(), "{twice:?}");
}

/// A job whose processes are killed begins again by itself, one that is requeued goes on, and after one that is killed as a
/// whole the next does; the catalog is sound each time.
#[test]
fn killed_and_requeued_jobs_lose_nothing() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let Some(cluster) = Cluster::start(3) else { return };
    let farm = farm(4, 30);
    let settings = "downloader_parameters: {default_rate_limit: 40, max_connections_per_server: 4, batch_size: 100, \
                    part_images: 20, part_seconds: 1s, max_nodes: 3, num_downloads: 2}\n\
                    slurm_parameters: {time: 10m, warn_before: 1m}";
    let project = project(&farm, 2400, 4, settings);
    project.ok(&["ingest"]);
    let jobs = submit(&cluster, &project, &["submit", "download"]);
    let first = jobs[0].1;
    let asked = || farm.image_log().len();
    let kill_at_work = |command: &[&str]| {
        let before = asked();
        cluster.wait_until("images come", || asked() > before + 300);
        assert!(cluster.command(command[0]).args(&command[1..]).status().unwrap().success());
    };
    let restarted = |times: u32| {
        cluster.wait_until("it waits for its next start", || {
            let job = cluster.job(first);
            job.state == "PENDING" && job.restarts == times
        });
        project.ok(&["check", "--deep"]);
    };
    kill_at_work(&["scancel", "--signal=KILL", &format!("{first}.0")]);
    restarted(1);
    kill_at_work(&["scontrol", "requeue", &first.to_string()]);
    restarted(2);
    kill_at_work(&["scancel", "--signal=KILL", &first.to_string()]);
    cluster.wait_for_end(&[first]);
    assert_eq!(cluster.job(first).state, "CANCELLED");
    cluster.wait_for_end(&ids(&jobs));
    for (name, id) in &jobs[1..] {
        assert_eq!(cluster.job(*id).state, "COMPLETED", "{name}\n{}", printed(&project));
    }
    let said = fs::read_to_string(project.path("out/logs/jobs/0000/download-0000.out")).unwrap();
    assert!(said.contains("a process was killed (exit code 137): the job begins again"), "{said}");
    project.ok(&["check", "--deep"]);
    assert_eq!(project.query("SELECT disposition, count(*) FROM urls GROUP BY 1"), "success,2400");
}

/// The blocks of a Markdown file that are for a shell, one after the other.
fn shell_blocks(markdown: &str) -> String {
    let mut script = String::new();
    let mut is_shell = false;
    for line in markdown.lines() {
        match line.strip_prefix("```") {
            Some(language) => is_shell = language == "sh",
            None if is_shell => script += &format!("{line}\n"),
            None => {}
        }
    }
    script
}

/// The guide is what its reader does: every command of it, in its order.
#[test]
fn the_guide_for_clusters_works() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let Some(cluster) = Cluster::start(2) else { return };
    let farm = farm(3, 0);
    let project = Project::empty().with_rows(farm_list(300, 3, 5));
    let script = shell_blocks(include_str!("../../docs/operations.md"));
    assert!(script.matches("ddl ").count() > 15, "{script}");
    fs::write(project.path("guide.sh"), format!("set -euo pipefail\n{script}")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_ddl")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut guide = project.wrap("bash");
    guide.args(["-x", "guide.sh"]).env("PATH", path).env("DDL_CONNECT_TO", format!("::{}", farm.addr()));
    guide.env("DDL_RATE_CONTROL", "fixed").env("DDL_DOWNLOADER_PARAMETERS__DEFAULT_RATE_LIMIT", "0");
    let output = cluster.enter(&mut guide).output().unwrap();
    let said = expect(&output, 0, &["the guide"]);
    assert!(said.contains("sound: catalog and files agree"), "{said}");
    assert!(project.path("birds/birds.parquet").exists());
    let jobs = fs::read_to_string(project.path("birds/dataset/logs/jobs/0000/jobs.csv")).unwrap();
    for job in jobs.lines().skip(1) {
        let id = job.split(',').next().unwrap().parse().unwrap();
        assert_eq!(cluster.job(id).state, "COMPLETED", "{job}");
    }
}

/// Distributed-downloader's way, with the scripts that ship.
#[test]
fn the_ready_scripts_of_a_site_run_on_slurm() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let Some(cluster) = Cluster::start(2) else { return };
    let farm = farm(3, 0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/slurm/distributed-downloader");
    let script = |name: &str| folder.join(name).display().to_string();
    let settings = format!(
        "downloader_parameters: {{default_rate_limit: 0, batch_size: 50, max_nodes: 2}}\n\
         scripts: {{general_submitter: {}, mpi_submitter: {}, tools_submitter: {}, schedule_creator_submitter: {}, \
         initialization_script: {}, download_script: {}, verify_script: {}, schedule_creation_script: {}, \
         tools_filter_script: {}, tools_scheduling_script: {}, tools_worker_script: {}, tools_verification_script: {}}}",
        script("general_submit.sh"),
        script("submit_mpi_download.sh"),
        script("tools_submit.sh"),
        script("submit_schedule_creator.sh"),
        script("initialization.slurm"),
        script("download.slurm"),
        script("verify.slurm"),
        script("schedule_creation.slurm"),
        script("tools_filter.slurm"),
        script("tools_scheduling.slurm"),
        script("tools_worker.slurm"),
        script("tools_verification.slurm"),
    );
    let project = project(&farm, 300, 3, &settings);
    let jobs = submit(&cluster, &project, &["submit", "all", "--scripts", "--tool", "size"]);
    assert_eq!(jobs.len(), 8);
    cluster.wait_for_end(&ids(&jobs));
    for (name, id) in &jobs {
        let said = fs::read_to_string(project.path("out/logs/current/0000/0000/download.err"));
        assert_eq!(cluster.job(*id).state, "COMPLETED", "{name}: {said:?}");
    }
    assert_eq!(project.query("SELECT disposition, count(*) FROM urls GROUP BY 1"), "success,300");
    assert!(project.path("out/schedules/current/0000/_DONE").exists());
    assert!(project.path("out/logs/current/0000/0000/download.out").exists());
    assert!(project.path("out/tools/size/logs/tools_worker.out").exists());

    // A chain is submitted as a whole or not at all.
    let second_fails = ["submit", "all", "--scripts", "--set", "scripts.mpi_submitter=/bin/false"];
    let refused = cluster.enter(&mut project.command(&second_fails)).output().unwrap();
    expect(&refused, 1, &second_fails);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`/bin/false` refused"), "{refused:?}");
    assert_eq!(fs::read_dir(project.path("out/logs/jobs")).unwrap().count(), 1);
    cluster.wait_until("the first job is taken back", || {
        cluster.command("squeue").arg("-h").output().unwrap().stdout.is_empty()
    });
}
