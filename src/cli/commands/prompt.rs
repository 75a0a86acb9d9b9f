//! Statements line by line: from a person, with history and completion, or from a script on stdin.

use std::fs;
use std::io::BufRead as _;
use std::path::PathBuf;

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use tokio::signal::unix::{SignalKind, signal};

use super::super::{Exit, exit, format, print_line};
use super::query::{runtime, to_stdout};
use crate::pipeline::{Dataset, PipelineError};
use crate::query::{OutputFormat, TableInfo, ends_statement};

/// Opens a prompt.
pub(super) fn on_terminal(dataset: &Dataset, format: OutputFormat) -> anyhow::Result<Exit> {
    let prompt = Prompt::new(dataset, format)?;
    let mut editor: Editor<Words, DefaultHistory> = Editor::new()?;
    editor.set_helper(Some(Words::of(&prompt.tables)));
    let history = history_file();
    if let Some(path) = &history {
        let _ = path.parent().map(fs::create_dir_all);
        let _ = editor.load_history(path);
    }
    talk!("SQL over {}; end with `;`, \\d lists tables, \\q leaves", dataset.layout.root().display());
    // From now on, Ctrl-C ends a query and not the prompt.
    let mut interrupts = {
        let _inside = prompt.runtime.enter();
        signal(SignalKind::interrupt())?
    };
    let mut entries = Entries::default();
    loop {
        let line = match editor.readline(if entries.is_empty() { "ddl> " } else { "...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                entries = Entries::default();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(Exit::Done),
            Err(error) => return Err(error.into()),
        };
        let Some(entry) = entries.push(&line) else { continue };
        let _ = editor.add_history_entry(entry.text().replace('\n', " "));
        if let Some(path) = &history {
            // At once: a prompt may end in many ways.
            let _ = editor.append_history(path);
        }
        let ran = prompt.runtime.block_on(async {
            tokio::select! {
                ran = prompt.run(&entry) => Some(ran),
                _ = interrupts.recv() => None,
            }
        });
        match ran {
            Some(Ok(Next::Leave)) => return Ok(Exit::Done),
            Some(Ok(Next::Read)) => {}
            Some(Err(error)) => drop(exit::report(&error)),
            None => talk!("stopped"),
        }
    }
}

/// Runs what stands on stdin, the last statement also without a `;`. Goes on after an error, and ends with it.
pub(super) fn of_script(dataset: &Dataset, format: OutputFormat) -> anyhow::Result<Exit> {
    let prompt = Prompt::new(dataset, format)?;
    let mut ending = Exit::Done;
    let mut entries = Entries::default();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let line = lines.next().transpose().context("cannot read from stdin")?;
        let is_end = line.is_none();
        let entry = match line {
            Some(line) => entries.push(&line),
            None => entries.rest(),
        };
        match entry.map(|entry| prompt.runtime.block_on(prompt.run(&entry))) {
            Some(Ok(Next::Leave)) => return Ok(ending),
            Some(Err(error)) => ending = exit::report(&error),
            Some(Ok(Next::Read)) | None => {}
        }
        if is_end {
            return Ok(ending);
        }
    }
}

/// What was typed: a statement of several lines perhaps, or a command such as `\d`.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Statement(String),
    Command(String),
}

impl Entry {
    fn text(&self) -> &str {
        let (Self::Statement(text) | Self::Command(text)) = self;
        text
    }
}

/// Gathers lines to entries.
#[derive(Debug, Default)]
struct Entries {
    statement: String,
}

impl Entries {
    fn is_empty(&self) -> bool {
        self.statement.is_empty()
    }

    fn push(&mut self, line: &str) -> Option<Entry> {
        if self.is_empty() {
            let word = line.trim();
            if word.is_empty() {
                return None;
            }
            if word.starts_with('\\') {
                return Some(Entry::Command(word.to_owned()));
            }
        } else {
            self.statement.push('\n');
        }
        self.statement.push_str(line);
        if ends_statement(&self.statement) { self.rest() } else { None }
    }

    /// What no `;` ended.
    fn rest(&mut self) -> Option<Entry> {
        (!self.is_empty()).then(|| Entry::Statement(std::mem::take(&mut self.statement)))
    }
}

enum Next {
    Read,
    Leave,
}

struct Prompt<'a> {
    dataset: &'a Dataset,
    format: OutputFormat,
    runtime: tokio::runtime::Runtime,
    tables: Vec<TableInfo>,
}

impl<'a> Prompt<'a> {
    fn new(dataset: &'a Dataset, format: OutputFormat) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let tables = runtime.block_on(dataset.query_session()?.tables()).map_err(PipelineError::from)?;
        Ok(Self { dataset, format, runtime, tables })
    }

