//! `.xls`: the records of Excel 97 to 2003 (MS-XLS, BIFF8).
//!
//! The file is read whole, and may have a quarter of `memory_bytes`: what is made of it, the stream of records and the
//! texts that cells share, is hardly larger.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::error::IngestError;
use super::super::raw_batch::ReadContext;
use super::cell_text::{CellStyles, is_built_in_date, is_date_format};
use super::compound_file::{CompoundFile, u16_at, u32_at};
use super::shared_texts::SharedTexts;
use super::{Row, unusable};

/// Kinds of records (MS-XLS, 2.3).
mod kind {
    pub(super) const FORMULA: u16 = 0x0006;
    pub(super) const EOF: u16 = 0x000a;
    pub(super) const DATE_1904: u16 = 0x0022;
    pub(super) const FILE_PASS: u16 = 0x002f;
    pub(super) const CONTINUE: u16 = 0x003c;
    pub(super) const BOUND_SHEET: u16 = 0x0085;
    pub(super) const MUL_RK: u16 = 0x00bd;
    pub(super) const R_STRING: u16 = 0x00d6;
    pub(super) const XF: u16 = 0x00e0;
    pub(super) const SST: u16 = 0x00fc;
    pub(super) const LABEL_SST: u16 = 0x00fd;
    pub(super) const NUMBER: u16 = 0x0203;
    pub(super) const LABEL: u16 = 0x0204;
    pub(super) const BOOL_ERR: u16 = 0x0205;
    pub(super) const STRING: u16 = 0x0207;
    pub(super) const RK: u16 = 0x027e;
    pub(super) const FORMAT: u16 = 0x041e;
    pub(super) const BOF: u16 = 0x0809;
}

/// Version in a BOF record.
const BIFF8: u16 = 0x0600;

/// The first sheet of cells.
pub(super) struct XlsSheet {
    path: PathBuf,
    stream: Vec<u8>,
    /// Where the next record begins.
    at: usize,
    /// Charts that the sheet has in it, around the next record.
    nested: usize,
    texts: SharedTexts,
    styles: CellStyles,
    last_row: Option<u16>,
}

impl XlsSheet {
    pub(super) fn open(file: &Path, name: &Path, context: &ReadContext) -> Result<Self, IngestError> {
        let max_bytes = context.memory_bytes / 4;
        let mut bytes = Vec::new();
        File::open(file)
            .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
            .map_err(IngestError::read(name))?;
        if bytes.len() as u64 > max_bytes {
            let reason = format!(
                "it has more than {max_bytes} bytes, a quarter of `ingest_parameters.memory_bytes`; save it as CSV"
            );
            return Err(unusable(name, reason));
        }
        context.meter.add(bytes.len() as u64);
        Self::from_bytes(&bytes, name).map_err(|reason| unusable(name, reason))
    }

    fn from_bytes(bytes: &[u8], name: &Path) -> Result<Self, String> {
        let file = CompoundFile::open(bytes)?;
        let Some(stream) = file.stream("Workbook")? else {
            return Err(match file.stream("Book") {
                Ok(Some(_)) => "it is older than Excel 97; save it anew".to_owned(),
                _ => "it has no workbook in it".to_owned(),
            });
        };
        let globals = Globals::read(&stream)?;
        let sheet = globals.first_sheet.ok_or("it has no sheet of cells")?;
        let styles = globals.styles();
        let mut sheet = Self {
            path: name.to_owned(),
            at: sheet as usize,
            stream,
            nested: 0,
            texts: globals.texts,
            styles,
            last_row: None,
        };
        match record(&sheet.stream, sheet.at)? {
            Some(bof) if bof.kind == kind::BOF => sheet.at = bof.end,
            _ => return Err("its first sheet is not where it should be".to_owned()),
        }
        Ok(sheet)
    }

    pub(super) fn next_row(&mut self, row: &mut Row) -> Result<bool, IngestError> {
        self.read_row(row).map_err(|reason| unusable(&self.path, reason))
    }

    fn read_row(&mut self, row: &mut Row) -> Result<bool, String> {
        let mut current = None;
        while let Some(next) = record(&self.stream, self.at)? {
            match next.kind {
                kind::BOF => self.nested += 1,
                kind::EOF if self.nested == 0 => break,
                kind::EOF => self.nested -= 1,
                _ if self.nested == 0 && is_cell(next.kind) && next.data.len() >= 4 => {
                    let number = u16_at(next.data, 0);
                    match current {
                        None => {
                            if self.last_row.is_some_and(|last| number <= last) {
                                return Err("its rows are out of order".to_owned());
                            }
                            row.start(u64::from(number) + 1);
                            current = Some(number);
                            self.last_row = current;
                        }
                        Some(current) if current != number => return Ok(true),
                        Some(_) => {}
                    }
                    let cell = Cells { stream: &self.stream, texts: &self.texts, styles: &self.styles };
                    self.at = cell.read(&next, row)?;
                    continue;
                }
                _ => {}
            }
            self.at = next.end;
        }
        Ok(current.is_some())
    }
}

