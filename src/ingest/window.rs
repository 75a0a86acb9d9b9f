//! A bounded window over a stream of bytes: what line readers look at.

use std::io::{self, Read};

/// Bytes asked for at once.
const CHUNK: usize = 256 << 10;

/// The not yet consumed front of a stream. Grows only while its user asks for more without
/// consuming, so its user bounds its memory.
pub(super) struct Window<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
}

impl<R: Read> Window<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, end: 0, at_end: false }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
    }

    /// Reads on. Returns false at the end of the stream.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        if self.at_end {
            return Ok(false);
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.end + CHUNK {
            self.buffer.resize(self.end + CHUNK, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.at_end = true;
                    return Ok(false);
                }
                Ok(count) => {
                    self.end += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until `count` bytes or the end are in the window.
    pub(super) fn fill_to(&mut self, count: usize) -> io::Result<()> {
        while self.bytes().len() < count && self.fill()? {}
        Ok(())
    }

    /// The length of the first line in the window without its `\n`, reading on until it is whole.
    /// `None` when no line ends within `max` bytes; at the end of the stream the rest is a line.
    pub(super) fn find_line(&mut self, max: usize) -> io::Result<Option<usize>> {
        let mut searched = 0;
        loop {
            let bytes = self.bytes();
            let limit = bytes.len().min(max);
            if let Some(at) = memchr::memchr(b'\n', &bytes[searched..limit]) {
                return Ok(Some(searched + at));
            }
            searched = limit;
            if limit == max {
                return Ok(None);
            }
            if !self.fill()? {
                return Ok(Some(self.bytes().len()));
            }
        }
    }

    /// Consumes everything up to and with the next line end (`\n`, or also `\r` where `lone_cr`).
    /// Returns the number of `\n` consumed: 0 or 1.
    pub(super) fn skip_line(&mut self, lone_cr: bool) -> io::Result<u64> {
        loop {
            let bytes = self.bytes();
            let found =
                if lone_cr { memchr::memchr2(b'\n', b'\r', bytes) } else { memchr::memchr(b'\n', bytes) };
            if let Some(at) = found {
                let is_newline = bytes[at] == b'\n';
                self.consume(at + 1);
                return Ok(u64::from(is_newline));
            }
            let count = bytes.len();
            self.consume(count);
            if !self.fill()? {
                return Ok(0);
            }
        }
    }
}
