use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::super::args::{GlobalArgs, UnitCommand, UnitExportArgs, UnitImportArgs, UnitRunArgs};
use super::super::progress::DownloadProgress;
use super::super::{Exit, exit, format, logging, print_line};
use super::time::date_time;
use crate::cluster::{ClusterOptions, TransportChoice, launch};
use crate::config::{Chain, Environment};
use crate::model::ServerName;
use crate::pipeline::{
    PipelineError, UnitRequest, UnitRun, export_unit_files, import_unit_results, remove_work, run_unit,
    unit_dataset,
};
use crate::runtime::Shutdown;
use crate::units::{ImportReport, ResultHeader, UnitExport, UnitFile, read_result_header};

pub(super) fn run(global: &GlobalArgs, command: &UnitCommand) -> anyhow::Result<Exit> {
    match command {
        UnitCommand::Export(args) => export(global, args),
        UnitCommand::Run(args) => run_one(global, args),
        UnitCommand::Import(args) => import(global, args),
    }
}

fn export(global: &GlobalArgs, args: &UnitExportArgs) -> anyhow::Result<Exit> {
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    super::start_logging(global, &dataset, Some("unit-export".into()));
    let server =
        |name: &String| ServerName::parse(name).with_context(|| format!("`{name}` is the name of no server"));
    let request = UnitRequest {
        folder: args.output.clone(),
        groups: args.groups,
        servers: args.server.iter().map(server).collect::<Result<_, _>>()?,
    };
    let (export, left_out) = export_unit_files(&dataset, &request)?;
    if args.json {
        print_line(serde_json::to_string_pretty(&export)?)?;
    } else if !global.quiet {
        talk!("{}", summary(&export, &left_out, &args.output).trim_end());
    }
    Ok(Exit::Done)
}

fn summary(export: &UnitExport, left_out: &[String], folder: &Path) -> String {
    let mut text = String::new();
    let records: Vec<u64> = export.units.iter().map(|unit| unit.records).collect();
    match (records.iter().min(), records.iter().max()) {
        (Some(&least), Some(&most)) => {
            let sum: u64 = records.iter().sum();
            text += &format!(
                "{} units in {}: {} records, {} on average, {} to {}; leased until {}\n",
                format::count(records.len() as u64),
                folder.display(),
                format::count(sum),
                format::count(sum / records.len() as u64),
                format::count(least),
                format::count(most),
                date_time(export.expires_at / 1000),
            );
            text += "next: `ddl unit run FILE` for each, anywhere, then `ddl unit import RESULT...` here\n";
        }
        _ => text += "nothing is pending that could be exported\n",
    }
    if export.leased_records > 0 {
        text += &format!(
            "left alone: {} records of servers that are out in earlier units\n",
            format::count(export.leased_records)
        );
    }
    for key in left_out.iter().filter(|_| !export.units.is_empty()) {
        text += &format!("not in the units, for it may hold a secret: `{key}`; set it where they run\n");
    }
    text
}

fn run_one(global: &GlobalArgs, args: &UnitRunArgs) -> anyhow::Result<Exit> {
    logging::start(global, None);
    let unit = UnitFile::open(&args.unit).map_err(PipelineError::from)?;
    let result = result_path(args);
    let work = args.work.clone().unwrap_or_else(|| with_ending(&result, ".work"));
    if result.exists() {
        let found = read_result_header(&result).map_err(PipelineError::from)?;
        anyhow::ensure!(
            found.unit == unit.header.unit,
            "`{}` is the result of another unit; `-o` names another file",
            result.display()
        );
        // It may have been killed between the two.
        remove_work(&unit, &work);
        return told(global, args, &found, &result);
    }
    let chain = Chain {
        files: global.config.clone(),
        environment: Environment::of_process(),
        overrides: global.overrides(),
    };
    let dataset = unit_dataset(&unit, chain, &work)?;
    // Alone, whatever launcher has started it: units know nothing of each other.
    let options = ClusterOptions { transport: TransportChoice::Local, ..ClusterOptions::default() };
    let cluster = launch(&options).map_err(PipelineError::from)?;
    let shutdown = Shutdown::new();
    let ran = run_unit(&unit, &dataset, &result, cluster, &shutdown, |num_ranks| {
        let mut progress = DownloadProgress::new(global);
        super::ranks::observer(global, &shutdown, num_ranks, move |status| progress.show(status))
    })?;
    match ran {
        UnitRun::Done(header) => told(global, args, &header, &result),
        UnitRun::Forced => Ok(Exit::Interrupted),
        UnitRun::Stopped(report) => {
            for (partition, trouble) in &report.set_aside {
                talk!("error: {partition} was set aside: {trouble}");
            }
            talk!(
                "stopped early: run the same command again to go on; `{}` has what was sealed",
                work.display()
            );
            Ok(if report.set_aside.is_empty() { Exit::Resumable } else { Exit::Error })
        }
    }
}

