//! XML, event by event, from a file that nobody vouches for.
//!
//! Only XML's own five entities and character references are resolved: what a file declares by itself is never
//! expanded, nor is anything fetched. One event, and how deep elements stand in each other, is bounded, so memory is.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use super::delimited::ByteStream;
use super::error::{IngestError, printable};

/// Elements in each other. Tables have three, workbooks some ten.
const MAX_DEPTH: usize = 64;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

pub(super) struct XmlStream {
    reader: quick_xml::Reader<Budget>,
    buffer: Vec<u8>,
    depth: usize,
    max_event_bytes: usize,
    path: PathBuf,
    /// What the file is taken for, in messages.
    what: &'static str,
}

/// What stands next in the file. An empty element starts and ends.
#[derive(Debug)]
pub(super) enum XmlEvent<'a> {
    Start(Tag<'a>),
    /// A piece of text; several may follow each other.
    Text(Cow<'a, str>),
    End,
    /// The root element has ended, and so has the file.
    Eof,
    /// A comment and the like.
    Other,
}

/// The start of an element.
#[derive(Debug)]
pub(super) struct Tag<'a>(BytesStart<'a>);

impl Tag<'_> {
    /// Its name without a prefix.
    pub(super) fn name(&self) -> String {
        self.0.local_name().as_ref().to_owned()
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.0.local_name().as_ref() == name
    }

    /// Names, without prefixes, and values of the attributes; declarations of namespaces are none.
    pub(super) fn attributes(&self) -> Result<Vec<(String, String)>, String> {
        let is_namespace = |name: &str| name == "xmlns" || name.starts_with("xmlns:");
        // Looking for repetitions takes quadratic time.
        let mut attributes = self.0.attributes();
        let mut found = Vec::new();
        for attribute in attributes.with_checks(false) {
            let attribute = attribute.map_err(|error| error.to_string())?;
            if !is_namespace(attribute.key.as_ref()) {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                let value = value.map_err(|error| error.to_string())?.into_owned();
                found.push((attribute.key.local_name().as_ref().to_owned(), value));
            }
        }
        Ok(found)
    }

    /// The attribute of this name, whatever its prefix.
    pub(super) fn attribute(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.attributes()?.into_iter().find(|(key, _)| key == name).map(|(_, value)| value))
    }
}

impl XmlStream {
    /// `path` and `what` are for messages.
    pub(super) fn new(path: &Path, what: &'static str, stream: ByteStream, max_event_bytes: usize) -> Self {
        let stream = BufReader::with_capacity(CHUNK, stream);
        let mut reader = quick_xml::Reader::from_reader(Budget { stream, left: 0 });
        reader.config_mut().expand_empty_elements = true;
        Self { reader, buffer: Vec::new(), depth: 0, max_event_bytes, path: path.to_owned(), what }
    }

    /// Elements that are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// # Errors
    /// When the file cannot be read on, is not well-formed, or goes beyond a limit.
    pub(super) fn next(&mut self) -> Result<XmlEvent<'_>, IngestError> {
        self.buffer.clear();
        self.reader.get_mut().left = self.max_event_bytes;
        let position = self.reader.buffer_position();
        let unusable = |path: &Path, what, reason: String| {
            let reason = format!("at byte {position}, {}", printable(&reason));
            IngestError::Unusable { path: path.to_owned(), what, reason }
        };
        let (path, what) = (&self.path, self.what);
        let event = match self.reader.read_event_into(&mut self.buffer) {
            Ok(event) => event,
            Err(quick_xml::Error::Io(error)) if is_too_long(&error) => {
                let reason = format!("a piece of it is longer than {} bytes", self.max_event_bytes);
                return Err(unusable(path, what, reason));
            }
            Err(quick_xml::Error::Io(error)) => {
                return Err(IngestError::read(path)(io::Error::new(error.kind(), error.to_string())));
            }
            Err(quick_xml::Error::Encoding(_)) => {
                return Err(unusable(path, what, "it is not UTF-8; convert it".to_owned()));
            }
            Err(error) => return Err(unusable(path, what, error.to_string())),
        };
        Ok(match event {
            Event::Start(tag) | Event::Empty(tag) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(unusable(
                        path,
                        what,
                        format!("more than {MAX_DEPTH} elements in each other"),
                    ));
                }
                XmlEvent::Start(Tag(tag))
            }
            Event::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                XmlEvent::End
            }
            Event::Text(text) => XmlEvent::Text(text.xml10_content()),
            Event::CData(text) => XmlEvent::Text(text.xml10_content()),
            Event::GeneralRef(reference) => {
                let text = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character.to_string()),
                    Ok(None) => resolve_predefined_entity(&reference).map(str::to_owned),
                    Err(_) => None,
                };
                let text = text.ok_or_else(|| {
                    let name = printable(&reference);
                    unusable(path, what, format!("`&{name};` is no entity of XML's own"))
                })?;
                XmlEvent::Text(text.into())
            }
            Event::Eof if self.depth > 0 => {
                return Err(unusable(path, what, "it ends within an element".to_owned()));
            }
            Event::Eof => XmlEvent::Eof,
            Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Comment(_) => XmlEvent::Other,
        })
    }

    /// What is wrong with the file here.
    pub(super) fn unusable(&self, reason: impl Into<String>) -> IngestError {
        IngestError::Unusable { path: self.path.clone(), what: self.what, reason: reason.into() }
    }
}

