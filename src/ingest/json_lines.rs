//! JSON lines: one object per line, any fields in any order.
//!
//! All values become text: strings as they are, all else as it is written. A field that appears late
//! becomes a new column (`text_table`).

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::delimited::{ByteStream, skip_byte_order_mark};
use super::error::IngestError;
use super::json_object::{JsonValue, for_each_field};
use super::raw_batch::{InvalidCell, MalformedLog, RawBatch};
use super::text_table::TextTable;
use super::window::Window;
use crate::model::UrlKey;
use arrow::array::AsArray;

pub(super) struct JsonLinesReader {
    path: PathBuf,
    window: Window<ByteStream>,
    line: u64,
    max_row_bytes: usize,
    table: TextTable,
}

impl JsonLinesReader {
    pub(super) fn open(path: &Path, stream: ByteStream, max_row_bytes: usize) -> Result<Self, IngestError> {
        let mut window = Window::new(stream);
        skip_byte_order_mark(path, &mut window)?;
        if window.bytes().trim_ascii_start().first() == Some(&b'[') {
            let reason = "it begins a JSON array; write one object per line".to_owned();
            return Err(IngestError::BadHeader { path: path.to_owned(), reason });
        }
        Ok(Self { path: path.to_owned(), window, line: 0, max_row_bytes, table: TextTable::default() })
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        let mut positions = Vec::new();
        let mut invalid_rows = Vec::new();
        while !self.table.is_full() {
            if self.window.bytes().is_empty() && !self.window.fill().map_err(IngestError::read(&self.path))? {
                break;
            }
            self.line += 1;
            let found = self.window.find_line(self.max_row_bytes).map_err(IngestError::read(&self.path))?;
            let Some(length) = found else {
                self.window.skip_line(false).map_err(IngestError::read(&self.path))?;
                let reason = format!("longer than {} bytes", self.max_row_bytes);
                malformed.note(&self.path, self.line, reason)?;
                continue;
            };
            let line = self.window.bytes()[..length].trim_ascii();
            if !line.is_empty() {
                let text = String::from_utf8_lossy(line);
                match push_line(&mut self.table, &text) {
                    Ok(()) => {
                        if matches!(text, Cow::Owned(_)) {
                            invalid_rows.push((positions.len() as u32, UrlKey::of_bytes(line)));
                        }
                        positions.push(self.line);
                    }
                    Err(reason) => malformed.note(&self.path, self.line, reason)?,
                }
            }
            let with_end = (length + 1).min(self.window.bytes().len());
            self.window.consume(with_end);
        }
        if positions.is_empty() {
            return Ok(None);
        }
        let rows = self.table.finish()?;
        // Which bytes of the line were bad is lost: every cell that now has the mark is suspect, and what
        // tells it from others is the whole line.
        let invalid_text = invalid_rows
            .into_iter()
            .flat_map(|(row, key)| {
                (0..rows.num_columns() as u32).map(move |column| InvalidCell { row, column, key })
            })
            .filter(|cell| {
                let column = rows.column(cell.column as usize).as_string::<i32>();
                column.value(cell.row as usize).contains('\u{fffd}')
            })
            .collect();
        Ok(Some(RawBatch { rows, positions, invalid_text }))
    }
}

/// Adds a row, or nothing at all if the line is not an object.
fn push_line(table: &mut TextTable, line: &str) -> Result<(), String> {
    let result = for_each_field(line, |name, value| match value {
        JsonValue::Null => table.set(name, None),
        JsonValue::Text(text) => table.set(name, Some(text.as_bytes())),
        JsonValue::Written(text) => table.set(name, Some(text.as_bytes())),
    });
    match &result {
        Ok(()) => table.end_row(line.len()),
        Err(_) => table.drop_row(),
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns by name.
    type Columns = Vec<(String, Vec<Option<String>>)>;

    fn read(text: &'static [u8]) -> (Columns, MalformedLog, Vec<u64>) {
        let mut reader = JsonLinesReader::open(Path::new("list"), Box::new(text), 200).unwrap();
        let mut malformed = MalformedLog::default();
        let batch = reader.next_batch(&mut malformed).unwrap().unwrap();
        assert!(reader.next_batch(&mut malformed).unwrap().is_none());
        let schema = batch.rows.schema();
        let columns = schema.fields().iter().zip(batch.rows.columns()).map(|(field, column)| {
            let values = column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect();
            (field.name().clone(), values)
        });
        (columns.collect(), malformed, batch.positions)
    }

    fn some(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|&value| (value != "-").then(|| value.to_owned())).collect()
    }

    #[test]
    fn values_become_text_and_late_fields_new_columns() {
        let (columns, malformed, positions) =
            read(b"{\"url\":\"a\\u00e9\",\"n\":12345678901234567890}\n\n{\"n\":1.50,\"url\":null,\"x\":[1,{\"k\":true}]}\n{\"x\":false}");
        assert_eq!(malformed.count, 0);
        assert_eq!(positions, [1, 3, 4]);
        let expect = [
            ("url".to_owned(), some(&["a\u{e9}", "-", "-"])),
            ("n".to_owned(), some(&["12345678901234567890", "1.50", "-"])),
            ("x".to_owned(), some(&["-", "[1,{\"k\":true}]", "false"])),
        ];
        assert_eq!(columns, expect);
    }

    #[test]
    fn a_bad_line_leaves_no_trace() {
        let long = format!("{{\"url\":\"{}\"}}\n", "x".repeat(300));
        let text = [
            "{\"url\":\"a\"}\n{\"url\":\"b\",\"new\":1,\n[1]\n7\n{} {}\n",
            &long,
            "{\"url\":\"c\",\"url\":\"d\"}",
        ];
        let (columns, malformed, positions) = read(Box::leak(text.concat().into_boxed_str()).as_bytes());
        assert_eq!(columns, [("url".to_owned(), some(&["a", "d"]))]);
        assert_eq!(positions, [1, 7]);
        let lines: Vec<u64> = malformed.examples.iter().map(|example| example.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn an_array_is_refused_with_advice() {
        let error = JsonLinesReader::open(Path::new("list"), Box::new(&b" [{}]"[..]), 200).err().unwrap();
        assert!(error.to_string().contains("one object per line"), "{error}");
    }
}
