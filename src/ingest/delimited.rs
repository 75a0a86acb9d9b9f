//! CSV, TSV and other delimited tables with a header line; bare lists of URLs.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::IngestError;
use super::options::InputFormat;
use super::raw_batch::{BATCH_BYTES, BATCH_ROWS, MalformedLog, RawBatch};
use super::record_reader::{Dialect, Event, RecordReader};
use super::text_columns::TextColumn;
use super::window::Window;

/// distributed-downloader's order for `.txt`: the first of these that the first line has.
const TXT_DELIMITERS: [u8; 5] = *b"\t, |;";

pub(super) type ByteStream = Box<dyn Read + Send>;

/// Reads a delimited table in batches of text columns; empty fields are nulls.
pub(super) struct DelimitedReader {
    path: PathBuf,
    records: RecordReader<ByteStream>,
    schema: SchemaRef,
    /// For each column of `schema`, which field of a record it is.
    fields: Vec<usize>,
    /// Fields that a record must have; unknown until the first record of a table without a header.
    num_fields: Option<usize>,
    columns: Vec<TextColumn>,
}

impl DelimitedReader {
    /// Finds the dialect and reads the header. An empty stream gives a reader without columns.
    pub(super) fn open(
        path: &Path,
        stream: ByteStream,
        format: InputFormat,
        max_row_bytes: usize,
    ) -> Result<Self, IngestError> {
        let mut window = Window::new(stream);
        skip_byte_order_mark(path, &mut window)?;
        let length = window.find_line(max_row_bytes).map_err(IngestError::read(path))?;
        let first_line = &window.bytes()[..length.unwrap_or(0)];
        if is_bare_url(first_line) && (format == InputFormat::Txt || !first_line.contains(&b',')) {
            let dialect = Dialect { delimiter: None, quote: None };
            let records = RecordReader::new(window, dialect, max_row_bytes);
            return Ok(Self::new(path, records, vec!["url".into()], vec![0], Some(1)));
        }
        let dialect = Dialect { delimiter: find_delimiter(first_line, format), quote: Some(b'"') };
        let mut records = RecordReader::new(window, dialect, max_row_bytes);
        let names = match records.next(None).map_err(IngestError::read(path))? {
            Event::Record(record) => unique_names(record.iter().map(String::from_utf8_lossy)),
            Event::Malformed { reason, .. } => {
                return Err(IngestError::BadHeader { path: path.to_owned(), reason });
            }
            Event::End => Vec::new(),
        };
        let fields = (0..names.len()).collect();
        let num_fields = Some(names.len());
        Ok(Self::new(path, records, names, fields, num_fields))
    }

    /// A table whose columns are known from elsewhere (an archive's `meta.xml`): of each record the
    /// `fields` are taken under `names`.
    pub(super) fn with_columns(
        path: &Path,
        mut records: RecordReader<ByteStream>,
        header_lines: u64,
        names: Vec<String>,
        fields: Vec<usize>,
    ) -> Result<Self, IngestError> {
        records.skip_lines(header_lines).map_err(IngestError::read(path))?;
        Ok(Self::new(path, records, names, fields, None))
    }

    fn new(
        path: &Path,
        records: RecordReader<ByteStream>,
        names: Vec<String>,
        fields: Vec<usize>,
        num_fields: Option<usize>,
    ) -> Self {
        let columns = names.iter().map(|_| TextColumn::default()).collect();
        Self { path: path.to_owned(), records, schema: text_schema(names), fields, num_fields, columns }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        if self.columns.is_empty() {
            return Ok(None);
        }
        let mut positions = Vec::new();
        let mut num_bytes = 0;
        while positions.len() < BATCH_ROWS && num_bytes < BATCH_BYTES {
            match self.records.next(self.num_fields).map_err(IngestError::read(&self.path))? {
                Event::Record(record) => {
                    if self.num_fields.is_none() {
                        let needed = self.fields.iter().max().map_or(0, |last| last + 1);
                        if record.len() < needed {
                            let reason = format!("{} fields where {needed} are declared", record.len());
                            return Err(IngestError::Archive { path: self.path.clone(), reason });
                        }
                        self.num_fields = Some(record.len());
                    }
                    positions.push(record.line);
                    for (column, &field) in self.columns.iter_mut().zip(&self.fields) {
                        let value = record.field(field);
                        num_bytes += value.len();
                        column.push(value);
                    }
                }
                Event::Malformed { line, reason } => malformed.note(&self.path, line, reason)?,
                Event::End => break,
            }
        }
        if positions.is_empty() {
            return Ok(None);
        }
        let (arrays, invalid_text) = finish_columns(&mut self.columns);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), arrays)?;
        Ok(Some(RawBatch { rows, positions, invalid_text }))
    }
}

