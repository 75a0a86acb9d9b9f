//! From the bytes of a complete image to upright-or-not RGB pixels.
//!
//! JPEG goes through zune-jpeg in strict mode (its lenient mode, and the `image` crate's, quietly fill
//! up what is missing), or through libjpeg-turbo where that is built in. All else goes through the
//! `image` crate. Transparent pixels are laid on white; of animations the first frame is taken.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageResult, Limits, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::error::ImagingError;
use super::header::ImageHeader;
use crate::model::{ImageFormat, PixelSize};

/// Scans of a progressive JPEG. Encoders write about ten; each costs a pass over all coefficients, so
/// that thousands, in a few bytes each, would keep a core busy for minutes.
pub(super) const MAX_JPEG_SCANS: usize = 100;

/// Decodes a complete image. `eighths` (1, 2, 4 or 8) is at what part of its size a JPEG may be decoded;
/// only libjpeg-turbo can use it, so the result has either that size or the full one.
///
/// # Errors
/// `BadImage`, `TruncatedImage`, `UnsupportedFormat`, `TooManyPixels` (a decoder's memory limit).
pub(super) fn decode(body: &[u8], header: &ImageHeader, eighths: u8) -> Result<RgbImage, ImagingError> {
    let size = header.stored_size();
    if header.image_format == ImageFormat::Jpeg {
        #[cfg(feature = "turbojpeg")]
        if let Some(pixels) = super::turbo::decode(body, size, eighths) {
            return Ok(pixels);
        }
        #[cfg(not(feature = "turbojpeg"))]
        let _ = eighths;
        // What libjpeg-turbo does not take (CMYK, or data it warns about), zune-jpeg is to judge:
        // so both builds accept the same files.
        return decode_jpeg(body, size);
    }
    let image = decode_other(body, header).map_err(|error| ImagingError::from_decoder(&error))?;
    let pixels = flatten(image);
    check_size(size, pixels.width(), pixels.height())?;
    Ok(pixels)
}

fn decode_jpeg(body: &[u8], size: PixelSize) -> Result<RgbImage, ImagingError> {
    let options = DecoderOptions::new_fast()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_max_scans(MAX_JPEG_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let run = |options| {
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(body), options);
        decoder.decode_headers()?;
        let (width, height) = decoder.dimensions().unwrap_or_default();
        Ok((width as u32, height as u32, decoder.decode()?))
    };
    let (width, height, pixels) = match run(options) {
        // Bytes between segments harm nothing and do occur, but strict mode knows no exceptions.
        Err(DecodeErrors::FormatStatic(text)) if text.contains("Extra bytes between headers") => {
            run(options.set_strict_mode(false))
        }
        result => result,
    }
    .map_err(|error| ImagingError::bad(format!("the JPEG does not decode: {error:?}")))?;
    check_size(size, width, height)?;
    RgbImage::from_raw(width, height, pixels).ok_or_else(|| ImagingError::bad("the JPEG has too few pixels"))
}

fn decode_other(body: &[u8], header: &ImageHeader) -> ImageResult<DynamicImage> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(header.decode_bytes);
    let input = Cursor::new(body);
    match header.image_format {
        ImageFormat::Png => limited(PngDecoder::with_limits(input, limits.clone())?, limits),
        ImageFormat::Webp => limited(WebPDecoder::new(input)?, limits),
        ImageFormat::Gif => limited(GifDecoder::new(input)?, limits),
        ImageFormat::Tiff => limited(TiffDecoder::new(input)?, limits),
        ImageFormat::Bmp | ImageFormat::Jpeg | ImageFormat::Raw => limited(BmpDecoder::new(input)?, limits),
    }
}

fn limited(mut decoder: impl ImageDecoder, limits: Limits) -> ImageResult<DynamicImage> {
    decoder.set_limits(limits)?;
    DynamicImage::from_decoder(decoder)
}

/// The header was ours and the pixels are the decoder's: they must speak of the same image.
fn check_size(header: PixelSize, width: u32, height: u32) -> Result<(), ImagingError> {
    if (header.width, header.height) == (width, height) {
        return Ok(());
    }
    let PixelSize { height: header_height, width: header_width } = header;
    Err(ImagingError::bad(format!(
        "the header says `{header_width}x{header_height}` and the data `{width}x{height}`"
    )))
}

/// Eight-bit RGB, transparency laid on white.
fn flatten(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let blend = |color: u8, alpha: u8| {
        let (color, alpha) = (u32::from(color), u32::from(alpha));
        ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
    for &[r, g, b, a] in rgba.as_raw().as_chunks().0 {
        rgb.extend_from_slice(&[blend(r, a), blend(g, a), blend(b, a)]);
    }
    RgbImage::from_raw(width, height, rgb).expect("three bytes were pushed for each pixel")
}
