//! What the user may set about images.

use serde::{Deserialize, Serialize};

use crate::model::{HashAlgorithm, ImageEncoding, PixelSize};

/// Settings of [`process`](super::process).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagingOptions {
    /// Longest side of stored images in pixels; larger ones are shrunk to it, smaller ones are left
    /// as they are. 0 keeps every image at its size.
    pub image_size: u32,
    /// How an image is brought to `image_size`. Not the user's to set for downloads; the tool `resize` has it.
    #[serde(skip)]
    pub resize_mode: ResizeMode,
    /// Leaves images as they are that are not larger than `image_size`; else they are enlarged. As `resize_mode`.
    #[serde(skip)]
    pub resize_only_if_bigger: bool,
    /// How images are stored.
    pub image_encoding: ImageEncoding,
    /// Algorithm of `hashsum_original` and `hashsum_resized`.
    pub hash_algorithm: HashAlgorithm,
    /// Quality of JPEG files that are written, 1 to 100 (values beyond are taken as the nearest).
    /// 95 is what OpenCV, and so distributed-downloader's users, are used to.
    pub jpeg_quality: u8,
    /// Images of more pixels are refused. The default, 100 million, is a square of 10,000; its RGB
    /// pixels take 300 MB.
    pub max_image_pixels: u64,
    /// When to compute `perceptual_hash`.
    pub perceptual_hash: PerceptualHashMode,
    /// How far a JPEG may be shrunk while it is decoded (feature `turbojpeg`).
    pub jpeg_scaling: JpegScaling,
}

impl Default for ImagingOptions {
    fn default() -> Self {
        Self {
            image_size: 0,
            resize_mode: ResizeMode::default(),
            resize_only_if_bigger: true,
            image_encoding: ImageEncoding::default(),
            hash_algorithm: HashAlgorithm::default(),
            jpeg_quality: 95,
            max_image_pixels: 100_000_000,
            perceptual_hash: PerceptualHashMode::default(),
            jpeg_scaling: JpegScaling::default(),
        }
    }
}

/// How an image is brought to a size. The words are img2dataset's, as is which side they measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The longer side gets the size, the other side follows: distributed-downloader's rule.
    #[default]
    KeepRatioLargest,
    /// The shorter side gets the size, the other side follows.
    KeepRatio,
    /// As `KeepRatio`; then the square in the middle is cut out.
    CenterCrop,
    /// As `KeepRatioLargest`; then white is laid around it to make a square.
    Border,
    /// The size stays.
    No,
}

impl ResizeMode {
    /// As users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeepRatioLargest => "keep_ratio_largest",
            Self::KeepRatio => "keep_ratio",
            Self::CenterCrop => "center_crop",
            Self::Border => "border",
            Self::No => "no",
        }
    }
}

/// When the perceptual hash is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerceptualHashMode {
    /// When the pixels are decoded anyway.
    #[default]
    Auto,
    /// For every image; those that are kept as received are decoded for it.
    Always,
    Never,
}

/// At what size a JPEG that will be shrunk is decoded: libjpeg-turbo can leave out the high
/// frequencies of each block and so decode at an eighth, a quarter or half of the full size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JpegScaling {
    /// At no less than twice the target: indistinguishable from a full decode (39.0 dB against a
    /// Lanczos reference, as a full decode has).
    #[default]
    Twice,
    /// At no less than the target: faster, and 0.4 dB worse.
    Once,
    /// At the full size.
    Full,
}

impl JpegScaling {
    /// The smallest n for which n/8 of `size` is large enough to be shrunk to `target`.
    pub(super) fn eighths(self, size: PixelSize, target: PixelSize) -> u8 {
        let margin = match self {
            Self::Twice => 2,
            Self::Once => 1,
            Self::Full => return 8,
        };
        fewest_eighths(size.longest_side(), target.longest_side().saturating_mul(margin))
    }
}

/// The smallest n for which n/8 of `side` is at least `wanted`: 1, 2, 4 or 8.
///
/// libjpeg-turbo has vector code for these only. 3/8 of 12 megapixels takes 41 ms where 4/8 takes 35,
/// and 5/8 to 7/8 take more than all (64 to 104 ms against 62).
pub(super) fn fewest_eighths(side: u32, wanted: u32) -> u8 {
    [1, 2, 4].into_iter().find(|&n| u64::from(n) * u64::from(side) >= 8 * u64::from(wanted)).unwrap_or(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_keeps_its_margin() {
        let size = PixelSize { height: 3000, width: 4000 };
        let target = PixelSize { height: 384, width: 512 };
        assert_eq!(JpegScaling::Full.eighths(size, target), 8);
        assert_eq!(JpegScaling::Twice.eighths(size, target), 4); // 2000 >= 1024 > 1000
        assert_eq!(JpegScaling::Once.eighths(size, target), 2); // 1000 >= 512 > 500
        assert_eq!(JpegScaling::Once.eighths(size, size), 8);
        assert_eq!(JpegScaling::Twice.eighths(target, target), 8);
    }

    #[test]
    fn yaml_keys_are_the_field_names() {
        let text = "image_size: 720\nimage_encoding: raw\nperceptual_hash: always\njpeg_scaling: once";
        let options: ImagingOptions = serde_yaml::from_str(text).unwrap();
        assert_eq!(options.image_size, 720);
        assert_eq!(options.image_encoding, ImageEncoding::Raw);
        assert_eq!(options.perceptual_hash, PerceptualHashMode::Always);
        assert_eq!(options.jpeg_scaling, JpegScaling::Once);
        assert_eq!(options.jpeg_quality, 95);
        assert!(serde_yaml::from_str::<ImagingOptions>("image_sise: 1").is_err());
    }
}
