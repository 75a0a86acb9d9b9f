//! CSV, TSV and other delimited tables with a header line; bare lists of URLs.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::IngestError;
use super::options::InputFormat;
use super::raw_batch::{
    BATCH_BYTES, BATCH_ROWS, CELL_BYTES, InvalidCell, MalformedLog, RawBatch, check_num_columns,
};
use super::record_reader::{Dialect, Event, FieldCount, RecordReader};
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
    num_fields: FieldCount,
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
        let num_blank = skip_blank_lines(&mut window, max_row_bytes).map_err(IngestError::read(path))?;
        let length = window.find_line(max_row_bytes).map_err(IngestError::read(path))?;
        let first_line = &window.bytes()[..length.unwrap_or(0)];
        if first_line.contains(&0) {
            let reason = "it has zero bytes: the file is UTF-16 without a mark, or no text".to_owned();
            return Err(IngestError::BadHeader { path: path.to_owned(), reason });
        }
        if is_bare_url(first_line) && (format == InputFormat::Txt || !first_line.contains(&b',')) {
            let dialect = Dialect { delimiter: None, quote: None };
            let records = RecordReader::new(window, dialect, max_row_bytes).behind_lines(num_blank);
            return Self::with_columns(path, records, vec!["url".into()], vec![0], FieldCount::Exactly(1));
        }
        let dialect = Dialect { delimiter: find_delimiter(first_line, format), quote: Some(b'"') };
        let mut records = RecordReader::new(window, dialect, max_row_bytes).behind_lines(num_blank);
        let names = match records.next(FieldCount::Any).map_err(IngestError::read(path))? {
            Event::Record(record) => unique_names(record.iter().map(String::from_utf8_lossy)),
            Event::Malformed { reason, .. } => {
                return Err(IngestError::BadHeader { path: path.to_owned(), reason });
            }
            Event::End => Vec::new(),
        };
        let fields = (0..names.len()).collect();
        let num_fields = FieldCount::Exactly(names.len());
        Self::with_columns(path, records, names, fields, num_fields)
    }

    /// A table whose columns are known: of each record the `fields` are taken under `names`.
    pub(super) fn with_columns(
        path: &Path,
        records: RecordReader<ByteStream>,
        names: Vec<String>,
        fields: Vec<usize>,
        num_fields: FieldCount,
    ) -> Result<Self, IngestError> {
        check_num_columns(path, names.len())?;
        let columns = names.iter().map(|_| TextColumn::default()).collect();
        let schema = text_schema(names);
        Ok(Self { path: path.to_owned(), records, schema, fields, num_fields, columns })
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
                    positions.push(record.line);
                    num_bytes += self.columns.len() * CELL_BYTES;
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

/// Arrays of the columns, and the cells that were not UTF-8.
pub(super) fn finish_columns(columns: &mut [TextColumn]) -> (Vec<ArrayRef>, Vec<InvalidCell>) {
    let mut invalid_text = Vec::new();
    let arrays = columns
        .iter_mut()
        .enumerate()
        .map(|(index, column)| {
            let (array, invalid) = column.finish();
            let column = index as u32;
            invalid_text.extend(invalid.into_iter().map(|(row, key)| InvalidCell { row, column, key }));
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

/// Drops lines of nothing but white space. Returns how many.
fn skip_blank_lines<R: Read>(window: &mut Window<R>, max_row_bytes: usize) -> io::Result<u64> {
    let mut num_blank = 0;
    while let Some(length) = window.find_line(max_row_bytes)? {
        let has_end = length < window.bytes().len();
        if !has_end || !window.bytes()[..length].trim_ascii().is_empty() {
            break;
        }
        window.consume(length + 1);
        num_blank += 1;
    }
    Ok(num_blank)
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
        // GBIF's "simple" download is tab-separated and called `.csv`; spreadsheets write semicolons where the
        // comma is the decimal sign.
        InputFormat::Csv if !first_line.contains(&b',') => {
            Some(b"\t;".iter().copied().find(|delimiter| first_line.contains(delimiter)).unwrap_or(b','))
        }
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

    use super::super::raw_batch::MAX_COLUMNS;
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
        check(InputFormat::Csv, b"a;b\n1;2\n", table);
        check(InputFormat::Csv, b"\"a\";b\n\"1,5\";2\n", "|a|b|\n|1,5|2|\n");
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
        for blank in [&b"\n"[..], b"\r\n", b" \n\t\n"] {
            check(InputFormat::Csv, [blank, b"a\tb\n1\t2\n"].concat().leak(), table);
            check(InputFormat::Txt, [blank, b"a|b\n1|2\n"].concat().leak(), table);
            check(InputFormat::Txt, [blank, b"http://a/1,2\n"].concat().leak(), "|url|\n|http://a/1,2|\n");
        }
        check(InputFormat::Csv, b"", "");
        check(InputFormat::Csv, b"\n", "");
        check(InputFormat::Csv, b"a,b\n", "");
    }

    #[test]
    fn other_encodings_are_refused() {
        let error = read(InputFormat::Csv, b"\xff\xfeu\0r\0l\0\n\0").unwrap_err();
        assert!(error.to_string().contains("UTF-16"), "{error}");
        let error = read(InputFormat::Csv, b"u\0r\0l\0\n\0").unwrap_err();
        assert!(error.to_string().contains("UTF-16"), "{error}");
    }

    #[test]
    fn lines_are_counted_from_the_first_of_the_file() {
        let text = b"\n\na,b\n1,2\n".as_slice();
        let mut reader =
            DelimitedReader::open(Path::new("list"), Box::new(text), InputFormat::Csv, 99).unwrap();
        let batch = reader.next_batch(&mut MalformedLog::default()).unwrap().unwrap();
        assert_eq!(batch.positions, [4]);
    }

    #[test]
    fn memory_is_bounded_however_many_columns() {
        let header = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        let list = format!("{}\n{}", header(MAX_COLUMNS), (",".repeat(MAX_COLUMNS - 1) + "\n").repeat(600));
        let stream = Box::new(io::Cursor::new(list.into_bytes()));
        let mut reader = DelimitedReader::open(Path::new("list"), stream, InputFormat::Csv, 1 << 20).unwrap();
        let batch = reader.next_batch(&mut MalformedLog::default()).unwrap().unwrap();
        assert_eq!(batch.rows.num_rows(), BATCH_BYTES.div_ceil(MAX_COLUMNS * CELL_BYTES));
        let error = read(InputFormat::Csv, header(MAX_COLUMNS + 1).into_bytes().leak()).unwrap_err();
        assert!(matches!(error, IngestError::TooManyColumns { .. }), "{error}");
    }

    #[test]
    fn names_are_made_unique() {
        let names = unique_names(["a", " ", "a", "a_2", "a"].into_iter());
        assert_eq!(names, ["a", "column_2", "a_2", "a_2_2", "a_3"]);
    }
}
