//! `ddl submit`: writes the jobs of a chain, and hands them to Slurm.
//!
//! Jobs of one chain follow each other (`plan.rs`), and a chain follows those of earlier ones that have not ended: no two
//! jobs of a dataset ever write its catalog at once. Scripts, what was submitted, and what the jobs print are in
//! `logs/jobs/NNNN/`.
//!
//! With `use_scripts`, the `scripts` of the configuration submit and run the jobs, as in distributed-downloader
//! (`site_scripts.rs`).

mod error;
mod plan;
mod schedule;
mod site_scripts;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use error::SubmitError;
pub use plan::SubmitWhat;
pub use schedule::{
    BatchStatus, JobStatus, ScheduleStatus, ScheduleVerdict, schedule_status, verify_schedule,
};

use self::plan::{ChainLengths, JobKind, PlannedJob, plan};
use self::site_scripts::{SiteJob, SiteScripts};
use super::{Dataset, PipelineError, find_tool};
use crate::cluster::mpi_library;
use crate::config::contact_of;
use crate::slurm::{
    self, Dependency, DependencyKind, JobId, JobScript, JobSize, Launcher, MpiFamily, Site, SlurmError,
    SlurmOptions, quote, sbatch_arguments,
};
use crate::storage::{JobFolder, SubmittedJob};
use crate::tools::Registry;

/// How far a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitMode {
    Submit,
    /// Only shows the scripts. Nothing is written.
    DryRun,
    /// Only asks `sbatch` when each job would start.
    TestOnly,
}

/// What is asked of `ddl submit`.
#[derive(Clone, Debug)]
pub struct SubmitRequest {
    pub what: SubmitWhat,
    pub mode: SubmitMode,
    /// The words of `ddl` with the flags by which a job finds the same configuration.
    pub program: Vec<String>,
    /// Keys that the command line sets, with their values, for scripts that take no flags.
    pub overrides: Vec<(String, String)>,
}

/// What was submitted, or would be.
#[derive(Debug)]
pub struct Submission {
    /// Scripts and output of the jobs.
    pub folder: PathBuf,
    /// Which command starts the ranks, and why.
    pub launcher: String,
    pub jobs: Vec<SubmittedJob>,
    /// Jobs of earlier chains that the first one waits for.
    pub waits_for: Vec<JobId>,
    /// The configuration has scripts of a site, which were not used.
    pub ignores_scripts: bool,
    /// With [`SubmitMode::DryRun`] the scripts, or the commands of a site's scripts; with [`SubmitMode::TestOnly`] what
    /// `sbatch` says. One per job.
    pub shown: Vec<(String, String)>,
}

/// A job that is ready to be submitted.
struct ReadyJob {
    name: String,
    kind: &'static str,
    after: Vec<Dependency<usize>>,
    how: How,
}

enum How {
    /// By `sbatch`: the script.
    Own(String),
    /// By a script of the site.
    Site(SiteJob),
}

/// Plans, writes and submits jobs. Either all of a chain are submitted or none.
///
/// # Errors
/// What is missing in the configuration, or Slurm's refusal.
pub fn submit(
    dataset: &Dataset,
    tools: &Registry,
    request: &SubmitRequest,
) -> Result<Submission, PipelineError> {
    check_request(dataset, tools, &request.what)?;
    let options: SlurmOptions = dataset.resolved.section(&["slurm_parameters", ""], &[])?;
    options.validate()?;
    let scripts: SiteScripts = dataset.resolved.section(&["scripts"], &[])?;
    if options.use_scripts && request.mode == SubmitMode::TestOnly {
        return Err(SubmitError::TestOnlyOfScripts.into());
    }
    let working_folder = std::env::current_dir().map_err(|source| SlurmError::WorkingFolder { source })?;
    let chain = JobFolder::next(&dataset.layout)?;
    let folder = working_folder.join(&chain.folder);
    let (ready, launcher) = if options.use_scripts {
        let jobs = site_scripts::jobs(dataset, &scripts, &request.what, &request.overrides, &working_folder)?;
        let ready = |(name, kind, after, job)| ReadyJob { name, kind, after, how: How::Site(job) };
        (jobs.into_iter().map(ready).collect(), "that of the site's job scripts".to_owned())
    } else {
        let (working_folder, folder) = (&*working_folder, &*folder);
        let writer = Writer { dataset, options: &options, request, chain: &chain, folder, working_folder };
        writer.jobs(plan(&request.what, chain_lengths(dataset)))?
    };
    let mut submission = Submission {
        folder,
        launcher,
        jobs: Vec::new(),
        waits_for: Vec::new(),
        ignores_scripts: scripts.is_any_set() && !options.use_scripts,
        shown: Vec::new(),
    };
    match request.mode {
        SubmitMode::DryRun => submission.shown = ready.iter().map(|job| shown(job, &ready)).collect(),
        SubmitMode::TestOnly => {
            for job in &ready {
                let How::Own(script) = &job.how else { continue };
                submission.shown.push((job.name.clone(), slurm::test_only(script)?));
            }
        }
        SubmitMode::Submit => {
            submission.waits_for = match unfinished_jobs(dataset) {
                // A site's scripts may lead to something else than Slurm.
                Err(PipelineError::Slurm(error)) if options.use_scripts => {
                    tracing::warn!(%error, "cannot see whether jobs of an earlier chain are there");
                    Vec::new()
                }
                unfinished => unfinished?,
            };
            chain.create()?;
            submit_all(&chain, &ready, &mut submission)?;
        }
    }
    Ok(submission)
}

