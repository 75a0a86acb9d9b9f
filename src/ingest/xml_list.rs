//! XML lists: each child of the root is a row.
//!
//! A row's attributes and child elements are its cells, by their names without prefixes; what stands deeper is left, as
//! by `pandas.read_xml`, which FLOW-DC reads with. All values are text, trimmed, and empty ones null. A row that is text
//! alone is its own cell: `<urls><url>...</url></urls>`.

use std::path::{Path, PathBuf};

use super::delimited::ByteStream;
use super::error::IngestError;
use super::raw_batch::{MalformedLog, RawBatch};
use super::text_table::TextTable;
use super::xml_stream::{XmlEvent, XmlStream};

pub(super) struct XmlListReader {
    path: PathBuf,
    xml: XmlStream,
    max_row_bytes: usize,
    table: TextTable,
    /// The current row or, between rows, the last, from 1.
    row: u64,
    has_root: bool,
}

/// What the elements are at a depth.
const ROW: usize = 2;
const CELL: usize = 3;

impl XmlListReader {
    pub(super) fn open(path: &Path, stream: ByteStream, max_row_bytes: usize) -> Self {
        Self {
            path: path.to_owned(),
            xml: XmlStream::new(path, "XML", stream, max_row_bytes),
            max_row_bytes,
            table: TextTable::default(),
            row: 0,
            has_root: false,
        }
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        let mut positions = Vec::new();
        while !self.table.is_full() {
            match self.xml.next()? {
                XmlEvent::Start(tag) => {
                    let name = tag.name();
                    let attributes = tag.attributes();
                    if self.xml.depth() < ROW {
                        self.has_root = true;
                        continue;
                    }
                    self.row += 1;
                    let read = match attributes {
                        Ok(attributes) => self.read_row(&name, attributes)?,
                        Err(reason) => return Err(self.xml.unusable(reason)),
                    };
                    match read {
                        Ok(bytes) => {
                            self.table.end_row(bytes);
                            positions.push(self.row);
                        }
                        Err(reason) => {
                            self.table.drop_row();
                            malformed.note(&self.path, self.row, reason)?;
                        }
                    }
                }
                XmlEvent::Eof if self.has_root => break,
                XmlEvent::Eof => return Err(self.xml.unusable("it has no element")),
                XmlEvent::Text(_) | XmlEvent::End | XmlEvent::Other => {}
            }
        }
        if positions.is_empty() {
            return Ok(None);
        }
        Ok(Some(RawBatch { rows: self.table.finish()?, positions, invalid_text: Vec::new() }))
    }

    /// Reads up to the end of the row whose start tag was read: its bytes, or what is wrong with it.
    fn read_row(
        &mut self,
        name: &str,
        attributes: Vec<(String, String)>,
    ) -> Result<Result<usize, String>, IngestError> {
        let mut row = Row { bytes: 0, max_bytes: self.max_row_bytes, has_cells: false, wrong: None };
        for (name, value) in attributes {
            row.set(&mut self.table, &name, &value);
        }
        let (mut cell, mut text, mut own_text) = (String::new(), String::new(), String::new());
        while self.xml.depth() >= ROW {
            let depth = self.xml.depth();
            match self.xml.next()? {
                XmlEvent::Start(tag) if depth == ROW => {
                    cell = tag.name();
                    text.clear();
                }
                XmlEvent::Text(piece) if depth == CELL => row.append(&mut text, &piece),
                XmlEvent::Text(piece) if depth == ROW => row.append(&mut own_text, &piece),
                XmlEvent::End if depth == CELL => row.set(&mut self.table, &cell, &text),
                _ => {}
            }
        }
        if !row.has_cells {
            row.set(&mut self.table, name, &own_text);
        }
        Ok(row.wrong.map_or(Ok(row.bytes), Err))
    }
}

/// The current row, whose rest is read over once something is wrong with it.
struct Row {
    bytes: usize,
    max_bytes: usize,
    has_cells: bool,
    wrong: Option<String>,
}

impl Row {
    /// Text adds up, whatever becomes of it.
    fn append(&mut self, text: &mut String, piece: &str) {
        self.bytes += piece.len();
        if self.bytes > self.max_bytes {
            self.wrong.get_or_insert_with(|| format!("longer than {} bytes", self.max_bytes));
        }
        if self.wrong.is_none() {
            text.push_str(piece);
        }
    }

    fn set(&mut self, table: &mut TextTable, name: &str, value: &str) {
        self.has_cells = true;
        if self.wrong.is_none() {
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            self.wrong = table.set(name, value.map(str::as_bytes)).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn read(text: &str) -> Result<(String, Vec<u64>, MalformedLog), IngestError> {
        let stream: ByteStream = Box::new(std::io::Cursor::new(text.as_bytes().to_owned()));
        let mut reader = XmlListReader::open(Path::new("list"), stream, 100);
        let mut malformed = MalformedLog::default();
        let batch = reader.next_batch(&mut malformed)?;
        assert!(reader.next_batch(&mut malformed)?.is_none());
        let Some(batch) = batch else { return Ok((String::new(), Vec::new(), malformed)) };
        let table = pretty_format_batches(&[batch.rows]).unwrap().to_string();
        let rows = table.lines().filter(|line| line.starts_with('|'));
        let rows = rows.map(|row| row.split_whitespace().collect::<String>() + "\n").collect();
        Ok((rows, batch.positions, malformed))
    }

    #[test]
    fn children_of_the_root_are_rows() {
        let (rows, positions, _) = read(
            "<?xml version='1.0' encoding='UTF-8'?>\n<d:data xmlns:d='http://d'>\n  <row id='007'>\n    <photo_url> http://a/1?x=1&amp;y=2 </photo_url>\n    <taxon>P <i>not this</i>f</taxon>\n  </row>\n  <row><photo_url><![CDATA[http://a/2]]></photo_url><late>x</late><taxon/></row>\n</d:data>\n",
        )
        .unwrap();
        assert_eq!(rows, "|id|photo_url|taxon|late|\n|007|http://a/1?x=1&y=2|Pf||\n||http://a/2||x|\n");
        assert_eq!(positions, [1, 2]);
        let (rows, ..) = read("<urls><url>http://a/1</url><url>http://a/2</url></urls>").unwrap();
        assert_eq!(rows, "|url|\n|http://a/1|\n|http://a/2|\n");
        let (rows, ..) = read("<r><row url='http://a/1'/><row/></r>").unwrap();
        assert_eq!(rows, "|url|row|\n|http://a/1||\n|||\n");
        assert_eq!(read("<r/>").unwrap().0, "");
    }

    #[test]
    fn rows_that_are_too_long_are_told_and_left() {
        let cell = format!("<x>{}</x>", "y".repeat(60));
        let text = format!(
            "<r><row><url>a</url></row><row><new>1</new>{cell}{cell}</row><row><url>b</url></row></r>"
        );
        let (rows, positions, malformed) = read(&text).unwrap();
        assert_eq!((rows.as_str(), positions), ("|url|\n|a|\n|b|\n", vec![1, 3]));
        assert_eq!((malformed.count, malformed.examples[0].line), (1, 2));
        assert!(malformed.examples[0].reason.contains("longer than 100 bytes"));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for text in ["", "no xml at all", "<a><b><c>", "<a>&b;</a>", "<html><p>Not found</html>"] {
            let error = read(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(matches!(error, IngestError::Unusable { .. }), "{error}");
        }
    }
}
