use std::path::Path;

use super::super::args::{CheckArgs, GlobalArgs};
use super::super::progress::CheckDisplay;
use super::super::{Exit, format, print_line};
use super::export::clean_options;
use super::query::{over_fresh_views, runtime};
use crate::check::{BreachKind, CheckOptions, CheckReport, RepairReport};
use crate::export::{DifferentImage, ListedImage, ManifestComparison, SelectionOptions, compare_manifest};
use crate::pipeline::{Dataset, check, repair};
use crate::tools::Registry;

pub(super) fn run(global: &GlobalArgs, args: &CheckArgs, tools: &Registry) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?.with_images_from(args.from.as_deref());
    super::start_logging(global, &dataset, None);
    if let Some(manifest) = &args.manifest {
        let clean = clean_options(&dataset, tools, &args.clean, args.allow_stale)?;
        let where_sql = args.condition.clone();
        let selection = SelectionOptions { where_sql, clean, ..SelectionOptions::default() };
        return compare(&dataset, manifest, &selection, args);
    }
    let mut num_failed = 0;
    if args.repair {
        let repaired = repair(&dataset, args.discard_newer)?;
        num_failed = repaired.num_failed;
        if !global.quiet {
            talk!("{}", repair_text(&repaired));
        }
    }
    let options = CheckOptions { deep: args.deep, ..CheckOptions::default() };
    let display = CheckDisplay::new(global);
    let report = check(&dataset, options, &|progress| display.show(progress));
    display.clear();
    let report = report?;
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(text(&report, args.deep).trim_end())?;
    }
    Ok(if report.is_sound() && num_failed == 0 { Exit::Done } else { Exit::Error })
}

/// Compares the dataset with a manifest.
fn compare(
    dataset: &Dataset,
    manifest: &Path,
    selection: &SelectionOptions,
    args: &CheckArgs,
) -> anyhow::Result<Exit> {
    let report = runtime()?.block_on(over_fresh_views(
        dataset,
        async |session| Ok(compare_manifest(session, manifest, selection, args.examples).await?),
        || true,
    ))?;
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(comparison_text(&report).trim_end())?;
    }
    Ok(if report.is_equal() { Exit::Done } else { Exit::Error })
}

fn comparison_text(report: &ManifestComparison) -> String {
    let mut text = format!(
        "{} rows of the manifest, {} images of the dataset: {} equal, {} different, {} missing here, {} not in the manifest\n",
        format::count(report.num_listed),
        format::count(report.num_images),
        format::count(report.equal),
        format::count(report.different),
        format::count(report.missing),
        format::count(report.unlisted)
    );
    for (column, count) in &report.different_columns {
        text += &format!("differs in {} images: {column}\n", format::count(*count));
    }
    for image in &report.different_examples {
        let DifferentImage { uuid, column, manifest, dataset } = image;
        text += &format!("different: {uuid}: {column} is `{manifest}` in the manifest, `{dataset}` here\n");
    }
    let listed = |what: &str, count: u64, examples: &[ListedImage]| {
        let named = examples.iter().map(|image| format!("{what}: {} {}\n", image.uuid, image.identifier));
        let more = count - examples.len() as u64;
        let more = (more > 0).then(|| format!("{what}: {} more\n", format::count(more)));
        named.chain(more).collect::<String>()
    };
    text += &listed("missing", report.missing, &report.missing_examples);
    text += &listed("not in the manifest", report.unlisted, &report.unlisted_examples);
    if !report.not_compared.is_empty() {
        text +=
            &format!("not compared, for the manifest does not have it: {}\n", report.not_compared.join(", "));
    }
    if report.other_algorithm {
        text += "hashes have another length: the manifest is of a dataset with another `hash_algorithm`\n";
    }
    if report.is_equal() {
        return text + "equal: the dataset has what the manifest lists, and no more\n";
    }
    if report.missing > 0 {
        text += "next: `ddl query \"SELECT disposition, cause FROM urls WHERE uuid = '...'\"` says what became of one\n";
    }
    text + "NOT equal\n"
}

fn repair_text(repaired: &RepairReport) -> String {
    let mut text = format!(
        "repaired: {} files that no commit names removed ({}), {} markers written, {} empty folders removed",
        format::count(repaired.orphans_removed),
        format::bytes(repaired.orphan_bytes),
        format::count(repaired.markers_written),
        format::count(repaired.folders_removed)
    );
    if repaired.num_failed > 0 {
        text += &format!(
            "\n{} files could not be removed: mend what the warnings say and repair again",
            format::count(repaired.num_failed)
        );
    }
    text
}

