use std::time::Duration;

use super::super::args::{GlobalArgs, IngestArgs};
use super::super::progress::IngestDisplay;
use super::super::{Exit, format, print_line};
use crate::cluster::launched_rank;
use crate::ingest::{IngestError, IngestReport};
use crate::pipeline::{PipelineError, ingest};
use crate::runtime::Shutdown;

pub(super) fn run(global: &GlobalArgs, args: &IngestArgs) -> anyhow::Result<Exit> {
    if launched_rank().is_some_and(|rank| rank > 0) {
        // Under `mpirun`: the first does it. An error here would end that one, too.
        return Ok(Exit::Done);
    }
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    super::start_logging(global, &dataset, Some("ingest".into()));
    let mut display = IngestDisplay::new(global);
    let shutdown = Shutdown::new();
    leave_when_forced(shutdown.clone())?;
    let report = ingest(&dataset, &shutdown, &mut |progress| display.show(progress));
    display.clear();
    let report = match report {
        Err(PipelineError::Ingest(IngestError::Stopped)) => {
            talk!("stopped early; run the same command again to go on");
            return Ok(Exit::Resumable);
        }
        report => report?,
    };
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else if !global.quiet {
        talk!("{}", summary(&report).trim_end());
    }
    Ok(Exit::Done)
}

/// A second Ctrl-C ends the process wherever it is; the next ingest removes what lies about.
fn leave_when_forced(shutdown: Shutdown) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::spawn(move || {
        runtime.block_on(shutdown.wait_forced());
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(())
}

pub(super) fn summary(report: &IngestReport) -> String {
    let mut text = format!(
        "{} rows on {} servers: {} new, {} known, {} duplicates, in {}\n",
        format::count(report.rows_read),
        format::count(report.servers),
        format::count(report.records_new),
        format::count(report.records_known),
        format::count(report.duplicates),
        format::duration(Duration::from_secs_f64(report.seconds)),
    );
    if report.records_gone > 0 {
        let count = format::count(report.records_gone);
        text += &format!("{count} records of the dataset are not in this list; they stay\n");
    }
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
    if report.bad_uuids > 0 {
        let count = format::count(report.bad_uuids);
        text += &format!("{count} rows have a `uuid` that is none: theirs are made from the URL\n");
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
