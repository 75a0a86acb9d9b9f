//! Sizes, shrinking and turning.

use std::error::Error;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::error::ImagingError;
use crate::model::{FailureCause, PixelSize};

/// The size of an image whose longest side may be `max_side` (0: any).
///
/// The other side is cut to a whole number as distributed-downloader cuts it, in the same floating
/// point so that no size differs from its own; but never below 1, where that fails.
pub(super) fn fit(size: PixelSize, max_side: u32) -> PixelSize {
    if max_side == 0 || size.longest_side() <= max_side {
        return size;
    }
    let ratio = f64::from(max_side) / f64::from(size.longest_side());
    let scale = |side: u32| ((f64::from(side) * ratio) as u32).clamp(1, max_side);
    if size.height > size.width {
        PixelSize { height: max_side, width: scale(size.width) }
    } else {
        PixelSize { height: scale(size.height), width: max_side }
    }
}

/// Shrinks by convolution with a Lanczos kernel as wide as the ratio asks for, so that each source
/// pixel counts. A picture that already has the size is returned as it is.
pub(super) fn shrink(pixels: RgbImage, target: PixelSize) -> Result<RgbImage, ImagingError> {
    if (target.width, target.height) == pixels.dimensions() {
        return Ok(pixels);
    }
    resample(&pixels, target, FilterType::Lanczos3)
}

/// Convolves with a kernel, up or down, by the widest vector instructions of the CPU; their results
/// are equal, being in integers.
pub(super) fn resample(
    pixels: &RgbImage,
    target: PixelSize,
    filter: FilterType,
) -> Result<RgbImage, ImagingError> {
    // None of these can fail: sizes and buffers come from `RgbImage`, and are above zero.
    let failed = |error: &dyn Error| ImagingError::new(FailureCause::EncodeError, error.to_string());
    let (width, height) = pixels.dimensions();
    let source =
        ImageRef::new(width, height, pixels.as_raw(), PixelType::U8x3).map_err(|error| failed(&error))?;
    let mut result = Image::new(target.width, target.height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    Resizer::new().resize(&source, &mut result, &options).map_err(|error| failed(&error))?;
    RgbImage::from_raw(target.width, target.height, result.into_vec())
        .ok_or_else(|| ImagingError::new(FailureCause::EncodeError, "the resized image lacks pixels"))
}

/// Turns stored pixels as a viewer would show them.
pub(super) fn turn(pixels: RgbImage, orientation: Orientation) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(pixels);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_side_fits() {
        let check = |(height, width), max_side, (expect_height, expect_width)| {
            let fitted = fit(PixelSize { height, width }, max_side);
            assert_eq!(fitted, PixelSize { height: expect_height, width: expect_width });
        };
        check((1200, 1600), 512, (384, 512));
        check((1600, 1200), 512, (512, 384));
        check((700, 700), 512, (512, 512));
        check((1000, 999), 512, (512, 511)); // 511.488
        check((512, 100), 512, (512, 100));
        check((30, 20), 512, (30, 20));
        check((1, 65_535), 512, (1, 512));
        check((3000, 4000), 0, (3000, 4000));
    }
}
