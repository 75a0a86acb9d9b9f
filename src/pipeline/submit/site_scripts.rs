//! Distributed-downloader's way: scripts of the site submit the jobs, and others are what the jobs do.
//!
//! | submit script | arguments | it waits for |
//! |---|---|---|
//! | `general_submitter` | script, jobs | those that it is given, with `afterok` |
//! | `schedule_creator_submitter` | script, jobs | those that it is given |
//! | `mpi_submitter` | script, schedule, iteration, job | that one, with `afterany` |
//! | `tools_submitter` | script, tool, job, `--spark` for a stage of one process | that one, with `afterany` |
//!
//! The job id is the last word of what a submit script prints. All scripts, and so the jobs, get the variables of
//! [`environment`].
//!
//! One chain of downloads does all big batches, so the schedule is always `0000`. `profiling_script` and
//! `schedule_creation_script` are run where they are set: ddl needs neither.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::plan::SubmitWhat;
use super::{Dataset, SubmitError, chain_lengths};
use crate::config::{KEYS, Resolved, Value};
use crate::pipeline::PipelineError;
use crate::slurm::{self, Dependency, DependencyKind, JobId, SlurmError};

/// The schedule that scripts are told.
const SCHEDULE: &str = "0000";

/// `scripts`: paths, relative to the working folder.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteScripts {
    general_submitter: Option<PathBuf>,
    mpi_submitter: Option<PathBuf>,
    schedule_creator_submitter: Option<PathBuf>,
    tools_submitter: Option<PathBuf>,
    initialization_script: Option<PathBuf>,
    profiling_script: Option<PathBuf>,
    schedule_creation_script: Option<PathBuf>,
    verify_script: Option<PathBuf>,
    download_script: Option<PathBuf>,
    tools_filter_script: Option<PathBuf>,
    tools_scheduling_script: Option<PathBuf>,
    tools_worker_script: Option<PathBuf>,
    tools_verification_script: Option<PathBuf>,
}

impl SiteScripts {
    pub(super) fn is_any_set(&self) -> bool {
        [
            &self.general_submitter,
            &self.mpi_submitter,
            &self.schedule_creator_submitter,
            &self.tools_submitter,
            &self.initialization_script,
            &self.profiling_script,
            &self.schedule_creation_script,
            &self.verify_script,
            &self.download_script,
            &self.tools_filter_script,
            &self.tools_scheduling_script,
            &self.tools_worker_script,
            &self.tools_verification_script,
        ]
        .into_iter()
        .any(Option::is_some)
    }
}

/// A call of a submit script.
#[derive(Clone, Debug)]
pub(super) struct SiteJob {
    submitter: PathBuf,
    /// Before the jobs that it waits for.
    arguments: Vec<String>,
    /// Whether it takes several jobs; else the last one.
    takes_all: bool,
    /// After them.
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

impl SiteJob {
    pub(super) fn submit(&self, after: &[Dependency]) -> Result<JobId, SlurmError> {
        slurm::submit_by_script(&self.submitter, &self.arguments(after), &self.environment)
    }

    /// As a user would type it.
    pub(super) fn shown(&self, after: &[Dependency<String>]) -> String {
        let mut text: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", slurm::quote(value)))
            .collect();
        let mut words = vec![self.submitter.display().to_string()];
        words.extend(self.arguments(after));
        text += &slurm::quote_all(&words);
        text.push('\n');
        text
    }

