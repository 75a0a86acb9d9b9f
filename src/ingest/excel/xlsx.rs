//! `.xlsx`: parts of XML in a zip (ECMA-376), streamed.
//!
//! Which part is what is said by relationships. Held in memory are the texts that cells share, within `memory_bytes`;
//! the sheet is not. No part is unpacked beyond [`MAX_PART_BYTES`].

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::archive_files::ArchiveFiles;
use super::super::delimited::ByteStream;
use super::super::error::IngestError;
use super::super::raw_batch::ReadContext;
use super::super::xml_stream::{XmlEvent, XmlStream};
use super::cell_text::{CellStyles, is_built_in_date, is_date_format};
use super::shared_texts::SharedTexts;
use super::{Row, WHAT, unusable};

/// A sheet with a million rows of twenty cells has 1 GB: what unpacks to more than this is made to do harm.
const MAX_PART_BYTES: u64 = 8 << 30;
/// Columns that a sheet may have: `A` to `XFD`.
const MAX_COLUMNS: usize = 16_384;
/// Parts that list the others, and styles: some KB.
const MAX_SMALL_PART_BYTES: u64 = 16 << 20;

/// The first sheet of cells.
pub(super) struct XlsxSheet {
    path: PathBuf,
    xml: XmlStream,
    texts: SharedTexts,
    styles: CellStyles,
    last_row: u64,
}

impl XlsxSheet {
    pub(super) fn open(file: &Path, name: &Path, context: &ReadContext) -> Result<Self, IngestError> {
        let package = Package { files: ArchiveFiles::of_workbook(file, name, WHAT), name, context };
        let root = package.relationships("")?;
        let workbook = root.first_of_type("officeDocument").map_or("xl/workbook.xml", |part| &part.target);
        let parts = package.relationships(workbook)?;
        let (sheet, is_1904) = package.first_sheet(workbook, &parts)?;
        let texts = match parts.first_of_type("sharedStrings") {
            Some(part) => package.shared_texts(&part.target)?,
            None => SharedTexts::default(),
        };
        let are_dates = match parts.first_of_type("styles") {
            Some(part) => package.date_styles(&part.target)?,
            None => Vec::new(),
        };
        Ok(Self {
            path: name.to_owned(),
            xml: package.part(&sheet, MAX_PART_BYTES)?,
            texts,
            styles: CellStyles { are_dates, is_1904 },
            last_row: 0,
        })
    }

    pub(super) fn next_row(&mut self, row: &mut Row) -> Result<bool, IngestError> {
        loop {
            match self.xml.next()? {
                XmlEvent::Start(tag) if tag.is("row") => {
                    let number = tag.attribute("r").map_err(|reason| unusable(&self.path, reason))?;
                    let number = number.and_then(|number| number.parse().ok()).unwrap_or(self.last_row + 1);
                    if number <= self.last_row {
                        return Err(unusable(&self.path, "its rows are out of order"));
                    }
                    self.last_row = number;
                    row.start(number);
                    self.read_cells(row)?;
                    return Ok(true);
                }
                XmlEvent::Eof => return Ok(false),
                _ => {}
            }
        }
    }

