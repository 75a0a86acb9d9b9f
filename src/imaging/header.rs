//! The header of an image: what can be known without decoding a pixel.

use image::metadata::Orientation;

use super::container;
use super::error::ImagingError;
use super::sniff::sniff;
use crate::model::{FailureCause, ImageFormat, PixelSize};

/// What an image says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// The format, by the first bytes.
    pub image_format: ImageFormat,
    /// The size as a viewer shows it: after the EXIF orientation.
    pub size: PixelSize,
    /// How stored pixels are turned for showing.
    pub(super) orientation: Orientation,
    /// Pixels of the largest surface that a decoder makes; a GIF frame may exceed its screen.
    pub(super) coded_pixels: u64,
    /// Bytes that decoding to RGB takes at most, the result included.
    pub(super) decode_bytes: u64,
}

impl ImageHeader {
    /// Whether the pixels are stored as they are shown.
    #[must_use]
    pub fn is_upright(&self) -> bool {
        self.orientation == Orientation::NoTransforms
    }

    /// The size of the pixels as stored, before orientation.
    pub(super) fn stored_size(&self) -> PixelSize {
        turned(self.size, self.orientation)
    }

    pub(super) fn check_pixels(&self, max_image_pixels: u64) -> Result<(), ImagingError> {
        check_pixels(self.size, self.coded_pixels, max_image_pixels)
    }
}

/// Whether an image of that size, and of so many pixels on its largest surface, may be made.
pub(super) fn check_pixels(size: PixelSize, pixels: u64, max_image_pixels: u64) -> Result<(), ImagingError> {
    let PixelSize { height, width } = size;
    if size.longest_side() > MAX_SIDE {
        let message = format!("a side of `{width}x{height}` exceeds {MAX_SIDE} pixels");
        return Err(ImagingError::new(FailureCause::TooManyPixels, message));
    }
    if pixels <= max_image_pixels {
        return Ok(());
    }
    Err(ImagingError::new(
        FailureCause::TooManyPixels,
        format!("{pixels} pixels (`{width}x{height}`) exceed `max_image_pixels` ({max_image_pixels})"),
    ))
}

/// Longest side of an image, in pixels: what a JPEG can have. A strip of a hundred million pixels would be within
/// `max_image_pixels`, and resizing it would need tables and strips of gigabytes.
const MAX_SIDE: u32 = 65_535;

/// A size before or after an orientation: its own inverse.
pub(super) fn turned(size: PixelSize, orientation: Orientation) -> PixelSize {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => PixelSize { height: size.width, width: size.height },
        _ => size,
    }
}

/// Reads the header of an image: format, size, orientation. Decodes no pixel; a few microseconds.
///
/// # Errors
/// `EmptyBody`, `NotAnImage` (the message says what it looks like), `UnsupportedFormat`,
/// `TruncatedImage` when the header itself is cut, `BadImage` when it contradicts itself.
pub fn inspect(body: &[u8]) -> Result<ImageHeader, ImagingError> {
    let image_format = sniff(body)?;
    let container = container::read(body, image_format)?;
    let stored = PixelSize { height: container.height, width: container.width };
    if stored.pixels() == 0 {
        return Err(ImagingError::bad(format!("an image of {}x{} pixels", stored.width, stored.height)));
    }
    Ok(ImageHeader {
        image_format,
        size: turned(stored, container.orientation),
        orientation: container.orientation,
        coded_pixels: container.coded_pixels.max(stored.pixels()),
        decode_bytes: container.decode_bytes,
    })
}