/// Text columns of these names.
pub(super) fn text_schema(names: Vec<String>) -> SchemaRef {
    let fields = names.into_iter().map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Arrays of the columns, and the cells (row, column) that were not UTF-8.
pub(super) fn finish_columns(columns: &mut [TextColumn]) -> (Vec<ArrayRef>, Vec<(u32, u32)>) {
    let mut invalid_text = Vec::new();
    let arrays = columns
        .iter_mut()
        .enumerate()
        .map(|(index, column)| {
            let (array, invalid) = column.finish();
            invalid_text.extend(invalid.into_iter().map(|row| (row, index as u32)));
            array
        })
        .collect();
    (arrays, invalid_text)
}

/// Skips a UTF-8 byte order mark; other encodings are refused by name.
pub(super) fn skip_byte_order_mark<R: Read>(path: &Path, window: &mut Window<R>) -> Result<(), IngestError> {
    window.fill_to(3).map_err(IngestError::read(path))?;
    match window.bytes() {
        [0xef, 0xbb, 0xbf, ..] => window.consume(3),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            let reason = "the file is UTF-16; convert it to UTF-8".to_owned();
            return Err(IngestError::BadHeader { path: path.to_owned(), reason });
        }
        _ => {}
    }
    Ok(())
}

/// A first line that is itself a URL is no header: the file is a list of URLs, one per line.
fn is_bare_url(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let starts_with =
        |scheme: &[u8]| line.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    (starts_with(b"http://") || starts_with(b"https://")) && !line.iter().any(u8::is_ascii_whitespace)
}

fn find_delimiter(first_line: &[u8], format: InputFormat) -> Option<u8> {
    match format {
        InputFormat::Tsv => Some(b'\t'),
        // GBIF's "simple" download is tab-separated and called `.csv`.
        InputFormat::Csv if first_line.contains(&b'\t') && !first_line.contains(&b',') => Some(b'\t'),
        InputFormat::Csv => Some(b','),
        _ => TXT_DELIMITERS.into_iter().find(|delimiter| first_line.trim_ascii_end().contains(delimiter)),
    }
}

/// Header names, trimmed; empty ones are called `column_3`, repeated ones `name_2`, `name_3`.
pub(super) fn unique_names<S: AsRef<str>>(names: impl Iterator<Item = S>) -> Vec<String> {
    let mut taken = HashSet::new();
    names
        .enumerate()
        .map(|(index, name)| {
            let base = match name.as_ref().trim() {
                "" => format!("column_{}", index + 1),
                name => name.to_owned(),
            };
            let mut name = base.clone();
            let mut number = 2;
            while !taken.insert(name.clone()) {
                name = format!("{base}_{number}");
                number += 1;
            }
            name
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn read(format: InputFormat, text: &'static [u8]) -> Result<String, IngestError> {
        let mut reader = DelimitedReader::open(Path::new("list"), Box::new(text), format, 1 << 20)?;
        let mut malformed = MalformedLog::default();
        let batch = reader.next_batch(&mut malformed)?;
        assert!(reader.next_batch(&mut malformed)?.is_none());
        let table =
            batch.map_or(String::new(), |batch| pretty_format_batches(&[batch.rows]).unwrap().to_string());
        let rows = table.lines().filter(|line| line.starts_with('|'));
        Ok(rows.map(|row| row.split_whitespace().collect::<String>() + "\n").collect())
    }

    #[test]
    fn dialects_are_found() {
        let check = |format, text, expect: &str| assert_eq!(read(format, text).unwrap(), expect);
        let table = "|a|b|\n|1|2|\n";
        check(InputFormat::Csv, b"\xef\xbb\xbfa,b\r\n1,2\r\n", table);
        check(InputFormat::Csv, b"a\tb\n1\t2\n", table);
        check(InputFormat::Tsv, b"a\tb\n1\t2", table);
        for text in [&b"a\tb\n1\t2\n"[..], b"a,b\n1,2\n", b"a b\n1 2\n", b"a|b\n1|2\n", b"a;b\n1;2\n"] {
            check(InputFormat::Txt, text, table);
        }
        check(InputFormat::Txt, b"url\nx\n", "|url|\n|x|\n");
        check(
            InputFormat::Txt,
            b"http://a/1,2.jpg\n\nhttp://a/\"3\n",
            "|url|\n|http://a/1,2.jpg|\n|http://a/\"3|\n",
        );
        check(InputFormat::Csv, b"", "");
        check(InputFormat::Csv, b"a,b\n", "");
    }

    #[test]
    fn other_encodings_are_refused() {
        let error = read(InputFormat::Csv, b"\xff\xfeu\0r\0l\0\n\0").unwrap_err();
        assert!(error.to_string().contains("UTF-16"), "{error}");
    }

    #[test]
    fn names_are_made_unique() {
        let names = unique_names(["a", " ", "a", "a_2", "a"].into_iter());
        assert_eq!(names, ["a", "column_2", "a_2", "a_2_2", "a_3"]);
    }
}
