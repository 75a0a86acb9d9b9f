use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::super::args::{GlobalArgs, RetractArgs};
use super::super::{Exit, format, print_line};
use crate::model::ServerName;
use crate::pipeline::{Dataset, RetractPlan, RetractReport, RetractSelection, plan_retraction, retract};

/// Of each kind so many files are named.
const MAX_NAMED: usize = 10;

pub(super) fn run(global: &GlobalArgs, args: &RetractArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, Some("retract".into()));
    let selection = selection(args)?;
    if args.dry_run {
        let plan = plan_retraction(&dataset, &selection)?;
        if args.json {
            print_line(serde_json::to_string_pretty(&plan)?)?;
        } else {
            print_line(plan_text(&plan, args.duplicates))?;
        }
        return Ok(if plan.missing.is_empty() { Exit::Done } else { Exit::Error });
    }
    let asks = !args.yes && std::io::stdin().is_terminal();
    if !args.yes && !asks {
        talk!(
            "error: nobody can be asked whether this is meant: give `--yes`, or `--dry-run` to see what it would do"
        );
        return Ok(Exit::Usage);
    }
    let report = retract(&dataset, &selection, args.reason.as_deref(), |plan| {
        if !plan.is_empty() && (asks || !global.quiet) {
            talk!("{}", plan_text(plan, args.duplicates));
        }
        plan.is_empty() || !asks || is_agreed()
    })?;
    let Some(report) = report else {
        talk!("nothing has changed");
        return Ok(Exit::Done);
    };
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(text(&dataset, &report).trim_end())?;
    }
    Ok(if report.is_complete() { Exit::Done } else { Exit::Error })
}

fn selection(args: &RetractArgs) -> anyhow::Result<RetractSelection> {
    let server =
        |name: &String| ServerName::parse(name).with_context(|| format!("`{name}` is the name of no server"));
    Ok(RetractSelection {
        uuids: args.uuid.clone(),
        urls: args.url.iter().map(|url| url.trim().to_owned()).collect(),
        servers: args.server.iter().map(server).collect::<Result<_, _>>()?,
        where_sql: args.condition.clone(),
        duplicates: args.duplicates,
    })
}

