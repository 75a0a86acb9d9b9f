//! JSON lines: one object per line, any fields in any order.
//!
//! All values become text: strings as they are, numbers and booleans as written in JSON, arrays and
//! objects as JSON text. A field that appears late becomes a new column behind the others, so the
//! columns of a batch always begin with those of the batch before it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::delimited::{ByteStream, finish_columns, skip_byte_order_mark, text_schema, unique_names};
use super::error::IngestError;
use super::raw_batch::{BATCH_BYTES, BATCH_ROWS, MalformedLog, RawBatch};
use super::text_columns::TextColumn;
use super::window::Window;

/// Objects may have this many fields in all; more means data in place of names.
const MAX_FIELDS: usize = 10_000;

pub(super) struct JsonLinesReader {
    path: PathBuf,
    window: Window<ByteStream>,
    line: u64,
    max_row_bytes: usize,
    table: Table,
}

impl JsonLinesReader {
    pub(super) fn open(path: &Path, stream: ByteStream, max_row_bytes: usize) -> Result<Self, IngestError> {
        let mut window = Window::new(stream);
        skip_byte_order_mark(path, &mut window)?;
        if window.bytes().trim_ascii_start().first() == Some(&b'[') {
            let reason = "it begins a JSON array; write one object per line".to_owned();
            return Err(IngestError::BadHeader { path: path.to_owned(), reason });
        }
        Ok(Self { path: path.to_owned(), window, line: 0, max_row_bytes, table: Table::default() })
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        let mut positions = Vec::new();
        let mut invalid_rows = Vec::new();
        while positions.len() < BATCH_ROWS && self.table.num_bytes < BATCH_BYTES {
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
                match self.table.push_line(&text) {
                    Ok(()) => {
                        if matches!(text, Cow::Owned(_)) {
                            invalid_rows.push(positions.len() as u32);
                        }
                        positions.push(self.line);
                    }
                    Err(reason) => malformed.note(&self.path, self.line, reason.to_string())?,
                }
            }
            let with_end = (length + 1).min(self.window.bytes().len());
            self.window.consume(with_end);
        }
        if positions.is_empty() {
            return Ok(None);
        }
        let rows = self.table.finish()?;
        // Which bytes of the line were bad is lost: every cell that now has the mark is suspect.
        let invalid_text = invalid_rows
            .into_iter()
            .flat_map(|row| (0..rows.num_columns() as u32).map(move |column| (row, column)))
            .filter(|&(row, column)| {
                let column = arrow::array::AsArray::as_string::<i32>(rows.column(column as usize));
                column.value(row as usize).contains('\u{fffd}')
            })
            .collect();
        Ok(Some(RawBatch { rows, positions, invalid_text }))
    }
}

/// Columns in order of first appearance.
#[derive(Default)]
struct Table {
    names: Vec<String>,
    columns: Vec<TextColumn>,
    by_name: HashMap<String, usize>,
    num_rows: usize,
    num_bytes: usize,
}

impl Table {
    /// Adds a row, or nothing at all if the line is not an object.
    fn push_line(&mut self, line: &str) -> Result<(), serde_json::Error> {
        let known_columns = self.columns.len();
        let mut parser = serde_json::Deserializer::from_str(line);
        let result = parser.deserialize_map(RowVisitor(self)).and_then(|()| parser.end());
        if result.is_ok() {
            self.num_rows += 1;
            self.num_bytes += line.len();
            return result;
        }
        for name in self.names.drain(known_columns..) {
            self.by_name.remove(&name);
        }
        self.columns.truncate(known_columns);
        for column in self.columns.iter_mut().filter(|column| column.len() > self.num_rows) {
            column.set_len(self.num_rows);
        }
        result
    }

    /// The column of this name, padded up to the current row. Of equal names the last counts.
    fn cell<E: Error>(&mut self, name: &str) -> Result<&mut TextColumn, E> {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None if self.columns.len() == MAX_FIELDS => {
                return Err(E::custom(format_args!("more than {MAX_FIELDS} different fields in the file")));
            }
            None => {
                self.by_name.insert(name.to_owned(), self.columns.len());
                self.names.push(name.to_owned());
                self.columns.push(TextColumn::default());
                self.columns.len() - 1
            }
        };
        let column = &mut self.columns[index];
        column.set_len(self.num_rows);
        Ok(column)
    }

    fn finish(&mut self) -> Result<RecordBatch, IngestError> {
        for column in &mut self.columns {
            column.set_len(self.num_rows);
        }
        let (arrays, _) = finish_columns(&mut self.columns);
        let names = unique_names(self.names.iter());
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.num_rows));
        (self.num_rows, self.num_bytes) = (0, 0);
        Ok(RecordBatch::try_new_with_options(text_schema(names), arrays, &options)?)
    }
}

struct RowVisitor<'a>(&'a mut Table);

impl<'de> Visitor<'de> for RowVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let column = self.0.cell(&name)?;
            map.next_value_seed(CellSeed(column))?;
        }
        Ok(())
    }
}

/// Appends one value as text; null appends nothing, which padding turns into a null.
struct CellSeed<'a>(&'a mut TextColumn);

impl<'de> DeserializeSeed<'de> for CellSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl CellSeed<'_> {
    fn push(self, value: impl fmt::Display) {
        let mut text = Vec::new();
        // Writing to a vector does not fail.
        let _ = write!(text, "{value}");
        self.0.push(&text);
    }
}

impl<'de> Visitor<'de> for CellSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.push(value.as_bytes());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.push(Value::from(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.push(Value::deserialize(SeqAccessDeserializer::new(seq))?);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.push(Value::deserialize(MapAccessDeserializer::new(map))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

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
            read(b"{\"url\":\"a\\u00e9\",\"n\":1}\n\n{\"n\":1.5,\"url\":null,\"x\":[1,{\"k\":true}]}\n{\"x\":false}");
        assert_eq!(malformed.count, 0);
        assert_eq!(positions, [1, 3, 4]);
        let expect = [
            ("url".to_owned(), some(&["a\u{e9}", "-", "-"])),
            ("n".to_owned(), some(&["1", "1.5", "-"])),
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
