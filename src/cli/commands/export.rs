use std::path::Path;

use super::super::args::{ExportCommand, GlobalArgs};
use super::super::{Exit, format};
use crate::export::{ManifestOptions, export_manifest};
use crate::pipeline::{Dataset, PipelineError};

pub(super) fn run(global: &GlobalArgs, command: &ExportCommand) -> anyhow::Result<Exit> {
    let ExportCommand::Manifest { output, condition } = command;
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let rows = manifest(&dataset, output, condition.clone())?;
    if !global.quiet {
        eprintln!("{} images in {}", format::count(rows), output.display());
    }
    Ok(Exit::Done)
}

pub(super) fn manifest(dataset: &Dataset, output: &Path, condition: Option<String>) -> anyhow::Result<u64> {
    let options = ManifestOptions { output: output.to_owned(), where_sql: condition };
    let runtime = super::query::runtime()?;
    let mut fresh = false;
    loop {
        let session = super::query::open(dataset)?;
        match runtime.block_on(export_manifest(&session, &options)) {
            Ok(report) => return Ok(report.num_rows),
            // A running download has turned parts into a final file since the catalog was read.
            Err(error) if error.is_moved() && !fresh => fresh = true,
            Err(error) => return Err(PipelineError::from(error).into()),
        }
    }
}
