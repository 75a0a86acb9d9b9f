use std::path::PathBuf;

use super::super::args::{GlobalArgs, ReportArgs};
use super::super::{Exit, format};
use super::query::{over_fresh_views, runtime};
use crate::report::{ReportOptions, write_report};

pub(super) fn run(global: &GlobalArgs, args: &ReportArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let default = ReportOptions::default();
    let options = ReportOptions {
        num_samples: args.samples.unwrap_or(default.num_samples),
        num_pairs: args.pairs.unwrap_or(default.num_pairs),
        num_rows: args.top.unwrap_or(default.num_rows),
    };
    let output = args.output.clone().unwrap_or_else(|| dataset.layout.report());
    let summary = runtime()?.block_on(over_fresh_views(
        &dataset,
        async |session| Ok(write_report(session, &output, &options).await?),
        || true,
    ))?;
    if !global.quiet {
        let path: PathBuf = std::path::absolute(&output).unwrap_or(output);
        talk!(
            "{} ({}): {} records, {} images, {} pictures",
            path.display(),
            format::bytes(summary.bytes),
            format::count(summary.totals.records),
            format::count(summary.totals.success),
            summary.num_thumbnails
        );
    }
    Ok(Exit::Done)
}
