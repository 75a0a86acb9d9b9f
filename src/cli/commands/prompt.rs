//! Statements line by line: from a person, with history and completion, or from a script.

use std::fs;
use std::io::BufRead;
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

use super::super::{Exit, exit, print_line};
use super::query::{runtime, to_stdout};
use crate::pipeline::{Dataset, PipelineError};
use crate::query::{OutputFormat, Script, TableInfo};

/// Opens a prompt.
pub(super) fn on_terminal(dataset: &Dataset, format: OutputFormat) -> anyhow::Result<Exit> {
    let prompt = Prompt::new(dataset, format)?;
    let mut editor: Editor<Words, DefaultHistory> = Editor::new()?;
    editor.set_helper(Some(Words::of(&prompt.runtime.block_on(prompt.tables())?)));
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
    let mut typed = Vec::new();
    loop {
        let line = match editor.readline(if entries.is_empty() { "ddl> " } else { "...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                entries = Entries::default();
                typed.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(Exit::Done),
            Err(error) => return Err(error.into()),
        };
        let whole = entries.push(&line);
        typed.push(line);
        if entries.is_empty() {
            let _ = editor.add_history_entry(typed.join("\n"));
            typed.clear();
            if let Some(path) = &history {
                // At once: a prompt may end in many ways.
                let _ = editor.append_history(path);
            }
        }
        for entry in whole {
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
                None => {
                    talk!("stopped");
                    break;
                }
            }
        }
    }
}

