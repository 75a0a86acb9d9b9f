use super::super::args::{CatalogCommand, GlobalArgs};
use super::super::{Exit, format, print_line};
use crate::catalog::{CatalogSummary, DispositionCounts};
use crate::pipeline::{
    BackupReport, CompactReport, RestoreReport, backup_catalog, check_catalog, compact_catalog,
    restore_catalog,
};

pub(super) fn run(global: &GlobalArgs, command: &CatalogCommand) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    match command {
        CatalogCommand::Backup { file, force } => {
            let report = backup_catalog(&dataset, file, *force)?;
            told(global, &backup_text(&report));
        }
        CatalogCommand::Check { file, json } => {
            let summary = check_catalog(&dataset, file.as_deref())?;
            match json {
                true => print_line(serde_json::to_string_pretty(&summary)?)?,
                false => print_line(summary_text(&summary))?,
            }
        }
        CatalogCommand::Compact => told(global, &compact_text(&compact_catalog(&dataset)?)),
        CatalogCommand::Restore { file, force } => {
            let report = restore_catalog(&dataset, file, *force)?;
            told(global, &restore_text(&report));
        }
    }
    Ok(Exit::Done)
}

fn told(global: &GlobalArgs, text: &str) {
    if !global.quiet {
        talk!("{text}");
    }
}

fn records(counts: &DispositionCounts) -> String {
    format!(
        "{} records: {} images, {} failed, {} skipped, {} pending",
        format::count(counts.total()),
        format::count(counts.success),
        format::count(counts.failed),
        format::count(counts.skipped),
        format::count(counts.pending)
    )
}

fn backup_text(report: &BackupReport) -> String {
    format!(
        "copied to {} ({}): {}",
        report.file.display(),
        format::bytes(report.file_bytes),
        records(&report.counts)
    )
}

fn summary_text(summary: &CatalogSummary) -> String {
    format!(
        "sound: format {}, {}; every page and every row was read\n{} in {} partitions, up to run {}",
        summary.format,
        format::bytes(summary.file_bytes),
        records(&summary.counts),
        format::count(summary.num_partitions),
        summary.last_run
    )
}

fn compact_text(report: &CompactReport) -> String {
    format!(
        "compacted: {} before, {} now (on disk {} before, {} now)",
        format::bytes(report.bytes_before),
        format::bytes(report.bytes_after),
        format::bytes(report.disk_bytes_before),
        format::bytes(report.disk_bytes_after)
    )
}

fn restore_text(report: &RestoreReport) -> String {
    let kept = report.kept_as.as_ref();
    let kept =
        kept.map_or(String::new(), |path| format!("the catalog that was there is now {}\n", path.display()));
    format!(
        "restored: {}, up to run {}\n{kept}next: `ddl check` compares it with the files; `ddl download` goes on from it, and \
         downloads again what is newer than the copy",
        records(&report.restored.counts),
        report.restored.last_run
    )
}