    async fn run(&self, entry: &Entry) -> anyhow::Result<Next> {
        match entry {
            // A fresh view for every query: a download may be under way.
            Entry::Statement(sql) => to_stdout(self.dataset, sql, self.format).await?,
            Entry::Command(command) => match command.split_whitespace().collect::<Vec<_>>()[..] {
                ["\\q"] => return Ok(Next::Leave),
                ["\\d"] => print_line(self.list_tables())?,
                ["\\d", name] => print_line(self.describe(name)?)?,
                _ => talk!("\\d  tables    \\d NAME  columns    \\q  leave"),
            },
        }
        Ok(Next::Read)
    }

    fn list_tables(&self) -> String {
        let rows: Vec<_> =
            self.tables.iter().map(|table| vec![format!("{:<12}{}", table.name, table.doc)]).collect();
        format::table(&rows)
    }

    fn describe(&self, name: &str) -> anyhow::Result<String> {
        let name = name.trim_end_matches(';');
        let table = self.tables.iter().find(|table| table.name == name);
        let table = table.with_context(|| format!("there is no table `{name}`"))?;
        let rows: Vec<_> = table
            .columns
            .iter()
            .map(|column| vec![format!("{:<24}{}", column.name, column.data_type)])
            .collect();
        Ok(format::table(&rows))
    }
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("ddl/history.txt"))
}

/// Completes keywords, tables and columns.
struct Words(Vec<String>);

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

impl Words {
    fn of(tables: &[TableInfo]) -> Self {
        let mut words: Vec<String> = KEYWORDS.iter().map(|&word| word.to_owned()).collect();
        for table in tables {
            words.push(table.name.clone());
            words.extend(table.columns.iter().map(|column| column.name.clone()));
        }
        words.sort();
        words.dedup();
        Self(words)
    }

    /// Where the word before `position` begins, and what it may become.
    fn completions(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = &line[..position];
        let start = before
            .char_indices()
            .rfind(|(_, c)| !c.is_alphanumeric() && *c != '_')
            .map_or(0, |(at, c)| at + c.len_utf8());
        let prefix = before[start..].to_lowercase();
        let matching =
            self.0.iter().filter(|word| !prefix.is_empty() && word.to_lowercase().starts_with(&prefix));
        (start, matching.cloned().collect())
    }
}

impl Helper for Words {}
impl Highlighter for Words {}
impl Validator for Words {}
impl Hinter for Words {
    type Hint = String;
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.completions(line, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_ends_a_statement_unless_it_is_text() {
        let check = |lines: &[&str], expect: &[&str]| {
            let mut entries = Entries::default();
            let mut found: Vec<_> = lines.iter().filter_map(|line| entries.push(line)).collect();
            found.extend(entries.rest());
            let found: Vec<_> = found.iter().map(Entry::text).collect();
            assert_eq!(found, expect, "{lines:?}");
        };
        check(&["select 1;"], &["select 1;"]);
        check(&["", "select 1", "from urls", ";"], &["select 1\nfrom urls\n;"]);
        check(&["select 1"], &["select 1"]);
        check(&["select 'a';", "select 'b;", "c';"], &["select 'a';", "select 'b;\nc';"]);
        check(&["select 'it''s", "';';"], &["select 'it''s\n';';"]);
        check(&["select 1; -- one", "\\d urls", "select 2;"], &["select 1; -- one", "\\d urls", "select 2;"]);
        check(&["select 1 -- one;", "+ 1; /* two", "*/"], &["select 1 -- one;\n+ 1; /* two\n*/"]);
        check(&["select \"a;", "b\";"], &["select \"a;\nb\";"]);
        check(&["  \\q  "], &["\\q"]);
    }

    #[test]
    fn words_complete_from_their_beginning() {
        let columns = vec![crate::query::ColumnInfo { name: "taxonKey".into(), data_type: "Utf8".into() }];
        let words = Words::of(&[TableInfo { name: "urls".into(), columns, doc: "" }]);
        let check = |line: &str, start: usize, expect: &[&str]| {
            assert_eq!(
                words.completions(line, line.len()),
                (start, expect.iter().map(|&w| w.into()).collect())
            );
        };
        check("sel", 0, &["SELECT"]);
        check("select tax", 7, &["taxonKey"]);
        check("select * from ur", 14, &["urls"]);
        check("select ", 7, &[]);
        // A character of several bytes in front.
        check("select '–tax", 11, &["taxonKey"]);
    }
}