    /// Reads up to the end of the row.
    fn read_cells(&mut self, row: &mut Row) -> Result<(), IngestError> {
        let depth = self.xml.depth();
        let mut column = 0;
        while self.xml.depth() >= depth {
            match self.xml.next()? {
                XmlEvent::Start(tag) if tag.is("c") => {
                    let attributes = tag.attributes().map_err(|reason| unusable(&self.path, reason))?;
                    let attribute = |name: &str| {
                        attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
                    };
                    column = attribute("r")
                        .map_or(column, |reference| column_of(reference).unwrap_or(MAX_COLUMNS));
                    let style = attribute("s").and_then(|style| style.parse().ok()).unwrap_or(0);
                    let kind = attribute("t").unwrap_or("n").to_owned();
                    self.read_cell(column, &kind, style, row)?;
                    column += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads up to the end of the cell.
    fn read_cell(
        &mut self,
        column: usize,
        kind: &str,
        style: usize,
        row: &mut Row,
    ) -> Result<(), IngestError> {
        let value = read_text(&mut self.xml, &["v", "t"], row.max_bytes + 1)?;
        match kind {
            "s" => {
                let index = value.trim();
                if !index.is_empty() {
                    let text = self.texts.get(index.parse().unwrap_or(usize::MAX));
                    row.push(column, text.map_err(|reason| unusable(&self.path, reason))?);
                }
            }
            "str" | "inlineStr" | "d" => row.push(column, &value),
            "b" => row.push(column, if value.trim() == "0" { "false" } else { "true" }),
            "e" => {}
            _ => match value.trim().parse() {
                Ok(number) => row.push(column, &self.styles.number(style, number)),
                Err(_) => row.push(column, value.trim()),
            },
        }
        Ok(())
    }
}

/// The text of the elements of these names within the one that has begun, up to its end; not how it is pronounced
/// (`rPh`). Of more than `max_bytes` only the beginning.
fn read_text(xml: &mut XmlStream, names: &[&str], max_bytes: usize) -> Result<String, IngestError> {
    let depth = xml.depth();
    let mut text = String::new();
    // Depths of the element whose text counts, and of one whose text does not.
    let (mut inside, mut phonetic) = (None, None);
    while xml.depth() >= depth {
        match xml.next()? {
            XmlEvent::Start(tag) => {
                let (is_text, is_phonetic) = (names.iter().any(|name| tag.is(name)), tag.is("rPh"));
                if is_text && inside.is_none() {
                    inside = Some(xml.depth());
                }
                if is_phonetic && phonetic.is_none() {
                    phonetic = Some(xml.depth());
                }
            }
            XmlEvent::Text(piece) if inside.is_some() && phonetic.is_none() && text.len() < max_bytes => {
                text.push_str(&piece);
            }
            XmlEvent::End => {
                let is_left = |at: &mut usize| *at > xml.depth();
                inside.take_if(is_left);
                phonetic.take_if(is_left);
            }
            _ => {}
        }
    }
    Ok(text)
}

/// The column of a reference such as `AB12`, from 0. Beyond Excel's last, `XFD`, there is none.
fn column_of(reference: &str) -> Option<usize> {
    let mut column = 0;
    for letter in reference.bytes().take_while(u8::is_ascii_alphabetic) {
        column = column * 26 + usize::from(letter.to_ascii_uppercase() - b'A') + 1;
        if column > MAX_COLUMNS {
            return None;
        }
    }
    column.checked_sub(1)
}

/// The parts of a file.
struct Package<'a> {
    files: ArchiveFiles,
    name: &'a Path,
    context: &'a ReadContext,
}

/// How a part refers to others.
#[derive(Default)]
struct Relationships(Vec<Relationship>);

struct Relationship {
    id: String,
    /// The last word of its type.
    kind: String,
    /// Path in the zip.
    target: String,
}

impl Relationships {
    fn first_of_type(&self, kind: &str) -> Option<&Relationship> {
        self.0.iter().find(|relationship| relationship.kind == kind)
    }
}

impl Package<'_> {
    fn part(&self, path: &str, max_bytes: u64) -> Result<XmlStream, IngestError> {
        let missing = || unusable(self.name, format!("it has no part `{path}`"));
        let (stream, _) = self.files.open_path(path, &self.context.meter)?.ok_or_else(missing)?;
        let stream: ByteStream = Box::new(AtMost { stream, left: max_bytes });
        Ok(XmlStream::new(self.name, WHAT, stream, self.context.max_row_bytes))
    }

    /// Those of a part, or of the package itself.
    fn relationships(&self, of: &str) -> Result<Relationships, IngestError> {
        let (folder, name) = of.rsplit_once('/').unwrap_or(("", of));
        let path = join(folder, &format!("_rels/{name}.rels"));
        let mut found = Relationships::default();
        if self.files.open_path(&path, &self.context.meter)?.is_none() {
            return Ok(found);
        }
        let mut xml = self.part(&path, MAX_SMALL_PART_BYTES)?;
        loop {
            match xml.next()? {
                XmlEvent::Start(tag) if tag.is("Relationship") => {
                    let attributes = tag.attributes().map_err(|reason| unusable(self.name, reason))?;
                    let mut attributes: HashMap<String, String> = attributes.into_iter().collect();
                    let mut take = |name| attributes.remove(name).unwrap_or_default();
                    let kind = take("Type").rsplit('/').next().unwrap_or_default().to_owned();
                    let target = join(folder, &take("Target"));
                    found.0.push(Relationship { id: take("Id"), kind, target });
                }
                XmlEvent::Eof => return Ok(found),
                _ => {}
            }
        }
    }

    /// The path of the first sheet of cells, and whether the workbook counts its days from 1904.
    fn first_sheet(&self, workbook: &str, parts: &Relationships) -> Result<(String, bool), IngestError> {
        let mut xml = self.part(workbook, MAX_SMALL_PART_BYTES)?;
        let (mut sheet, mut is_1904) = (None, false);
        let wrong = |reason| unusable(self.name, reason);
        loop {
            match xml.next()? {
                XmlEvent::Start(tag) if tag.is("workbookPr") => {
                    let epoch = tag.attribute("date1904").map_err(wrong)?;
                    is_1904 = epoch.is_some_and(|epoch| epoch == "1" || epoch == "true");
                }
                XmlEvent::Start(tag) if tag.is("sheet") && sheet.is_none() => {
                    let id = tag.attribute("id").map_err(wrong)?;
                    let part = parts.0.iter().find(|part| Some(&part.id) == id.as_ref());
                    sheet = part.filter(|part| part.kind == "worksheet").map(|part| part.target.clone());
                }
                XmlEvent::Eof => break,
                _ => {}
            }
        }
        let sheet = sheet.ok_or_else(|| unusable(self.name, "it has no sheet of cells"))?;
        Ok((sheet, is_1904))
    }

    fn shared_texts(&self, path: &str) -> Result<SharedTexts, IngestError> {
        let mut xml = self.part(path, MAX_PART_BYTES)?;
        let mut texts = SharedTexts::default();
        let max_bytes = self.context.memory_bytes / 2;
        loop {
            match xml.next()? {
                XmlEvent::Start(tag) if tag.is("si") => {}
                XmlEvent::Eof => return Ok(texts),
                _ => continue,
            }
            let text = read_text(&mut xml, &["t"], self.context.max_row_bytes + 1)?;
            texts.push(&text).map_err(|reason| unusable(self.name, reason))?;
            if texts.num_bytes() > max_bytes {
                let reason = format!(
                    "the texts of its cells take more than {max_bytes} bytes, half of \
                     `ingest_parameters.memory_bytes`; save it as CSV"
                );
                return Err(unusable(self.name, reason));
            }
        }
    }

    /// Of each cell style, whether it shows a date.
    fn date_styles(&self, path: &str) -> Result<Vec<bool>, IngestError> {
        let mut xml = self.part(path, MAX_SMALL_PART_BYTES)?;
        let mut own: HashMap<u32, bool> = HashMap::new();
        let (mut are_dates, mut cell_styles) = (Vec::new(), None);
        let wrong = |reason| unusable(self.name, reason);
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        loop {
            match xml.next()? {
                XmlEvent::Start(tag) if tag.is("numFmt") => {
                    let id = number(tag.attribute("numFmtId").map_err(wrong)?);
                    let code = tag.attribute("formatCode").map_err(wrong)?.unwrap_or_default();
                    own.insert(id, is_date_format(&code));
                }
                XmlEvent::Start(tag) if tag.is("xf") && cell_styles.is_some() => {
                    let id = number(tag.attribute("numFmtId").map_err(wrong)?);
                    are_dates.push(own.get(&id).copied().unwrap_or_else(|| is_built_in_date(id)));
                }
                XmlEvent::Start(tag) if tag.is("cellXfs") => cell_styles = Some(xml.depth()),
                XmlEvent::End => {
                    cell_styles.take_if(|depth: &mut usize| *depth > xml.depth());
                }
                XmlEvent::Eof => return Ok(are_dates),
                _ => {}
            }
        }
    }
}

/// A path in the zip: a target is relative to a folder, unless it begins with `/`.
fn join(folder: &str, target: &str) -> String {
    let start = if target.starts_with('/') { "" } else { folder };
    let mut path: Vec<&str> = Vec::new();
    for word in start.split('/').chain(target.split('/')) {
        match word {
            "" | "." => {}
            ".." => drop(path.pop()),
            word => path.push(word),
        }
    }
    path.join("/")
}

/// The beginning of a stream; that there is more is an error.
struct AtMost {
    stream: ByteStream,
    left: u64,
}

impl Read for AtMost {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(to)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a part of it unpacks to more than any workbook has")
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_columns() {
        let check = |reference: &str, expect| assert_eq!(column_of(reference), expect, "{reference}");
        check("A1", Some(0));
        check("z9", Some(25));
        check("AA10", Some(26));
        check("XFD1048576", Some(16_383));
        check("XFE1", None);
        check("ZZZZZZZZZZZZZZZZZZZZ1", None);
        check("12", None);
    }

    #[test]
    fn targets_stay_in_the_package() {
        let check = |folder: &str, target: &str, expect: &str| assert_eq!(join(folder, target), expect);
        check("xl", "worksheets/sheet1.xml", "xl/worksheets/sheet1.xml");
        check("xl", "/xl/worksheets/sheet1.xml", "xl/worksheets/sheet1.xml");
        check("xl/worksheets", "../media/./1.png", "xl/media/1.png");
        check("", "../../etc/passwd", "etc/passwd");
    }
}
