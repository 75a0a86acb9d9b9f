//! CSV (RFC 4180, but lines end as Unix has it) and TSV.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::util::display::FormatOptions;

use super::formatters_of;
use crate::query::QueryError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    Csv,
    Tsv,
}

pub(crate) struct Delimited<W> {
    target: W,
    quoting: Quoting,
    line: String,
}

impl<W: Write> Delimited<W> {
    /// Writes the header.
    pub(super) fn new(target: W, schema: &Schema, quoting: Quoting) -> Result<Self, QueryError> {
        let mut writer = Self { target, quoting, line: String::new() };
        for (column, field) in schema.fields().iter().enumerate() {
            writer.push_field(column, Some(field.name()));
        }
        writer.end_line()?;
        Ok(writer)
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        let options = FormatOptions::new().with_display_error(true);
        let columns = formatters_of(batch, &options)?;
        for row in 0..batch.num_rows() {
            for (at, (column, formatter)) in batch.columns().iter().zip(&columns).enumerate() {
                let value = column.is_valid(row).then(|| formatter.value(row).to_string());
                self.push_field(at, value.as_deref());
            }
            self.end_line()?;
        }
        Ok(())
    }

    pub(super) fn into_inner(self) -> W {
        self.target
    }

    fn push_field(&mut self, column: usize, value: Option<&str>) {
        if column > 0 {
            self.line.push(if self.quoting == Quoting::Csv { ',' } else { '\t' });
        }
        let Some(value) = value else { return };
        match self.quoting {
            Quoting::Csv if value.is_empty() || value.contains([',', '"', '\n', '\r']) => {
                self.line.push('"');
                self.line.push_str(&value.replace('"', "\"\""));
                self.line.push('"');
            }
            Quoting::Csv => self.line.push_str(value),
            Quoting::Tsv => {
                for character in value.chars() {
                    match character {
                        '\t' => self.line.push_str("\\t"),
                        '\n' => self.line.push_str("\\n"),
                        '\r' => self.line.push_str("\\r"),
                        '\\' => self.line.push_str("\\\\"),
                        other => self.line.push(other),
                    }
                }
            }
        }
    }

    fn end_line(&mut self) -> Result<(), QueryError> {
        self.line.push('\n');
        let written = self.target.write_all(self.line.as_bytes());
        self.line.clear();
        written.map_err(QueryError::Output)
    }
}
