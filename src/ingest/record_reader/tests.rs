use proptest::prelude::*;

use super::FieldCount::{AtLeast, Exactly};
use super::*;

const CSV: Dialect = Dialect { delimiter: Some(b','), quote: Some(b'"') };

/// Hands out its bytes in pieces of given sizes, in turn.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: Vec<usize>,
    turn: usize,
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
                let fields = record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
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
    assert!(matches!(&found[0], Err((1, reason)) if reason.contains("end of the file")), "{:?}", found[0]);
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
