use super::super::args::{DownloadArgs, GlobalArgs};
use super::super::progress::DownloadProgress;
use super::super::{Exit, format, print_line};
use crate::cluster::{ClusterOptions, Ending, launch};
use crate::dispatch::{PublishedStatus, RunEnding, RunReport};
use crate::pipeline::{DownloadEnding, PipelineError, download};
use crate::runtime::Shutdown;

pub(super) fn run(global: &GlobalArgs, args: &DownloadArgs) -> anyhow::Result<Exit> {
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    let cluster = launch(&ClusterOptions::default()).map_err(PipelineError::from)?;
    super::start_logging(global, &dataset, Some(format!("download-{:02}", cluster.endpoint.rank)));
    let shutdown = Shutdown::new();
    let (ending, leave) = download(&dataset, cluster, &shutdown, |num_ranks| {
        if num_ranks > 1 && !global.quiet {
            talk!("{num_ranks} ranks");
        }
        let mut progress = DownloadProgress::new(global);
        move |status: &PublishedStatus| progress.show(status)
    })?;
    let exit = match &ending {
        DownloadEnding::Coordinated(report) => {
            if args.json {
                print_line(serde_json::to_string_pretty(&json(report))?)?;
            } else if !global.quiet {
                talk!("{}", summary(report).trim_end());
            }
            match report.ending {
                RunEnding::Stopped => Exit::Resumable,
                RunEnding::Incomplete => Exit::Error,
                RunEnding::Done if report.counts.total() == 0 => Exit::Error,
                RunEnding::Done if args.strict && report.counts.failed > 0 => Exit::Failures,
                RunEnding::Done => Exit::Done,
            }
        }
        DownloadEnding::Worked => Exit::Done,
        DownloadEnding::Forced => Exit::Interrupted,
    };
    if leave == Ending::Abandoned {
        // MPI's own exit routines would wait for ranks that are gone.
        leave_at_once(exit);
    }
    Ok(exit)
}

pub(super) fn summary(report: &RunReport) -> String {
    if report.counts.total() == 0 {
        return "error: nothing was ingested, so there is nothing to download\n\
                hint: `ddl ingest LIST` comes first\n"
            .into();
    }
    let seconds = report.elapsed.as_secs_f64().max(0.001);
    let mut text = format!(
        "{}: {} images ({}), {} failed, {} skipped in {} ({:.0} images/s)\n",
        match report.ending {
            RunEnding::Done => "done",
            RunEnding::Incomplete => "ended, but not complete",
            RunEnding::Stopped => "stopped early",
        },
        format::count(report.success),
        format::bytes(report.image_bytes),
        format::count(report.failed),
        format::count(report.skipped),
        format::duration(report.elapsed),
        report.success as f64 / seconds,
    );
    let counts = &report.counts;
    text += &format!(
        "the dataset: {} of {} records are images, {} failed, {} skipped, {} pending\n",
        format::count(counts.success),
        format::count(counts.total()),
        format::count(counts.failed),
        format::count(counts.skipped),
        format::count(counts.pending),
    );
    for (partition, trouble) in &report.set_aside {
        text += &format!("error: {partition} was set aside: {trouble}\n");
    }
    if !report.set_aside.is_empty() {
        text += "hint: `ddl check` compares the catalog with the files\n";
    }
    if report.lost_ranks > 0 {
        text += &format!("warning: {} ranks were lost; others took over their work\n", report.lost_ranks);
    }
    if report.ending == RunEnding::Stopped {
        text += "run the same command again to go on\n";
    }
    text
}

fn json(report: &RunReport) -> serde_json::Value {
    serde_json::json!({
        "run_id": report.run_id,
        "ending": report.ending.as_str(),
        "success": report.success,
        "failed": report.failed,
        "skipped": report.skipped,
        "image_bytes": report.image_bytes,
        "seconds": report.elapsed.as_secs_f64(),
        "lost_ranks": report.lost_ranks,
        "set_aside": report.set_aside,
        "counts": report.counts,
    })
}

/// `_exit`: without the exit routines of any library.
fn leave_at_once(exit: Exit) -> ! {
    // SAFETY: `_exit` has no preconditions; nothing in this process is left to be flushed.
    unsafe { libc::_exit(exit as i32) }
}
