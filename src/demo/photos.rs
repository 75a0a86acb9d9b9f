//! Made-up photos as files: what a picture shows, its size, its format, and slight edits of it.
//!
//! The bytes depend on the specification alone. They are written with the encoders that the crate has
//! anyway, in every format that the pipeline reads.

use std::fmt;
use std::io::Cursor;

use fast_image_resize as fir;
use image::codecs::gif::GifEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageFormat, RgbImage};
use jpeg_encoder::{ColorType, Encoder};

use super::canvas;
use super::error::DemoError;
use super::random::mix;

/// A picture file that can be made at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PhotoSpec {
    /// What the picture shows.
    pub seed: u64,
    /// Width in pixels as people see it (after the EXIF turn); 0 counts as 1.
    pub width: u16,
    /// Height in pixels as people see it; 0 counts as 1.
    pub height: u16,
    /// The file format.
    pub format: PhotoFormat,
    /// JPEG quality, 1 to 100. Other formats ignore it.
    pub quality: u8,
    /// What was done to the original.
    pub edit: PhotoEdit,
}

/// File formats and their flavours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhotoFormat {
    /// Baseline JPEG.
    Jpeg,
    /// JPEG in several scans.
    JpegProgressive,
    /// JPEG with luma alone.
    JpegGrey,
    /// JPEG whose pixels lie on their side, with an EXIF orientation of 6 (turn right by 90 degrees).
    JpegTurned,
    /// PNG, 8 bits, red, green, blue.
    Png,
    /// PNG with an alpha channel that fades towards the edges.
    PngAlpha,
    /// PNG with 16 bits per channel.
    Png16,
    /// Lossless WebP.
    Webp,
    /// GIF of one frame.
    Gif,
    /// TIFF, not compressed.
    Tiff,
    /// BMP.
    Bmp,
}

/// A slight change that leaves a near-duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhotoEdit {
    /// The original.
    None,
    /// 2 % cut off on each side.
    Cropped,
    /// 8 % brighter.
    Brightened,
}

impl PhotoFormat {
    /// Every flavour.
    pub const ALL: [Self; 11] = [
        Self::Jpeg,
        Self::JpegProgressive,
        Self::JpegGrey,
        Self::JpegTurned,
        Self::Png,
        Self::PngAlpha,
        Self::Png16,
        Self::Webp,
        Self::Gif,
        Self::Tiff,
        Self::Bmp,
    ];

    /// The usual end of a file's name, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg | Self::JpegProgressive | Self::JpegGrey | Self::JpegTurned => "jpg",
            Self::Png | Self::PngAlpha | Self::Png16 => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Tiff => "tif",
            Self::Bmp => "bmp",
        }
    }

    /// The media type, as in `Content-Type` and in a list's column `format`.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg | Self::JpegProgressive | Self::JpegGrey | Self::JpegTurned => "image/jpeg",
            Self::Png | Self::PngAlpha | Self::Png16 => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
            Self::Tiff => "image/tiff",
            Self::Bmp => "image/bmp",
        }
    }
}

impl fmt::Display for PhotoSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} {}x{} {:?}", self.seed, self.width, self.height, self.format)
    }
}

