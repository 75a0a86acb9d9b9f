//! Checksums of whole files, which the catalog keeps and `ddl check --deep` compares.
//!
//! Parquet has a place for a checksum of each page, but the `parquet` crate leaves it empty, and none for the
//! footer, by whose statistics and offsets queries find their rows. So whatever is written passes through a
//! [`Checksummed`]. Where bytes are copied from file to file, the sum of the copy is worked out from those of its
//! sources and not from what was read, so that damage before the copy still shows after it.

use std::io::{self, Read, Write};

use crc32fast::Hasher;

use crate::model::DataFile;

/// The CRC-32 of some bytes, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub crc32: u32,
    pub bytes: u64,
}

impl Checksum {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { crc32: crc32fast::hash(bytes), bytes: bytes.len() as u64 }
    }

    /// The checksum of all that is left to read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_rest(mut file: impl Read) -> io::Result<Self> {
        let mut found = Checksummed::new(io::sink());
        io::copy(&mut file, &mut found)?;
        Ok(found.checksum())
    }

    /// What the catalog says of a file.
    #[must_use]
    pub fn stated(file: DataFile) -> Self {
        Self { crc32: file.crc32, bytes: file.bytes }
    }

    /// What the catalog is to say of a file with this checksum.
    #[must_use]
    pub fn file_of(self, num_rows: u64) -> DataFile {
        DataFile { num_rows, bytes: self.bytes, crc32: self.crc32 }
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
        Some(Self { crc32: self.crc32 ^ shift(Self::of(start).crc32, bytes), bytes })
    }

    /// The checksum of what precedes `end`, with which these bytes end. None when they are fewer.
    #[must_use]
    pub fn before(self, end: &[u8]) -> Option<Self> {
        let bytes = self.bytes.checked_sub(end.len() as u64)?;
        // As above. The shift has the order 2^32 - 1, so the rest of the round undoes it.
        let back = u64::from(u32::MAX) - end.len() as u64 % u64::from(u32::MAX);
        Some(Self { crc32: shift(self.crc32 ^ Self::of(end).crc32, back), bytes })
    }
}

/// What so many zero bytes make of a CRC, but for their own.
fn shift(crc32: u32, bytes: u64) -> u32 {
    Checksum { crc32, bytes: 0 }.followed_by(Checksum { crc32: 0, bytes }).crc32
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

    /// Of what was written so far.
    pub fn checksum(&self) -> Checksum {
        Checksum { crc32: self.crc.clone().finalize(), bytes: self.bytes }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_bytes() {
        let mut writer = Checksummed::new(Vec::new());
        writer.write_all(b"1234").unwrap();
        writer.write_all(b"56789").unwrap();
        // The check value of CRC-32.
        assert_eq!(writer.checksum(), Checksum { crc32: 0xcbf4_3926, bytes: 9 });
        assert_eq!(Checksum::of_rest(&b"123456789"[..]).unwrap(), writer.checksum());
        assert_eq!(Checksum::stated(writer.checksum().file_of(3)), writer.checksum());
    }

    #[test]
    fn checksums_of_pieces_make_that_of_the_whole() {
        let of = |text: &str| Checksum::of(text.as_bytes());
        let long = "more than 64 bytes, for which the processor's own instructions are used ".repeat(999);
        for (start, rest) in [("", ""), ("PAR1", ""), ("", "pages"), ("PAR1", "some pages"), ("PAR1", &long)]
        {
            for (start, rest) in [(start, rest), (rest, start)] {
                let whole = of(&[start, rest].concat());
                assert_eq!(of(start).followed_by(of(rest)), whole);
                assert_eq!(whole.after(start.as_bytes()), Some(of(rest)));
                assert_eq!(whole.before(rest.as_bytes()), Some(of(start)));
            }
        }
        assert_eq!(of("PA").after(b"PAR1"), None);
        assert_eq!(of("PA").before(b"PAR1"), None);
    }
}
