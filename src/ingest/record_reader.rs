//! Records of delimited text: `csv_core` over a bounded window, with a way out of damage.
//!
//! A record that does not end within `max_row_bytes`, or has the wrong number of fields, is
//! malformed, and reading resumes on the line after its *first* line. So a quote that is never
//! closed costs one line and not the rest of the file, and memory stays bounded whatever comes.
//!
//! A line without a quote is cut at its delimiters directly; `csv_core` would give the same fields
//! more slowly (a property test holds the two equal).
//!
//! Tab-separated dumps often do not quote at all, and a title may begin with a quote. So there a line
//! that has the fields of a record is one, whatever quotes are in it, and only other lines may be
//! joined: no quote ever costs a line that is whole.

mod quotes;

use std::io::{self, Read};

use self::quotes::unquoted;
use super::window::Window;

/// How fields are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// `None`: the whole line is one field.
    pub(super) delimiter: Option<u8>,
    /// `None`: quotes are ordinary characters and every line is a record.
    pub(super) quote: Option<u8>,
}

/// Fields that a record may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldCount {
    /// It is this record that tells: a header.
    Any,
    Exactly(usize),
    AtLeast(usize),
}

impl FieldCount {
    fn check(self, found: usize) -> Result<(), String> {
        match self {
            Self::Exactly(count) if found != count => {
                Err(format!("{found} fields where {count} are expected"))
            }
            Self::AtLeast(count) if found < count => {
                Err(format!("{found} fields where at least {count} are expected"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a record that has so many fields already is malformed whatever follows.
    fn is_exceeded(self, found: usize) -> bool {
        matches!(self, Self::Exactly(count) if found > count)
    }
}

/// One record; valid until the next call of [`RecordReader::next`].
#[derive(Debug)]
pub(super) struct Record<'a> {
    bytes: &'a [u8],
    fields: &'a [(u32, u32)],
    /// Line of the file on which it begins, from 1.
    pub(super) line: u64,
}

impl<'a> Record<'a> {
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn field(&self, index: usize) -> &'a [u8] {
        let (from, to) = self.fields[index];
        &self.bytes[from as usize..to as usize]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..self.len()).map(|index| self.field(index))
    }
}

#[derive(Debug)]
pub(super) enum Event<'a> {
    Record(Record<'a>),
    Malformed { line: u64, reason: String },
    End,
}

/// How the bytes at the front of the window are to be read.
enum Shape {
    /// A record: so many bytes belong to it, so many `\n` are in them.
    Record {
        bytes: usize,
        newlines: u64,
        in_output: bool,
    },
    Malformed(String),
}

pub(super) struct RecordReader<R> {
    window: Window<R>,
    dialect: Dialect,
    core: csv_core::Reader,
    max_row_bytes: usize,
    /// Unquoted fields of a record that has quotes, and where each ends.
    output: Vec<u8>,
    ends: Vec<usize>,
    fields: Vec<(u32, u32)>,
    line: u64,
    /// What the last record occupied: consumed when the next is asked for.
    pending: (usize, u64),
}

impl<R: Read> RecordReader<R> {
    pub(super) fn new(window: Window<R>, dialect: Dialect, max_row_bytes: usize) -> Self {
        let mut builder = csv_core::ReaderBuilder::new();
        if let Some(delimiter) = dialect.delimiter {
            builder.delimiter(delimiter);
        }
        if let Some(quote) = dialect.quote {
            builder.quote(quote);
        }
        Self {
            window,
            dialect,
            core: builder.build(),
            max_row_bytes,
            output: vec![0; 4096],
            ends: vec![0; 64],
            fields: Vec::new(),
            line: 1,
            pending: (0, 0),
        }
    }

    /// Lines before the window were dropped already.
    pub(super) fn behind_lines(mut self, dropped: u64) -> Self {
        self.line += dropped;
        self
    }

    /// The next record that is not blank. Other numbers of fields than `expected` are malformed.
    pub(super) fn next(&mut self, expected: FieldCount) -> io::Result<Event<'_>> {
        let (bytes, newlines) = std::mem::take(&mut self.pending);
        self.window.consume(bytes);
        self.line += newlines;
        if !self.skip_blank_lines()? {
            return Ok(Event::End);
        }
        let line = self.line;
        let shape = match self.window.find_line(self.max_row_bytes)? {
            Some(length) if self.is_plain(length) => self.cut_line(length, expected),
            None if self.dialect.quote.is_none() => Shape::Malformed(self.too_long()),
            Some(length) if self.lines_come_first(expected) => match self.unquote_line(length, expected) {
                Shape::Malformed(_) => self.parse_joined(expected)?,
                record => record,
            },
            _ => self.parse_quoted(expected)?,
        };
        match shape {
            Shape::Record { bytes, newlines, in_output } => {
                self.pending = (bytes, newlines);
                let bytes = if in_output { &self.output[..] } else { self.window.bytes() };
                Ok(Event::Record(Record { bytes, fields: &self.fields, line }))
            }
            Shape::Malformed(reason) => {
                self.line += self.window.skip_line(self.dialect.quote.is_some())?;
                Ok(Event::Malformed { line, reason })
            }
        }
    }

    /// Drops the header of an archive's table. Returns how many fields its last line has, if it has
    /// a line and that is no longer than a row may be.
    pub(super) fn skip_header(&mut self, num_lines: u64) -> io::Result<Option<usize>> {
        let mut num_fields = None;
        for _ in 0..num_lines {
            let length = self.window.find_line(self.max_row_bytes)?.filter(|&length| length > 0);
            num_fields = length.map(|length| {
                self.cut_line(length, FieldCount::Any);
                self.fields.len()
            });
            self.line += self.window.skip_line(false)?;
        }
        Ok(num_fields)
    }

    /// Returns false at the end of the stream.
    fn skip_blank_lines(&mut self) -> io::Result<bool> {
        loop {
            match self.window.bytes().first().copied() {
                Some(b'\n') => {
                    self.window.consume(1);
                    self.line += 1;
                }
                Some(b'\r') => self.window.consume(1),
                Some(_) => return Ok(true),
                None if !self.window.fill()? => return Ok(false),
                None => {}
            }
        }
    }

    /// Whether the line is a record by itself: no quote, and no `\r` (to `csv_core` a line end) but
    /// the one before its `\n`.
    fn is_plain(&self, length: usize) -> bool {
        let line = &self.window.bytes()[..length];
        self.dialect.quote.is_none_or(|quote| memchr::memchr2(quote, b'\r', without_cr(line)).is_none())
    }

    /// Whether a line with a quote is tried as a record by itself before it is joined with others.
    /// Where records have but one field, any line would be one.
    fn lines_come_first(&self, expected: FieldCount) -> bool {
        let several = match expected {
            FieldCount::Any => false,
            FieldCount::Exactly(count) | FieldCount::AtLeast(count) => count > 1,
        };
        several && self.dialect.delimiter == Some(b'\t')
    }

    fn cut_line(&mut self, length: usize, expected: FieldCount) -> Shape {
        let line = without_cr(&self.window.bytes()[..length]);
        self.fields.clear();
        let mut from = 0;
        if let Some(delimiter) = self.dialect.delimiter {
            for at in memchr::memchr_iter(delimiter, line) {
                self.fields.push((from, at as u32));
                from = at as u32 + 1;
            }
        }
        self.fields.push((from, line.len() as u32));
        if let Err(reason) = expected.check(self.fields.len()) {
            return Shape::Malformed(reason);
        }
        // The last line may lack its `\n`.
        let newlines = u64::from(self.window.bytes().len() > length);
        Shape::Record { bytes: length + newlines as usize, newlines, in_output: false }
    }

    /// Cuts a line at its delimiters, then takes the quotes off the fields that are quoted as a whole.
    fn unquote_line(&mut self, length: usize, expected: FieldCount) -> Shape {
        let Shape::Record { bytes, newlines, .. } = self.cut_line(length, expected) else {
            return Shape::Malformed(String::new());
        };
        let Some(quote) = self.dialect.quote else {
            return Shape::Record { bytes, newlines, in_output: false };
        };
        if self.output.len() < length {
            self.output.resize(length, 0);
        }
        let line = &self.window.bytes()[..length];
        let mut end = 0;
        for field in &mut self.fields {
            let from = end;
            let value = &line[field.0 as usize..field.1 as usize];
            for piece in unquoted(value, quote) {
                self.output[end..end + piece.len()].copy_from_slice(piece);
                end += piece.len();
            }
            *field = (from as u32, end as u32);
        }
        Shape::Record { bytes, newlines, in_output: true }
    }

    /// A quoted field may hold line ends, but not a line that is a record by itself.
    fn parse_joined(&mut self, expected: FieldCount) -> io::Result<Shape> {
        let shape = self.parse_quoted(expected)?;
        if let (Shape::Record { bytes, .. }, Some(delimiter)) = (&shape, self.dialect.delimiter) {
            let mut lines = self.window.bytes()[..*bytes].split(|&byte| byte == b'\n');
            let num_fields = |line| memchr::memchr_iter(delimiter, line).count() + 1;
            if lines.any(|line| expected.check(num_fields(line)).is_ok()) {
                return Ok(Shape::Malformed("a quote is not closed on its line".into()));
            }
        }
        Ok(shape)
    }

    fn parse_quoted(&mut self, expected: FieldCount) -> io::Result<Shape> {
        self.restart_core();
        let (mut read, mut written, mut num_ends) = (0, 0, 0);
        loop {
            let available = self.window.bytes().len().min(self.max_row_bytes);
            if read == available {
                if available == self.max_row_bytes {
                    return Ok(Shape::Malformed(if self.is_in_quotes() {
                        format!("a quote is not closed within {} bytes", self.max_row_bytes)
                    } else {
                        self.too_long()
                    }));
                }
                if self.window.fill()? {
                    continue;
                }
            }
            // At the end of the stream a line end is supplied: `csv_core` itself would take an open
            // quote for closed there.
            let supplied = read == available;
            let input = if supplied { b"\n" } else { &self.window.bytes()[read..available] };
            let (result, num_read, num_written, ends) =
                self.core.read_record(input, &mut self.output[written..], &mut self.ends[num_ends..]);
            if !supplied {
                read += num_read;
            }
            written += num_written;
            num_ends += ends;
            if expected.is_exceeded(num_ends) {
                return Ok(Shape::Malformed("more fields than are expected".into()));
            }
            match result {
                csv_core::ReadRecordResult::InputEmpty if supplied => {
                    return Ok(Shape::Malformed("a quote is not closed before the end of the file".into()));
                }
                csv_core::ReadRecordResult::InputEmpty | csv_core::ReadRecordResult::End => {}
                csv_core::ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                csv_core::ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                csv_core::ReadRecordResult::Record => break,
            }
        }
        if let Err(reason) = expected.check(num_ends) {
            return Ok(Shape::Malformed(reason));
        }
        self.fields.clear();
        let mut from = 0;
        for &to in &self.ends[..num_ends] {
            self.fields.push((from, to as u32));
            from = to as u32;
        }
        let newlines = memchr::memchr_iter(b'\n', &self.window.bytes()[..read]).count() as u64;
        Ok(Shape::Record { bytes: read, newlines, in_output: true })
    }

    /// Puts `csv_core` at the start of a record. The line end keeps it from taking a byte order mark
    /// in the middle of the file for one at its start.
    fn restart_core(&mut self) {
        self.core.reset();
        self.core.read_record(b"\n", &mut [0], &mut [0]);
    }

    /// Whether a line end would be content here.
    fn is_in_quotes(&mut self) -> bool {
        let (result, ..) = self.core.read_record(b"\n", &mut [0], &mut [0]);
        !matches!(result, csv_core::ReadRecordResult::Record)
    }

    fn too_long(&self) -> String {
        format!("longer than {} bytes", self.max_row_bytes)
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