/// Where the result goes.
fn result_path(args: &UnitRunArgs) -> PathBuf {
    let name = args.unit.file_stem().unwrap_or_default();
    let name = with_ending(Path::new(name), ".result.zip");
    match &args.output {
        None => name,
        Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => path.join(name),
        Some(path) => path.clone(),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn told(
    global: &GlobalArgs,
    args: &UnitRunArgs,
    header: &ResultHeader,
    result: &Path,
) -> anyhow::Result<Exit> {
    let ResultHeader { number, num_units, success, failed, skipped, image_bytes, .. } = header;
    if args.json {
        let json = serde_json::json!({
            "result": result, "number": number, "num_units": num_units,
            "success": success, "failed": failed, "skipped": skipped, "image_bytes": image_bytes,
        });
        print_line(serde_json::to_string_pretty(&json)?)?;
    } else if !global.quiet {
        talk!(
            "unit {number} of {num_units} is done: {} images ({}), {} failed, {} skipped in {}",
            format::count(*success),
            format::bytes(*image_bytes),
            format::count(*failed),
            format::count(*skipped),
            result.display(),
        );
    }
    Ok(Exit::Done)
}

fn import(global: &GlobalArgs, args: &UnitImportArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, Some("unit-import".into()));
    let mut exit = Exit::Done;
    let mut reports = Vec::new();
    import_unit_results(&dataset, &args.result, args.late, |path, imported| match imported {
        Ok(report) => {
            if !report.refused.is_empty() {
                exit = Exit::Error;
            }
            if !global.quiet || !report.refused.is_empty() {
                talk!("{}", imported_line(path, &report));
            }
            reports.push((path.to_owned(), report));
        }
        Err(error) => exit = exit::report(&PipelineError::from(error).into()),
    })?;
    if args.json {
        let json: Vec<_> = reports
            .iter()
            .map(|(path, report)| serde_json::json!({ "result": path, "report": report }))
            .collect();
        print_line(serde_json::to_string_pretty(&json)?)?;
    }
    Ok(exit)
}

/// Refused partitions that are named.
const SHOWN_REFUSED: usize = 5;

fn imported_line(path: &Path, report: &ImportReport) -> String {
    let mut text = format!(
        "{}: {} partitions with {} images ({}), {} failed, {} skipped",
        path.display(),
        format::count(report.partitions),
        format::count(report.success),
        format::bytes(report.image_bytes),
        format::count(report.failed),
        format::count(report.skipped),
    );
    if report.known > 0 {
        text += &format!("; {} partitions were imported before", format::count(report.known));
    }
    for (partition, reason) in report.refused.iter().take(SHOWN_REFUSED) {
        text += &format!("\nrefused: {partition}: {reason}");
    }
    if let Some(more @ 1..) = report.refused.len().checked_sub(SHOWN_REFUSED) {
        text += &format!("\nrefused: {} more", format::count(more as u64));
    }
    if report.refused.iter().any(|(_, reason)| reason.ends_with("expired")) {
        text += "\nhint: `--late` takes what is late, where nobody else has taken the partition";
    }
    text
}
