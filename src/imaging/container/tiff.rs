//! TIFF: a directory of tags; the pixels lie in strips or tiles anywhere in the file (TIFF 6.0).
//! Only the first image is looked at.

use image::metadata::Orientation;

use super::{Container, ImagingError, u16_be, u16_le, u32_be, u32_le};

const IMAGE_WIDTH: u16 = 256;
const IMAGE_LENGTH: u16 = 257;
const BITS_PER_SAMPLE: u16 = 258;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES_PER_PIXEL: u16 = 277;
const STRIP_BYTE_COUNTS: u16 = 279;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTE_COUNTS: u16 = 325;
/// Present in every Adobe digital negative, whose first image is only a preview.
const DNG_VERSION: u16 = 0xC612;

pub(super) fn read(body: &[u8]) -> Result<Container, ImagingError> {
    let directory = Directory::open(body)?;
    if body.get(8..10) == Some(b"CR") || directory.find(DNG_VERSION).is_some() {
        return Err(ImagingError::unsupported("raw camera images are not read"));
    }
    let required = |tag| {
        directory
            .find(tag)
            .and_then(|values| values.get(0))
            .ok_or_else(|| ImagingError::bad(format!("the TIFF lacks tag {tag}")))
    };
    let optional = |tag| directory.find(tag).and_then(|values| values.get(0));
    let size = (required(IMAGE_WIDTH)?, required(IMAGE_LENGTH)?);
    let orientation = optional(ORIENTATION)
        .and_then(|value| u8::try_from(value).ok())
        .and_then(Orientation::from_exif)
        .unwrap_or(Orientation::NoTransforms);
    // Samples as stored, once more while strips are put together, then as RGBA and RGB.
    let samples = u64::from(optional(SAMPLES_PER_PIXEL).unwrap_or(1)).clamp(1, 16);
    let bytes_per_sample = u64::from(optional(BITS_PER_SAMPLE).unwrap_or(1)).div_ceil(8).clamp(1, 8);
    Ok(Container::new(size, orientation, size, 3 * samples * bytes_per_sample + 7))
}

pub(super) fn check_complete(body: &[u8]) -> Result<(), ImagingError> {
    let directory = Directory::open(body)?;
    let pair = |offsets, counts| Some((directory.find(offsets)?, directory.find(counts)?));
    let (offsets, counts) = pair(STRIP_OFFSETS, STRIP_BYTE_COUNTS)
        .or_else(|| pair(TILE_OFFSETS, TILE_BYTE_COUNTS))
        .ok_or_else(|| ImagingError::bad("the TIFF names no image data"))?;
    for index in 0..offsets.count.min(counts.count) {
        let end = offsets.get(index).zip(counts.get(index)).map(|(at, len)| u64::from(at) + u64::from(len));
        if end.is_none_or(|end| end > body.len() as u64) {
            return Err(ImagingError::truncated("the TIFF ends before its image data"));
        }
    }
    Ok(())
}

/// The first directory: twelve bytes per tag.
struct Directory<'a> {
    body: &'a [u8],
    is_little_endian: bool,
    first_entry: usize,
    num_entries: usize,
}

/// The values of one tag.
struct Values<'a> {
    directory: &'a Directory<'a>,
    /// Bytes per value, 2 or 4 (or 1).
    width: usize,
    count: usize,
    at: usize,
}

impl<'a> Directory<'a> {
    fn open(body: &'a [u8]) -> Result<Self, ImagingError> {
        let cut = || ImagingError::truncated("the TIFF ends before its directory");
        let mut directory =
            Self { body, is_little_endian: body.starts_with(b"II"), first_entry: 0, num_entries: 0 };
        let at = directory.u32(4).ok_or_else(cut)? as usize;
        directory.num_entries = usize::from(directory.u16(at).ok_or_else(cut)?);
        directory.first_entry = at + 2;
        body.get(directory.first_entry + 12 * directory.num_entries..).ok_or_else(cut)?;
        Ok(directory)
    }

    fn find(&self, tag: u16) -> Option<Values<'_>> {
        let entry = (0..self.num_entries)
            .map(|index| self.first_entry + 12 * index)
            .find(|&entry| self.u16(entry) == Some(tag))?;
        let width = match self.u16(entry + 2)? {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return None,
        };
        let count = self.u32(entry + 4)? as usize;
        // Values of up to four bytes stand in the entry itself.
        let at = if count.saturating_mul(width) <= 4 { entry + 8 } else { self.u32(entry + 8)? as usize };
        Some(Values { directory: self, width, count, at })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        if self.is_little_endian { u16_le(self.body, at) } else { u16_be(self.body, at) }
    }

    fn u32(&self, at: usize) -> Option<u32> {
        if self.is_little_endian { u32_le(self.body, at) } else { u32_be(self.body, at) }
    }
}

impl Values<'_> {
    /// `None` beyond the values or the file.
    fn get(&self, index: usize) -> Option<u32> {
        if index >= self.count {
            return None;
        }
        let at = self.at.checked_add(index.checked_mul(self.width)?)?;
        match self.width {
            1 => self.directory.body.get(at).copied().map(u32::from),
            2 => self.directory.u16(at).map(u32::from),
            _ => self.directory.u32(at),
        }
    }
}
