//! A working folder with a configuration, and the real binary run in it.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use ddl::demo::{ListFormat, ListRow, write_list};

/// `list.csv`, `ddl.yaml`, and the dataset in `out/`.
pub struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// Sends all requests to `server`, without limits of rate. `settings` are further lines of YAML.
    pub fn new(server: SocketAddr, settings: &str) -> Self {
        Self::routed(&format!("connect_to: ['::{server}']\n{settings}"))
    }

    /// `settings` say themselves where requests go.
    pub fn routed(settings: &str) -> Self {
        let project = Self::empty();
        let yaml = format!(
            "path_to_input: list.csv\npath_to_output_folder: out\n\
             user_agent: ddl-tests (tests@ddl.example)\n{settings}\n"
        );
        fs::write(project.path("ddl.yaml"), yaml).unwrap();
        project
    }

    /// A folder with nothing in it.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn with_rows(self, rows: impl IntoIterator<Item = ListRow>) -> Self {
        write_list(&self.path("list.csv"), ListFormat::Csv, rows).unwrap();
        self
    }

    pub fn with_urls<U: AsRef<str>>(self, urls: impl IntoIterator<Item = U>) -> Self {
        let mut text = String::from("url\n");
        urls.into_iter().for_each(|url| writeln!(text, "{}", url.as_ref()).unwrap());
        fs::write(self.path("list.csv"), text).unwrap();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddl"));
        in_folder(&mut command, self.folder.path()).args(args);
        command
    }

    /// Another program in the project's folder.
    pub fn wrap(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        in_folder(&mut command, self.folder.path());
        command
    }

    /// `mpirun -n RANKS ddl ...`, as root and on one machine too.
    pub fn mpi_command(&self, ranks: u32, args: &[&str]) -> Command {
        let mut command = Command::new("mpirun");
        in_folder(&mut command, self.folder.path())
            .args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_ddl")])
            .args(args)
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .env("OMPI_MCA_hwloc_base_binding_policy", "none")
            .env("OMPI_MCA_btl_tcp_if_include", "lo")
            .env("OMPI_MCA_oob_tcp_if_include", "lo");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects success; returns stdout.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        expect(&self.run(args), 0, args)
    }

    /// As [`ok`](Self::ok); also the largest resident set that the process had, in bytes.
    #[track_caller]
    #[expect(clippy::zombie_processes, reason = "`wait4` waits for it")]
    pub fn ok_with_peak_memory(&self, args: &[&str]) -> (String, u64) {
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let mut status = 0;
        // SAFETY: the child has not been waited for, and both out parameters are valid for the call.
        let usage = unsafe {
            let mut usage = std::mem::zeroed::<libc::rusage>();
            assert_eq!(
                libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage),
                child.id() as i32
            );
            usage
        };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{args:?}: {stderr}");
        (stdout, usage.ru_maxrss as u64 * 1024)
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The answer to a query as CSV, without its header.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        let csv = self.ok(&["query", sql, "--format", "csv"]);
        csv.split_once('\n').map_or("", |(_, rows)| rows).trim_end().to_owned()
    }

    /// What makes two datasets the same.
    #[track_caller]
    pub fn images(&self) -> String {
        self.query("SELECT uuid, hashsum_original, server_name, partition_id FROM images ORDER BY uuid")
    }
}

fn in_folder<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    command.current_dir(folder).stdin(Stdio::null()).env_remove("DDL_CONFIG").env("RUST_BACKTRACE", "0")
}

/// Expects an exit code; returns stdout.
#[track_caller]
pub fn expect(output: &Output, code: i32, what: &[&str]) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a script in the project's folder with mounts of its own; `$ddl` is the binary. `None` where mounts are not
/// allowed.
pub fn with_mounts(project: &Project, script: &str) -> Option<Output> {
    // A root of its own user namespace may mount; a real one needs none.
    let allowed = |user: &[&str]| {
        Command::new("unshare")
            .args(user)
            .args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let user: &[&str] =
        [&[][..], &["--user", "--map-root-user"][..]].into_iter().find(|user| allowed(user))?;
    let mut command = project.wrap("unshare");
    command.args(user).args(["--mount", "sh", "-c", script]).env("ddl", env!("CARGO_BIN_EXE_ddl"));
    Some(command.output().unwrap())
}
