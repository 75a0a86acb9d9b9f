//! The script of a job.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{Launcher, SlurmOptions};

/// How signals, the job's end and lost processes are met: the same in every job.
const FUNCTIONS: &str = include_str!("job.sh");

/// What a job takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobSize {
    pub nodes: u32,
    pub tasks_per_node: u32,
    /// 0: left to Slurm.
    pub cpus_per_task: u32,
}

impl JobSize {
    #[must_use]
    pub fn num_tasks(self) -> u64 {
        u64::from(self.nodes) * u64::from(self.tasks_per_node)
    }
}

/// A job, as its script says it. What it waits for is told to `sbatch` beside it.
#[derive(Debug)]
pub struct JobScript<'a> {
    pub name: &'a str,
    pub size: JobSize,
    pub time: Duration,
    /// The folder in which it runs.
    pub working_folder: &'a Path,
    /// What it prints goes here.
    pub output: &'a Path,
    pub options: &'a SlurmOptions,
    /// The words of `ddl` with its global flags.
    pub program: &'a [String],
    pub launcher: &'a Launcher,
    /// Its last lines. They may use `run`, `"${ddl[@]}"` and `"${launch[@]}"`.
    pub work: &'a str,
}

impl JobScript<'_> {
    /// The script's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("#!/bin/bash\n");
        for line in self.resources() {
            let _ = writeln!(text, "#SBATCH {line}");
        }
        text.push('\n');
        let options = self.options;
        if !options.modules.is_empty() {
            let _ = writeln!(text, "module load {}", quote_all(&options.modules));
        }
        for line in &options.setup {
            let _ = writeln!(text, "{line}");
        }
        for (name, value) in self.launcher.environment {
            let _ = writeln!(text, "export {name}={value}");
        }
        if self.size.cpus_per_task > 0 && !self.launcher.words.is_empty() {
            // Since 22.05 `srun` no longer takes it from the job.
            let _ = writeln!(text, "export SRUN_CPUS_PER_TASK={}", self.size.cpus_per_task);
        }
        let _ = writeln!(text, "ddl=({})", quote_all(&self.command()));
        let _ = writeln!(text, "launch=({})", quote_all(&self.launcher.words));
        let _ = writeln!(text, "max_requeues={}", options.max_requeues);
        let _ = write!(text, "\n{FUNCTIONS}\n{}", self.work);
        text
    }

    fn resources(&self) -> Vec<String> {
        let (options, size) = (self.options, self.size);
        let mut lines = vec![
            format!("--job-name={}", quote_line(&format!("ddl-{}", self.name))),
            format!("--chdir={}", quote_line(&self.working_folder.display().to_string())),
            // A percent sign begins a pattern there.
            format!("--output={}", quote_line(&self.output.display().to_string().replace('%', "%%"))),
            "--open-mode=append".to_owned(),
            format!("--nodes={}", size.nodes),
            format!("--ntasks-per-node={}", size.tasks_per_node),
        ];
        if size.cpus_per_task > 0 {
            lines.push(format!("--cpus-per-task={}", size.cpus_per_task));
        }
        lines.push(format!("--time={}", time_limit(self.time)));
        lines.push(format!("--signal=B:USR2@{}", options.warn_before.as_secs().max(1)));
        lines.push("--requeue".to_owned());
        for (flag, value) in
            [("account", &options.account), ("partition", &options.partition), ("mem", &options.memory)]
        {
            lines.extend(value.as_ref().map(|value| format!("--{flag}={value}")));
        }
        let strip = |line: &String| line.trim().trim_start_matches("#SBATCH").trim_start().to_owned();
        lines.extend(options.extra_lines.iter().map(strip));
        lines
    }

    fn command(&self) -> Vec<String> {
        let Some(image) = &self.options.apptainer_image else { return self.program.to_vec() };
        let mut words = vec!["apptainer".to_owned(), "exec".to_owned()];
        for option in &self.options.apptainer_options {
            words.extend(option.split_whitespace().map(str::to_owned));
        }
        words.push(image.display().to_string());
        // The image has its own.
        words.push("ddl".to_owned());
        words.extend(self.program.iter().skip(1).cloned());
        words
    }
}

