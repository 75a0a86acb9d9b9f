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

use std::io::{self, Read};

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

/// The pieces of a field's value: itself, or what is between its quotes, cut behind the first of each
/// two quotes. A field with a single quote inside is not quoted as a whole.
fn unquoted(value: &[u8], quote: u8) -> impl Iterator<Item = &[u8]> {
    let inner = value.strip_prefix(&[quote]).and_then(|rest| rest.strip_suffix(&[quote]));
    let mut rest = inner.filter(|inner| is_doubled(inner, quote)).unwrap_or(value);
    let is_inner = rest.len() < value.len();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = memchr::memchr(quote, rest).filter(|_| is_inner);
        let (piece, behind) = at.map_or((rest, &[][..]), |at| (&rest[..=at], &rest[at + 2..]));
        rest = behind;
        Some(piece)
    })
}

/// Whether all quotes come in pairs.
fn is_doubled(mut text: &[u8], quote: u8) -> bool {
    while let Some(at) = memchr::memchr(quote, text) {
        if text.get(at + 1) != Some(&quote) {
            return false;
        }
        text = &text[at + 2..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::FieldCount::{AtLeast, Exactly};
    use super::*;

    const CSV: Dialect = Dialect { delimiter: Some(b','), quote: Some(b'"') };

    /// Hands out its bytes in pieces of given sizes, in turn.
    pub(in crate::ingest) struct Pieces<'a> {
        pub(in crate::ingest) bytes: &'a [u8],
        pub(in crate::ingest) sizes: Vec<usize>,
        pub(in crate::ingest) turn: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes[self.turn % self.sizes.len()].min(to.len()).min(self.bytes.len());
            self.turn += 1;
            to[..size].copy_from_slice(&self.bytes[..size]);
            self.bytes = &self.bytes[size..];
            Ok(size)
        }
    }

    type Found = Result<(u64, Vec<String>), (u64, String)>;

    fn read_all(
        text: &[u8],
        sizes: Vec<usize>,
        dialect: Dialect,
        max: usize,
        expected: FieldCount,
    ) -> Vec<Found> {
        let window = Window::new(Pieces { bytes: text, sizes, turn: 0 });
        let mut reader = RecordReader::new(window, dialect, max);
        let mut found = Vec::new();
        loop {
            match reader.next(expected).unwrap() {
                Event::Record(record) => {
                    let fields =
                        record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
                    found.push(Ok((record.line, fields)));
                }
                Event::Malformed { line, reason } => found.push(Err((line, reason))),
                Event::End => return found,
            }
        }
    }

    fn record(line: u64, fields: &[&str]) -> Found {
        Ok((line, fields.iter().map(|&field| field.to_owned()).collect()))
    }

    #[test]
    fn quotes_line_ends_and_blank_lines() {
        let text = b"a,b\r\n\n\"x, \"\"y\"\"\",2\n\"two\nlines\",3\r\n,\nlast,4";
        let expect = [
            record(1, &["a", "b"]),
            record(3, &["x, \"y\"", "2"]),
            record(4, &["two\nlines", "3"]),
            record(6, &["", ""]),
            record(7, &["last", "4"]),
        ];
        assert_eq!(read_all(text, vec![1 << 20], CSV, 1 << 20, Exactly(2)), expect);
        assert_eq!(read_all(text, vec![1], CSV, 1 << 20, Exactly(2)), expect);
    }

    #[test]
    fn an_unclosed_quote_costs_one_line() {
        let mut text = b"1,\"open\n".to_vec();
        text.extend(b"2,b\n".repeat(50));
        let found = read_all(&text, vec![7], CSV, 64, Exactly(2));
        assert_eq!(found.len(), 51);
        assert!(matches!(&found[0], Err((1, reason)) if reason.contains("not closed")), "{:?}", found[0]);
        assert_eq!(found[50], record(51, &["2", "b"]));
        // The same at the end of the file, where no limit is reached.
        let found = read_all(b"1,\"open\n2,b", vec![7], CSV, 1 << 20, Exactly(2));
        assert!(
            matches!(&found[0], Err((1, reason)) if reason.contains("end of the file")),
            "{:?}",
            found[0]
        );
        assert_eq!(found[1..], [record(2, &["2", "b"])]);
    }

    #[test]
    fn wrong_numbers_of_fields_and_long_lines_are_malformed() {
        let text = format!("1,2\n1\n1,2,3\n{},2\n\"1\",\"2\",3\n3,4\n", "x".repeat(100));
        let found = read_all(text.as_bytes(), vec![10], CSV, 50, Exactly(2));
        let lines: Vec<_> = found.iter().map(|f| f.as_ref().map(|r| r.0).map_err(|e| e.0)).collect();
        assert_eq!(lines, [Ok(1), Err(2), Err(3), Err(4), Err(5), Ok(6)]);
    }

    #[test]
    fn memory_is_bounded_on_an_endless_line() {
        let endless = io::repeat(b'x').take(64 << 20).chain(&b"\nlast,1\n"[..]);
        let mut reader = RecordReader::new(Window::new(endless), CSV, 1 << 20);
        assert!(matches!(reader.next(Exactly(2)).unwrap(), Event::Malformed { line: 1, .. }));
        let Event::Record(record) = reader.next(Exactly(2)).unwrap() else { panic!("a record follows") };
        assert_eq!((record.line, record.field(0)), (2, &b"last"[..]));
        assert!(reader.output.len() <= 2 << 20);
    }

    const TSV: Dialect = Dialect { delimiter: Some(b'\t'), quote: Some(b'"') };

    /// A title that began with a quote swallowed all rows up to the next one that had a quote.
    #[test]
    fn a_tab_separated_line_that_is_whole_is_a_record() {
        let check = |text: &str, expect: &[Found]| {
            assert_eq!(read_all(text.as_bytes(), vec![3], TSV, 100, Exactly(2)), expect, "{text}");
        };
        check(
            "1\t\"open\n2\tb\n3\t5\" pot\n",
            &[record(1, &["1", "\"open"]), record(2, &["2", "b"]), record(3, &["3", "5\" pot"])],
        );
        check(
            "\"a \"\"b\"\"\"\t\"\"\r\n\"a\"b\"\t\"\n",
            &[record(1, &["a \"b\"", ""]), record(2, &["\"a\"b\"", "\""])],
        );
        // Only lines that are no records are joined, or cut by quotes.
        check("2\t\"a\tb\"\n", &[record(1, &["2", "a\tb"])]);
        check(
            "\"two\nlines\"\t3\n",
            &[Err((1, "a quote is not closed on its line".into())), record(2, &["lines\"", "3"])],
        );
        let found = read_all(b"1\t2\t\"a\nb\"\n1\t\"a\nb\"\t3\n", vec![3], TSV, 100, AtLeast(3));
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], record(3, &["1", "a\nb", "3"]));
    }

    #[test]
    fn without_quoting_a_quote_is_a_character() {
        let dialect = Dialect { delimiter: Some(b'\t'), quote: None };
        let found = read_all(b"a\t\"b\n\"c\td\"\n", vec![3], dialect, 100, Exactly(2));
        assert_eq!(found, [record(1, &["a", "\"b"]), record(2, &["\"c", "d\""])]);
    }

    /// RFC 4180 written the slow way: characters one by one, the whole text at hand.
    fn naive(text: &str, expected: usize) -> Vec<Found> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let mut found = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            if lines[at].trim_end_matches(['\r', '\n']).is_empty() {
                at += 1;
                continue;
            }
            match naive_record(&lines[at..]) {
                Some((fields, used)) if fields.len() == expected => {
                    found.push(Ok((at as u64 + 1, fields)));
                    at += used;
                }
                _ => {
                    found.push(Err((at as u64 + 1, String::new())));
                    at += 1;
                }
            }
        }
        found
    }

    fn naive_record(lines: &[&str]) -> Option<(Vec<String>, usize)> {
        let mut fields = vec![String::new()];
        let (mut quoted, mut fresh) = (false, true);
        for (used, line) in lines.iter().enumerate() {
            let mut chars = line.chars().peekable();
            while let Some(c) = chars.next() {
                let field = fields.last_mut().unwrap();
                match c {
                    '"' if quoted && chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    '"' if quoted => quoted = false,
                    _ if quoted => field.push(c),
                    '"' if fresh => (quoted, fresh) = (true, false),
                    ',' => {
                        fields.push(String::new());
                        fresh = true;
                    }
                    '\n' => return Some((fields, used + 1)),
                    _ => {
                        field.push(c);
                        fresh = false;
                    }
                }
            }
        }
        (!quoted).then_some((fields, lines.len()))
    }

    proptest! {
        #[test]
        fn any_text_reads_as_the_naive_model_does(
            text in "[ab,\"\n]{0,60}",
            sizes in proptest::collection::vec(1usize..9, 1..4),
            expected in 1usize..4,
        ) {
            let found = read_all(text.as_bytes(), sizes, CSV, 1 << 20, Exactly(expected));
            let found: Vec<Found> = found.into_iter().map(|f| f.map_err(|(line, _)| (line, String::new()))).collect();
            prop_assert_eq!(found, naive(&text, expected));
        }

        #[test]
        fn no_quote_costs_a_tab_separated_line(text in "[ab\t\"\n]{0,60}", expected in 2usize..4) {
            let found = read_all(text.as_bytes(), vec![1 << 20], TSV, 1 << 20, Exactly(expected));
            for (index, line) in text.lines().enumerate() {
                let fields: Vec<&str> = line.split('\t').collect();
                if fields.len() == expected {
                    let as_written = |field: &str| field.chars().filter(|&c| c != '"').collect::<String>();
                    let is_it = |record: &Found| record.as_ref().is_ok_and(|(at, found)| {
                        *at == index as u64 + 1 && found.iter().map(|f| as_written(f)).eq(fields.iter().map(|f| as_written(f)))
                    });
                    prop_assert!(found.iter().any(is_it), "line {} of {:?}: {:?}", index + 1, text, found);
                }
            }
        }

        #[test]
        fn pieces_do_not_matter(
            text in proptest::collection::vec(proptest::sample::select(b"ab,\"\n\r\xff ".to_vec()), 0..200),
            sizes in proptest::collection::vec(1usize..9, 1..4),
            max in 4usize..40,
        ) {
            let whole = read_all(&text, vec![1 << 20], CSV, max, Exactly(2));
            prop_assert_eq!(read_all(&text, sizes, CSV, max, Exactly(2)), whole);
        }
    }
}
