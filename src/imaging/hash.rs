//! The perceptual hash: 256 bits in which similar pictures differ little.
//!
//! How it is made (so that others can): the upright RGB picture is resized to 64 x 64, whatever its
//! proportions, by convolution with a Hamming kernel; made grey (BT.709 luma, in integers); resized to
//! 32 x 32 with a Lanczos kernel; and transformed by a two-dimensional DCT. Of the 16 x 16 lowest
//! frequencies each gives one bit: whether it is at least their median. Rows go from top to bottom,
//! and the first bit is the lowest of the first byte. This is `image_hasher`'s median hash of 16 x 16
//! after `preproc_dct`, the base of pHash.
//!
//! All steps are integer arithmetic or scalar `f32`, so equal pixels give equal hashes on any CPU.
//! Different JPEG decoders, or decoding at another size, change single bits. A picture of one colour
//! has no frequencies: its hash tells nothing but that.

use std::sync::LazyLock;

use fast_image_resize::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use image_hasher::{HashAlg, Hasher, HasherConfig};

use super::error::ImagingError;
use super::resize::{resample, turn};
use crate::model::{PerceptualHash, PixelSize};

/// The side to which pictures are shrunk first.
pub(super) const THUMBNAIL_SIDE: u32 = 64;

static HASHER: LazyLock<Hasher<PerceptualHash>> = LazyLock::new(|| {
    HasherConfig::with_bytes_type().hash_size(16, 16).hash_alg(HashAlg::Median).preproc_dct().to_hasher()
});

/// Hashes pixels that are stored with `orientation`.
pub(super) fn perceptual_hash(
    pixels: &RgbImage,
    orientation: Orientation,
) -> Result<PerceptualHash, ImagingError> {
    let side = PixelSize { height: THUMBNAIL_SIDE, width: THUMBNAIL_SIDE };
    let thumbnail = turn(resample(pixels, side, FilterType::Hamming)?, orientation);
    let grey = DynamicImage::ImageRgb8(thumbnail).into_luma8();
    Ok(HASHER.hash_image(&DynamicImage::ImageLuma8(grey)).into_inner())
}