/// `[DAYS-]HH:MM:SS`, as `--time` takes it.
fn time_limit(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60);
    if days > 0 { format!("{days}-{clock}") } else { clock }
}

/// A word for a shell, in quotes where it needs them.
#[must_use]
pub fn quote(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// Words of a command, for a shell.
#[must_use]
pub fn quote_all(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// A value of an `#SBATCH` line: `sbatch` reads quotes there, but no other escapes.
fn quote_line(value: &str) -> Cow<'_, str> {
    if value.contains(char::is_whitespace) {
        Cow::Owned(format!("\"{value}\""))
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    pub(in crate::slurm) fn options() -> SlurmOptions {
        SlurmOptions {
            account: Some("PAS1".into()),
            partition: None,
            time: Duration::from_secs(3 * 3600),
            serial_time: Duration::from_secs(3600),
            serial_cpus: 0,
            memory: None,
            extra_lines: Vec::new(),
            modules: Vec::new(),
            setup: Vec::new(),
            apptainer_image: None,
            apptainer_options: Vec::new(),
            launcher: None,
            warn_before: Duration::from_secs(180),
            max_requeues: 3,
            use_scripts: false,
            tools: Vec::new(),
        }
    }

    fn render(options: &SlurmOptions, work: &str) -> String {
        let program = ["/opt/ddl".to_owned(), "-c".to_owned(), "/data/my list/ddl.yaml".to_owned()];
        JobScript {
            name: "download-0000",
            size: JobSize { nodes: 4, tasks_per_node: 2, cpus_per_task: 8 },
            time: options.time,
            working_folder: Path::new("/data/my list"),
            output: Path::new("/data/50%/download-0000.out"),
            options,
            program: &program,
            launcher: &Launcher {
                words: vec!["srun".into(), "--mpi=pmix".into()],
                environment: &[],
                reason: String::new(),
            },
            work,
        }
        .render()
    }

    #[test]
    fn a_script_says_what_the_site_wants() {
        let options = SlurmOptions {
            partition: Some("long".into()),
            time: Duration::from_secs(2 * 86_400 + 3600),
            memory: Some("0".into()),
            extra_lines: vec!["--mail-type=END".into(), "#SBATCH --qos=high".into()],
            modules: vec!["gcc/12".into(), "openmpi/4.1".into()],
            setup: vec!["ulimit -n 4096".into()],
            apptainer_image: Some(PathBuf::from("/images/ddl.sif")),
            apptainer_options: vec!["--bind /scratch".into(), "--cleanenv".into()],
            ..options()
        };
        let text = render(&options, "echo work\n");
        let (head, rest) = text.split_once("max_requeues=3\n").unwrap();
        insta::assert_snapshot!(head, @r##"
        #!/bin/bash
        #SBATCH --job-name=ddl-download-0000
        #SBATCH --chdir="/data/my list"
        #SBATCH --output=/data/50%%/download-0000.out
        #SBATCH --open-mode=append
        #SBATCH --nodes=4
        #SBATCH --ntasks-per-node=2
        #SBATCH --cpus-per-task=8
        #SBATCH --time=2-01:00:00
        #SBATCH --signal=B:USR2@180
        #SBATCH --requeue
        #SBATCH --account=PAS1
        #SBATCH --partition=long
        #SBATCH --mem=0
        #SBATCH --mail-type=END
        #SBATCH --qos=high

        module load gcc/12 openmpi/4.1
        ulimit -n 4096
        export SRUN_CPUS_PER_TASK=8
        ddl=(apptainer exec --bind /scratch --cleanenv /images/ddl.sif ddl -c '/data/my list/ddl.yaml')
        launch=(srun --mpi=pmix)
        "##);
        assert_eq!(rest, format!("\n{FUNCTIONS}\necho work\n"));
    }

    #[test]
    fn what_cannot_stand_in_a_script_is_refused() {
        let refused = |options: SlurmOptions| options.validate().unwrap_err().to_string();
        assert!(options().validate().is_ok());
        let two = SlurmOptions { partition: Some("a b".into()), ..options() };
        assert!(refused(two).contains("one word"));
        let lines = SlurmOptions { extra_lines: vec!["--x\nrm -rf /".into()], ..options() };
        assert!(refused(lines).contains("more than one line"));
        let short = SlurmOptions { time: Duration::from_secs(180), ..options() };
        assert!(refused(short).contains("`warn_before`"));
    }

    /// Runs a job's script as Slurm would, with `squeue` and `scontrol` as given.
    fn run_script(work: &str, environment: &[(&str, &str)], signal: Option<&str>) -> (i32, String) {
        let folder = tempfile::tempdir().unwrap();
        let tool = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
            let mut mode = std::fs::metadata(&path).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        };
        tool("squeue", "echo 2030-01-01T00:00:00");
        tool("scontrol", "echo scontrol \"$@\"");
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let script = folder.path().join("job.sh");
        std::fs::write(&script, render(&options(), work)).unwrap();
        let mut command = Command::new("bash");
        command.arg(&script).env_clear().env("PATH", path).env("SLURM_JOB_ID", "77").env("TZ", "UTC");
        command.envs(environment.iter().copied()).stdout(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        if let Some(signal) = signal {
            let ready = folder.path().join("ready");
            while !ready.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            assert!(sent.success());
        }
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_job_is_told_its_end() {
        let work = "run bash -c 'echo $SLURM_JOB_END_TIME'\n";
        assert_eq!(run_script(work, &[], None), (0, "1893456000\n".into()));
        let told = [("SLURM_JOB_END_TIME", "1893460000")];
        assert_eq!(run_script(work, &told, None), (0, "1893460000\n".into()));
    }

    #[test]
    fn a_warning_is_passed_on_and_the_end_is_waited_for() {
        // The command says that it has heard, goes on for a while, and ends as ddl does.
        let work = "run bash -c 'trap \"echo heard; sleep 0.2; exit 75\" USR2; touch \"${0%/*}/ready\"; \
                    while :; do sleep 0.02; done' \"$0\"\ncode=$?\necho \"ended $code\"\nexit $code\n";
        for signal in ["-USR2", "-TERM"] {
            assert_eq!(run_script(work, &[], Some(signal)), (75, "heard\nended 75\n".into()), "{signal}");
        }
    }

    #[test]
    fn a_job_begins_again_when_a_process_of_it_was_killed() {
        let killed = "run bash -c 'kill -KILL $$'\nexit\n";
        let (code, said) = run_script(killed, &[], None);
        assert_eq!(code, 137);
        assert!(said.contains("begins again") && said.ends_with("scontrol requeue 77\n"), "{said}");
        let (_, said) = run_script(killed, &[("SLURM_RESTART_COUNT", "2")], None);
        assert!(said.contains("requeue"), "{said}");
        let (code, said) = run_script(killed, &[("SLURM_RESTART_COUNT", "3")], None);
        assert_eq!((code, said.as_str()), (137, ""), "not for ever");
        for code in [0, 1, 75, 130] {
            let (ended, said) = run_script(&format!("run bash -c 'exit {code}'\nexit\n"), &[], None);
            assert_eq!((ended, said.as_str()), (code, ""));
        }
    }

    #[test]
    fn words_are_quoted_for_shells() {
        for word in ["", "a b", "it's", "$HOME", "a\"b", "*", "~", "a;b", "ünï"] {
            let output = Command::new("bash").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
        assert_eq!(quote("-c/a.b_c=d:8,e"), "-c/a.b_c=d:8,e");
    }
}
