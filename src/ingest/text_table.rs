//! A table of text whose columns appear as its rows bring them.
//!
//! A name that appears late becomes a new column behind the others, so the columns of a batch always begin with those
//! of the batch before it.

use std::collections::HashMap;

use arrow::array::{RecordBatch, RecordBatchOptions};

use super::delimited::{finish_columns, text_schema, unique_names};
use super::error::IngestError;
use super::raw_batch::{BATCH_BYTES, BATCH_ROWS, CELL_BYTES, MAX_COLUMNS};
use super::text_columns::TextColumn;

/// Columns in order of first appearance, and the row that is being filled in.
#[derive(Default)]
pub(super) struct TextTable {
    names: Vec<String>,
    columns: Vec<TextColumn>,
    by_name: HashMap<String, usize>,
    /// Whole rows.
    num_rows: usize,
    num_bytes: usize,
    /// Columns that whole rows have, of this batch or earlier ones.
    num_known: usize,
}

impl TextTable {
    /// Whether the rows so far make a batch.
    pub(super) fn is_full(&self) -> bool {
        self.num_rows >= BATCH_ROWS || self.num_bytes >= BATCH_BYTES
    }

    /// Fills in a cell of the current row. Of equal names the last counts.
    ///
    /// # Errors
    /// What is wrong with the row: its file has too many columns.
    pub(super) fn set(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), String> {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            // More means data in place of names.
            None if self.columns.len() == MAX_COLUMNS => {
                return Err(format!("more than {MAX_COLUMNS} different fields in the file"));
            }
            None => {
                self.by_name.insert(name.to_owned(), self.columns.len());
                self.names.push(name.to_owned());
                self.columns.push(TextColumn::default());
                self.columns.len() - 1
            }
        };
        // Padded up to the current row; what it had there is dropped.
        let column = &mut self.columns[index];
        column.set_len(self.num_rows);
        if let Some(value) = value {
            column.push(value);
        }
        Ok(())
    }

    /// The current row, of so many bytes, is whole.
    pub(super) fn end_row(&mut self, row_bytes: usize) {
        self.num_rows += 1;
        self.num_bytes += row_bytes + self.columns.len() * CELL_BYTES;
        self.num_known = self.columns.len();
    }

    /// Forgets the current row, and the columns that only it has.
    pub(super) fn drop_row(&mut self) {
        for name in self.names.drain(self.num_known..) {
            self.by_name.remove(&name);
        }
        self.columns.truncate(self.num_known);
        for column in self.columns.iter_mut().filter(|column| column.len() > self.num_rows) {
            column.set_len(self.num_rows);
        }
    }

    /// The rows so far, which are gone from here.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, IngestError> {
        for column in &mut self.columns {
            column.set_len(self.num_rows);
        }
        let (arrays, _) = finish_columns(&mut self.columns);
        let names = unique_names(self.names.iter());
        let options = RecordBatchOptions::new().with_row_count(Some(self.num_rows));
        (self.num_rows, self.num_bytes) = (0, 0);
        Ok(RecordBatch::try_new_with_options(text_schema(names), arrays, &options)?)
    }
}
