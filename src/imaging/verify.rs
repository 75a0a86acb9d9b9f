//! Is the image whole? Structure always, pixels on demand.

use super::container;
use super::decode::decode;
use super::error::ImagingError;
use super::header::{ImageHeader, inspect};
use super::options::ImagingOptions;
use super::pipeline::{catch_panic, raw_header};
use crate::model::{ImageFormat, PixelSize};

/// Walks the file to its own end mark; bytes after it are tolerated.
///
/// It finds what cut downloads leave. It does not find flipped bits, nor a cut JPEG to which somebody
/// has put an end mark: of these decoders notice some (PNG has checksums), and zune-jpeg hardly any.
pub(super) fn check_complete(body: &[u8], header: &ImageHeader) -> Result<(), ImagingError> {
    container::check_complete(body, header.image_format)
}

/// What a full decode shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedImage {
    /// By its first bytes.
    pub image_format: ImageFormat,
    /// As a viewer shows it: after the EXIF orientation.
    pub size: PixelSize,
    /// Whether all its pixels have one colour.
    pub is_blank: bool,
}

impl VerifiedImage {
    fn new(header: &ImageHeader, pixels: &[u8]) -> Self {
        let mut pixels = pixels.as_chunks::<3>().0.iter();
        let is_blank = pixels.next().is_some_and(|first| pixels.all(|pixel| pixel == first));
        Self { image_format: header.image_format, size: header.size, is_blank }
    }
}

/// Decodes a stored image in full.
///
/// # Errors
/// Those of [`process`](super::process) but `EncodeError`.
pub fn verify_image(body: &[u8], options: &ImagingOptions) -> Result<VerifiedImage, ImagingError> {
    catch_panic(|| {
        let header = inspect(body)?;
        header.check_pixels(options.max_image_pixels)?;
        check_complete(body, &header)?;
        let pixels = decode(body, &header, 8)?;
        Ok(VerifiedImage::new(&header, pixels.as_raw()))
    })
}

/// The same for raw pixels of `size`, which have no header.
///
/// # Errors
/// Those of [`process_raw`](super::process_raw) but `EncodeError`.
pub fn verify_raw(
    body: &[u8],
    size: PixelSize,
    options: &ImagingOptions,
) -> Result<VerifiedImage, ImagingError> {
    Ok(VerifiedImage::new(&raw_header(body, size, options)?, body))
}
