//! YAML (and so JSON) text as a tree that remembers its lines.
//!
//! Scalars stay text: what a scalar means is decided by the key it belongs to, so `yes`, `0123` or
//! `1e3` cannot change their meaning between YAML 1.1 (which DD's parser reads) and 1.2.
//!
//! The text is not trusted: size, depth and the tree that aliases expand to are bounded, and no
//! function here recurses deeper than [`MAX_DEPTH`].

use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

/// A configuration of some hundred keys has 10 KB. 4 MiB leaves room for long lists of inputs.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 20;
/// Our keys nest twice; eight levels are more than any file that can be valid.
const MAX_DEPTH: usize = 8;
/// What all aliases together may expand to, in bytes of text plus nodes: twice the largest file.
const MAX_EXPANDED: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Node {
    /// Counted from 1.
    pub(super) line: u32,
    pub(super) data: Data,
    /// Bytes of text plus nodes below, with aliases counted as often as they are used.
    weight: usize,
}

#[derive(Debug)]
pub(super) enum Data {
    /// `null`, `~`, or nothing, without quotes.
    Null,
    Scalar(String),
    List(Vec<Rc<Node>>),
    /// In file order, duplicates included.
    Map(Vec<(Name, Rc<Node>)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) line: u32,
}

/// Why a text is no tree, and on which line.
#[derive(Debug, PartialEq)]
pub(super) struct SyntaxError {
    pub(super) line: u32,
    pub(super) reason: String,
}

impl SyntaxError {
    fn new(line: u32, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

impl From<ScanError> for SyntaxError {
    fn from(error: ScanError) -> Self {
        Self::new(line_of(error.marker().line()), error.info())
    }
}

/// Reads one document; `None` when the text is empty or only comments.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Rc<Node>>, SyntaxError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let newlines = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        SyntaxError::new(line_of(newlines + 1), "the text is not UTF-8")
    })?;
    let mut builder = Builder { parser: Parser::new_from_str(text), anchors: HashMap::new() };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::DocumentStart(_) if root.is_some() => {
                return Err(SyntaxError::new(line_of(span.start.line()), "a second document begins here"));
            }
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event => root = Some(builder.node(event, span, 0)?),
        }
    }
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// Finished nodes by the parser's anchor number. A node is entered when it is complete, so an
    /// alias inside its own anchor is not found and there are no cycles.
    anchors: HashMap<usize, Rc<Node>>,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        self.parser.next_event().unwrap_or(Ok((Event::StreamEnd, Span::default()))).map_err(SyntaxError::from)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Rc<Node>, SyntaxError> {
        let line = line_of(span.start.line());
        if depth > MAX_DEPTH {
            return Err(SyntaxError::new(
                line,
                format!("values are nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        let mut weight = 1;
        let (anchor, data) = match event {
            Event::Alias(id) => {
                return self.anchors.get(&id).cloned().ok_or_else(|| {
                    SyntaxError::new(line, "an alias (`*name`) stands inside the value that it names")
                });
            }
            Event::Scalar(text, style, anchor, _) => {
                weight += text.len();
                let is_null = style == ScalarStyle::Plain && is_null(&text);
                (anchor, if is_null { Data::Null } else { Data::Scalar(text.into_owned()) })
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break (anchor, Data::List(items));
                    }
                    let item = self.node(event, span, depth + 1)?;
                    add_weight(&mut weight, &item, line)?;
                    items.push(item);
                }
            }
            Event::MappingStart(anchor, _) => {
                let mut entries = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        break (anchor, Data::Map(entries));
                    }
                    let key = self.node(event, span, depth + 1)?;
                    let name = match &key.data {
                        Data::Scalar(text) => Name { text: text.clone(), line: line_of(span.start.line()) },
                        _ => return Err(SyntaxError::new(key.line, "a key must be a plain word or number")),
                    };
                    let (event, span) = self.next()?;
                    let value = self.node(event, span, depth + 1)?;
                    add_weight(&mut weight, &key, line)?;
                    add_weight(&mut weight, &value, line)?;
                    entries.push((name, value));
                }
            }
            other => return Err(SyntaxError::new(line, format!("unexpected {other:?}"))),
        };
        let node = Rc::new(Node { line, data, weight });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }
}

fn add_weight(weight: &mut usize, node: &Node, line: u32) -> Result<(), SyntaxError> {
    *weight += node.weight;
    if *weight > MAX_EXPANDED {
        let limit = MAX_EXPANDED >> 20;
        return Err(SyntaxError::new(line, format!("its aliases expand to more than {limit} MiB")));
    }
    Ok(())
}

fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

fn line_of(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// A scalar that reads back as `text`: bare where nothing can mistake it, else in double quotes.
pub(super) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ' | '%' | '+');
    // Not a digit: other readers of the file would see a number.
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/');
    let is_word = ["true", "false", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(text));
    let is_bare = text.starts_with(first)
        && text.chars().all(plain)
        && !text.ends_with(' ')
        && !is_word
        && !is_null(text);
    if is_bare {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            // The rest of what YAML calls not printable or takes for a line break.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason(text: &str) -> String {
        let error = parse(text.as_bytes()).unwrap_err();
        format!("{}: {}", error.line, error.reason)
    }

    /// One line per leaf: `line path=value`.
    fn leaves(node: &Node, path: &str, out: &mut Vec<String>) {
        match &node.data {
            Data::Null => out.push(format!("{} {path}=null", node.line)),
            Data::Scalar(text) => out.push(format!("{} {path}={text}", node.line)),
            Data::List(items) => items.iter().for_each(|item| leaves(item, &format!("{path}[]"), out)),
            Data::Map(entries) => {
                entries.iter().for_each(|(name, value)| leaves(value, &format!("{path}.{}", name.text), out));
            }
        }
    }

    fn flat(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        leaves(&parse(text.as_bytes()).unwrap().unwrap(), "", &mut out);
        out
    }

    #[test]
    fn lines_and_text_are_kept() {
        assert_eq!(
            flat("# c\na: 1\nb:\n  c: 'x'\n  d: [yes, ~]\ne:\n"),
            ["2 .a=1", "4 .b.c=x", "5 .b.d[]=yes", "5 .b.d[]=null", "6 .e=null"]
        );
        assert_eq!(
            flat("{\n\t\"a\": {\"b\": \"h\\u00e9\"},\n\t\"c\": null\n}\n"),
            ["2 .a.b=hé", "3 .c=null"]
        );
        assert_eq!(flat("\u{feff}a: &x [1]\nb: *x\n"), ["1 .a[]=1", "1 .b[]=1"]);
        assert!(parse(b"# nothing\n").unwrap().is_none());
        assert!(parse(b"").unwrap().is_none());
    }

    #[test]
    fn broken_text_is_located() {
        assert_eq!(reason("a: 1\nb: [1\nc: 2\n"), "3: illegal placement of ':' indicator");
        assert_eq!(reason("a: 1\n\tb: 2\n"), "1: while scanning a plain scalar, found a tab");
        assert_eq!(reason("a: 1\n---\nb: 2\n"), "2: a second document begins here");
        assert_eq!(reason("a: &x [*x]\n"), "1: an alias (`*name`) stands inside the value that it names");
        assert_eq!(reason("[1]: 2\n"), "1: a key must be a plain word or number");
        assert_eq!(reason(&"[".repeat(100)), "1: values are nested more than 8 levels deep");
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
        assert_eq!(parse(b"a: 1\nb: \xff\n").unwrap_err(), SyntaxError::new(2, "the text is not UTF-8"));
    }

    #[test]
    fn aliases_do_not_explode() {
        let mut bomb = String::from("a0: &a0 [xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]\n");
        for i in 1..20 {
            let before = format!("*a{},", i - 1).repeat(8);
            bomb.push_str(&format!("a{i}: &a{i} [{before}]\n"));
        }
        assert_eq!(reason(&bomb), "7: its aliases expand to more than 8 MiB");
    }

    #[test]
    fn quotes_only_where_needed() {
        for (text, expect) in [
            ("gbif", "gbif"),
            ("two words.csv", "two words.csv"),
            ("64 MiB", "\"64 MiB\""),
            ("No", "\"No\""),
            ("a: b", "\"a: b\""),
            ("", "\"\""),
            ("null", "\"null\""),
            ("- a", "\"- a\""),
            ("#x", "\"#x\""),
            ("a\"\\\n\0", "\"a\\\"\\\\\\n\\U00000000\""),
        ] {
            assert_eq!(quote(text), expect);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_yaml_like_text_is_read_or_refused(text in "[-a:&*!|>%@`'\"{}\\[\\],?#~ \t\n\r0\u{e9}\\\\<]{0,120}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn quoted_text_reads_back(text: String) {
            let yaml = format!("k: {}\n", quote(&text));
            let root = parse(yaml.as_bytes()).unwrap().unwrap();
            let Data::Map(entries) = &root.data else { panic!("no map") };
            let Data::Scalar(read) = &entries[0].1.data else { panic!("no scalar: {yaml:?}") };
            prop_assert_eq!(read, &text);
        }
    }
}
