//! Tar archives (POSIX ustar, with a pax header where a path is long), the same bytes for the same members.

use std::io::{self, Write};

const BLOCK: u64 = 512;
/// What the name field of a header holds.
const MAX_NAME_BYTES: usize = 100;

/// Writes members one after the other.
pub(super) struct TarWriter<W> {
    target: W,
    /// Bytes that were written.
    bytes: u64,
}

/// What a member takes, header and padding included.
pub(super) fn member_bytes(path: &str, bytes: u64) -> u64 {
    let pax =
        if path.len() > MAX_NAME_BYTES { BLOCK + padded(pax_record("path", path).len() as u64) } else { 0 };
    pax + BLOCK + padded(bytes)
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

impl<W: Write> TarWriter<W> {
    pub fn new(target: W) -> Self {
        Self { target, bytes: 0 }
    }

    /// Appends a file of which nothing but path and bytes is told. Returns where the bytes begin.
    ///
    /// # Errors
    /// When the target fails.
    pub fn append(&mut self, path: &str, content: &[u8]) -> io::Result<u64> {
        self.header(path, content.len() as u64)?;
        let start = self.bytes;
        self.content(content)?;
        Ok(start)
    }

    /// Appends a file that is read from elsewhere, and has exactly so many bytes.
    ///
    /// # Errors
    /// When the target fails, or the file has another length.
    pub fn append_from(&mut self, path: &str, bytes: u64, content: &mut impl io::Read) -> io::Result<()> {
        self.header(path, bytes)?;
        let copied = io::copy(&mut io::Read::take(content, bytes), &mut self.target)?;
        if copied != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes += bytes;
        self.pad()
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When the target fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.target.write_all(&[0; 2 * BLOCK as usize])?;
        Ok(self.target)
    }

    fn header(&mut self, path: &str, bytes: u64) -> io::Result<()> {
        if path.len() > MAX_NAME_BYTES {
            let record = pax_record("path", path);
            self.block("long-path", record.len() as u64, b'x')?;
            self.content(record.as_bytes())?;
        }
        let mut end = path.len().min(MAX_NAME_BYTES);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        self.block(&path[..end], bytes, b'0')
    }

    fn block(&mut self, name: &str, bytes: u64, kind: u8) -> io::Result<()> {
        let mut block = [0_u8; BLOCK as usize];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        // Eleven octal digits are 8 GiB: more than any image or index has.
        put(124, format!("{bytes:011o}\0").as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.target.write_all(&block)?;
        self.bytes += BLOCK;
        Ok(())
    }

    fn content(&mut self, content: &[u8]) -> io::Result<()> {
        self.target.write_all(content)?;
        self.bytes += content.len() as u64;
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = padded(self.bytes) - self.bytes;
        self.target.write_all(&[0; BLOCK as usize][..padding as usize])?;
        self.bytes += padding;
        Ok(())
    }
}

/// `LENGTH key=value\n`, where the length counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_pax_record_counts_itself() {
        assert_eq!(pax_record("path", "a"), "9 path=a\n");
        assert_eq!(pax_record("path", "ab"), "11 path=ab\n");
        for length in 80..120 {
            let record = pax_record("path", &"x".repeat(length));
            let (counted, _) = record.split_once(' ').unwrap();
            assert_eq!(counted.parse(), Ok(record.len()), "{length}");
        }
    }

    #[test]
    fn tar_reads_every_member() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut tar = TarWriter::new(std::fs::File::create(&path).unwrap());
        let long = format!("{}/\u{e9}{}.txt", "d".repeat(120), "x".repeat(90));
        let members = [("a.jpg", vec![7; 1000]), ("empty", vec![]), (long.as_str(), vec![1; 512])];
        let mut at = 0;
        for (name, content) in &members {
            let start = tar.append(name, content).unwrap();
            at += member_bytes(name, content.len() as u64);
            assert_eq!(start + padded(content.len() as u64), at, "{name}");
        }
        tar.append_from("from", 3, &mut &b"abcdef"[..]).unwrap();
        tar.finish().unwrap();
        let status = Command::new("tar").arg("xf").arg(&path).arg("-C").arg(folder.path()).status().unwrap();
        assert!(status.success());
        for (name, content) in &members {
            assert_eq!(&std::fs::read(folder.path().join(name)).unwrap(), content, "{name}");
        }
        assert_eq!(std::fs::read(folder.path().join("from")).unwrap(), b"abc");
        assert!(TarWriter::new(Vec::new()).append_from("short", 3, &mut &b"ab"[..]).is_err());
    }
}