    fn arguments<T: ToString>(&self, after: &[Dependency<T>]) -> Vec<String> {
        let skipped = if self.takes_all { 0 } else { after.len().saturating_sub(1) };
        let jobs = after.iter().skip(skipped).map(|after| after.job.to_string());
        self.arguments.iter().cloned().chain(jobs).chain(self.flags.iter().cloned()).collect()
    }
}

type NamedJob = (String, &'static str, Vec<Dependency<usize>>, SiteJob);

/// The jobs of a chain, each after the one before.
pub(super) fn jobs(
    dataset: &Dataset,
    scripts: &SiteScripts,
    what: &SubmitWhat,
    overrides: &[(String, String)],
    working_folder: &Path,
) -> Result<Vec<NamedJob>, PipelineError> {
    let files = dataset.resolved.files();
    let [config] = files else { return Err(SubmitError::NotOneFile { num_files: files.len() }.into()) };
    let config = working_folder.join(config);
    let mut chain = SiteChain { dataset, overrides, working_folder, config, jobs: Vec::new() };
    let lengths = chain_lengths(dataset);
    let tools = match what {
        SubmitWhat::Download => &[],
        SubmitWhat::Tool(name) => std::slice::from_ref(name),
        SubmitWhat::All { tools } => &tools[..],
    };
    if matches!(what, SubmitWhat::All { .. }) {
        let general = needed("scripts.general_submitter", scripts.general_submitter.as_ref())?;
        let script = needed("scripts.initialization_script", scripts.initialization_script.as_ref())?;
        chain.push("ingest", "ingest", general, &[chain.path(script)], true);
        if let Some(script) = &scripts.profiling_script {
            chain.push("profiling", "ingest", general, &[chain.path(script)], true);
        }
        if let Some(script) = &scripts.schedule_creation_script {
            let creator =
                needed("scripts.schedule_creator_submitter", scripts.schedule_creator_submitter.as_ref())?;
            chain.push("schedule", "ingest", creator, &[chain.path(script)], true);
        }
    }
    if !matches!(what, SubmitWhat::Tool(_)) {
        let mpi = needed("scripts.mpi_submitter", scripts.mpi_submitter.as_ref())?;
        let download = needed("scripts.download_script", scripts.download_script.as_ref())?;
        let verify = needed("scripts.verify_script", scripts.verify_script.as_ref())?;
        for n in 0..lengths.downloads {
            let arguments = [chain.path(download), SCHEDULE.into(), format!("{n:04}")];
            chain.push(&format!("download-{n:04}"), "download", mpi, &arguments, false);
        }
        let arguments = [chain.path(verify), SCHEDULE.into(), format!("{:04}", lengths.downloads)];
        chain.push("check-0000", "check", mpi, &arguments, false);
    }
    for tool in tools {
        let submitter = needed("scripts.tools_submitter", scripts.tools_submitter.as_ref())?;
        let stages = [
            ("filter", "scripts.tools_filter_script", &scripts.tools_filter_script, 1),
            ("schedule", "scripts.tools_scheduling_script", &scripts.tools_scheduling_script, 1),
            ("run", "scripts.tools_worker_script", &scripts.tools_worker_script, lengths.tools),
            ("verify", "scripts.tools_verification_script", &scripts.tools_verification_script, 1),
        ];
        for (stage, key, script, num_jobs) in stages {
            let script = needed(key, script.as_ref())?;
            for n in 0..num_jobs {
                let name = format!("tool-{tool}-{stage}-{n:04}");
                let kind = if stage == "verify" { "check" } else { "tool" };
                chain.push(&name, kind, submitter, &[chain.path(script), tool.clone()], false);
                let job = &mut chain.jobs.last_mut().expect("just pushed").3;
                if stage != "run" {
                    job.flags.push("--spark".into());
                }
                let logs = working_folder.join(dataset.layout.tool(tool)).join("logs");
                job.environment.push(("OUTPUT_TOOLS_LOGS_FOLDER".into(), logs.display().to_string()));
            }
        }
    }
    Ok(chain.jobs)
}

fn needed<'a>(key: &'static str, script: Option<&'a PathBuf>) -> Result<&'a PathBuf, SubmitError> {
    script.ok_or(SubmitError::ScriptNotSet { key })
}

struct SiteChain<'a> {
    dataset: &'a Dataset,
    overrides: &'a [(String, String)],
    working_folder: &'a Path,
    config: PathBuf,
    jobs: Vec<NamedJob>,
}

impl SiteChain<'_> {
    fn path(&self, script: &Path) -> String {
        self.working_folder.join(script).display().to_string()
    }

    fn push(
        &mut self,
        name: &str,
        kind: &'static str,
        submitter: &Path,
        arguments: &[String],
        takes_all: bool,
    ) {
        // What the job waits for is the submit script's to say; this is only for `jobs.csv`.
        let how = if takes_all { DependencyKind::AfterOk } else { DependencyKind::AfterAny };
        let previous = self.jobs.len().checked_sub(1);
        let job = SiteJob {
            submitter: self.working_folder.join(submitter),
            arguments: arguments.to_vec(),
            takes_all,
            flags: Vec::new(),
            environment: environment(self.dataset, &self.config, self.overrides, self.working_folder),
        };
        let after = previous.map(|job| Dependency { kind: how, job }).into_iter().collect();
        self.jobs.push((name.to_owned(), kind, after, job));
    }
}

/// What distributed-downloader's scripts find in their environment, and `DDL`, the program.
fn environment(
    dataset: &Dataset,
    config: &Path,
    overrides: &[(String, String)],
    working_folder: &Path,
) -> Vec<(String, String)> {
    let resolved = &dataset.resolved;
    let text = |key: &str| resolved.get(key).map(plain_text).unwrap_or_default();
    let absolute = |path: &str| match path {
        "" => String::new(),
        path => working_folder.join(path).display().to_string(),
    };
    let root = absolute(&dataset.layout.root().display().to_string());
    let program = std::env::current_exe().unwrap_or_else(|_| "ddl".into());
    let package = program.parent().unwrap_or(Path::new("")).display().to_string();
    let mut variables = vec![
        ("DDL".to_owned(), program.display().to_string()),
        ("CONFIG_PATH".to_owned(), config.display().to_string()),
        ("DISTRIBUTED_DOWNLOADER_PATH".to_owned(), package),
        ("ACCOUNT".to_owned(), text("account")),
        ("PATH_TO_INPUT".to_owned(), inputs(resolved, &absolute)),
        ("PATH_TO_OUTPUT".to_owned(), root.clone()),
        // Distributed-downloader sets it by accident, and scripts use it.
        ("OUTPUT_PATH_TO_OUTPUT_FOLDER".to_owned(), root.clone()),
    ];
    for key in KEYS {
        let (prefix, value) = match key.group() {
            "output_structure" => ("OUTPUT", Path::new(&root).join(text(key.path)).display().to_string()),
            "downloader_parameters" => ("DOWNLOADER", text(key.path)),
            "tools_parameters" => ("TOOLS", text(key.path)),
            _ => continue,
        };
        variables.push((format!("{prefix}_{}", key.name().to_ascii_uppercase()), value));
    }
    // What the command line sets: by the variables that ddl itself reads.
    for (path, value) in overrides {
        if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            variables.push((key.variable(), value.clone()));
        }
    }
    variables
}

fn inputs(resolved: &Resolved, absolute: &dyn Fn(&str) -> String) -> String {
    match resolved.get("path_to_input") {
        Some(Value::List(paths)) => paths.iter().map(|path| absolute(path)).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

/// A value without YAML's quotes.
fn plain_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::List(texts) => texts.join(" "),
        value => value.to_yaml(),
    }
}
