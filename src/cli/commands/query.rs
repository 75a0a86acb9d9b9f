use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};

use super::super::args::{GlobalArgs, QueryArgs};
use super::super::{Exit, format, print_line};
use crate::pipeline::{Dataset, PipelineError};
use crate::query::{
    OutputFormat, OutputOptions, QueryError, QueryOptions, QuerySession, TableInfo, write_results,
};

pub(super) fn run(global: &GlobalArgs, args: &QueryArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let format =
        args.format.as_deref().map(str::parse::<OutputFormat>).transpose().map_err(anyhow::Error::msg)?;
    let sql = match (&args.sql, &args.file) {
        (Some(sql), _) if sql == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the query from stdin")?;
            text
        }
        (Some(sql), _) => sql.clone(),
        (None, Some(path)) => {
            fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?
        }
        (None, None) => return prompt(&dataset, format.unwrap_or_default()),
    };
    let runtime = runtime()?;
    match &args.output {
        None => runtime.block_on(to_stdout(&dataset, &sql, format.unwrap_or_default()))?,
        Some(path) => {
            let format = format.or_else(|| format_of(path)).unwrap_or(OutputFormat::Csv);
            let rows = runtime.block_on(to_file(&dataset, &sql, format, path))?;
            if !global.quiet {
                eprintln!("{} rows in {}", format::count(rows), path.display());
            }
        }
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

pub(super) fn open(dataset: &Dataset) -> Result<QuerySession, PipelineError> {
    let view = dataset.open_reader()?.view()?;
    Ok(QuerySession::open(&dataset.layout, view, &QueryOptions::default())?)
}

fn format_of(path: &Path) -> Option<OutputFormat> {
    let extension = path.extension()?.to_str()?;
    let name = if extension == "jsonl" { "ndjson" } else { extension };
    name.parse().ok()
}

async fn to_stdout(dataset: &Dataset, sql: &str, format: OutputFormat) -> anyhow::Result<()> {
    let stdout = std::io::stdout();
    if format == OutputFormat::Parquet && stdout.is_terminal() {
        anyhow::bail!("Parquet is not for a terminal; add `-o FILE`");
    }
    let session = open(dataset)?;
    let rows = session.stream(sql).await.map_err(PipelineError::from)?;
    let table_width = stdout.is_terminal().then(terminal_width).flatten();
    write_results(rows, OutputOptions { format, table_width }, stdout).await.map_err(PipelineError::from)?;
    Ok(())
}

async fn to_file(dataset: &Dataset, sql: &str, format: OutputFormat, path: &Path) -> anyhow::Result<u64> {
    let mut fresh = false;
    loop {
        let session = open(dataset)?;
        let result: Result<u64, QueryError> = async {
            let rows = session.stream(sql).await?;
            let file = File::create(path).map_err(QueryError::Output)?;
            write_results(rows, OutputOptions { format, table_width: None }, BufWriter::new(file)).await
        }
        .await;
        match result {
            // A running download has turned parts into a final file since the catalog was read.
            Err(error) if error.is_moved() && !fresh => fresh = true,
            result => return Ok(result.map_err(PipelineError::from)?),
        }
    }
}

fn terminal_width() -> Option<usize> {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|&w| w > 20)
}

/// Completes keywords, tables and columns.
struct Words(Vec<String>);

impl Helper for Words {}
impl Highlighter for Words {}
impl Validator for Words {}
impl Hinter for Words {
    type Hint = String;
}

const KEYWORDS: [&str; 22] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "COUNT(*)",
    "DISTINCT",
    "HAVING",
    "JOIN",
    "USING",
    "LIKE",
    "IS NULL",
    "IS NOT NULL",
    "DESC",
    "AS",
    "AND",
    "OR",
    "NOT",
    "SUM(",
    "AVG(",
    "EXPLAIN",
];

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..position];
        let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        let prefix = before[start..].to_lowercase();
        let matching =
            self.0.iter().filter(|word| !prefix.is_empty() && word.to_lowercase().starts_with(&prefix));
        Ok((start, matching.cloned().collect()))
    }
}

fn prompt(dataset: &Dataset, format: OutputFormat) -> anyhow::Result<Exit> {
    let runtime = runtime()?;
    let tables = runtime.block_on(open(dataset)?.tables()).map_err(PipelineError::from)?;
    let mut words: Vec<String> = KEYWORDS.iter().map(|&word| word.to_owned()).collect();
    for table in &tables {
        words.push(table.name.clone());
        words.extend(table.columns.iter().map(|column| column.name.clone()));
    }
    words.sort();
    words.dedup();
    let mut editor: Editor<Words, DefaultHistory> = Editor::new()?;
    editor.set_helper(Some(Words(words)));
    let history = history_file();
    if let Some(path) = &history {
        let _ = editor.load_history(path);
    }
    eprintln!("SQL over {}; end with `;`, \\d lists tables, \\q leaves", dataset.layout.root().display());
    let mut statement = String::new();
    loop {
        match editor.readline(if statement.is_empty() { "ddl> " } else { "...> " }) {
            Ok(line) => {
                let word = line.trim();
                if statement.is_empty() && word.starts_with('\\') {
                    let _ = editor.add_history_entry(word);
                    match word.split_whitespace().collect::<Vec<_>>()[..] {
                        ["\\q"] => break,
                        ["\\d"] => print_line(list_tables(&tables))?,
                        ["\\d", name] => print_line(describe(&tables, name))?,
                        _ => eprintln!("\\d  tables    \\d NAME  columns    \\q  leave"),
                    }
                    continue;
                }
                if !statement.is_empty() {
                    statement.push('\n');
                }
                statement.push_str(&line);
                let complete = statement.trim_end().ends_with(';');
                if statement.trim().is_empty() {
                    statement.clear();
                } else if complete {
                    let sql = std::mem::take(&mut statement);
                    let _ = editor.add_history_entry(sql.replace('\n', " "));
                    // A fresh view for every query: a download may be under way.
                    if let Err(error) = runtime.block_on(to_stdout(dataset, &sql, format)) {
                        let _ = super::super::exit::report(&error);
                    }
                }
            }
            Err(ReadlineError::Interrupted) => statement.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(path) = &history {
        let _ = path.parent().map(fs::create_dir_all);
        let _ = editor.save_history(path);
    }
    Ok(Exit::Done)
}

fn list_tables(tables: &[TableInfo]) -> String {
    let rows: Vec<Vec<String>> =
        tables.iter().map(|table| vec![format!("{:<12}{}", table.name, table.doc)]).collect();
    format::table(&rows)
}

fn describe(tables: &[TableInfo], name: &str) -> String {
    match tables.iter().find(|table| table.name == name.trim_end_matches(';')) {
        Some(table) => {
            let rows: Vec<Vec<String>> = table
                .columns
                .iter()
                .map(|column| vec![format!("{:<24}{}", column.name, column.data_type)])
                .collect();
            format::table(&rows)
        }
        None => format!("there is no table `{name}`"),
    }
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("ddl/history.txt"))
}