fn is_cell(kind: u16) -> bool {
    matches!(
        kind,
        kind::FORMULA
            | kind::MUL_RK
            | kind::R_STRING
            | kind::LABEL_SST
            | kind::NUMBER
            | kind::LABEL
            | kind::BOOL_ERR
            | kind::RK
    )
}

/// What reading cells needs.
struct Cells<'a> {
    stream: &'a [u8],
    texts: &'a SharedTexts,
    styles: &'a CellStyles,
}

impl Cells<'_> {
    /// Puts what a record says into the row. Returns where the next one begins.
    fn read(&self, record: &Record<'_>, row: &mut Row) -> Result<usize, String> {
        let data = record.data;
        let column = usize::from(u16_at(data, 2));
        let style = |at: usize| data.get(at..at + 2).map_or(0, |bytes| usize::from(u16_at(bytes, 0)));
        match record.kind {
            kind::NUMBER => {
                let value = f64_at(data, 6).ok_or_else(cut_off)?;
                row.push(column, &self.styles.number(style(4), value));
            }
            kind::RK => {
                let value = rk(data.get(6..10).ok_or_else(cut_off)?);
                row.push(column, &self.styles.number(style(4), value));
            }
            kind::MUL_RK => {
                // The last column stands behind.
                let cells = data.get(4..data.len().max(6) - 2).ok_or_else(cut_off)?;
                for (nth, cell) in cells.chunks_exact(6).enumerate() {
                    let text = self.styles.number(usize::from(u16_at(cell, 0)), rk(&cell[2..]));
                    row.push(column + nth, &text);
                }
            }
            kind::LABEL_SST => {
                let index = u32_at(data.get(6..10).ok_or_else(cut_off)?, 0);
                row.push(column, self.texts.get(index as usize)?);
            }
            kind::LABEL | kind::R_STRING => {
                let text = Pieces::of(self.stream, record)?.skip(6)?.text_of_u16_length()?;
                row.push(column, &text);
            }
            kind::BOOL_ERR => {
                if let Some([value, 0]) = data.get(6..8) {
                    row.push(column, truth(*value));
                }
            }
            kind::FORMULA => return self.read_formula(record, column, style(4), row),
            _ => {}
        }
        Ok(record.end)
    }

    /// The value that the formula had when the file was saved.
    fn read_formula(
        &self,
        formula: &Record<'_>,
        column: usize,
        style: usize,
        row: &mut Row,
    ) -> Result<usize, String> {
        let value = formula.data.get(6..14).ok_or_else(cut_off)?;
        if value[6..] != [0xff, 0xff] {
            let number = f64_at(value, 0).unwrap_or_default();
            row.push(column, &self.styles.number(style, number));
        } else if value[0] == 1 {
            row.push(column, truth(value[2]));
        } else if value[0] == 0 {
            // Its text is a record of its own; what may stand between is no cell.
            let mut at = formula.end;
            while let Some(next) = record(self.stream, at)? {
                if next.kind == kind::STRING {
                    row.push(column, &Pieces::of(self.stream, &next)?.text_of_u16_length()?);
                    return Ok(next.end);
                }
                if is_cell(next.kind) || matches!(next.kind, kind::BOF | kind::EOF) {
                    break;
                }
                at = next.end;
            }
        }
        Ok(formula.end)
    }
}

fn truth(value: u8) -> &'static str {
    if value == 0 { "false" } else { "true" }
}

fn cut_off() -> String {
    "a record is cut off".to_owned()
}

fn f64_at(bytes: &[u8], at: usize) -> Option<f64> {
    bytes.get(at..at + 8)?.try_into().ok().map(f64::from_le_bytes)
}

/// A number in four bytes (2.5.122): the upper 30 bits of a double, or an integer; either may be in hundredths.
fn rk(bytes: &[u8]) -> f64 {
    let bits = u32_at(bytes, 0);
    let value = if bits & 2 == 0 {
        f64::from_bits(u64::from(bits & !3) << 32)
    } else {
        f64::from(bits.cast_signed() >> 2)
    };
    if bits & 1 == 0 { value } else { value / 100.0 }
}

/// A record, and where the next one begins.
struct Record<'a> {
    kind: u16,
    data: &'a [u8],
    end: usize,
}

/// The record that begins there; `None` at the end of the stream.
fn record(stream: &[u8], at: usize) -> Result<Option<Record<'_>>, String> {
    let Some(rest) = stream.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let head = rest.get(..4).ok_or_else(cut_off)?;
    let length = usize::from(u16_at(head, 2));
    let data = rest.get(4..4 + length).ok_or_else(cut_off)?;
    Ok(Some(Record { kind: u16_at(head, 0), data, end: at + 4 + length }))
}

/// What holds for the whole workbook.
#[derive(Default)]
struct Globals {
    first_sheet: Option<u32>,
    is_1904: bool,
    texts: SharedTexts,
    /// Of each cell style, its number format.
    style_formats: Vec<u16>,
    /// Formats that are the file's own, and whether they show dates.
    formats: HashMap<u16, bool>,
}