/// What would fail in the first minute of a job is better told now.
fn check_request(dataset: &Dataset, tools: &Registry, what: &SubmitWhat) -> Result<(), PipelineError> {
    let named = match what {
        SubmitWhat::Download => &[],
        SubmitWhat::Tool(name) => std::slice::from_ref(name),
        SubmitWhat::All { tools } => &tools[..],
    };
    for name in named {
        find_tool(dataset, tools, name)?;
    }
    if !matches!(what, SubmitWhat::Tool(_)) {
        contact_of(&dataset.settings)?;
    }
    if matches!(what, SubmitWhat::All { .. }) {
        dataset.settings.inputs()?;
    }
    Ok(())
}

fn chain_lengths(dataset: &Dataset) -> ChainLengths {
    let settings = &dataset.settings;
    ChainLengths {
        downloads: settings.downloader_parameters.num_downloads,
        tools: settings.tools_parameters.num_workers,
    }
}

/// Jobs of this dataset's chains that wait or run.
fn unfinished_jobs(dataset: &Dataset) -> Result<Vec<JobId>, PipelineError> {
    let mut known = Vec::new();
    for chain in JobFolder::all(&dataset.layout)? {
        known.extend(chain.jobs()?.into_iter().map(|job| job.job_id));
    }
    if known.is_empty() {
        return Ok(known);
    }
    let queued: HashSet<JobId> = slurm::queued_jobs()?;
    known.retain(|job| queued.contains(job));
    Ok(known)
}

fn submit_all(
    chain: &JobFolder,
    ready: &[ReadyJob],
    submission: &mut Submission,
) -> Result<(), PipelineError> {
    for (at, job) in ready.iter().enumerate() {
        let mut after: Vec<Dependency> = Vec::new();
        if at == 0 {
            let earlier = submission.waits_for.iter();
            after.extend(earlier.map(|&job| Dependency { kind: DependencyKind::AfterAny, job }));
        }
        let ids = &submission.jobs;
        after.extend(
            job.after.iter().map(|after| Dependency { kind: after.kind, job: ids[after.job].job_id }),
        );
        let submitted = match &job.how {
            How::Own(script) => {
                write_script(chain, &job.name, script).and_then(|path| Ok(slurm::sbatch(&path, &after)?))
            }
            How::Site(site) => site.submit(&after).map_err(PipelineError::from),
        };
        let stored = submitted.and_then(|job_id| {
            submission.jobs.push(SubmittedJob {
                job_id,
                name: job.name.clone(),
                kind: job.kind.to_owned(),
                dependency: after.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            });
            Ok(chain.write_jobs(&submission.jobs)?)
        });
        if let Err(error) = stored {
            slurm::cancel(&submission.jobs.iter().map(|job| job.job_id).collect::<Vec<_>>());
            let _ = fs::remove_dir_all(&chain.folder);
            return Err(error);
        }
    }
    Ok(())
}

fn write_script(chain: &JobFolder, name: &str, script: &str) -> Result<PathBuf, PipelineError> {
    let path = chain.folder.join(format!("{name}.sh"));
    fs::write(&path, script).map_err(|source| SlurmError::Write { path: path.clone(), source })?;
    Ok(path)
}

/// A job for people, with the names of others for their numbers.
fn shown(job: &ReadyJob, all: &[ReadyJob]) -> (String, String) {
    let after: Vec<_> = job
        .after
        .iter()
        .map(|after| Dependency { kind: after.kind, job: all[after.job].name.clone() })
        .collect();
    let text = match &job.how {
        How::Own(script) => {
            let mut command = vec!["sbatch".to_owned()];
            command.extend(sbatch_arguments(&after));
            command.push(format!("{}.sh", job.name));
            format!("# {}\n{script}", command.join(" "))
        }
        How::Site(site) => site.shown(&after),
    };
    (job.name.clone(), text)
}

