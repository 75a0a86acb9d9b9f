//! Compound files (MS-CFB): a small filesystem in a file, in which old workbooks are a stream.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::super::error::IngestError;

/// The first bytes (2.2).
pub(in crate::ingest) const SIGNATURE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";

const HEADER_BYTES: usize = 512;
const MINI_SECTOR: usize = 64;
const DIRECTORY_ENTRY: usize = 128;
/// Sector numbers from here on are marks: the end of a chain, mostly.
const LAST_SECTOR: u32 = 0xffff_fffa;

/// Whether a file begins as one.
pub(super) fn is_one(path: &Path) -> Result<bool, IngestError> {
    let mut first = Vec::with_capacity(SIGNATURE.len());
    File::open(path)
        .and_then(|file| file.take(SIGNATURE.len() as u64).read_to_end(&mut first))
        .map_err(IngestError::read(path))?;
    Ok(first == SIGNATURE)
}

/// A whole file, in memory.
pub(super) struct CompoundFile<'a> {
    bytes: &'a [u8],
    sector_bytes: usize,
    /// For each sector, the one that follows it.
    next: Vec<u32>,
    next_mini: Vec<u32>,
    /// Sectors of the stream that small streams lie in.
    mini_stream: Vec<u8>,
    /// Streams shorter than this are small.
    mini_cutoff: u64,
    directory: Vec<u8>,
}

impl<'a> CompoundFile<'a> {
    /// # Errors
    /// What is wrong with the file. No chain is longer than the file has sectors.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let header = bytes.get(..HEADER_BYTES).ok_or("its header is cut off")?;
        if !header.starts_with(SIGNATURE) {
            return Err("it is no compound file".to_owned());
        }
        let sector_bytes = match u16_at(header, 30) {
            9 => 512,
            12 => 4096,
            shift => return Err(format!("its sectors have 2^{shift} bytes")),
        };
        let mut file = Self {
            bytes,
            sector_bytes,
            next: Vec::new(),
            next_mini: Vec::new(),
            mini_stream: Vec::new(),
            mini_cutoff: u64::from(u32_at(header, 56)),
            directory: Vec::new(),
        };
        for sector in file.table_sectors(header)? {
            file.next.extend(numbers(file.sector(sector)?));
        }
        file.directory = file.chain(u32_at(header, 48))?;
        let root = file.directory.get(..DIRECTORY_ENTRY).ok_or("it has no directory")?;
        file.mini_stream = file.chain(u32_at(root, 116))?;
        file.next_mini = numbers(&file.chain(u32_at(header, 60))?).collect();
        Ok(file)
    }

    /// The bytes of the stream of this name; `None` if there is none.
    ///
    /// # Errors
    /// When it leads out of the file, or in a circle.
    pub(super) fn stream(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        let is_it = |entry: &&[u8]| {
            let length = usize::from(u16_at(entry, 64)).saturating_sub(2).min(64);
            let utf16: Vec<u16> = entry[..length].chunks_exact(2).map(|pair| u16_at(pair, 0)).collect();
            entry[66] == 2 && String::from_utf16_lossy(&utf16).eq_ignore_ascii_case(name)
        };
        let Some(entry) = self.directory.chunks_exact(DIRECTORY_ENTRY).find(is_it) else { return Ok(None) };
        let (first, length) = (u32_at(entry, 116), u64::from(u32_at(entry, 120)));
        let mut stream = if length < self.mini_cutoff { self.mini_chain(first)? } else { self.chain(first)? };
        if (stream.len() as u64) < length {
            return Err(format!("its stream `{name}` is cut off"));
        }
        stream.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(Some(stream))
    }

    /// The sectors that the table of sectors lies in: the first of them in the header, the others in a list of their own.
    fn table_sectors(&self, header: &[u8]) -> Result<Vec<u32>, String> {
        let mut sectors: Vec<u32> = numbers(&header[76..]).collect();
        let mut list = u32_at(header, 68);
        for _ in 0..=self.num_sectors() {
            if list >= LAST_SECTOR {
                sectors.retain(|sector| *sector < LAST_SECTOR);
                return Ok(sectors);
            }
            let entries: Vec<u32> = numbers(self.sector(list)?).collect();
            let (&following, entries) = entries.split_last().ok_or("a list of sectors is empty")?;
            sectors.extend(entries);
            if sectors.len() > self.num_sectors() + entries.len() + 109 {
                break;
            }
            list = following;
        }
        Err("its list of sectors leads in a circle".to_owned())
    }

    fn num_sectors(&self) -> usize {
        self.bytes.len() / self.sector_bytes
    }

    fn sector(&self, number: u32) -> Result<&'a [u8], String> {
        // The header takes the place of one.
        let start = (number as usize + 1).saturating_mul(self.sector_bytes);
        let sector = self.bytes.get(start..).filter(|rest| !rest.is_empty());
        let sector = sector.ok_or_else(|| format!("its sector {number} is beyond its end"))?;
        Ok(&sector[..sector.len().min(self.sector_bytes)])
    }

    fn chain(&self, first: u32) -> Result<Vec<u8>, String> {
        follow(first, &self.next, self.num_sectors(), |number, chain| {
            chain.extend_from_slice(self.sector(number)?);
            Ok(())
        })
    }

    fn mini_chain(&self, first: u32) -> Result<Vec<u8>, String> {
        follow(first, &self.next_mini, self.mini_stream.len() / MINI_SECTOR, |number, chain| {
            let start = (number as usize).saturating_mul(MINI_SECTOR);
            let sector = self.mini_stream.get(start..start.saturating_add(MINI_SECTOR));
            chain.extend_from_slice(sector.ok_or("a small sector is beyond the end")?);
            Ok(())
        })
    }
}

/// Goes from sector to sector, at most as many as there are.
fn follow(
    first: u32,
    next: &[u32],
    num_sectors: usize,
    mut push: impl FnMut(u32, &mut Vec<u8>) -> Result<(), String>,
) -> Result<Vec<u8>, String> {
    let mut chain = Vec::new();
    let mut sector = first;
    for _ in 0..=num_sectors {
        if sector >= LAST_SECTOR {
            return Ok(chain);
        }
        push(sector, &mut chain)?;
        sector = *next.get(sector as usize).ok_or("a chain of sectors leads nowhere")?;
    }
    Err("a chain of sectors leads in a circle".to_owned())
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|number| u32_at(number, 0))
}

/// Little-endian; callers have as many bytes.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
