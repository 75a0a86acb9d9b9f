use std::time::Duration;

use super::super::args::{GlobalArgs, PlanArgs};
use super::super::progress::EstimateDisplay;
use super::super::{Exit, format, print_line};
use crate::pipeline::{Estimate, EstimateOptions, PlanReport, ServerPlan, plan};

/// Servers shown without `--all`.
const NUM_SERVERS: usize = 20;
/// Causes shown.
const NUM_CAUSES: usize = 5;

pub(super) fn run(global: &GlobalArgs, args: &PlanArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let sample = args.sample.unwrap_or(EstimateOptions::default().sample);
    let options = args.estimate.then_some(EstimateOptions { sample });
    let mut display = EstimateDisplay::new(global);
    let report = plan(&dataset, options.as_ref(), &mut |asked, of| display.show(asked, of));
    display.clear();
    let report = report?;
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(text(&report, if args.all { usize::MAX } else { NUM_SERVERS }).trim_end())?;
    }
    Ok(Exit::Done)
}

fn text(report: &PlanReport, num_servers: usize) -> String {
    let counts = &report.counts;
    let mut text = format!(
        "{} of {} records are pending, on {} servers, in {} partitions\n",
        format::count(counts.pending),
        format::count(counts.total()),
        format::count(report.num_servers),
        format::count(report.num_partitions),
    );
    if report.ignored > 0 {
        text +=
            &format!("{} of them would be skipped: `ignored_servers.csv`\n", format::count(report.ignored));
    }
    if report.servers.is_empty() {
        return text;
    }
    text += &format!("\n{}\n", table(report, num_servers));
    let hidden = report.servers.len().saturating_sub(num_servers);
    if hidden > 0 {
        text += &format!("and {} servers more (`--all`)\n", format::count(hidden as u64));
    }
    text.push('\n');
    text += &match (report.least_seconds, &report.slowest_server) {
        (Some(seconds), Some(server)) => {
            format!("at the limits that are set it takes {} at least, for {server}\n", duration(seconds))
        }
        _ => "no limit of rate is set that bounds the time; `--estimate` measures answers\n".to_owned(),
    };
    if let Some(rate) = report.requests_per_second {
        text += &format!("all servers together take up to {rate:.1} requests per second at first\n");
    }
    let ranks = &report.ranks;
    text += &match ranks.helpful {
        1 => "one rank is enough".to_owned(),
        helpful => format!("up to {} ranks help", format::count(helpful)),
    };
    text += &format!(
        " (servers have work for {} at once; {} hold all requests under way, {} have the cores)\n",
        format::count(ranks.at_work),
        format::count(ranks.for_requests),
        format::count(ranks.for_cores),
    );
    text += &format!("{} files and folders will be added\n", format::count(report.new_files));
    text + &report.estimate.as_ref().map_or_else(String::new, estimate_text)
}

fn estimate_text(estimate: &Estimate) -> String {
    let bytes = |bytes: f64| format::bytes(bytes as u64);
    let mut text = format!(
        "\nsizes of {} images of {} that were asked for",
        format::count(estimate.sized),
        format::count(estimate.asked)
    );
    if let Some(mean) = estimate.bytes_per_image {
        text += &format!(", {} each", bytes(mean));
    }
    text += &format!(
        "\nall pending images: {} ({} to {}, 95 %), {} images, {} on disk",
        bytes(estimate.bytes.mean),
        bytes(estimate.bytes.low),
        bytes(estimate.bytes.high),
        format::count(estimate.images),
        bytes(estimate.disk_bytes),
    );
    if estimate.unresolved > 0 {
        text += &format!(
            "\nnot in that: about {} records of unknown size ({} of those asked for); {} if they are like the others",
            format::count(estimate.unresolved_records),
            format::count(estimate.unresolved),
            bytes(estimate.unresolved_bytes),
        );
    }
    if estimate.absent > 0 {
        text += &format!("\n{} of those asked for will bring no image", format::count(estimate.absent));
    }
    if !estimate.causes.is_empty() {
        let causes = estimate.causes.iter().take(NUM_CAUSES);
        let causes: Vec<_> =
            causes.map(|(cause, count)| format!("{} {cause}", format::count(*count))).collect();
        text += &format!("\ncauses: {}", causes.join(", "));
    }
    text + "\n"
}

fn table(report: &PlanReport, num_servers: usize) -> String {
    let mut head = vec!["server", "pending", "partitions", "per second", "at once", "ranks", "at least"];
    if report.estimate.is_some() {
        head.extend(["bytes", "unknown"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let none = || "-".to_owned();
    for server in report.servers.iter().take(num_servers) {
        let mut row = vec![
            server.server_name.clone(),
            format::count(server.pending),
            server.partitions.map_or_else(|| "shared".to_owned(), format::count),
            server.rate_limit.map_or_else(none, |rate| format!("{}", (rate * 1000.0).round() / 1000.0)),
            format::count(server.max_connections.into()),
            format::count(server.max_ranks.into()),
            server.least_seconds.map_or_else(none, duration),
        ];
        if report.estimate.is_some() {
            row.extend(estimate_cells(server));
        }
        rows.push(row);
    }
    format::table(&rows)
}

fn estimate_cells(server: &ServerPlan) -> [String; 2] {
    let Some(estimate) = &server.estimate else { return ["-".into(), "-".into()] };
    let bytes = estimate.bytes.map_or_else(|| "-".to_owned(), |bytes| format::bytes(bytes.mean as u64));
    [bytes, format::percent(estimate.unresolved, estimate.asked)]
}

fn duration(seconds: f64) -> String {
    format::duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e12)))
}
