use std::time::Duration;

use super::super::args::{GlobalArgs, IngestArgs};
use super::super::progress::IngestDisplay;
use super::super::{Exit, format, print_line};
use crate::ingest::IngestReport;
use crate::pipeline::ingest;

pub(super) fn run(global: &GlobalArgs, args: &IngestArgs) -> anyhow::Result<Exit> {
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    super::start_logging(global, &dataset, Some("ingest".into()));
    let mut display = IngestDisplay::new(global);
    let report = ingest(&dataset, &mut |progress| display.show(progress));
    display.clear();
    let report = report?;
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else if !global.quiet {
        talk!("{}", summary(&report).trim_end());
    }
    Ok(Exit::Done)
}

pub(super) fn summary(report: &IngestReport) -> String {
    let mut text = format!(
        "{} rows on {} servers: {} new, {} known, {} gone, {} duplicates, in {}\n",
        format::count(report.rows_read),
        format::count(report.servers),
        format::count(report.records_new),
        format::count(report.records_known),
        format::count(report.records_gone),
        format::count(report.duplicates),
        format::duration(Duration::from_secs_f64(report.seconds)),
    );
    let list = |title: &str, counts: &std::collections::BTreeMap<String, u64>| -> String {
        if counts.is_empty() {
            return String::new();
        }
        let counts: Vec<_> =
            counts.iter().map(|(reason, &n)| format!("{} {reason}", format::count(n))).collect();
        format!("{title}: {}\n", counts.join(", "))
    };
    text += &list("skipped records", &report.skipped);
    text += &list("left out by the kind of list", &report.filtered);
    if let Some(path) = &report.duplicates_file {
        text += &format!("duplicates are listed in {}\n", path.display());
    }
    if report.malformed > 0 {
        text += &format!("{} malformed lines were left out:\n", format::count(report.malformed));
        for line in &report.malformed_examples {
            text += &format!("  {}:{}: {}\n", line.path.display(), line.line, line.reason);
        }
        if report.malformed > report.malformed_examples.len() as u64 {
            text += "  ...\n";
        }
    }
    text
}
