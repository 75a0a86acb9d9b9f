//! A real Slurm on this machine: munge, a controller and virtual nodes, in a temporary folder and on free ports.
//!
//! The daemons are children of the test and die with it; dropping the cluster first takes back its jobs. What a virtual
//! node shares with the others, the host's name and its shared memory, is kept apart as far as Open MPI and PMIx need:
//! each node has a temporary folder of its own, and ranks talk over loopback TCP.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, ToSocketAddrs as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::skip;

/// What to do where it does not run. Any user can start a cluster; only the installation needs root.
const REMEDY: &str = "`scripts/install-debian.sh slurm` installs Slurm and munge; this cluster needs loopback ports and a writable TMPDIR";

/// Long for a machine of two busy cores, short against a job that hangs.
const PATIENCE: Duration = Duration::from_secs(150);

/// Two clusters at once starve on two cores, where tests are threads of one process.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Cluster {
    folder: tempfile::TempDir,
    /// In the order in which they are stopped.
    daemons: Vec<(&'static str, Child)>,
    _alone: MutexGuard<'static, ()>,
}

/// A job as the controller has it.
#[derive(Clone, Debug)]
pub struct Job {
    pub state: String,
    /// The script's, and the signal that ended it.
    pub exit_code: String,
    pub restarts: u32,
}

