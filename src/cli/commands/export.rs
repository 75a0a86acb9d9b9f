use std::path::Path;

use super::super::args::{ExportCommand, GlobalArgs};
use super::super::{Exit, format};
use super::query::{over_fresh_views, runtime};
use crate::export::{ManifestOptions, export_manifest};
use crate::pipeline::Dataset;

pub(super) fn run(global: &GlobalArgs, command: &ExportCommand) -> anyhow::Result<Exit> {
    let ExportCommand::Manifest { output, condition, from } = command;
    let dataset = super::dataset(global, global.overrides())?.with_images_from(from.as_deref());
    super::start_logging(global, &dataset, None);
    let rows = manifest(&dataset, output, condition.clone())?;
    if !global.quiet {
        talk!("{} images in {}", format::count(rows), output.display());
    }
    Ok(Exit::Done)
}

pub(super) fn manifest(dataset: &Dataset, output: &Path, condition: Option<String>) -> anyhow::Result<u64> {
    let options = ManifestOptions { output: output.to_owned(), where_sql: condition };
    let report = runtime()?.block_on(over_fresh_views(
        dataset,
        async |session| Ok(export_manifest(session, &options).await?),
        || true,
    ))?;
    Ok(report.num_rows)
}