/// Runs a script, its last statement also without a `;`. Goes on after an error, and ends with it. `name` is for
/// people.
pub(super) fn of_script(
    dataset: &Dataset,
    format: OutputFormat,
    script: impl BufRead,
    name: &str,
) -> anyhow::Result<Exit> {
    let prompt = Prompt::new(dataset, format)?;
    let mut ending = Exit::Done;
    let mut entries = Entries::default();
    let mut lines = script.lines();
    loop {
        let line = lines.next().transpose().with_context(|| format!("cannot read `{name}`"))?;
        let is_end = line.is_none();
        let whole = match line {
            Some(line) => entries.push(&line),
            None => entries.rest().into_iter().collect(),
        };
        for entry in whole {
            match prompt.runtime.block_on(prompt.run(&entry)) {
                Ok(Next::Leave) => return Ok(ending),
                Ok(Next::Read) => {}
                Err(error) => ending = exit::report(&error),
            }
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

/// Gathers lines to entries.
#[derive(Debug, Default)]
struct Entries {
    begun: String,
    /// Whether a text or a comment of what has begun is open.
    is_open: bool,
}

impl Entries {
    fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// A command is one also where a statement has begun, which then goes on.
    fn push(&mut self, line: &str) -> Vec<Entry> {
        let word = line.trim();
        if !self.is_open && (word.starts_with('\\') || is_farewell(word)) {
            return vec![Entry::Command(word.to_owned())];
        }
        if !self.is_empty() {
            self.begun.push('\n');
        }
        self.begun.push_str(line);
        let Script { statements, rest, is_open } = Script::cut(&self.begun);
        let entries = statements.into_iter().map(|sql| Entry::Statement(sql.to_owned())).collect();
        self.begun = rest.unwrap_or_default().to_owned();
        self.is_open = is_open;
        entries
    }

    /// What no `;` ended.
    fn rest(&mut self) -> Option<Entry> {
        (!self.is_empty()).then(|| Entry::Statement(std::mem::take(&mut self.begun)))
    }
}

/// What people type to leave.
fn is_farewell(word: &str) -> bool {
    let word = word.trim_end_matches(';').trim_end();
    ["exit", "quit", "\\q"].iter().any(|farewell| word.eq_ignore_ascii_case(farewell))
}

enum Next {
    Read,
    Leave,
}

struct Prompt<'a> {
    dataset: &'a Dataset,
    format: OutputFormat,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Prompt<'a> {
    fn new(dataset: &'a Dataset, format: OutputFormat) -> anyhow::Result<Self> {
        // Where there is no dataset, that is said once.
        dataset.open_reader()?;
        Ok(Self { dataset, format, runtime: runtime()? })
    }

    async fn tables(&self) -> Result<Vec<TableInfo>, PipelineError> {
        Ok(self.dataset.query_session()?.tables().await?)
    }

    async fn run(&self, entry: &Entry) -> anyhow::Result<Next> {
        match entry {
            // A fresh view for every query: a download may be under way.
            Entry::Statement(sql) => to_stdout(self.dataset, sql, self.format).await?,
            Entry::Command(command) if is_farewell(command) => return Ok(Next::Leave),
            Entry::Command(command) => match command.split_whitespace().collect::<Vec<_>>()[..] {
                ["\\d" | "\\d;"] => print_line(list_tables(&self.tables().await?))?,
                ["\\d", name] => print_line(describe(&self.tables().await?, name)?)?,
                _ => talk!("\\d  tables    \\d NAME  columns    \\q  leave"),
            },
        }
        Ok(Next::Read)
    }
}

fn list_tables(tables: &[TableInfo]) -> String {
    two_columns(tables.iter().map(|table| (table.name.as_str(), table.doc)))
}

fn describe(tables: &[TableInfo], name: &str) -> anyhow::Result<String> {
    let name = name.trim_end_matches(';');
    let table = tables.iter().find(|table| table.name == name);
    let table = table.with_context(|| format!("there is no table `{name}`"))?;
    Ok(two_columns(table.columns.iter().map(|column| (column.name.as_str(), column.data_type.as_str()))))
}

/// Both to the left.
fn two_columns<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let width = rows.clone().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.map(|(name, what)| format!("{name:<width$}  {what}")).collect::<Vec<_>>().join("\n")
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
            let mut found: Vec<_> = lines.iter().flat_map(|line| entries.push(line)).collect();
            found.extend(entries.rest());
            let found: Vec<_> =
                found.iter().map(|(Entry::Statement(text) | Entry::Command(text))| text.as_str()).collect();
            assert_eq!(found, expect, "{lines:?}");
        };
        check(&["select 1;"], &["select 1;"]);
        check(&["", "select 1", "from urls", ";"], &["select 1\nfrom urls\n;"]);
        check(&["select 1"], &["select 1"]);
        check(
            &["select 1; select 2;", "select 3; select", "4"],
            &["select 1;", "select 2;", "select 3;", "select\n4"],
        );
        check(&["select 'a';", "select 'b;", "c';"], &["select 'a';", "select 'b;\nc';"]);
        check(&["select 'it''s", "';';"], &["select 'it''s\n';", "';"]);
        check(&["select 1; -- one", "\\d urls", "select 2;"], &["select 1;", "\\d urls", "select 2;"]);
        check(&["select 1 -- one;", "+ 1; /* two", "*/"], &["select 1 -- one;\n+ 1;"]);
        check(&["select 1;", "-- the end"], &["select 1;"]);
        check(&["select \"a;", "b\";"], &["select \"a;\nb\";"]);
        check(&["  \\q  "], &["\\q"]);
    }

    #[test]
    fn commands_are_known_where_a_statement_has_begun() {
        for farewell in ["\\q", "exit", "QUIT;", " quit "] {
            let mut entries = Entries::default();
            assert_eq!(entries.push("select"), []);
            assert_eq!(entries.push(farewell), [Entry::Command(farewell.trim().into())]);
            assert!(is_farewell(farewell.trim()));
            assert_eq!(entries.push("1;"), [Entry::Statement("select\n1;".into())]);
            // But not where a text goes on.
            assert_eq!(entries.push("select 'a"), []);
            assert_eq!(entries.push(farewell), []);
        }
        assert!(!is_farewell("select") && !is_farewell("\\d"));
    }

    #[test]
    fn long_names_stay_apart_from_what_follows() {
        let rows = [("a", "text"), ("a_name_that_is_longer_than_others", "number")];
        let text = two_columns(rows.into_iter());
        let at: Vec<_> = text.lines().zip(["text", "number"]).map(|(line, what)| line.find(what)).collect();
        assert_eq!(at, [Some(35), Some(35)], "{text}");
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