/// Hands on so many bytes and then fails, until it is given more.
struct Budget {
    stream: BufReader<ByteStream>,
    left: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("too long")]
struct TooLong;

fn is_too_long(error: &Arc<io::Error>) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooLong>())
}

impl Read for Budget {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(to)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Budget {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let available = self.stream.fill_buf()?;
        if self.left == 0 && !available.is_empty() {
            return Err(io::Error::other(TooLong));
        }
        Ok(&available[..available.len().min(self.left)])
    }

    fn consume(&mut self, count: usize) {
        self.left -= count;
        self.stream.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let stream: ByteStream = Box::new(io::Cursor::new(text.as_bytes().to_owned()));
        let mut xml = XmlStream::new(Path::new("list"), "XML", stream, 200);
        let mut told = String::new();
        loop {
            match xml.next().map_err(|error| error.to_string())? {
                XmlEvent::Start(tag) => {
                    let attributes =
                        tag.attributes()?.into_iter().map(|(name, value)| format!(" {name}={value}"));
                    told += &format!("<{}{}>", tag.name(), attributes.collect::<String>());
                }
                XmlEvent::Text(text) => told += &text,
                XmlEvent::End => told += "</>",
                XmlEvent::Eof => return Ok(told),
                XmlEvent::Other => {}
            }
        }
    }

    #[test]
    fn events_are_plain() {
        let check = |text: &str, expect: &str| assert_eq!(read(text).as_deref(), Ok(expect), "{text}");
        check(
            "\u{feff}<?xml version='1.0'?><!-- x --><a:b xmlns:a='u' a:c='1 &amp; 2'><d/>x&lt;&#x79;<![CDATA[<z>]]></a:b>",
            "<b c=1 & 2><d></>x<y<z></>",
        );
        check("<a><!-- is it? --></a>", "<a></>");
    }

    #[test]
    fn hostile_files_end_with_a_reason() {
        let check = |text: &str, expect: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains("`list` is not usable as XML") && error.contains(expect), "{error}");
        };
        let laughs = "<!DOCTYPE a [<!ENTITY l 'ha'><!ENTITY m '&l;&l;&l;'>]><a>&m;</a>";
        check(laughs, "`&m;` is no entity of XML's own");
        check("<!DOCTYPE a [<!ENTITY p SYSTEM 'file:///etc/passwd'>]><a>&p;</a>", "`&p;`");
        check(&"<a>".repeat(65), "more than 64 elements");
        check(&format!("<a>{}</a>", "x".repeat(300)), "longer than 200 bytes");
        check(&format!("<a {}='1'/>", "x".repeat(300)), "longer than 200 bytes");
        check(&format!("<!--{}--><a/>", "x".repeat(300)), "longer than 200 bytes");
        check("<a><b>", "it ends within an element");
        check("<a><b></a>", "expected `</b>`");
        check("<a>&#0;</a>", "`&#0;`");
        check("<a", "");
    }

    #[test]
    fn other_encodings_are_told() {
        let stream: ByteStream = Box::new(&b"<a>\xe9</a>"[..]);
        let mut xml = XmlStream::new(Path::new("list"), "XML", stream, 200);
        assert!(matches!(xml.next(), Ok(XmlEvent::Start(_))));
        let error = xml.next().unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