fn text(report: &CheckReport, deep: bool) -> String {
    let counts = &report.counts;
    let mut text = format!(
        "{} records = {} images + {} failed + {} skipped + {} pending\n",
        format::count(report.num_records),
        format::count(counts.success),
        format::count(counts.failed),
        format::count(counts.skipped),
        format::count(counts.pending)
    );
    let stages = &report.partitions;
    text += &format!(
        "{} partitions ({} finished, {} being finished, {} open), {} files, {}\n",
        format::count(stages.open + stages.compacted + stages.finished),
        format::count(stages.finished),
        format::count(stages.compacted),
        format::count(stages.open),
        format::count(report.num_files),
        format::bytes(report.file_bytes)
    );
    if deep {
        text += &format!(
            "{} images read and hashed again, {}\n",
            format::count(report.num_images + report.num_tool_images),
            format::bytes(report.hashed_bytes)
        );
    }
    if report.num_orphans > 0 {
        text += &format!(
            "{} files that no commit names, {} (`ddl check --repair` removes them)\n",
            format::count(report.num_orphans),
            format::bytes(report.orphan_bytes)
        );
    }
    if let Some(writer) = &report.in_use_by {
        text += &format!(
            "checked as committed, beside {writer}; files that no commit names are looked for when nobody writes\n"
        );
    }
    for breach in &report.breaches {
        text += &format!("breach: {breach}\n");
    }
    if report.num_breaches > report.breaches.len() as u64 {
        text += &format!("... {} breaches in all\n", format::count(report.num_breaches));
    }
    if report.is_sound() {
        return text + "sound: catalog and files agree\n";
    }
    text + "NOT sound\n" + &next_steps(report)
}

/// What to do about the breaches that are listed, each advice once.
fn next_steps(report: &CheckReport) -> String {
    let mut next_steps: Vec<&str> = report.breaches.iter().map(|breach| advice(breach.kind)).collect();
    next_steps.sort_unstable();
    next_steps.dedup();
    next_steps.iter().map(|advice| format!("next: {advice}\n")).collect()
}

fn advice(kind: BreachKind) -> &'static str {
    match kind {
        BreachKind::MissingMarker | BreachKind::StrayMarker => {
            "`ddl check --repair` puts `completed` markers right"
        }
        BreachKind::CatalogEntry
        | BreachKind::RecordCount
        | BreachKind::StateCount
        | BreachKind::Stage
        | BreachKind::IngestTotals
        | BreachKind::ServerTotals
        | BreachKind::DuplicateUrl => {
            "the catalog contradicts itself: restore a copy of it, and report this as a fault of ddl"
        }
        BreachKind::ToolPiece => "`ddl tool NAME --reset run` makes it again",
        _ => {
            "restore the named files from a copy; without one, ingest into a new dataset and download it again"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Breach;
    use crate::model::ServerName;

    fn report(kinds: &[BreachKind]) -> CheckReport {
        let breaches = kinds.iter().map(|&kind| Breach {
            server_name: ServerName::from_catalog("a.example"),
            partition_id: Some(3),
            file: None,
            kind,
            detail: "x".into(),
        });
        CheckReport {
            num_breaches: kinds.len() as u64,
            breaches: breaches.collect(),
            ..CheckReport::default()
        }
    }

    #[test]
    fn every_breach_comes_with_a_next_step_told_once() {
        let kinds = [BreachKind::MissingFile, BreachKind::MissingMarker, BreachKind::WrongLength];
        let text = text(&report(&kinds), false);
        assert_eq!(text.matches("breach: `a.example` partition 3").count(), 3, "{text}");
        let next: Vec<&str> = text.lines().skip_while(|line| *line != "NOT sound").skip(1).collect();
        assert_eq!(next.len(), 2, "{text}");
        assert!(next[0].starts_with("next: `ddl check --repair`"), "{text}");
        assert!(next[1].starts_with("next: restore the named files"), "{text}");
    }

    #[test]
    fn beside_a_writer_nothing_is_said_of_orphans() {
        let mut report = CheckReport { num_orphans: 2, ..report(&[]) };
        assert!(text(&report, false).contains("2 files that no commit names"));
        report.set_in_use_by("process 1 on node n".into());
        let text = text(&report, false);
        assert!(text.contains("beside process 1 on node n") && !text.contains("--repair"), "{text}");
        assert!(text.ends_with("sound: catalog and files agree\n"), "{text}");
    }

    #[test]
    fn a_repair_tells_what_it_could_not_do() {
        assert!(!repair_text(&RepairReport::default()).contains("could not"));
        let failed = RepairReport { num_failed: 3, ..RepairReport::default() };
        assert!(repair_text(&failed).contains("3 files could not be removed"));
    }
}
