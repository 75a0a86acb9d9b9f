//! From RGB pixels to the bytes that are stored.

use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use super::error::ImagingError;
use crate::model::{FailureCause, ImageFormat};

/// Encodes as JPEG (chroma halved both ways, as OpenCV and Pillow do by default), PNG, lossless WebP
/// or raw pixels. No metadata is written: orientation is in the pixels.
///
/// # Errors
/// `EncodeError`, as for sides beyond what the format can hold (JPEG 65,535, WebP 16,383).
pub(super) fn encode(
    pixels: RgbImage,
    format: ImageFormat,
    jpeg_quality: u8,
) -> Result<Vec<u8>, ImagingError> {
    match format {
        ImageFormat::Jpeg => encode_jpeg(&pixels, jpeg_quality.clamp(1, 100)),
        ImageFormat::Png => {
            let mut bytes = Vec::new();
            write(&pixels, PngEncoder::new(&mut bytes))?;
            Ok(bytes)
        }
        ImageFormat::Webp => {
            let mut bytes = Vec::new();
            write(&pixels, WebPEncoder::new_lossless(&mut bytes))?;
            Ok(bytes)
        }
        ImageFormat::Raw => Ok(swap_red_and_blue(pixels.into_raw())),
        ImageFormat::Gif | ImageFormat::Tiff | ImageFormat::Bmp => {
            Err(ImagingError::new(FailureCause::EncodeError, format!("{} is never written", format.as_str())))
        }
    }
}

/// Between RGB and distributed-downloader's pixels, which are blue first.
pub(super) fn swap_red_and_blue(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
    bytes
}

fn write(pixels: &RgbImage, encoder: impl ImageEncoder) -> Result<(), ImagingError> {
    encoder
        .write_image(pixels.as_raw(), pixels.width(), pixels.height(), ExtendedColorType::Rgb8)
        .map_err(|error| ImagingError::from_encoder(&error))
}

#[cfg(feature = "turbojpeg")]
fn encode_jpeg(pixels: &RgbImage, quality: u8) -> Result<Vec<u8>, ImagingError> {
    super::turbo::encode(pixels, quality).map_err(|error| ImagingError::from_encoder(&error))
}

#[cfg(not(feature = "turbojpeg"))]
fn encode_jpeg(pixels: &RgbImage, quality: u8) -> Result<Vec<u8>, ImagingError> {
    use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

    let (Ok(width), Ok(height)) = (u16::try_from(pixels.width()), u16::try_from(pixels.height())) else {
        return Err(ImagingError::new(
            FailureCause::EncodeError,
            "a JPEG holds at most 65,535 pixels a side",
        ));
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder
        .encode(pixels.as_raw(), width, height, ColorType::Rgb)
        .map_err(|error| ImagingError::from_encoder(&error))?;
    Ok(bytes)
}
