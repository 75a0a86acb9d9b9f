//! WebP: a RIFF file with one bitstream (`VP8 `, `VP8L`) or an extended header (RFC 9649).

use image::metadata::Orientation;

use super::{Container, ImagingError, exif_orientation, u16_le, u24_le, u32_le};

const FIRST_CHUNK: usize = 12;

/// Peak bytes per pixel: a still image takes RGBA, planes of luma and chroma, alpha and RGB.
const STILL_BYTES: u64 = 16;
/// An animation takes a canvas and a frame besides.
const ANIMATION_BYTES: u64 = 24;

pub(super) fn read(body: &[u8]) -> Result<Container, ImagingError> {
    let cut = || ImagingError::truncated("the WebP ends within its header");
    let (kind, data) = Chunks::new(body).next().ok_or_else(cut)?;
    match &kind {
        b"VP8 " | b"VP8L" => {
            let size = bitstream_size(kind, data).ok_or_else(cut)?;
            Ok(Container::new(size, Orientation::NoTransforms, size, STILL_BYTES))
        }
        b"VP8X" => {
            let width = u24_le(data, 4).ok_or_else(cut)? + 1;
            let height = u24_le(data, 7).ok_or_else(cut)? + 1;
            read_extended(body, (width, height))
        }
        _ => Err(ImagingError::bad(format!("the WebP starts with `{}`", kind.escape_ascii()))),
    }
}

/// The canvas is what the file shows; but a decoder also makes the bitstream's own surface, which a
/// crafted file may give another size.
fn read_extended(body: &[u8], canvas: (u32, u32)) -> Result<Container, ImagingError> {
    let mut orientation = Orientation::NoTransforms;
    let mut coded = None;
    let mut is_animated = false;
    for (kind, data) in Chunks::new(body) {
        match &kind {
            b"EXIF" => orientation = exif_orientation(data),
            b"VP8 " | b"VP8L" if coded.is_none() => coded = bitstream_size(kind, data),
            // The frame's own chunks follow 16 bytes of position and size.
            b"ANMF" if coded.is_none() => {
                is_animated = true;
                coded = (Chunks { rest: data.get(16..).unwrap_or_default() })
                    .find_map(|(kind, data)| bitstream_size(kind, data));
            }
            _ => {}
        }
    }
    let coded = coded.unwrap_or(canvas);
    if !is_animated && coded != canvas {
        return Err(ImagingError::bad("the WebP contradicts itself about its size"));
    }
    let surface = (coded.0.max(canvas.0), coded.1.max(canvas.1));
    let bytes_per_pixel = if is_animated { ANIMATION_BYTES } else { STILL_BYTES };
    Ok(Container::new(canvas, orientation, surface, bytes_per_pixel))
}

pub(super) fn check_complete(body: &[u8]) -> Result<(), ImagingError> {
    let cut = || ImagingError::truncated("the WebP is shorter than it says");
    let riff_len = u32_le(body, 4).ok_or_else(cut)? as usize;
    let riff = body.get(8..8 + riff_len).ok_or_else(cut)?;
    let mut chunks = Chunks { rest: riff.get(4..).unwrap_or_default() };
    match chunks.any(|(kind, _)| matches!(&kind, b"VP8 " | b"VP8L" | b"ANMF")) {
        true => Ok(()),
        false => Err(ImagingError::bad("the WebP has no image data")),
    }
}

/// (width, height) in the header of a bitstream.
fn bitstream_size(kind: [u8; 4], data: &[u8]) -> Option<(u32, u32)> {
    match &kind {
        // Three bytes of frame tag, three of start code; the upper two bits are a scaling hint.
        b"VP8 " => {
            let side = |at| u16_le(data, at).map(|value| u32::from(value & 0x3FFF));
            Some((side(6)?, side(8)?))
        }
        // One byte of signature, then 14 bits of each side less one.
        b"VP8L" => {
            let bits = u32_le(data, 1)?;
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        _ => None,
    }
}

/// RIFF chunks; the last may be cut, so that the header of a truncated file can be read.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Chunks<'a> {
    fn new(body: &'a [u8]) -> Self {
        Self { rest: body.get(FIRST_CHUNK..).unwrap_or_default() }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let kind = super::bytes_at(self.rest, 0)?;
        let len = u32_le(self.rest, 4)? as usize;
        let (data, rest) = self.rest[8..].split_at(len.min(self.rest.len() - 8));
        // Chunks are padded to even length.
        self.rest = rest.get(len & 1..).unwrap_or_default();
        Some((kind, data))
    }
}
