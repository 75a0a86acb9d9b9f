//! PNG: chunks of length, type, data and checksum, from `IHDR` to `IEND` (RFC 2083, W3C PNG).

use image::metadata::Orientation;

use super::{Container, ImagingError, dynamic_image_bytes, exif_orientation, u32_be};

const FIRST_CHUNK: usize = 8;

pub(super) fn read(body: &[u8]) -> Result<Container, ImagingError> {
    let cut = || ImagingError::truncated("the PNG ends within its header");
    if body.get(12..16).ok_or_else(cut)? != b"IHDR" {
        return Err(ImagingError::bad("the PNG does not start with `IHDR`"));
    }
    let width = u32_be(body, 16).ok_or_else(cut)?;
    let height = u32_be(body, 20).ok_or_else(cut)?;
    let depth = *body.get(24).ok_or_else(cut)?;
    let color_type = *body.get(25).ok_or_else(cut)?;

    let mut orientation = Orientation::NoTransforms;
    let mut has_transparency = false;
    for (kind, data) in (Chunks { body, at: FIRST_CHUNK }) {
        match &kind {
            b"tRNS" => has_transparency = true,
            b"eXIf" => orientation = exif_orientation(data),
            _ => {}
        }
    }
    let channels = match color_type {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        6 => 4,
        _ => return Err(ImagingError::bad(format!("a PNG of colour type {color_type}"))),
    } + u64::from(has_transparency && matches!(color_type, 0 | 2 | 3));
    let size = (width, height);
    let bytes_per_pixel = dynamic_image_bytes(channels, if depth == 16 { 2 } else { 1 });
    Ok(Container::new(size, orientation, size, bytes_per_pixel))
}

pub(super) fn check_complete(body: &[u8]) -> Result<(), ImagingError> {
    let mut has_data = false;
    for (kind, _) in (Chunks { body, at: FIRST_CHUNK }) {
        match &kind {
            b"IDAT" => has_data = true,
            b"IEND" if has_data => return Ok(()),
            b"IEND" => return Err(ImagingError::bad("the PNG has no image data")),
            _ => {}
        }
    }
    Err(ImagingError::truncated("the PNG has no `IEND`"))
}

/// The complete chunks of a file.
struct Chunks<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.body.get(self.at..)?;
        let len = u32_be(rest, 0)? as usize;
        let kind = super::bytes_at(rest, 4)?;
        let data = rest.get(8..8 + len)?;
        // The checksum belongs to the chunk; decoders look at it, this walk does not.
        rest.get(8 + len..12 + len)?;
        self.at += 12 + len;
        Some((kind, data))
    }
}
