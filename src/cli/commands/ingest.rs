use super::super::args::{GlobalArgs, IngestArgs};
use super::super::progress::IngestDisplay;
use super::super::{Exit, print_line};
use super::list_text::{inspection_text, summary};
use crate::cluster::launched_rank;
use crate::config::{Overrides, Settings};
use crate::ingest::{IngestError, IngestReport};
use crate::pipeline::{Dataset, PipelineError, ingest, inspect};
use crate::runtime::Shutdown;

pub(super) fn run(global: &GlobalArgs, args: &IngestArgs) -> anyhow::Result<Exit> {
    if launched_rank().is_some_and(|rank| rank > 0) {
        // Under `mpirun`: the first does it. An error here would end that one, too.
        return Ok(Exit::Done);
    }
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    if args.inspect {
        return show_inspection(global, args, overrides);
    }
    let dataset = super::dataset(global, overrides)?;
    super::start_logging(global, &dataset, Some("ingest".into()));
    let Some(report) = shown(global, &dataset)? else { return Ok(Exit::Resumable) };
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else if !global.quiet {
        talk!("{}", summary(&report).trim_end());
    }
    Ok(Exit::Done)
}

/// Reads the lists; `None` when that was stopped early.
pub(super) fn shown(global: &GlobalArgs, dataset: &Dataset) -> anyhow::Result<Option<IngestReport>> {
    let mut display = IngestDisplay::new(global);
    let shutdown = Shutdown::new();
    leave_when_forced(shutdown.clone())?;
    let report = ingest(dataset, &shutdown, &mut |progress| display.show(progress));
    display.clear();
    match report {
        Err(PipelineError::Ingest(IngestError::Stopped)) => {
            talk!("stopped early; run the same command again to go on");
            Ok(None)
        }
        report => Ok(Some(report?)),
    }
}

/// Needs no dataset.
fn show_inspection(global: &GlobalArgs, args: &IngestArgs, mut overrides: Overrides) -> anyhow::Result<Exit> {
    let resolved = super::resolve(global, overrides.clone())?;
    if Settings::of(&resolved).map_err(PipelineError::from)?.path_to_output_folder.is_none() {
        overrides.flag("--inspect", "path_to_output_folder", ".");
    }
    let dataset = super::dataset(global, overrides)?;
    super::start_logging(global, &dataset, None);
    let mut display = IngestDisplay::new(global);
    let shutdown = Shutdown::new();
    leave_when_forced(shutdown.clone())?;
    let inspection = inspect(&dataset, &shutdown, &mut |progress| display.show(progress));
    display.clear();
    let inspection = inspection?;
    if args.json {
        print_line(serde_json::to_string_pretty(&inspection)?)?;
    } else {
        print_line(inspection_text(&inspection).trim_end())?;
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
