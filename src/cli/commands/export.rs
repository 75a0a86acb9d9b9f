use super::super::args::{ExportCommand, GlobalArgs};
use super::super::{Exit, format};
use super::query::{over_fresh_views, runtime};
use crate::export::{CleanOptions, ManifestOptions, ManifestReport, export_manifest};
use crate::pipeline::{Dataset, tool_name};
use crate::tools::Registry;

pub(super) fn run(global: &GlobalArgs, command: &ExportCommand, tools: &Registry) -> anyhow::Result<Exit> {
    let ExportCommand::Manifest {
        output,
        condition,
        clean,
        allow_stale,
        portable,
        attribution,
        derived_dataset,
        from,
    } = command;
    let dataset = super::dataset(global, global.overrides())?.with_images_from(from.as_deref());
    super::start_logging(global, &dataset, None);
    let options = ManifestOptions {
        output: output.clone(),
        where_sql: condition.clone(),
        clean: clean_options(&dataset, tools, clean, *allow_stale)?,
        portable: *portable,
        attribution: attribution.clone(),
        derived_dataset: derived_dataset.clone(),
    };
    let report = manifest(&dataset, &options)?;
    if !global.quiet {
        talk!("{}", summary(&report, &options));
    }
    Ok(Exit::Done)
}

/// By names or files of tools, also of those that only the catalog still knows.
pub(super) fn clean_options(
    dataset: &Dataset,
    tools: &Registry,
    names: &[String],
    allow_stale: bool,
) -> anyhow::Result<CleanOptions> {
    let tools = names.iter().map(|name| tool_name(dataset, tools, name));
    Ok(CleanOptions { tools: tools.collect::<Result<_, _>>()?, allow_stale })
}

fn summary(report: &ManifestReport, options: &ManifestOptions) -> String {
    let mut text = format!("{} images in {}", format::count(report.file.num_rows), options.output.display());
    for (tool, parameters) in report.tools.iter().filter(|(_, parameters)| !parameters.is_empty()) {
        let parameters: Vec<_> = parameters.lines().collect();
        text += &format!("\n{tool} was run with {}", parameters.join(", "));
    }
    let removals = &report.removals;
    if options.clean.tools.is_empty() {
        return text;
    }
    text += &format!("\n{} of {} removed", format::count(removals.removed), format::count(removals.images));
    let by_tool =
        options.clean.tools.iter().map(|tool| format!("{tool} {}", format::count(removals.of(tool))));
    text += &format!(": {}", by_tool.collect::<Vec<_>>().join(", "));
    for by in removals.by_tools.iter().filter(|by| by.tools.len() > 1) {
        text += &format!("; by {} alike {}", by.tools.join(" and "), format::count(by.images));
    }
    text
}

pub(super) fn manifest(dataset: &Dataset, options: &ManifestOptions) -> anyhow::Result<ManifestReport> {
    let exported =
        over_fresh_views(dataset, async |session| Ok(export_manifest(session, options).await?), || true);
    Ok(runtime()?.block_on(exported)?)
}
