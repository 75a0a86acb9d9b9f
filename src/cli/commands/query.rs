use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal as _, Read as _, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use super::super::args::{GlobalArgs, QueryArgs};
use super::super::{Exit, format};
use super::prompt;
use crate::export::{AnswerOptions, export_answer};
use crate::pipeline::{Dataset, PipelineError};
use crate::query::{OutputFormat, OutputOptions, QuerySession, write_results};

pub(super) fn run(global: &GlobalArgs, args: &QueryArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?.with_images_from(args.from.as_deref());
    super::start_logging(global, &dataset, None);
    let format = args.format.unwrap_or_default();
    let has_terminal = std::io::stdin().is_terminal();
    match (&args.output, &args.sql, &args.file) {
        (Some(output), ..) => to_file(global, args, &dataset, output),
        (None, Some(sql), _) if sql != "-" => {
            runtime()?.block_on(to_stdout(&dataset, sql, format))?;
            Ok(Exit::Done)
        }
        (None, None, Some(path)) => {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("cannot read `{name}`"))?;
            prompt::of_script(&dataset, format, BufReader::new(file), &name)
        }
        (None, None, None) if has_terminal => prompt::on_terminal(&dataset, format),
        (None, ..) => prompt::of_script(&dataset, format, std::io::stdin().lock(), "stdin"),
    }
}

/// Writes the answer to one statement.
fn to_file(global: &GlobalArgs, args: &QueryArgs, dataset: &Dataset, output: &Path) -> anyhow::Result<Exit> {
    let sql = match (&args.sql, &args.file) {
        (Some(sql), _) if sql != "-" => sql.clone(),
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?
        }
        (None, None) if std::io::stdin().is_terminal() => {
            talk!("error: `--output` needs a query: `ddl query \"SELECT ...\" -o FILE`, or `-f FILE`");
            return Ok(Exit::Usage);
        }
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the query from stdin")?;
            text
        }
    };
    let options = AnswerOptions { output: output.to_owned(), format: args.format };
    let report = runtime()?.block_on(over_fresh_views(
        dataset,
        async |session| Ok(export_answer(session, &sql, &options).await?),
        || true,
    ))?;
    if !global.quiet {
        talk!("{} rows in {}", format::count(report.num_rows), output.display());
    }
    Ok(Exit::Done)
}

/// Prints the answer to a query as a table.
pub(super) fn answer(dataset: &Dataset, sql: &str) -> anyhow::Result<()> {
    runtime()?.block_on(to_stdout(dataset, sql, OutputFormat::Table))
}

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// How many views a query is tried over when files move under it.
const MAX_VIEWS: u32 = 10;

/// Runs a query over the dataset as it is now. A running download may move files in a way that an older view
/// cannot follow; then it is run again, as long as `may_repeat`. What an export has written cannot be in the way:
/// it is thrown away with its file, or the error says that it cannot be taken back.
pub(super) async fn over_fresh_views<T>(
    dataset: &Dataset,
    query: impl AsyncFn(&QuerySession) -> Result<T, PipelineError>,
    may_repeat: impl Fn() -> bool,
) -> Result<T, PipelineError> {
    for _ in 1..MAX_VIEWS {
        match query(&dataset.query_session()?).await {
            Err(error) if error.is_moved() && may_repeat() => tracing::debug!(%error, "trying a fresh view"),
            result => return result,
        }
    }
    query(&dataset.query_session()?).await
}

/// Prints the answer to a query.
pub(super) async fn to_stdout(dataset: &Dataset, sql: &str, format: OutputFormat) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    if format == OutputFormat::Parquet && is_terminal {
        anyhow::bail!("Parquet is not for a terminal; add `-o FILE`");
    }
    let options = OutputOptions { format, table_width: is_terminal.then(terminal_width).flatten() };
    let started = AtomicBool::new(false);
    over_fresh_views(
        dataset,
        async |session| {
            let rows = session.stream(sql).await?;
            // People see rows as they come; programs get them in large pieces.
            let stdout: Box<dyn Write + Send> = if is_terminal {
                Box::new(std::io::stdout())
            } else {
                Box::new(BufWriter::with_capacity(64 << 10, std::io::stdout()))
            };
            write_results(rows, options, Started { target: stdout, started: &started }).await?;
            Ok(())
        },
        || !started.load(Ordering::Relaxed),
    )
    .await?;
    Ok(())
}

/// Notes that something was written: it cannot be taken back.
struct Started<'a> {
    target: Box<dyn Write + Send>,
    started: &'a AtomicBool,
}

impl Write for Started<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.started.store(true, Ordering::Relaxed);
        self.target.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.target.flush()
    }
}

fn terminal_width() -> Option<usize> {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|&w| w > 20)
}
