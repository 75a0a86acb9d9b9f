use std::path::{Path, absolute};

use super::super::args::{GlobalArgs, SubmitCommand};
use super::super::{Exit, format, print_line};
use crate::config::Resolved;
use crate::pipeline::{
    Dataset, PipelineError, ScheduleStatus, ScheduleVerdict, Submission, SubmitError, SubmitMode,
    SubmitRequest, SubmitWhat, schedule_status, submit, verify_schedule,
};
use crate::tools::Registry;

pub(super) fn run(global: &GlobalArgs, command: &SubmitCommand, tools: &Registry) -> anyhow::Result<Exit> {
    let mut overrides = global.overrides();
    command.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    super::start_logging(global, &dataset, None);
    let what = match command {
        SubmitCommand::Verify { chain } => return verify(&dataset, *chain),
        SubmitCommand::Download { .. } => SubmitWhat::Download,
        SubmitCommand::Tool { name, .. } => SubmitWhat::Tool(name.clone()),
        SubmitCommand::All { .. } => SubmitWhat::All {
            tools: dataset.resolved.read("slurm_parameters.tools").map_err(PipelineError::from)?,
        },
    };
    let flags = command.flags();
    let mode = match flags {
        Some(flags) if flags.dry_run => SubmitMode::DryRun,
        Some(flags) if flags.test_only => SubmitMode::TestOnly,
        _ => SubmitMode::Submit,
    };
    let request = SubmitRequest {
        what,
        mode,
        program: program(global, &dataset.resolved)?,
        overrides: overrides_of(global),
    };
    let submission = submit(&dataset, tools, &request)?;
    if !global.quiet {
        talk!("{}", told(&submission, mode).trim_end());
    }
    if flags.is_some_and(|flags| flags.json) {
        print_line(serde_json::to_string_pretty(&submission.jobs)?)?;
        return Ok(Exit::Done);
    }
    for job in &submission.jobs {
        print_line(format!("{} {} {}", job.job_id, job.name, job.dependency).trim_end())?;
    }
    for (name, text) in &submission.shown {
        match mode {
            SubmitMode::DryRun => print_line(format!("### {name}\n{text}"))?,
            _ => print_line(format!("{name}: {text}"))?,
        }
    }
    Ok(Exit::Done)
}

fn told(submission: &Submission, mode: SubmitMode) -> String {
    let mut text = format!("launcher: {}\n", submission.launcher);
    if submission.ignores_scripts {
        text += "the `scripts` of the configuration are not used; `--scripts` would\n";
    }
    if !submission.waits_for.is_empty() {
        let jobs = submission.waits_for.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        text += &format!("the first job waits for {jobs}, of earlier chains\n");
    }
    if mode == SubmitMode::Submit {
        text += &format!(
            "scripts, and what the jobs print: {}\n`ddl status --schedule` shows how far they are\n",
            submission.folder.display()
        );
    }
    text
}

/// This program with the flags by which a job finds what this command has found. A job runs in the same folder.
fn program(global: &GlobalArgs, resolved: &Resolved) -> anyhow::Result<Vec<String>> {
    let path = |path: &Path| Ok::<_, std::io::Error>(absolute(path)?.display().to_string());
    let mut words = vec![path(&std::env::current_exe()?)?];
    for file in resolved.files() {
        words.extend(["-c".to_owned(), path(file)?]);
    }
    for assignment in &global.set {
        words.extend(["--set".to_owned(), assignment.clone()]);
    }
    if let Some(dataset) = &global.dataset {
        words.extend(["--dataset".to_owned(), path(dataset)?]);
    }
    words.extend((0..global.verbose).map(|_| "-v".to_owned()));
    Ok(words)
}

/// What the command line sets, for scripts that take no flags.
fn overrides_of(global: &GlobalArgs) -> Vec<(String, String)> {
    let set = global.set.iter().filter_map(|assignment| assignment.split_once('='));
    let dataset =
        global.dataset.iter().map(|path| ("path_to_output_folder", path.to_str().unwrap_or_default()));
    set.chain(dataset).map(|(key, value)| (key.trim().to_owned(), value.to_owned())).collect()
}

fn verify(dataset: &Dataset, chain: Option<u32>) -> anyhow::Result<Exit> {
    let ScheduleVerdict { partitions_left, pending, unchanged_since } = verify_schedule(dataset, chain)?;
    if let Some(job_id) = unchanged_since {
        let error = SubmitError::Unchanged { job_id, partitions: partitions_left, pending };
        if !dataset.resolved.read::<bool>("suppress_unchanged_error").map_err(PipelineError::from)? {
            return Err(PipelineError::from(error).into());
        }
        talk!("warning: {error}");
    }
    print_line(partitions_left)?;
    Ok(Exit::Done)
}

/// `ddl status --schedule`.
pub(super) fn show_schedule(dataset: &Dataset, json: bool) -> anyhow::Result<Exit> {
    let status = schedule_status(dataset)?;
    if json {
        print_line(serde_json::to_string_pretty(&status)?)?;
    } else {
        print_line(schedule_text(&status).trim_end())?;
    }
    Ok(Exit::Done)
}

fn schedule_text(status: &ScheduleStatus) -> String {
    let Some(chain) = status.chain else { return "nothing was submitted yet: `ddl submit` does\n".into() };
    let mut rows = vec![["job", "name", "waits for", "state"].map(str::to_owned)];
    for job in &status.jobs {
        let dependency = if job.job.dependency.is_empty() { "-" } else { &job.job.dependency };
        let state = job.state.as_deref().unwrap_or("ended");
        rows.push([
            job.job.job_id.to_string(),
            job.job.name.clone(),
            dependency.to_owned(),
            state.to_owned(),
        ]);
    }
    let mut text = format!("chain {chain:04}\n{}\n", format::left_aligned(&rows));
    if status.batches.is_empty() {
        return text + "\nno big batches yet: the first job makes them\n";
    }
    let header =
        ["batch", "servers", "partitions", "finished", "records", "images", "failed", "pending", "state"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for batch in &status.batches {
        let state = match (batch.is_done, batch.is_unchanged) {
            (true, _) => "done",
            (_, true) => "unchanged",
            _ if batch.finished == batch.partitions => "finished",
            _ => "open",
        };
        rows.push(vec![
            format!("{:04}", batch.number),
            format::count(batch.servers),
            format::count(batch.partitions),
            format::count(batch.finished),
            format::count(batch.counts.total()),
            format::count(batch.counts.success),
            format::count(batch.counts.failed),
            format::count(batch.counts.pending),
            state.to_owned(),
        ]);
    }
    text += &format!("\n{}\n", format::table(&rows));
    text
}
