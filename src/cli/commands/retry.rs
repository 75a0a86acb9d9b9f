use anyhow::Context as _;

use super::super::args::{GlobalArgs, RetryArgs};
use super::super::{Exit, format, print_line};
use crate::config::parse_duration;
use crate::model::ServerName;
use crate::pipeline::{RetryReport, RetrySelection, retry};

pub(super) fn run(global: &GlobalArgs, args: &RetryArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, Some("retry".into()));
    let report = retry(&dataset, &selection(args)?)?;
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else if !global.quiet {
        talk!("{}", summary(&report));
    }
    Ok(Exit::Done)
}

fn selection(args: &RetryArgs) -> anyhow::Result<RetrySelection> {
    let server =
        |name: &String| ServerName::parse(name).with_context(|| format!("`{name}` is the name of no server"));
    let older_than = args.older_than.as_ref().map(|text| {
        parse_duration(text).with_context(|| format!("`{text}` is no duration such as `30m`, `12h` or `7d`"))
    });
    Ok(RetrySelection {
        codes: args.code.clone(),
        causes: args.cause.clone(),
        servers: args.server.iter().map(server).collect::<Result<_, _>>()?,
        older_than: older_than.transpose()?,
    })
}

fn summary(report: &RetryReport) -> String {
    if report.records == 0 {
        return "no failed record is such a one: nothing has changed".into();
    }
    format!(
        "{} failed records are pending again, in {} partitions; `ddl download` asks for them.\n\
         Until it has, the images of these partitions are in `_parts/`: `ddl query` sees them, readers of `successes.parquet` do not",
        format::count(report.records),
        format::count(report.partitions)
    )
}
