//! Sizes, scaling, turning and framing.

use std::error::Error;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, Rgb, RgbImage, imageops};

use super::error::ImagingError;
use super::options::ResizeMode;
use crate::model::{FailureCause, PixelSize};

/// What becomes of the size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fitted {
    /// The size to which its pixels are scaled.
    pub scaled: PixelSize,
    /// The size of the result, which is cut out of them or has a border around them.
    pub target: PixelSize,
}

impl Fitted {
    /// An image that keeps its size.
    pub(super) fn kept(size: PixelSize) -> Self {
        Self { scaled: size, target: size }
    }
}

/// The size of an image that is brought to `side` pixels (0: any).
///
/// The side that follows is cut to a whole number as distributed-downloader cuts it, in the same floating
/// point so that no size differs from its own; but never below 1, where that fails.
pub(super) fn fit(size: PixelSize, side: u32, mode: ResizeMode, only_if_bigger: bool) -> Fitted {
    let by_longest = match mode {
        ResizeMode::No => return Fitted::kept(size),
        ResizeMode::KeepRatioLargest | ResizeMode::Border => true,
        ResizeMode::KeepRatio | ResizeMode::CenterCrop => false,
    };
    let measured = if by_longest { size.longest_side() } else { size.height.min(size.width) };
    if side == 0 || measured == 0 || (measured <= side && only_if_bigger) {
        return Fitted::kept(size);
    }
    let ratio = f64::from(side) / f64::from(measured);
    let follow = |other: u32| {
        let other = (f64::from(other) * ratio) as u32;
        if by_longest { other.clamp(1, side) } else { other.max(side) }
    };
    let scaled = if (size.height > size.width) == by_longest {
        PixelSize { height: side, width: follow(size.width) }
    } else {
        PixelSize { height: follow(size.height), width: side }
    };
    let target = match mode {
        ResizeMode::CenterCrop | ResizeMode::Border => PixelSize { height: side, width: side },
        _ => scaled,
    };
    Fitted { scaled, target }
}

/// Scales by convolution with a Lanczos kernel, which is as wide as the ratio asks for when it shrinks, so that
/// each source pixel counts. A picture that already has the size is returned as it is.
pub(super) fn scale(pixels: RgbImage, target: PixelSize) -> Result<RgbImage, ImagingError> {
    if (target.width, target.height) == pixels.dimensions() {
        return Ok(pixels);
    }
    resample(&pixels, target, FilterType::Lanczos3)
}

/// Cuts the middle out of a picture, or lays white around it, until it has the size.
pub(super) fn frame(pixels: RgbImage, target: PixelSize) -> RgbImage {
    let (width, height) = pixels.dimensions();
    if (target.width, target.height) == (width, height) {
        return pixels;
    }
    let mut framed = RgbImage::from_pixel(target.width, target.height, Rgb([255; 3]));
    let offset = |inner: u32, outer: u32| (i64::from(outer) - i64::from(inner)) / 2;
    imageops::replace(&mut framed, &pixels, offset(width, target.width), offset(height, target.height));
    framed
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
            let expect = PixelSize { height: expect_height, width: expect_width };
            let fitted = fit(PixelSize { height, width }, max_side, ResizeMode::KeepRatioLargest, true);
            assert_eq!(fitted, Fitted::kept(expect));
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

    #[test]
    fn each_mode_measures_its_side() {
        use ResizeMode::{Border, CenterCrop, KeepRatio, KeepRatioLargest, No};
        let check = |mode, only_if_bigger, (height, width), scaled: (u32, u32), target: (u32, u32)| {
            let size = |(height, width)| PixelSize { height, width };
            let fitted = fit(size((height, width)), 100, mode, only_if_bigger);
            assert_eq!(fitted, Fitted { scaled: size(scaled), target: size(target) }, "{mode:?}");
        };
        check(KeepRatio, true, (300, 200), (150, 100), (150, 100));
        check(KeepRatio, true, (200, 301), (100, 150), (100, 150)); // 150.5
        check(CenterCrop, true, (200, 300), (100, 150), (100, 100));
        check(Border, true, (200, 300), (66, 100), (100, 100));
        check(Border, true, (300, 200), (100, 66), (100, 100));
        check(CenterCrop, true, (300, 300), (100, 100), (100, 100));
        // The shorter side is small enough, the longer one is not; and the other way round.
        check(CenterCrop, true, (90, 300), (90, 300), (90, 300));
        check(Border, true, (90, 300), (30, 100), (100, 100));
        check(Border, true, (90, 100), (90, 100), (90, 100));
        check(No, false, (300, 200), (300, 200), (300, 200));
        check(KeepRatioLargest, false, (20, 50), (40, 100), (40, 100));
        check(KeepRatio, false, (20, 50), (100, 250), (100, 250));
        check(CenterCrop, false, (20, 50), (100, 250), (100, 100));
        check(Border, false, (90, 100), (90, 100), (100, 100));
    }
}
