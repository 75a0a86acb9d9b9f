//! A table for people: widths from the first rows, everything after in the same columns. A cell of several lines
//! takes several lines.

use std::io::Write;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use unicode_width::UnicodeWidthChar;

use super::formatters_of;
use crate::query::QueryError;

/// Rows that decide on the widths of the columns.
pub(super) const LOOK_AHEAD: usize = 1000;
/// Widest column, where a table has a width to keep.
const MAX_COLUMN: usize = 80;
/// A column is not squeezed below this to make room for others.
const MIN_COLUMN: usize = 8;

pub(crate) struct Table<W> {
    target: W,
    columns: Vec<Column>,
    /// Rows that wait until the widths are known.
    waiting: Vec<Vec<String>>,
    max_width: Option<usize>,
    num_rows: u64,
    /// Columns that have room; `None` until the widths are known.
    num_shown: Option<usize>,
}

struct Column {
    name: String,
    align_right: bool,
    width: usize,
}

impl<W: Write> Table<W> {
    pub(super) fn new(target: W, schema: &Schema, max_width: Option<usize>) -> Self {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Column {
                name: printable(field.name()),
                align_right: field.data_type().is_numeric(),
                width: 0,
            })
            .collect();
        Self { target, columns, waiting: Vec::new(), max_width, num_rows: 0, num_shown: None }
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        let options = FormatOptions::new().with_display_error(true);
        let formatters = formatters_of(batch, &options)?;
        for row in 0..batch.num_rows() {
            let cells = batch
                .columns()
                .iter()
                .zip(&formatters)
                .map(|(column, formatter)| cell(column, formatter, row))
                .collect::<Vec<_>>();
            self.num_rows += 1;
            if self.num_shown.is_some() {
                self.print_row(&cells)?;
                continue;
            }
            self.waiting.push(cells);
            if self.waiting.len() == LOOK_AHEAD {
                self.settle()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<W, QueryError> {
        self.settle()?;
        self.print_rule()?;
        let rows = if self.num_rows == 1 { "row" } else { "rows" };
        let shown = self.num_shown.unwrap_or_default();
        let footer = if shown < self.columns.len() {
            format!("({} {rows}; {shown} of {} columns have room)\n", self.num_rows, self.columns.len())
        } else {
            format!("({} {rows})\n", self.num_rows)
        };
        self.target.write_all(footer.as_bytes()).map_err(QueryError::Output)?;
        Ok(self.target)
    }

    /// Fixes the widths, prints the head and the rows that waited. Does nothing the second time.
    fn settle(&mut self) -> Result<(), QueryError> {
        if self.num_shown.is_some() {
            return Ok(());
        }
        for (at, column) in self.columns.iter_mut().enumerate() {
            let cells = self.waiting.iter().map(|row| width_of(&row[at]));
            column.width = cells.chain([width_of(&column.name)]).max().unwrap_or(0).max(1);
        }
        let shown = match self.max_width {
            Some(max_width) => {
                self.columns.iter_mut().for_each(|column| column.width = column.width.min(MAX_COLUMN));
                squeeze(&mut self.columns, max_width)
            }
            None => self.columns.len(),
        };
        self.num_shown = Some(shown);
        self.print_rule()?;
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        self.print_row(&names)?;
        self.print_rule()?;
        for row in std::mem::take(&mut self.waiting) {
            self.print_row(&row)?;
        }
        Ok(())
    }

    fn shown(&self) -> &[Column] {
        &self.columns[..self.num_shown.unwrap_or_default()]
    }

    fn print_rule(&mut self) -> Result<(), QueryError> {
        let mut line = String::from("+");
        for column in self.shown() {
            line.extend(std::iter::repeat_n('-', column.width + 2));
            line.push('+');
        }
        line.push('\n');
        self.target.write_all(line.as_bytes()).map_err(QueryError::Output)
    }

    fn print_row(&mut self, cells: &[String]) -> Result<(), QueryError> {
        let cells: Vec<Vec<&str>> =
            cells.iter().take(self.shown().len()).map(|cell| cell.split('\n').collect()).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        let mut text = String::new();
        for at in 0..height {
            text.push('|');
            for (column, lines) in self.shown().iter().zip(&cells) {
                self.push_cell(&mut text, column, lines.get(at).copied().unwrap_or_default());
            }
            text.push('\n');
        }
        self.target.write_all(text.as_bytes()).map_err(QueryError::Output)
    }

    fn push_cell(&self, text: &mut String, column: &Column, line: &str) {
        let (line, width) = match self.max_width {
            Some(_) => fit(line, column.width),
            None => (line.to_owned(), width_of(line)),
        };
        let room = std::iter::repeat_n(' ', column.width.saturating_sub(width));
        text.push(' ');
        if column.align_right {
            text.extend(room);
            text.push_str(&line);
        } else {
            text.push_str(&line);
            text.extend(room);
        }
        text.push_str(" |");
    }
}

/// Writes the plans of an `EXPLAIN`, rows of a name and a text of many lines, as they are.
pub(super) fn write_plan(target: &mut impl Write, batch: &RecordBatch) -> Result<(), QueryError> {
    let options = FormatOptions::new();
    let columns = formatters_of(batch, &options)?;
    for row in 0..batch.num_rows() {
        for column in &columns {
            let text = printable(column.value(row).to_string().trim_end());
            writeln!(target, "{text}").map_err(QueryError::Output)?;
        }
    }
    Ok(())
}

/// Takes from the widest columns until all fit; returns how many columns do.
fn squeeze(columns: &mut [Column], max_width: usize) -> usize {
    let frame = |columns: &[Column]| 1 + columns.iter().map(|column| column.width + 3).sum::<usize>();
    while frame(columns) > max_width {
        match columns.iter_mut().filter(|c| c.width > MIN_COLUMN).max_by_key(|c| c.width) {
            Some(widest) => widest.width -= 1,
            None => break,
        }
    }
    let fitting = (1..=columns.len()).take_while(|&n| frame(&columns[..n]) <= max_width).count();
    fitting.max(1).min(columns.len())
}

fn cell(column: &dyn Array, formatter: &ArrayFormatter<'_>, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".into();
    }
    let bytes = match column.data_type() {
        DataType::Binary => column.as_binary::<i32>().value(row).len(),
        DataType::LargeBinary => column.as_binary::<i64>().value(row).len(),
        DataType::BinaryView => column.as_binary_view().value(row).len(),
        _ => return printable(&formatter.value(row).to_string()),
    };
    format!("<{bytes} bytes>")
}

/// Text that cannot command a terminal, but for the ends of its lines: titles and URLs are a stranger's words.
fn printable(text: &str) -> String {
    let commands = |c: char| c.is_control() && c != '\n';
    if !text.contains(commands) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if commands(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Width of the longest line.
fn width_of(text: &str) -> usize {
    let width = |line: &str| line.chars().map(|c| c.width().unwrap_or(0)).sum();
    text.split('\n').map(width).max().unwrap_or(0)
}

/// A line cut to a width, and the width that it has then.
fn fit(text: &str, width: usize) -> (String, usize) {
    let full = width_of(text);
    if full <= width {
        return (text.to_owned(), full);
    }
    let mut cut = String::new();
    let mut used = 0;
    for character in text.chars() {
        let more = character.width().unwrap_or(0);
        if used + more + 1 > width {
            break;
        }
        cut.push(character);
        used += more;
    }
    cut.push('…');
    (cut, used + 1)
}