impl PhotoSpec {
    /// A baseline JPEG of quality 85.
    #[must_use]
    pub fn jpeg(seed: u64, width: u16, height: u16) -> Self {
        Self { seed, width, height, format: PhotoFormat::Jpeg, quality: 85, edit: PhotoEdit::None }
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// An encoder refuses the picture; not known to happen.
    pub fn render(&self) -> Result<Vec<u8>, DemoError> {
        self.encode(self.pixels()?).map_err(|source| self.error(source))
    }

    /// The picture before it is encoded, upright.
    fn pixels(&self) -> Result<RgbImage, DemoError> {
        let base = canvas::draw(self.seed, self.width, self.height);
        let mut picture = self.scale(&base).map_err(|source| self.error(source))?;
        let gain: u32 = if self.edit == PhotoEdit::Brightened { 277 } else { 256 };
        let seed = mix(self.seed);
        let width = self.width.max(1).into();
        for (row, line) in picture.as_chunks_mut().0.chunks_exact_mut(width).enumerate() {
            let mut grain = Grain::new(seed ^ row as u64);
            for pixel in line {
                let noise = grain.next();
                let [red, green, blue] = *pixel;
                let lit =
                    |channel: u8| (((u32::from(channel) * gain) >> 8) as i32 + noise).clamp(0, 255) as u8;
                *pixel = [lit(red), lit(green), lit(blue)];
            }
        }
        Ok(picture)
    }

    fn scale(&self, base: &RgbImage) -> Result<RgbImage, Box<dyn std::error::Error + Send + Sync>> {
        let (width, height) = (u32::from(self.width.max(1)), u32::from(self.height.max(1)));
        let source = fir::images::ImageRef::new(base.width(), base.height(), base, fir::PixelType::U8x3)?;
        let mut target = fir::images::Image::new(width, height, fir::PixelType::U8x3);
        // The cheapest filter: the noise that follows hides the difference.
        let mut options =
            fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
        if self.edit == PhotoEdit::Cropped {
            let [across, down] = [base.width(), base.height()].map(f64::from);
            options = options.crop(0.02 * across, 0.02 * down, 0.96 * across, 0.96 * down);
        }
        fir::Resizer::new().resize(&source, &mut target, &options)?;
        RgbImage::from_raw(width, height, target.into_vec()).ok_or_else(|| "picture of a wrong size".into())
    }

    fn encode(&self, picture: RgbImage) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let (width, height) = picture.dimensions();
        let mut file = Vec::new();
        match self.format {
            PhotoFormat::Jpeg => encode_jpeg(Encoder::new(&mut file, self.quality), &picture)?,
            PhotoFormat::JpegProgressive => {
                let mut encoder = Encoder::new(&mut file, self.quality);
                encoder.set_progressive(true);
                encode_jpeg(encoder, &picture)?;
            }
            PhotoFormat::JpegGrey => {
                let grey = DynamicImage::ImageRgb8(picture).into_luma8();
                let sides = (width as u16, height as u16);
                Encoder::new(&mut file, self.quality).encode(&grey, sides.0, sides.1, ColorType::Luma)?;
            }
            PhotoFormat::JpegTurned => {
                let mut encoder = Encoder::new(&mut file, self.quality);
                encoder.add_exif_metadata(&EXIF_TURN_RIGHT)?;
                encode_jpeg(encoder, &image::imageops::rotate270(&picture))?;
            }
            PhotoFormat::Png => encode_png(&mut file, &picture.into())?,
            PhotoFormat::PngAlpha => {
                let mut faded = DynamicImage::ImageRgb8(picture).into_rgba8();
                for (x, y, pixel) in faded.enumerate_pixels_mut() {
                    let edge = x.min(width - 1 - x).min(y).min(height - 1 - y);
                    pixel.0[3] = (edge * 16).min(255) as u8;
                }
                encode_png(&mut file, &faded.into())?;
            }
            PhotoFormat::Png16 => {
                encode_png(&mut file, &DynamicImage::ImageRgb8(picture).into_rgb16().into())?;
            }
            PhotoFormat::Webp => {
                WebPEncoder::new_lossless(&mut file).encode(
                    &picture,
                    width,
                    height,
                    ExtendedColorType::Rgb8,
                )?;
            }
            PhotoFormat::Gif => {
                // 30 is the quickest; 1 would look better.
                GifEncoder::new_with_speed(&mut file, 30).encode(
                    &picture,
                    width,
                    height,
                    ExtendedColorType::Rgb8,
                )?;
            }
            PhotoFormat::Tiff => picture.write_to(&mut Cursor::new(&mut file), ImageFormat::Tiff)?,
            PhotoFormat::Bmp => picture.write_to(&mut Cursor::new(&mut file), ImageFormat::Bmp)?,
        }
        Ok(file)
    }

    fn error(&self, source: Box<dyn std::error::Error + Send + Sync>) -> DemoError {
        DemoError::Encode { picture: self.to_string(), source }
    }
}

/// A TIFF block with one entry: tag 0x0112 (orientation), type SHORT, one value, 6.
const EXIF_TURN_RIGHT: [u8; 26] =
    [b'M', b'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0];

fn encode_jpeg(
    encoder: Encoder<&mut Vec<u8>>,
    picture: &RgbImage,
) -> Result<(), jpeg_encoder::EncodingError> {
    encoder.encode(picture, picture.width() as u16, picture.height() as u16, ColorType::Rgb)
}

fn encode_png(file: &mut Vec<u8>, picture: &DynamicImage) -> Result<(), image::ImageError> {
    // Quick rather than small: noise does not compress anyway.
    picture.write_with_encoder(PngEncoder::new_with_quality(file, CompressionType::Fast, FilterType::Sub))
}

/// Sensor noise of one row: the sum of two small uniform numbers, so mostly near zero.
struct Grain {
    state: u32,
}

impl Grain {
    fn new(seed: u64) -> Self {
        // A xorshift generator must not start at zero.
        Self { state: mix(seed) as u32 | 1 }
    }

    /// A number in `-7..=7`.
    fn next(&mut self) -> i32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        ((self.state >> 8) & 7) as i32 - ((self.state >> 16) & 7) as i32
    }
}

#[cfg(test)]
mod tests {
    use image::ImageDecoder;
    use image::metadata::Orientation;

    use super::*;

