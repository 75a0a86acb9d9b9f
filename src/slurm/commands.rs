//! Slurm's commands, and scripts of a site that stand before them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::SlurmError;

/// The number of a job.
pub type JobId = u64;

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependencyKind {
    /// That the other job has ended with 0.
    AfterOk,
    /// That it has ended.
    AfterAny,
}

impl DependencyKind {
    /// As `--dependency` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AfterOk => "afterok",
            Self::AfterAny => "afterany",
        }
    }
}

/// One condition of a job; all of its conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency<T = JobId> {
    pub kind: DependencyKind,
    pub job: T,
}

impl<T: fmt::Display> fmt::Display for Dependency<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.job)
    }
}

/// What `sbatch` is told beside the script. A job whose condition can no longer hold is removed: it would wait for ever.
#[must_use]
pub fn sbatch_arguments<T: fmt::Display>(dependencies: &[Dependency<T>]) -> Vec<String> {
    if dependencies.is_empty() {
        return Vec::new();
    }
    let dependencies: Vec<String> = dependencies.iter().map(ToString::to_string).collect();
    vec![format!("--dependency={}", dependencies.join(",")), "--kill-on-invalid-dep=yes".into()]
}

/// Submits a script.
///
/// # Errors
/// When there is no `sbatch`, or it refuses, with what it says.
pub fn sbatch(script: &Path, dependencies: &[Dependency]) -> Result<JobId, SlurmError> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(sbatch_arguments(dependencies)).arg(script);
    let printed = stdout(&run("sbatch", &mut command)?);
    // `id`, or `id;cluster`.
    let id = printed.trim().split(';').next().unwrap_or_default();
    id.parse().map_err(|_| SlurmError::NoJobId { program: "sbatch".into(), output: printed.clone() })
}

