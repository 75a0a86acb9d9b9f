//! Excel workbooks: the first sheet, whose first row with anything in it names the columns.
//!
//! The two kinds of files have nothing in common but what they show: `.xlsx` is XML in a zip and is streamed (`xlsx`),
//! `.xls` is records in a small filesystem of its own (`xls`, `compound_file`). Cells become text as a person would
//! read them: whole numbers without a fraction, dates as `2024-05-01`, errors nothing. What stands to the right of the
//! last named column is left.
//!
//! Both are read here and not by a crate: those that there are make room for whatever a file claims to have, which ends
//! the process where that is a lie, and hold old workbooks as full rectangles. Here memory is bounded: by
//! `memory_bytes` for what a sheet needs beside it, and by `max_row_bytes` for a row.

mod cell_text;
mod compound_file;
mod shared_texts;
mod xls;
mod xlsx;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::delimited::{finish_columns, text_schema, unique_names};
use super::error::IngestError;
use super::raw_batch::{
    BATCH_BYTES, BATCH_ROWS, CELL_BYTES, MAX_COLUMNS, MalformedLog, RawBatch, ReadContext, check_num_columns,
};
use super::text_columns::TextColumn;
use xls::XlsSheet;
use xlsx::XlsxSheet;

pub(super) use compound_file::SIGNATURE as COMPOUND_FILE;

/// What files are taken for, in messages.
const WHAT: &str = "an Excel workbook";

/// Rows that a sheet may have (Excel's own limit).
const MAX_ROWS: u64 = 1 << 20;

fn unusable(path: &Path, reason: impl Into<String>) -> IngestError {
    IngestError::Unusable { path: path.to_owned(), what: WHAT, reason: reason.into() }
}

/// The first sheet of a workbook, row by row.
pub(super) struct ExcelReader {
    path: PathBuf,
    sheet: Sheet,
    schema: SchemaRef,
    columns: Vec<TextColumn>,
    row: Row,
}

enum Sheet {
    Xlsx(XlsxSheet),
    Xls(XlsSheet),
}

impl ExcelReader {
    /// `file` has the bytes, `name` is what the user calls it.
    pub(super) fn open(file: &Path, name: &Path, context: &ReadContext) -> Result<Self, IngestError> {
        let mut sheet = if compound_file::is_one(file)? {
            Sheet::Xls(XlsSheet::open(file, name, context)?)
        } else {
            Sheet::Xlsx(XlsxSheet::open(file, name, context)?)
        };
        // One more, so that too many are noticed.
        let mut header = Row::new(MAX_COLUMNS + 1, context.max_row_bytes);
        let mut names = Vec::new();
        if sheet.next_filled(name, &mut header)? {
            if header.is_too_long {
                let reason = format!("it is longer than {} bytes", context.max_row_bytes);
                return Err(IngestError::BadHeader { path: name.to_owned(), reason });
            }
            for (column, text) in header.cells.drain(..) {
                if names.len() <= column {
                    names.resize(column + 1, String::new());
                }
                names[column] = text;
            }
        }
        check_num_columns(name, names.len())?;
        let names = unique_names(names.iter());
        Ok(Self {
            path: name.to_owned(),
            sheet,
            columns: names.iter().map(|_| TextColumn::default()).collect(),
            row: Row::new(names.len(), context.max_row_bytes),
            schema: text_schema(names),
        })
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        let mut positions = Vec::new();
        let mut num_bytes = 0;
        while positions.len() < BATCH_ROWS && num_bytes < BATCH_BYTES {
            if self.columns.is_empty() || !self.sheet.next_filled(&self.path, &mut self.row)? {
                break;
            }
            if self.row.is_too_long {
                let reason = format!("longer than {} bytes", self.row.max_bytes);
                malformed.note(&self.path, self.row.number, reason)?;
                continue;
            }
            for (column, text) in &self.row.cells {
                let column = &mut self.columns[*column];
                // Of a cell that is there twice, the last counts.
                column.set_len(positions.len());
                column.push(text.as_bytes());
            }
            positions.push(self.row.number);
            for column in &mut self.columns {
                column.set_len(positions.len());
            }
            num_bytes += self.row.bytes + self.columns.len() * CELL_BYTES;
        }
        if positions.is_empty() {
            return Ok(None);
        }
        let (arrays, invalid_text) = finish_columns(&mut self.columns);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), arrays)?;
        Ok(Some(RawBatch { rows, positions, invalid_text }))
    }
}

impl Sheet {
    /// The next row that is not empty; false at the end.
    fn next_filled(&mut self, path: &Path, row: &mut Row) -> Result<bool, IngestError> {
        loop {
            let is_one = match self {
                Self::Xlsx(sheet) => sheet.next_row(row)?,
                Self::Xls(sheet) => sheet.next_row(row)?,
            };
            if is_one && row.number > MAX_ROWS {
                return Err(unusable(path, format!("it has more than {MAX_ROWS} rows")));
            }
            if !is_one || row.is_too_long || !row.cells.is_empty() {
                return Ok(is_one);
            }
        }
    }
}

/// One row, as far as it is wanted.
struct Row {
    /// From 1, as Excel shows it.
    number: u64,
    /// Columns, from 0, and what stands there. Nothing is no cell.
    cells: Vec<(usize, String)>,
    bytes: usize,
    is_too_long: bool,
    num_columns: usize,
    max_bytes: usize,
}

impl Row {
    fn new(num_columns: usize, max_bytes: usize) -> Self {
        Self { number: 0, cells: Vec::new(), bytes: 0, is_too_long: false, num_columns, max_bytes }
    }

    fn start(&mut self, number: u64) {
        self.cells.clear();
        (self.number, self.bytes, self.is_too_long) = (number, 0, false);
    }

    /// A text that many cells share is copied for each, so a row is bounded as it grows.
    fn push(&mut self, column: usize, text: &str) {
        if column >= self.num_columns || text.is_empty() {
            return;
        }
        self.bytes += text.len() + CELL_BYTES;
        if self.bytes > self.max_bytes {
            self.is_too_long = true;
            self.cells.clear();
        } else {
            self.cells.push((column, text.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
