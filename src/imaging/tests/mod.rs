//! The room as a whole, on files made here: no fixture is stored.

mod formats;
mod hashes;
mod hostile;
mod orientation;
mod sizes;

use std::io::Cursor;
use std::sync::LazyLock;

use bytes::Bytes;
use image::{DynamicImage, Rgb, RgbImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::{ImagingError, ImagingOptions, ProcessedImage, process};
use crate::model::{FailureCause, ImageEncoding, PixelSize};

/// Four quarters: red, green; blue, white. Shows which way up a picture is.
fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 2) {
        (true, true) => Rgb([250, 10, 10]),
        (false, true) => Rgb([10, 250, 10]),
        (true, false) => Rgb([10, 10, 250]),
        (false, false) => Rgb([250, 250, 250]),
    })
}

/// Something with detail at all scales, different for each seed.
fn texture(width: u32, height: u32, seed: u32) -> RgbImage {
    let wave = |x: u32, y: u32, k: u32| {
        let k = f64::from(k + seed * 7 % 11);
        let (x, y) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
        (100.0 + 70.0 * (x * k + y * 3.0).sin() + 70.0 * (y * k - x * 5.0).cos()).clamp(0.0, 255.0) as u8
    };
    RgbImage::from_fn(width, height, |x, y| Rgb([wave(x, y, 3), wave(x, y, 9), wave(x, y, 20)]))
}

fn encoded(image: impl Into<DynamicImage>, format: image::ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.into().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn jpeg_of(samples: &[u8], width: u32, height: u32, color: ColorType, is_progressive: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 90);
    // Halved chroma, as photos have it; a CMYK file has no chroma to halve.
    let sampling = if color == ColorType::Cmyk { SamplingFactor::F_1_1 } else { SamplingFactor::F_2_2 };
    encoder.set_sampling_factor(sampling);
    encoder.set_progressive(is_progressive);
    encoder.encode(samples, width as u16, height as u16, color).unwrap();
    file
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    jpeg_of(image.as_raw(), image.width(), image.height(), ColorType::Rgb, false)
}

/// An EXIF block with an orientation, and with whatever else follows it (as a thumbnail would).
fn exif(orientation: u8, rest: &[u8]) -> Vec<u8> {
    let mut block = b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    block.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
    block.extend_from_slice(rest);
    block
}

/// Puts a segment right after the start mark of a JPEG.
fn with_segment(jpeg: &[u8], marker: u8, content: &[u8]) -> Vec<u8> {
    let mut file = vec![0xFF, 0xD8, 0xFF, marker];
    file.extend_from_slice(&(content.len() as u16 + 2).to_be_bytes());
    file.extend_from_slice(content);
    file.extend_from_slice(&jpeg[2..]);
    file
}

fn with_exif(jpeg: &[u8], block: &[u8]) -> Vec<u8> {
    with_segment(jpeg, 0xE1, &[b"Exif\0\0", block].concat())
}

/// One small file of each kind that is read.
fn one_of_each() -> Vec<(&'static str, Vec<u8>)> {
    static FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(make_one_of_each);
    FILES.clone()
}

fn make_one_of_each() -> Vec<(&'static str, Vec<u8>)> {
    use image::ImageFormat::{Bmp, Gif, Png, Tiff, WebP};
    let picture = texture(90, 60, 1);
    let dynamic = DynamicImage::ImageRgb8(picture.clone());
    let samples = picture.as_raw();
    vec![
        ("jpeg", jpeg(&picture)),
        ("progressive jpeg", jpeg_of(samples, 90, 60, ColorType::Rgb, true)),
        ("jpeg with exif", with_exif(&jpeg(&picture), &exif(6, &jpeg(&texture(16, 16, 2))))),
        ("grey jpeg", jpeg_of(dynamic.to_luma8().as_raw(), 90, 60, ColorType::Luma, false)),
        ("cmyk jpeg", jpeg_of(&[20; 4 * 90 * 60], 90, 60, ColorType::Cmyk, false)),
        ("ycck jpeg", jpeg_of(&[20; 4 * 90 * 60], 90, 60, ColorType::CmykAsYcck, false)),
        ("png", encoded(picture.clone(), Png)),
        ("png with alpha", encoded(dynamic.to_rgba8(), Png)),
        ("png of 16 bits", encoded(dynamic.to_rgba16(), Png)),
        ("grey png", encoded(dynamic.to_luma8(), Png)),
        ("webp", encoded(picture.clone(), WebP)),
        ("gif", encoded(dynamic.to_rgba8(), Gif)),
        ("tiff", encoded(picture.clone(), Tiff)),
        ("tiff of 16 bits", encoded(dynamic.to_rgb16(), Tiff)),
        ("bmp", encoded(picture, Bmp)),
    ]
}

fn options(image_size: u32, image_encoding: ImageEncoding) -> ImagingOptions {
    ImagingOptions { image_size, image_encoding, ..ImagingOptions::default() }
}

fn run(file: &[u8], options: &ImagingOptions) -> Result<ProcessedImage, ImagingError> {
    process(&Bytes::copy_from_slice(file), options)
}

fn cause(file: &[u8], options: &ImagingOptions) -> FailureCause {
    run(file, options).map(|image| image.resized_size).unwrap_err().cause
}

/// The pixels of a file, by way of our own decoder.
fn pixels(file: &[u8]) -> RgbImage {
    let raw = run(file, &options(0, ImageEncoding::Raw)).unwrap();
    let PixelSize { height, width } = raw.resized_size;
    let rgb = raw.image.as_chunks::<3>().0.iter().flat_map(|&[b, g, r]| [r, g, b]).collect();
    RgbImage::from_raw(width, height, rgb).unwrap()
}

fn assert_close(got: &Rgb<u8>, expect: [u8; 3], what: &str) {
    let distance = got.0.iter().zip(expect).map(|(&a, b)| a.abs_diff(b)).max().unwrap();
    assert!(distance <= 12, "{what}: {got:?} is not about {expect:?}");
}
