use super::super::args::{CheckArgs, GlobalArgs};
use super::super::{Exit, format, print_line};
use crate::catalog::{CatalogError, LockHolder, lock_holder};
use crate::check::{CheckOptions, CheckReport, check_dataset, repair_dataset};
use crate::pipeline::PipelineError;

pub(super) fn run(global: &GlobalArgs, args: &CheckArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let path = dataset.layout.catalog();
    if let Some(holder) = lock_holder(&path).filter(LockHolder::may_be_alive) {
        // Files move under a running download; what it finds then would be no breach.
        return Err(PipelineError::from(CatalogError::InUse { path, holder: Box::new(holder) }).into());
    }
    if args.repair {
        let catalog = dataset.open_writer()?;
        let repaired = repair_dataset(&dataset.layout, &catalog).map_err(PipelineError::from)?;
        talk!(
            "repaired: {} files that no commit names removed ({}), {} markers written, {} empty folders removed",
            format::count(repaired.orphans_removed),
            format::bytes(repaired.orphan_bytes),
            repaired.markers_written,
            repaired.folders_removed
        );
    }
    let view = dataset.open_reader()?.view().map_err(PipelineError::from)?;
    let options = CheckOptions { deep: args.deep, ..CheckOptions::default() };
    let report = check_dataset(&dataset.layout, &view, options, &|_| {}).map_err(PipelineError::from)?;
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(text(&report, args.deep).trim_end())?;
    }
    Ok(if report.is_sound() { Exit::Done } else { Exit::Error })
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
            format::count(report.num_images),
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
    for breach in &report.breaches {
        text += &format!("breach: {breach}\n");
    }
    if report.num_breaches > report.breaches.len() as u64 {
        text += &format!("... {} breaches in all\n", format::count(report.num_breaches));
    }
    text + if report.is_sound() { "sound: catalog and files agree\n" } else { "NOT sound\n" }
}
