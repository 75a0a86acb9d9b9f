//! JPEG through libjpeg-turbo (feature `turbojpeg`).

use image::RgbImage;
use turbojpeg::{Colorspace, Compressor, Decompressor, Image, PixelFormat, Result, ScalingFactor, Subsamp};

use super::decode::MAX_JPEG_SCANS;
use crate::model::PixelSize;

/// Decodes at `eighths`/8 of `size` (rounded up), or says that another decoder should look at it:
/// for CMYK, which libjpeg-turbo does not turn into RGB, and for anything it complains about.
pub(super) fn decode(body: &[u8], size: PixelSize, eighths: u8) -> Option<RgbImage> {
    let mut decompressor = Decompressor::new().ok()?;
    let header = decompressor.read_header(body).ok()?;
    let is_cmyk = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
    if is_cmyk || (header.width, header.height) != (size.width as usize, size.height as usize) {
        return None;
    }
    let scaling = ScalingFactor::new(usize::from(eighths), 8);
    decompressor.set_scaling_factor(scaling).ok()?;
    decompressor.set_scan_limit(MAX_JPEG_SCANS as u32).ok()?;
    let (width, height) = (scaling.scale(header.width), scaling.scale(header.height));
    let pitch = 3 * width;
    let mut pixels = vec![0; pitch * height];
    let output = Image { pixels: &mut pixels[..], width, pitch, height, format: PixelFormat::RGB };
    decompressor.decompress(body, output).ok()?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
}

/// Encodes with halved chroma.
pub(super) fn encode(pixels: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    let mut compressor = Compressor::new()?;
    compressor.set_quality(i32::from(quality))?;
    compressor.set_subsamp(Subsamp::Sub2x2)?;
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    compressor.compress_to_vec(Image {
        pixels: pixels.as_raw().as_slice(),
        width,
        pitch: 3 * width,
        height,
        format: PixelFormat::RGB,
    })
}
