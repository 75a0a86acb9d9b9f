use super::super::args::{GlobalArgs, StatusArgs};
use super::super::{Exit, format, print_line};
use crate::catalog::DispositionCounts;
use crate::pipeline::{DatasetStatus, StatusSource, dataset_status};

/// Servers shown without `--all`.
const NUM_SERVERS: usize = 20;

pub(super) fn run(global: &GlobalArgs, args: &StatusArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let status = dataset_status(&dataset)?;
    if args.json {
        print_line(serde_json::to_string_pretty(&status)?)?;
    } else {
        print_line(text(&status, if args.all { usize::MAX } else { NUM_SERVERS }))?;
    }
    Ok(Exit::Done)
}

pub(super) fn text(status: &DatasetStatus, num_servers: usize) -> String {
    let counts = &status.counts;
    let mut text = format!(
        "{} records: {} images ({}), {} failed, {} skipped, {} pending ({} done)\n",
        format::count(counts.total()),
        format::count(counts.success),
        format::bytes(status.image_bytes),
        format::count(counts.failed),
        format::count(counts.skipped),
        format::count(counts.pending),
        format::percent(counts.total() - counts.pending, counts.total()),
    );
    if status.source == StatusSource::Published {
        text += "(from status/status.json: the catalog cannot be opened beside its writer)\n";
    } else {
        text += &format!(
            "{} of {} partitions finished on {} servers\n",
            format::count(status.finished_partitions),
            format::count(status.num_partitions),
            format::count(status.num_servers)
        );
    }
    match (&status.in_use_by, &status.run) {
        (Some(holder), Some(run)) if run.state == "running" => {
            text += &format!(
                "run {} is at work ({holder}): {} requests under way\n",
                run.run_id, run.progress.in_flight
            );
        }
        (Some(holder), _) => text += &format!("in use by {holder}\n"),
        (None, Some(run)) if run.state == "running" => {
            text += &format!("run {} did not end by itself; `ddl download` goes on from there\n", run.run_id);
        }
        _ => {}
    }
    if status.servers.is_empty() {
        return text.trim_end().to_owned();
    }
    let header = ["server", "records", "images", "failed", "skipped", "pending", "bytes"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for server in status.servers.iter().take(num_servers) {
        let DispositionCounts { pending, success, failed, skipped } = server.counts;
        rows.push(vec![
            server.server_name.clone(),
            format::count(server.counts.total()),
            format::count(success),
            format::count(failed),
            format::count(skipped),
            format::count(pending),
            format::bytes(server.image_bytes),
        ]);
    }
    text += "\n";
    text += &format::table(&rows);
    if status.servers.len() > num_servers {
        text +=
            &format!("\n... and {} more (--all)", format::count((status.servers.len() - num_servers) as u64));
    }
    text
}
