//! A checksum of a Parquet file's pages, which its own footer carries.
//!
//! Parquet has a place for a checksum of each page, but the `parquet` crate leaves it empty. So whatever is
//! written passes through a [`Checksummed`], and before the footer is written, [`Sign`] puts the CRC-32 of
//! everything up to there into it. `ddl check --deep` compares.

use std::fmt;
use std::io::{self, Read, Write};

use crc32fast::Hasher;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;

/// Key of the Parquet metadata that holds a [`PagesChecksum`].
pub const PAGES_CRC32_KEY: &str = "ddl.pages_crc32";

/// The CRC-32 of a file's first bytes, and how many they are. As text: `1a2b3c4d 4711`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesChecksum {
    crc32: u32,
    bytes: u64,
}

impl PagesChecksum {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (crc32, bytes) = text.split_once(' ')?;
        Some(Self { crc32: u32::from_str_radix(crc32, 16).ok()?, bytes: bytes.parse().ok()? })
    }

    /// The checksum of these bytes.
    #[must_use]
    pub fn of_same_bytes_as(bytes: &[u8]) -> Self {
        Self { crc32: crc32fast::hash(bytes), bytes: bytes.len() as u64 }
    }

    /// How many bytes the checksum is of.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// The checksum of these bytes and then those of `next`.
    #[must_use]
    pub fn followed_by(self, next: Self) -> Self {
        let mut hasher = Hasher::new_with_initial_len(self.crc32, self.bytes);
        hasher.combine(&Hasher::new_with_initial_len(next.crc32, next.bytes));
        Self { crc32: hasher.finalize(), bytes: self.bytes + next.bytes }
    }

    /// The checksum of what follows `start`, with which these bytes begin. None when they are fewer.
    #[must_use]
    pub fn after(self, start: &[u8]) -> Option<Self> {
        let bytes = self.bytes.checked_sub(start.len() as u64)?;
        // CRC(start + rest) = shift(CRC(start)) xor CRC(rest), where the shift is by the length of the rest.
        let shifted = Self::of_same_bytes_as(start).followed_by(Self { crc32: 0, bytes });
        Some(Self { crc32: self.crc32 ^ shifted.crc32, bytes })
    }

    /// The entry of a footer.
    #[must_use]
    pub fn fact(self) -> KeyValue {
        KeyValue::new(PAGES_CRC32_KEY.into(), self.to_string())
    }

    /// The checksum of as many bytes of another file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_same_bytes(self, file: impl Read) -> io::Result<Self> {
        let mut found = Checksummed::new(io::sink());
        io::copy(&mut file.take(self.bytes), &mut found)?;
        Ok(found.checksum())
    }
}

impl fmt::Display for PagesChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x} {}", self.crc32, self.bytes)
    }
}

/// Passes bytes on, and keeps their checksum.
#[derive(Debug)]
pub struct Checksummed<W> {
    inner: W,
    crc: Hasher,
    bytes: u64,
}

impl<W> Checksummed<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, crc: Hasher::new(), bytes: 0 }
    }

    pub fn into_inner(self) -> W {
        self.inner
    }

    fn checksum(&self) -> PagesChecksum {
        PagesChecksum { crc32: self.crc.clone().finalize(), bytes: self.bytes }
    }
}

impl<W: Write> Write for Checksummed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writers of Parquet files whose footer shall carry the checksum of their pages.
pub trait Sign {
    /// To be called once, when all rows are written and only the footer is left.
    ///
    /// # Errors
    /// When buffered bytes cannot be written.
    fn sign(&mut self) -> Result<(), ParquetError>;
}

impl<W: Write + Send> Sign for ArrowWriter<Checksummed<W>> {
    fn sign(&mut self) -> Result<(), ParquetError> {
        self.flush()?;
        self.sync()?;
        let fact = self.inner().checksum().fact();
        self.append_key_value_metadata(fact);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_bytes_and_survives_its_text() {
        let mut writer = Checksummed::new(Vec::new());
        writer.write_all(b"1234").unwrap();
        writer.write_all(b"56789").unwrap();
        let checksum = writer.checksum();
        // The check value of CRC-32.
        assert_eq!(checksum.to_string(), "cbf43926 9");
        assert_eq!(PagesChecksum::parse(&checksum.to_string()), Some(checksum));
        assert_eq!(checksum.of_same_bytes(&b"123456789 and a footer"[..]).unwrap(), checksum);
        assert_ne!(checksum.of_same_bytes(&b"1234567"[..]).unwrap(), checksum);
        for text in ["", "cbf43926", "x 9", "cbf43926 -1"] {
            assert_eq!(PagesChecksum::parse(text), None, "{text}");
        }
    }

    #[test]
    fn checksums_of_pieces_make_that_of_the_whole() {
        let of = PagesChecksum::of_same_bytes_as;
        for (start, rest) in [("", ""), ("PAR1", ""), ("", "pages"), ("PAR1", "some pages")] {
            let whole = of([start, rest].concat().as_bytes());
            assert_eq!(of(start.as_bytes()).followed_by(of(rest.as_bytes())), whole);
            assert_eq!(whole.after(start.as_bytes()), Some(of(rest.as_bytes())));
        }
        assert_eq!(of(b"PA").after(b"PAR1"), None);
    }
}