fn is_agreed() -> bool {
    let mut answer = String::new();
    let _ = write!(std::io::stderr(), "Retract them? The images cannot be brought back. [y/N] ");
    let _ = std::io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

fn plan_text(plan: &RetractPlan, duplicates: bool) -> String {
    let counts = &plan.counts;
    let mut text = format!(
        "{} records to retract: {} images, {} pending, {} failed, {} skipped; in {} partitions, of which {} are written again at most",
        format::count(counts.total()),
        format::count(counts.success),
        format::count(counts.pending),
        format::count(counts.failed),
        format::count(counts.skipped),
        format::count(plan.partitions),
        format::bytes(plan.file_bytes),
    );
    if plan.already > 0 {
        text += &format!("\n{} chosen records are retracted already", format::count(plan.already));
    }
    text += &missing_text(plan);
    if plan.same_bytes > 0 {
        text += &format!(
            "\n{} other records have images with the same bytes; {}:",
            format::count(plan.same_bytes),
            if duplicates { "they are among these" } else { "`--duplicates` retracts them, too" }
        );
        for record in &plan.same_bytes_examples {
            text += &format!("\n  {} {}", record.uuid, record.url);
        }
        if plan.same_bytes > plan.same_bytes_examples.len() as u64 {
            text += "\n  ...";
        }
    }
    text
}

fn missing_text(plan: &RetractPlan) -> String {
    let named = plan.missing.iter().take(MAX_NAMED).map(|name| format!("\n  {name}"));
    let more = if plan.missing.len() > MAX_NAMED { "\n  ..." } else { "" };
    match plan.missing.len() {
        0 => String::new(),
        count => {
            format!("\n{} of those named are not chosen or not in the dataset:", format::count(count as u64))
                + &named.collect::<String>()
                + more
        }
    }
}

fn text(dataset: &Dataset, report: &RetractReport) -> String {
    let counts = &report.retracted;
    let root = dataset.layout.root();
    let mut text = if counts.total() == 0 {
        "no record was to be retracted\n".to_owned()
    } else {
        format!(
            "retracted: {} records ({} images of {}, {} pending, {} failed, {} skipped); {} partitions written again\n",
            format::count(counts.total()),
            format::count(counts.success),
            format::bytes(report.image_bytes),
            format::count(counts.pending),
            format::count(counts.failed),
            format::count(counts.skipped),
            format::count(report.partitions_rewritten)
        )
    };
    text += missing_text(&report.plan).trim_start();
    if !report.plan.missing.is_empty() {
        text += "\n";
    }
    for failed in &report.failed_partitions {
        text += &format!(
            "NOT done: `{}` partition {}: {}\n",
            failed.server_name, failed.partition_id, failed.error
        );
    }
    if !report.failed_partitions.is_empty() {
        text +=
            "next: `ddl check --deep` tells what is damaged; restore it, and run the same command again\n";
    }
    if !report.tools_to_run.is_empty() {
        text += &format!(
            "to be run again, for what they say may rest on images that are gone: `ddl tool {}`\n",
            report.tools_to_run.join("`, `ddl tool ")
        );
    }
    if !report.tool_files.is_empty() {
        text += &format!(
            "{} rows removed from {} other files in `tools/`:\n",
            format::count(report.tool_rows),
            format::count(report.tool_files.len() as u64)
        );
        text += &paths(root, report.tool_files.iter());
    }
    text += &search_text(root, report);
    if !report.not_searched.is_empty() {
        text += "not searched, for these are no Parquet files; delete them, or export again, if they may hold what is retracted:\n";
        text += &paths(root, report.not_searched.iter());
    }
    if let Some(log) = &report.log {
        text += &format!(
            "written down in {}\n\
             a filesystem may keep blocks of deleted files until it writes over them, and snapshots and backups keep \
             them longer: those are yours to see to, as are exports elsewhere\n",
            log.display()
        );
    }
    text
}

fn search_text(root: &Path, report: &RetractReport) -> String {
    let search = &report.search;
    let mut text = format!(
        "searched: {} Parquet files with {} images for the {} records that are retracted in this dataset: ",
        format::count(search.num_files),
        format::count(search.num_images),
        format::count(report.num_sought)
    );
    let found: Vec<_> = search.found.iter().filter(|found| found.records > 0).collect();
    match found.iter().map(|found| found.records).sum() {
        0 => text += "none found\n",
        records => {
            text += &format!("{} FOUND, in files that are not touched\n", format::count(records));
            text += &paths(root, found.iter().map(|found| &found.path));
            text += "next: delete these files, or export again; `ddl check --repair` removes what no commit names\n";
        }
    }
    let same_bytes: u64 = search.found.iter().map(|found| found.same_bytes).sum();
    if same_bytes > 0 {
        text += &format!(
            "{} images of other records have the same bytes; `--duplicates` retracts them, too\n",
            format::count(same_bytes)
        );
        text +=
            &paths(root, search.found.iter().filter(|found| found.same_bytes > 0).map(|found| &found.path));
    }
    if !search.unsearched.is_empty() {
        text += "could NOT be searched:\n";
        for file in search.unsearched.iter().take(MAX_NAMED) {
            text += &format!("  {}: {}\n", shown(root, &file.path), file.reason);
        }
        if search.unsearched.len() > MAX_NAMED {
            text += "  ...\n";
        }
        text += "next: delete what is unfinished (`.tmp-`) or not needed, restore what is damaged (`ddl check --deep`), and run the same command again\n";
    }
    text
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

fn paths<'a>(root: &Path, mut paths: impl Iterator<Item = &'a PathBuf>) -> String {
    let named: Vec<_> =
        paths.by_ref().take(MAX_NAMED).map(|path| format!("  {}\n", shown(root, path))).collect();
    let more = match paths.count() {
        0 => String::new(),
        more => format!("  and {more} more\n"),
    };
    named.concat() + &more
}