    fn file(format: PhotoFormat, edit: PhotoEdit, quality: u8) -> Vec<u8> {
        PhotoSpec { format, edit, quality, ..PhotoSpec::jpeg(5, 120, 80) }.render().unwrap()
    }

    /// The picture as 8 x 8 grey tones.
    fn gist(file: &[u8]) -> Vec<i32> {
        let picture = image::load_from_memory(file).unwrap();
        let small = picture.resize_exact(8, 8, image::imageops::FilterType::Triangle).into_luma8();
        small.iter().map(|&tone| i32::from(tone)).collect()
    }

    fn distance(one: &[i32], other: &[i32]) -> i32 {
        one.iter().zip(other).map(|(a, b)| (a - b).abs()).sum::<i32>() / 64
    }

    #[test]
    fn every_format_decodes_to_its_size() {
        for format in PhotoFormat::ALL {
            let file = file(format, PhotoEdit::None, 85);
            let guessed = image::guess_format(&file).unwrap();
            assert_eq!(guessed.to_mime_type(), format.media_type(), "{format:?}");
            let picture = image::load_from_memory(&file).unwrap();
            let turned = format == PhotoFormat::JpegTurned;
            let expected = if turned { (80, 120) } else { (120, 80) };
            assert_eq!((picture.width(), picture.height()), expected, "{format:?}");
        }
    }

    #[test]
    fn flavours_are_what_they_say() {
        let frame = |format, marker: u8| {
            file(format, PhotoEdit::None, 85).windows(2).any(|pair| pair == [0xff, marker])
        };
        assert!(frame(PhotoFormat::Jpeg, 0xc0) && !frame(PhotoFormat::Jpeg, 0xc2));
        assert!(frame(PhotoFormat::JpegProgressive, 0xc2));
        let color = |format| image::load_from_memory(&file(format, PhotoEdit::None, 85)).unwrap().color();
        assert_eq!(color(PhotoFormat::JpegGrey), image::ColorType::L8);
        assert_eq!(color(PhotoFormat::PngAlpha), image::ColorType::Rgba8);
        assert_eq!(color(PhotoFormat::Png16), image::ColorType::Rgb16);
    }

    #[test]
    fn a_turned_jpeg_is_upright_once_its_orientation_is_applied() {
        let turned = file(PhotoFormat::JpegTurned, PhotoEdit::None, 85);
        let mut decoder = image::codecs::jpeg::JpegDecoder::new(Cursor::new(&turned)).unwrap();
        assert_eq!(decoder.orientation().unwrap(), Orientation::Rotate90);
        let mut picture = DynamicImage::from_decoder(decoder).unwrap();
        picture.apply_orientation(Orientation::Rotate90);
        assert_eq!((picture.width(), picture.height()), (120, 80));
        let mut upright = Vec::new();
        encode_png(&mut upright, &picture).unwrap();
        let plain = gist(&file(PhotoFormat::Jpeg, PhotoEdit::None, 85));
        assert!(distance(&gist(&upright), &plain) <= 3);
    }

    #[test]
    fn a_specification_is_all_that_counts() {
        let spec = PhotoSpec::jpeg(77, 300, 200);
        assert_eq!(spec.render().unwrap(), spec.render().unwrap());
        assert_ne!(spec.render().unwrap(), PhotoSpec { seed: 78, ..spec }.render().unwrap());
    }

    #[test]
    fn edits_stay_near_and_other_pictures_far() {
        let original = gist(&file(PhotoFormat::Jpeg, PhotoEdit::None, 85));
        let edited = [(PhotoEdit::None, 50), (PhotoEdit::Cropped, 85), (PhotoEdit::Brightened, 85)];
        for (edit, quality) in edited {
            let bytes = file(PhotoFormat::Jpeg, edit, quality);
            assert_ne!(bytes, file(PhotoFormat::Jpeg, PhotoEdit::None, 85));
            assert!(distance(&original, &gist(&bytes)) <= 20, "{edit:?} {quality}");
        }
        let pictures: Vec<_> =
            (0..60).map(|seed| gist(&PhotoSpec::jpeg(mix(seed), 96, 72).render().unwrap())).collect();
        let mut close = 0;
        for (index, one) in pictures.iter().enumerate() {
            close += pictures[..index].iter().filter(|other| distance(one, other) < 12).count();
        }
        // 1,770 pairs: a few sombre or pale ones may come near each other in tone.
        assert!(close <= 20, "{close} pairs look alike");
    }

    #[test]
    fn a_picture_weighs_what_a_photo_weighs() {
        let bytes = PhotoSpec::jpeg(9, 800, 600).render().unwrap().len();
        assert!((40_000..400_000).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn a_picture_without_extent_has_one_pixel() {
        let picture = image::load_from_memory(&PhotoSpec::jpeg(1, 0, 0).render().unwrap()).unwrap();
        assert_eq!((picture.width(), picture.height()), (1, 1));
    }
}