impl Cluster {
    /// Starts one; `None` where Slurm is not installed and the tests may do without.
    pub fn start(num_nodes: u32) -> Option<Self> {
        for program in ["munged", "slurmctld", "slurmd", "sbatch", "srun"] {
            if find(program).is_none() {
                skip(&format!("`{program}` is missing: {REMEDY}"));
                return None;
            }
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cluster = Self { folder: tempfile::tempdir().unwrap(), daemons: Vec::new(), _alone: alone };
        // munge wants to know who could have written its key.
        fs::set_permissions(cluster.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["munge", "state"] {
            fs::create_dir(cluster.path(folder)).unwrap();
        }
        let key = cluster.path("munge/key");
        fs::write(&key, (0..128).map(|_| fastrand::u8(..)).collect::<Vec<_>>()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        cluster.configure(num_nodes);

        let munge =
            |what: &str, name: &str| format!("--{what}={}", cluster.path(&format!("munge/{name}")).display());
        let munge = [
            munge("key-file", "key"),
            munge("socket", "socket"),
            munge("pid-file", "pid"),
            munge("seed-file", "seed"),
            munge("log-file", "log"),
        ];
        let mut munged = vec!["--foreground".to_owned(), "--force".to_owned(), "--num-threads=2".to_owned()];
        munged.extend(munge);
        cluster.spawn("munged", &munged);
        cluster.wait_until("munge answers", || cluster.path("munge/socket").exists());
        let configuration = cluster.configuration().display().to_string();
        cluster.spawn("slurmctld", &["-D".into(), "-f".into(), configuration.clone()]);
        for node in 1..=num_nodes {
            cluster.spawn(
                "slurmd",
                &["-D".into(), "-f".into(), configuration.clone(), "-N".into(), format!("n{node}")],
            );
        }
        cluster.wait_until("all nodes are idle", || {
            let idle = cluster.command("sinfo").args(["-h", "-N", "-o", "%T"]).output().unwrap().stdout;
            String::from_utf8_lossy(&idle).lines().filter(|line| *line == "idle").count()
                == num_nodes as usize
        });
        Some(cluster)
    }

    fn configure(&self, num_nodes: u32) {
        let user = output_of(Command::new("id").arg("-un"));
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().split('.').next().unwrap();
        let is_loopback =
            (host, 0).to_socket_addrs().is_ok_and(|mut all| all.all(|addr| addr.ip().is_loopback()));
        // Daemons listen on the address of the host's name, where that is loopback, else on all.
        let listen = if is_loopback { "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny" } else { "" };
        let ports = free_ports(num_nodes as usize + 1);
        let here = self.folder.path().display();
        let mut text = format!(
            "ClusterName=ddl\n\
             SlurmctldHost={host}(127.0.0.1)\n\
             SlurmctldPort={ctld}\n\
             {listen}\n\
             SlurmUser={user}\n\
             SlurmdUser={user}\n\
             AuthType=auth/munge\n\
             CredType=cred/munge\n\
             # A requeued job waits as long as its credential holds.\n\
             AuthInfo=cred_expire=5,socket={here}/munge/socket\n\
             StateSaveLocation={here}/state\n\
             SlurmdSpoolDir={here}/spool.%n\n\
             # PMIx names a folder there after the job step.\n\
             TmpFS={here}/tmp.%n\n\
             SlurmctldPidFile={here}/slurmctld.pid\n\
             SlurmdPidFile={here}/slurmd.%n.pid\n\
             SlurmctldLogFile={here}/slurmctld.log\n\
             SlurmdLogFile={here}/slurmd.%n.log\n\
             ProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\n\
             SwitchType=switch/none\n\
             MpiDefault=none\n\
             SelectType=select/cons_tres\n\
             SelectTypeParameters=CR_CPU\n\
             SchedulerType=sched/backfill\n\
             SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0\n\
             ReturnToService=2\n\
             MessageTimeout=30\n\
             SlurmctldTimeout=60\n\
             SlurmdTimeout=60\n\
             KillWait=10\n\
             MinJobAge=3600\n\
             InactiveLimit=0\n\
             JobRequeue=1\n\
             SlurmdParameters=config_overrides\n",
            ctld = ports[0],
        );
        for (port, node) in ports[1..].iter().zip(1..) {
            text += &format!(
                "NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2048 State=UNKNOWN\n"
            );
            for folder in ["spool", "tmp"] {
                fs::create_dir(self.path(&format!("{folder}.n{node}"))).unwrap();
            }
        }
        text += &format!("PartitionName=main Nodes=n[1-{num_nodes}] Default=YES MaxTime=INFINITE State=UP\n");
        fs::write(self.configuration(), text).unwrap();
        // Read only where a plug-in asks for it, but then the machine's own must not be.
        fs::write(self.path("cgroup.conf"), "CgroupAutomount=no\n").unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    fn spawn(&mut self, program: &'static str, arguments: &[String]) {
        let said =
            File::options().create(true).append(true).open(self.path(&format!("{program}.out"))).unwrap();
        let mut command = Command::new(find(program).unwrap());
        command.args(arguments).stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        command.current_dir(self.folder.path());
        // SAFETY: `prctl` is a system call and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        // Nodes go before the controller, and munge last.
        self.daemons.insert(0, (program, command.spawn().unwrap()));
    }

    /// A command that talks to this cluster.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.enter(&mut command);
        command
    }

    /// Makes a command, and the jobs that it submits, belong to this cluster.
    pub fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("SLURM_") || name.starts_with("SBATCH_")) {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::null())
            .env("SLURM_CONF", self.configuration())
            .env("OMPI_MCA_btl", "self,tcp")
            .env("OMPI_MCA_btl_tcp_if_include", "lo")
            .env("OMPI_MCA_oob_tcp_if_include", "lo")
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    }

    /// As the controller has it.
    pub fn job(&self, id: u64) -> Job {
        let shown = output_of(self.command("scontrol").args(["show", "job", "-o", &id.to_string()]));
        let fields: BTreeMap<&str, &str> =
            shown.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        Job {
            state: fields["JobState"].to_owned(),
            exit_code: fields["ExitCode"].to_owned(),
            restarts: fields["Restarts"].parse().unwrap(),
        }
    }

    /// Waits until none of them waits or runs.
    pub fn wait_for_end(&self, jobs: &[u64]) {
        let has_ended = |&id: &u64| {
            let state = self.job(id).state;
            !matches!(
                &state[..],
                "PENDING" | "RUNNING" | "COMPLETING" | "CONFIGURING" | "REQUEUED" | "SUSPENDED"
            )
        };
        self.wait_until(&format!("jobs {jobs:?} have ended"), || jobs.iter().all(has_ended));
    }

    pub fn wait_for_state(&self, id: u64, state: &str) {
        self.wait_until(&format!("job {id} is {state}"), || self.job(id).state == state);
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, happened: impl Fn() -> bool) {
        let start = Instant::now();
        while !happened() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}\n{}\n{REMEDY}", self.told());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The queue, and the ends of the logs.
    fn told(&self) -> String {
        let mut text = output_of(self.command("squeue").args(["--states=all"]));
        let mut logs: Vec<PathBuf> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        logs.sort();
        for log in logs.iter().filter(|path| path.extension().is_some_and(|e| e == "log" || e == "out")) {
            let lines = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = lines.lines().collect();
            text +=
                &format!("\n--- {}\n{}", log.display(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        text
    }

    /// Processes of this cluster, daemons aside: by the configuration in their environment.
    fn leftovers(&self) -> Vec<i32> {
        let mark = format!("SLURM_CONF={}", self.configuration().display());
        let is_ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let daemons: Vec<i32> = self.daemons.iter().map(|(_, child)| child.id() as i32).collect();
        pids.filter(|pid| !daemons.contains(pid)).filter(is_ours).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.told());
        }
        let everything = ["--full", "--signal=KILL", "--state=RUNNING"];
        let _ = self.command("scancel").args(["--state=PENDING"]).output();
        let _ = self.command("scancel").args(everything).output();
        let start = Instant::now();
        let is_quiet =
            || self.command("squeue").arg("-h").output().is_ok_and(|queue| queue.stdout.is_empty());
        while !is_quiet() && start.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(100));
        }
        // SAFETY: signals to children that were not waited for, and to processes that carry this cluster's mark.
        let signal = |pid: i32, signal| unsafe { libc::kill(pid, signal) };
        for pid in self.leftovers() {
            signal(pid, libc::SIGKILL);
        }
        for (_, daemon) in &mut self.daemons {
            signal(daemon.id() as i32, libc::SIGTERM);
            let start = Instant::now();
            while daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
                if start.elapsed() > Duration::from_secs(5) {
                    let _ = daemon.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A program, also where the daemons are.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path: &PathBuf| Path::is_file(path))
}

/// Ports that were free a moment ago.
fn free_ports(number: usize) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..number).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