/// Writes ddl's own job scripts.
struct Writer<'a> {
    dataset: &'a Dataset,
    options: &'a SlurmOptions,
    request: &'a SubmitRequest,
    chain: &'a JobFolder,
    folder: &'a Path,
    working_folder: &'a Path,
}

impl Writer<'_> {
    fn jobs(&self, planned: Vec<PlannedJob>) -> Result<(Vec<ReadyJob>, String), PipelineError> {
        let sizes = planned.iter().map(|job| self.size(&job.kind).num_tasks());
        let launcher = self.launcher(sizes.max().unwrap_or(1))?;
        let alone = Launcher::none();
        let ready = planned.into_iter().map(|job| {
            let size = self.size(&job.kind);
            let script = JobScript {
                name: &job.name,
                size,
                time: self.time(&job.kind),
                working_folder: self.working_folder,
                output: &self.folder.join(format!("{}.out", job.name)),
                options: self.options,
                program: &self.request.program,
                launcher: if size.num_tasks() > 1 { &launcher } else { &alone },
                work: &self.work(&job),
            };
            let how = How::Own(script.render());
            ReadyJob { kind: job.kind.as_str(), name: job.name, after: job.after, how }
        });
        let ready = ready.collect();
        let told = match &launcher.words[..] {
            [] => format!("none ({})", launcher.reason),
            words => format!("{} ({})", words.join(" "), launcher.reason),
        };
        Ok((ready, told))
    }

    fn launcher(&self, num_tasks: u64) -> Result<Launcher, SlurmError> {
        let library = mpi_library().map(|version| MpiFamily::of(&version));
        Launcher::choose(self.options.launcher.as_deref(), library, num_tasks, Site::look)
    }

    fn size(&self, kind: &JobKind) -> JobSize {
        let settings = &self.dataset.settings;
        let (nodes, tasks_per_node, cpus_per_task) = match kind {
            JobKind::Ingest | JobKind::Check { .. } => (1, 1, self.options.serial_cpus),
            JobKind::Download => {
                let jobs = &settings.downloader_parameters;
                (jobs.max_nodes, jobs.workers_per_node, jobs.cpu_per_worker)
            }
            JobKind::Tool(_) => {
                let jobs = &settings.tools_parameters;
                (jobs.max_nodes, jobs.workers_per_node, jobs.cpu_per_worker)
            }
        };
        JobSize { nodes, tasks_per_node, cpus_per_task }
    }

    fn time(&self, kind: &JobKind) -> std::time::Duration {
        match kind {
            JobKind::Ingest | JobKind::Check { .. } => self.options.serial_time,
            JobKind::Download | JobKind::Tool(_) => self.options.time,
        }
    }

    /// The last lines of a script.
    fn work(&self, job: &PlannedJob) -> String {
        let verify = format!("left=$(\"${{ddl[@]}}\" submit verify {}) || exit\n", self.chain.number);
        match &job.kind {
            JobKind::Ingest => "run \"${ddl[@]}\" ingest\nexit\n".to_owned(),
            JobKind::Download => format!(
                "{verify}\
                 if [ \"$left\" -eq 0 ]; then\n    echo 'nothing is left to download'\n    exit 0\nfi\n\
                 run \"${{launch[@]}}\" \"${{ddl[@]}}\" download\n\
                 code=$?\n\
                 {verify}\
                 # Some launchers hide how ddl has ended; the catalog does not.\n\
                 [ \"$code\" -ne 0 ] || [ \"$left\" -eq 0 ] || code=75\n\
                 exit \"$code\"\n"
            ),
            JobKind::Tool(name) => {
                format!("run \"${{launch[@]}}\" \"${{ddl[@]}}\" tool {}\nexit\n", quote(name))
            }
            JobKind::Check { after_download } => {
                let report = self.folder.join(format!("{}.txt", job.name));
                let report = report.display().to_string();
                let report = quote(&report);
                let mut text = format!(
                    "run \"${{ddl[@]}}\" check >{report}\n\
                     code=$?\n\
                     cat {report}\n"
                );
                if *after_download {
                    text += &verify;
                    text += "if [ \"$code\" -eq 0 ] && [ \"$left\" -gt 0 ]; then\n    \
                             echo \"$left partitions are left: the next ddl submit goes on with them\"\n    \
                             exit 75\nfi\n";
                }
                text + "exit \"$code\"\n"
            }
        }
    }
}