impl Globals {
    fn read(stream: &[u8]) -> Result<Self, String> {
        let mut globals = Self::default();
        let mut at = 0;
        while let Some(next) = record(stream, at)? {
            let data = next.data;
            match next.kind {
                kind::BOF if at == 0 && (data.len() < 2 || u16_at(data, 0) != BIFF8) => {
                    return Err("it is older than Excel 97; save it anew".to_owned());
                }
                kind::FILE_PASS => return Err("it is protected by a password".to_owned()),
                kind::DATE_1904 => globals.is_1904 = data.starts_with(&[1, 0]),
                // Worksheets are of type 0; others are charts and macros.
                kind::BOUND_SHEET if data.get(5) == Some(&0) => {
                    globals.first_sheet.get_or_insert(u32_at(data, 0));
                }
                kind::XF if data.len() >= 4 => globals.style_formats.push(u16_at(data, 2)),
                kind::FORMAT if data.len() >= 2 => {
                    let code = Pieces::of(stream, &next)?.skip(2)?.text_of_u16_length()?;
                    globals.formats.insert(u16_at(data, 0), is_date_format(&code));
                }
                kind::SST => globals.texts = shared_texts(stream, &next)?,
                kind::EOF => break,
                _ => {}
            }
            at = next.end;
        }
        Ok(globals)
    }

    fn styles(&self) -> CellStyles {
        let is_date = |format: &u16| {
            self.formats.get(format).copied().unwrap_or_else(|| is_built_in_date(u32::from(*format)))
        };
        CellStyles { are_dates: self.style_formats.iter().map(is_date).collect(), is_1904: self.is_1904 }
    }
}

/// The texts that cells share.
fn shared_texts(stream: &[u8], sst: &Record<'_>) -> Result<SharedTexts, String> {
    let mut pieces = Pieces::of(stream, sst)?.skip(8)?;
    let mut shared = SharedTexts::default();
    // How many it claims to have is of no use.
    while !pieces.is_at_end() {
        shared.push(&pieces.text_of_u16_length()?)?;
    }
    Ok(shared)
}

/// The data of a record and of those that continue it.
struct Pieces<'a> {
    /// Those that follow the current one.
    following: std::vec::IntoIter<&'a [u8]>,
    current: &'a [u8],
}

impl<'a> Pieces<'a> {
    fn of(stream: &'a [u8], first: &Record<'a>) -> Result<Self, String> {
        let mut following = Vec::new();
        let mut at = first.end;
        while let Some(next) = record(stream, at)?.filter(|next| next.kind == kind::CONTINUE) {
            following.push(next.data);
            at = next.end;
        }
        Ok(Self { following: following.into_iter(), current: first.data })
    }

    fn is_at_end(&mut self) -> bool {
        while self.current.is_empty() {
            match self.following.next() {
                Some(next) => self.current = next,
                None => return true,
            }
        }
        false
    }

    fn skip(mut self, count: usize) -> Result<Self, String> {
        self.pass(count)?;
        Ok(self)
    }

    fn pass(&mut self, mut count: usize) -> Result<(), String> {
        while count > 0 {
            if self.is_at_end() {
                return Err(cut_off());
            }
            let taken = count.min(self.current.len());
            self.current = &self.current[taken..];
            count -= taken;
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            if self.is_at_end() {
                return Err(cut_off());
            }
            *byte = self.current[0];
            self.current = &self.current[1..];
        }
        Ok(bytes)
    }

    /// A text with its length in front (2.5.293, 2.5.294): its characters have one byte or two, and where a record ends
    /// within them, the next one says anew which. What follows them, of fonts and pronunciation, is passed over.
    fn text_of_u16_length(&mut self) -> Result<String, String> {
        let mut left = usize::from(u16::from_le_bytes(self.bytes()?));
        let [mut flags] = self.bytes()?;
        let num_runs = if flags & 8 == 0 { 0 } else { usize::from(u16::from_le_bytes(self.bytes()?)) };
        let num_extra = if flags & 4 == 0 { 0 } else { u32::from_le_bytes(self.bytes()?) as usize };
        let mut utf16 = Vec::with_capacity(left);
        while left > 0 {
            if self.current.is_empty() {
                if self.is_at_end() {
                    return Err(cut_off());
                }
                [flags] = self.bytes()?;
            }
            if flags & 1 == 0 {
                let taken = left.min(self.current.len());
                utf16.extend(self.current[..taken].iter().map(|byte| u16::from(*byte)));
                self.current = &self.current[taken..];
                left -= taken;
            } else {
                let taken = left.min(self.current.len() / 2);
                if taken == 0 && !self.current.is_empty() {
                    return Err(cut_off());
                }
                utf16.extend(self.current[..taken * 2].chunks_exact(2).map(|pair| u16_at(pair, 0)));
                self.current = &self.current[taken * 2..];
                left -= taken;
            }
        }
        self.pass(num_runs * 4)?;
        self.pass(num_extra)?;
        Ok(String::from_utf16_lossy(&utf16))
    }
}
