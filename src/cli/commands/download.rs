use super::super::args::{DownloadArgs, GlobalArgs};
use super::super::progress::DownloadProgress;
use super::super::{Exit, format, print_line};
use super::time::date_time;
use crate::cluster::{Cluster, ClusterOptions, Ending, launch};
use crate::dispatch::{RunEnding, RunReport};
use crate::model::FailureCause;
use crate::pipeline::{Dataset, DownloadEnding, PipelineError, download, failure_causes};
use crate::runtime::Shutdown;

pub(super) fn run(global: &GlobalArgs, args: &DownloadArgs) -> anyhow::Result<Exit> {
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    let cluster = launch(&ClusterOptions::default()).map_err(PipelineError::from)?;
    super::start_logging(global, &dataset, Some(format!("download-{:02}", cluster.endpoint.rank)));
    let (ending, leave) = shown(global, &dataset, cluster)?;
    let exit = match &ending {
        DownloadEnding::Coordinated(report) => {
            if args.json {
                print_line(serde_json::to_string_pretty(&json(report))?)?;
            } else if !global.quiet {
                talk!("{}", summary(report, &causes(&dataset, report)).trim_end());
            }
            match report.ending {
                RunEnding::Stopped => Exit::Resumable,
                // What is left comes with the results of units, or when their leases are over.
                RunEnding::Incomplete if report.set_aside.is_empty() => Exit::Resumable,
                RunEnding::Incomplete => Exit::Error,
                RunEnding::Done if report.counts.total() == 0 => Exit::Error,
                RunEnding::Done if args.strict && report.counts.failed > 0 => Exit::Failures,
                RunEnding::Done => Exit::Done,
            }
        }
        DownloadEnding::Worked => Exit::Done,
        DownloadEnding::Forced => Exit::Interrupted,
    };
    Ok(super::ranks::leave(leave, exit))
}

/// Downloads what is pending.
pub(super) fn shown(
    global: &GlobalArgs,
    dataset: &Dataset,
    cluster: Cluster,
) -> Result<(DownloadEnding, Ending), PipelineError> {
    let shutdown = Shutdown::new();
    download(dataset, cluster, &shutdown, |num_ranks| {
        let mut progress = DownloadProgress::new(global);
        super::ranks::observer(global, &shutdown, num_ranks, move |status| progress.show(status))
    })
}

/// Why records of the dataset have failed, most frequent first.
pub(super) fn causes(dataset: &Dataset, report: &RunReport) -> Vec<(String, u64)> {
    if report.counts.failed == 0 {
        return Vec::new();
    }
    // The download is done; that this cannot be told is no error of it.
    failure_causes(dataset)
        .inspect_err(|error| tracing::debug!(%error, "cannot read the causes"))
        .unwrap_or_default()
}

/// Causes in the summary; the others are a sum.
const SHOWN_CAUSES: usize = 5;

/// How failures are told, and what to ask next.
fn failures(causes: &[(String, u64)]) -> String {
    let (shown, others) = causes.split_at(causes.len().min(SHOWN_CAUSES));
    let mut list: Vec<_> =
        shown.iter().map(|(cause, records)| format!("{} {cause}", format::count(*records))).collect();
    if !others.is_empty() {
        list.push(format!("{} others", format::count(others.iter().map(|(_, records)| records).sum())));
    }
    if list.is_empty() {
        return String::new();
    }
    let forbidden = match causes[0].0 == FailureCause::ForbiddenAddress.as_str() {
        true => {
            "hint: `allow_private_networks: true`, or `allow_addresses` for some, admits private addresses\n"
        }
        false => "",
    };
    format!(
        "failed: {}\n{forbidden}by server: ddl query \"SELECT server_name, cause, http_status, count(*) FROM urls \
         WHERE disposition = 'failed' GROUP BY ALL\"\n\
         again: ddl retry, by `--cause`, `--code` or `--server`, then ddl download\n",
        list.join(", ")
    )
}

/// `causes` are those of the whole dataset.
pub(super) fn summary(report: &RunReport, causes: &[(String, u64)]) -> String {
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
    text += &failures(causes);
    for (partition, trouble) in &report.set_aside {
        text += &format!("error: {partition} was set aside: {trouble}\n");
    }
    if !report.set_aside.is_empty() {
        text += "hint: `ddl check` compares the catalog with the files\n";
    }
    if report.leased.partitions > 0 {
        text += &format!(
            "left alone: {} pending records of servers that are out in work units until {}\n\
             hint: `ddl unit import` commits their results; after that time `ddl download` takes what is left\n",
            format::count(report.leased.records),
            date_time(report.leased.until / 1000),
        );
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
        "leased_partitions": report.leased.partitions,
        "leased_records": report.leased.records,
        "counts": report.counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_causes_are_named() {
        assert_eq!(failures(&[]), "");
        let causes = |n: u64| (0..n).map(|at| (format!("cause_{at}"), 1000 - at)).collect::<Vec<_>>();
        assert!(failures(&causes(1)).starts_with("failed: 1,000 cause_0\nby server: ddl query \"SELECT "));
        let many = failures(&causes(7));
        assert!(many.starts_with("failed: 1,000 cause_0, 999 cause_1, "), "{many}");
        assert!(many.contains(", 996 cause_4, 1,989 others\n"), "{many}");
    }
}
