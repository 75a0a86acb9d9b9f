//! Is the image whole? Structure always, pixels on demand.

use super::container;
use super::decode::decode;
use super::error::ImagingError;
use super::header::{ImageHeader, inspect};
use super::options::ImagingOptions;
use super::pipeline::catch_panic;

/// Walks the file to its own end mark; bytes after it are tolerated.
///
/// It finds what cut downloads leave. It does not find flipped bits, nor a cut JPEG to which somebody
/// has put an end mark: of these decoders notice some (PNG has checksums), and zune-jpeg hardly any.
pub(super) fn check_complete(body: &[u8], header: &ImageHeader) -> Result<(), ImagingError> {
    container::check_complete(body, header.image_format)
}

/// Decodes an image in full, for the tool that checks stored images, and returns its header.
///
/// # Errors
/// Those of [`process`](super::process) but `EncodeError`.
pub fn verify_image(body: &[u8], options: &ImagingOptions) -> Result<ImageHeader, ImagingError> {
    catch_panic(|| {
        let header = inspect(body)?;
        header.check_pixels(options.max_image_pixels)?;
        check_complete(body, &header)?;
        decode(body, &header, 8)?;
        Ok(header)
    })
}