/// Asks when a script would start, and submits nothing. Returns what `sbatch` says.
///
/// # Errors
/// As [`sbatch`].
pub fn test_only(script: &str) -> Result<String, SlurmError> {
    let start = |source| SlurmError::Start { program: "sbatch".into(), source };
    let mut command = Command::new("sbatch");
    command.arg("--test-only").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it to its end says why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = successful("sbatch", child.wait_with_output().map_err(start)?)?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// Submits by a script of the site, which has `environment` beside that of this process.
///
/// # Errors
/// When it cannot be started, fails, or its last word is no job id.
pub fn submit_by_script(
    submitter: &Path,
    arguments: &[String],
    environment: &[(String, String)],
) -> Result<JobId, SlurmError> {
    let name = submitter.display().to_string();
    let mut command = Command::new(submitter);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    job_id_of(&name, &stdout(&run(&name, &mut command)?))
}

/// The contract of distributed-downloader's submit scripts: the job id is the last word.
fn job_id_of(program: &str, printed: &str) -> Result<JobId, SlurmError> {
    let last = printed.split_whitespace().next_back();
    last.and_then(|word| word.parse().ok()).ok_or_else(|| {
        let output = printed.trim().chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
        SlurmError::NoJobId { program: program.to_owned(), output }
    })
}

/// Jobs of this user that wait or run.
///
/// # Errors
/// When there is no `squeue`, or the controller does not answer.
pub fn queued_jobs() -> Result<HashSet<JobId>, SlurmError> {
    let output = run("squeue", Command::new("squeue").args(["--noheader", "--me", "--format=%A"]))?;
    Ok(stdout(&output).lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// The states of jobs of this user, as Slurm names them, with the exit code of those that have ended where it is kept.
/// Empty without Slurm.
#[must_use]
pub fn job_states(jobs: &[JobId]) -> HashMap<JobId, String> {
    let mut states = HashMap::new();
    if jobs.is_empty() {
        return states;
    }
    // The accounting remembers all, where a site keeps one; the controller forgets what ended minutes ago.
    let list = jobs.iter().map(JobId::to_string).collect::<Vec<_>>().join(",");
    let mut sacct = Command::new("sacct");
    sacct.args(["--noheader", "--parsable2", "--allocations", "--format=JobIDRaw,State,ExitCode"]);
    sacct.args(["--jobs", &list]);
    let mut squeue = Command::new("squeue");
    squeue.args(["--noheader", "--me", "--states=all", "--format=%A|%T"]);
    for (program, command) in [("sacct", &mut sacct), ("squeue", &mut squeue)] {
        let Ok(output) = run(program, command) else { continue };
        for line in stdout(&output).lines() {
            let mut fields = line.trim().split('|');
            let (Some(id), Some(state)) = (fields.next().and_then(|id| id.parse().ok()), fields.next())
            else {
                continue;
            };
            let code = fields.next().filter(|code| *code != "0:0").map(|code| format!(" ({code})"));
            if jobs.contains(&id) {
                states.entry(id).or_insert_with(|| format!("{state}{}", code.unwrap_or_default()));
            }
        }
    }
    states
}

/// Takes jobs back that were just submitted. What cannot be taken back is left.
pub fn cancel(jobs: &[JobId]) {
    if !jobs.is_empty() {
        let _ = run("scancel", Command::new("scancel").args(jobs.iter().map(JobId::to_string)));
    }
}

fn run(program: &str, command: &mut Command) -> Result<Output, SlurmError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| SlurmError::Start { program: program.to_owned(), source })?;
    successful(program, output)
}

fn successful(program: &str, output: Output) -> Result<Output, SlurmError> {
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let message = if said.is_empty() { output.status.to_string() } else { said };
    Err(SlurmError::Refused { program: program.to_owned(), message })
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_id_is_the_last_word() {
        let id = |printed: &str| job_id_of("submit.sh", printed).ok();
        assert_eq!(id("Submitted batch job 35797633\n"), Some(35_797_633));
        assert_eq!(id("module loaded\nqueue is long today\nSubmitted batch job 7"), Some(7));
        assert_eq!(id("42"), Some(42));
        for printed in ["", "  \n", "Submitted batch job", "job 12 on cluster", "job -3", "job 1.5"] {
            assert_eq!(id(printed), None, "{printed}");
        }
        let error = job_id_of("submit.sh", &"x".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 400, "{error}");
    }

    #[test]
    fn all_conditions_of_a_job_must_hold() {
        let dependencies = [
            Dependency { kind: DependencyKind::AfterOk, job: 12 },
            Dependency { kind: DependencyKind::AfterAny, job: 14 },
        ];
        assert_eq!(
            sbatch_arguments(&dependencies),
            ["--dependency=afterok:12,afterany:14", "--kill-on-invalid-dep=yes"]
        );
        assert!(sbatch_arguments::<JobId>(&[]).is_empty());
    }

    #[test]
    fn a_script_of_the_site_gets_arguments_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("submit me.sh");
        std::fs::write(
            &script,
            "#!/bin/sh\necho \"$ACCOUNT\" \"$@\" >\"$0.said\"\necho Submitted batch job 99\n",
        )
        .unwrap();
        let arguments = ["download.slurm".to_owned(), "0000".to_owned()];
        let environment = [("ACCOUNT".to_owned(), "PAS 1".to_owned())];
        let error = submit_by_script(&script, &arguments, &environment).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("chmod")), "{error}");

        let mut mode = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        assert_eq!(submit_by_script(&script, &arguments, &environment).unwrap(), 99);
        let said = std::fs::read_to_string(folder.path().join("submit me.sh.said")).unwrap();
        assert_eq!(said, "PAS 1 download.slurm 0000\n");

        std::fs::write(&script, "#!/bin/sh\necho no such account >&2\nexit 1\n").unwrap();
        let error = submit_by_script(&script, &[], &[]).unwrap_err().to_string();
        assert!(error.ends_with("submit me.sh` refused: no such account"), "{error}");
    }
}
