//! What is said of lists that were read.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::format;
use crate::ingest::{ColumnUse, Count, IngestReport, Inspection, MalformedLine};

pub(super) fn summary(report: &IngestReport) -> String {
    let mut text = format!(
        "{} rows on {} servers: {} new, {} known, {} duplicates, in {}\n",
        format::count(report.rows_read),
        format::count(report.servers),
        format::count(report.records_new),
        format::count(report.records_known),
        format::count(report.duplicates),
        format::duration(Duration::from_secs_f64(report.seconds)),
    );
    if report.records_gone > 0 {
        let count = format::count(report.records_gone);
        text += &format!("{count} records of the dataset are not in this list; they stay\n");
    }
    text += &columns(&report.columns);
    text += &list("skipped records", &report.skipped);
    text += &list("left out by the kind of list", &report.filtered);
    if let Some(path) = &report.duplicates_file {
        text += &format!("duplicates are listed in {}\n", path.display());
    }
    text + &bad_uuids(report.bad_uuids) + &malformed(report.malformed, &report.malformed_examples)
}

pub(super) fn inspection_text(inspection: &Inspection) -> String {
    let records = inspection.rows_read.saturating_sub(inspection.duplicates);
    let records = records.saturating_sub(inspection.filtered.values().sum());
    let mut text = format!(
        "{} rows in {}: {} records, {} duplicates\n",
        format::count(inspection.rows_read),
        if inspection.num_inputs == 1 { "1 file".into() } else { format!("{} files", inspection.num_inputs) },
        format::count(records),
        format::count(inspection.duplicates),
    );
    text += &columns(&inspection.columns);
    text += &list("would be skipped", &inspection.skipped);
    text += &list("left out by the kind of list", &inspection.filtered);
    text += &bad_uuids(inspection.bad_uuids);
    text += &malformed(inspection.malformed, &inspection.malformed_examples);
    text += &most_frequent("servers", &inspection.servers);
    match inspection.labels.as_deref() {
        None => text += "labels: more than classes would be\n",
        Some([]) => {}
        Some(labels) => text += &most_frequent("labels", labels),
    }
    text
}

/// What is shown of servers and labels; `--json` has all.
const SHOWN_COUNTS: usize = 10;

fn most_frequent(title: &str, counts: &[Count]) -> String {
    let mut text = format!("{} {title}\n", format::count(counts.len() as u64));
    let (shown, others) = counts.split_at(counts.len().min(SHOWN_COUNTS));
    for Count { name, count } in shown {
        text += &format!("  {:>12}  {}\n", format::count(*count), printable(name));
    }
    if !others.is_empty() {
        text += &format!(
            "  {:>12}  in {} others\n",
            format::count(others.iter().map(|c| c.count).sum()),
            others.len()
        );
    }
    text
}

/// Names come from outside: they must not steer the terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn list(title: &str, counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let counts: Vec<_> = counts.iter().map(|(reason, &n)| format!("{} {reason}", format::count(n))).collect();
    format!("{title}: {}\n", counts.join(", "))
}

/// Lines about columns: so many ways in which inputs differ are told, and so many columns that are carried along.
const SHOWN_COLUMN_USES: usize = 5;
const SHOWN_CARRIED: usize = 12;

/// Which columns became what, a line for inputs that are alike in it.
fn columns(uses: &[ColumnUse]) -> String {
    let mut text = String::new();
    for columns in uses.iter().take(SHOWN_COLUMN_USES) {
        let of = match (uses.len(), columns.num_inputs) {
            (1, _) => String::new(),
            (_, 1) => format!(" of {}", columns.path.display()),
            (_, n) => format!(" of {} and {} others", columns.path.display(), n - 1),
        };
        let roles = [
            ("id", &columns.id),
            ("label", &columns.label),
            ("license", &columns.license),
            ("source", &columns.source),
            ("title", &columns.title),
            ("uuid", &columns.uuid),
        ];
        let mut taken = vec![format!("url from {}", printable(&columns.url.join(", else ")))];
        let mut absent = Vec::new();
        for (role, column) in roles {
            match column {
                Some(column) => taken.push(format!("{role} from {}", printable(column))),
                None => absent.push(role),
            }
        }
        text += &format!("columns{of}: {}", taken.join(", "));
        if !absent.is_empty() {
            text += &format!("; none for {}", absent.join(", "));
        }
        let (shown, others) = columns.carried.split_at(columns.carried.len().min(SHOWN_CARRIED));
        if !shown.is_empty() {
            text += &format!("; kept as they are: {}", printable(&shown.join(", ")));
        }
        if !others.is_empty() {
            text += &format!(" and {} more", others.len());
        }
        text.push('\n');
    }
    if uses.len() > SHOWN_COLUMN_USES {
        text += &format!("and {} other ways; `--json` has all\n", uses.len() - SHOWN_COLUMN_USES);
    }
    text
}

fn bad_uuids(count: u64) -> String {
    match count {
        0 => String::new(),
        count => {
            let count = format::count(count);
            format!("{count} rows have a `uuid` that is none: theirs are made from the URL\n")
        }
    }
}

fn malformed(count: u64, examples: &[MalformedLine]) -> String {
    if count == 0 {
        return String::new();
    }
    let mut text = format!("{} malformed lines were left out:\n", format::count(count));
    for line in examples {
        text += &format!("  {}:{}: {}\n", line.path.display(), line.line, line.reason);
    }
    if count > examples.len() as u64 {
        text += "  ...\n";
    }
    text
}
