//! File structure of the formats: just enough to know size, orientation and whether the end is there.
//!
//! Each format has two functions. `read` takes the header; `check_complete` walks to the format's own
//! end mark, skipping payloads by their announced lengths. Neither looks at a pixel, allocates, or
//! trusts a number: each read is bounds-checked, each walk moves forward.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod webp;

use image::metadata::Orientation;

use super::error::ImagingError;
use crate::model::ImageFormat;

/// What the header of a file says.
pub(super) struct Container {
    /// As stored, before orientation.
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Pixels of the largest surface that a decoder makes.
    pub coded_pixels: u64,
    /// Bytes that decoding to RGB takes at most.
    pub decode_bytes: u64,
}

/// Tables, rows and small buffers of any decoder.
const DECODER_BYTES: u64 = 1 << 20;

impl Container {
    /// `surface` is (width, height) of what the decoder makes, `bytes_per_pixel` its peak.
    fn new(size: (u32, u32), orientation: Orientation, surface: (u32, u32), bytes_per_pixel: u64) -> Self {
        let coded_pixels = u64::from(surface.0) * u64::from(surface.1);
        let decode_bytes = coded_pixels.saturating_mul(bytes_per_pixel).saturating_add(DECODER_BYTES);
        Self { width: size.0, height: size.1, orientation, coded_pixels, decode_bytes }
    }
}

/// Reads the header of `body`, which begins as `format` does.
pub(super) fn read(body: &[u8], format: ImageFormat) -> Result<Container, ImagingError> {
    match format {
        ImageFormat::Jpeg => jpeg::read(body),
        ImageFormat::Png => png::read(body),
        ImageFormat::Webp => webp::read(body),
        ImageFormat::Gif => gif::read(body),
        ImageFormat::Tiff => tiff::read(body),
        ImageFormat::Bmp => bmp::read(body),
        ImageFormat::Raw => Err(ImagingError::unsupported("raw pixels have no header")),
    }
}

/// Whether `body` reaches its own end mark.
pub(super) fn check_complete(body: &[u8], format: ImageFormat) -> Result<(), ImagingError> {
    match format {
        ImageFormat::Jpeg => jpeg::check_complete(body),
        ImageFormat::Png => png::check_complete(body),
        ImageFormat::Webp => webp::check_complete(body),
        ImageFormat::Gif => gif::check_complete(body),
        ImageFormat::Tiff => tiff::check_complete(body),
        ImageFormat::Bmp => bmp::check_complete(body),
        ImageFormat::Raw => Ok(()),
    }
}

/// The orientation in an EXIF block; anything unreadable is upright.
fn exif_orientation(block: &[u8]) -> Orientation {
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    Orientation::from_exif_chunk(block).unwrap_or(Orientation::NoTransforms)
}

/// Peak bytes per pixel of decoding to what the `image` crate makes of a file, then to RGB.
fn dynamic_image_bytes(channels: u64, bytes_per_sample: u64) -> u64 {
    let decoded = channels * bytes_per_sample;
    match (channels, bytes_per_sample) {
        (3, 1) => 3,
        // By way of RGBA, which is blended with white into RGB.
        (2 | 4, _) => (decoded + 4).max(7),
        _ => decoded + 3,
    }
}

fn bytes_at<const N: usize>(body: &[u8], at: usize) -> Option<[u8; N]> {
    body.get(at..)?.first_chunk().copied()
}

fn u16_be(body: &[u8], at: usize) -> Option<u16> {
    bytes_at(body, at).map(u16::from_be_bytes)
}

fn u16_le(body: &[u8], at: usize) -> Option<u16> {
    bytes_at(body, at).map(u16::from_le_bytes)
}

fn u24_le(body: &[u8], at: usize) -> Option<u32> {
    bytes_at(body, at).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
}

fn u32_be(body: &[u8], at: usize) -> Option<u32> {
    bytes_at(body, at).map(u32::from_be_bytes)
}

fn u32_le(body: &[u8], at: usize) -> Option<u32> {
    bytes_at(body, at).map(u32::from_le_bytes)
}
