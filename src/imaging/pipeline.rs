//! One image from received to stored bytes.

use bytes::Bytes;
use image::RgbImage;
use image::metadata::Orientation;

use super::decode::decode;
use super::encode::{encode, swap_red_and_blue};
use super::error::ImagingError;
use super::hash::{THUMBNAIL_SIDE, perceptual_hash};
use super::header::{ImageHeader, check_pixels, inspect, turned};
use super::options::{ImagingOptions, PerceptualHashMode, fewest_eighths};
use super::resize::{Fitted, fit, frame, scale, turn};
use super::verify::check_complete;
use crate::model::{ContentDigest, FailureCause, ImageEncoding, ImageFormat, PerceptualHash, PixelSize};
use crate::runtime;

/// An image as it will be stored.
#[derive(Clone, Debug)]
pub struct ProcessedImage {
    /// The bytes to store: a clone of the received handle when nothing was to be changed.
    pub image: Bytes,
    /// The format of `image`.
    pub image_format: ImageFormat,
    /// Size as received, after the EXIF orientation.
    pub original_size: PixelSize,
    /// Size of `image`. When the bytes are kept it equals `original_size`: the orientation is then
    /// still in the metadata, and a viewer applies it.
    pub resized_size: PixelSize,
    /// Digest of the received bytes.
    pub hashsum_original: ContentDigest,
    /// Digest of `image`.
    pub hashsum_resized: ContentDigest,
    /// See [`PerceptualHashMode`] for when there is one.
    pub perceptual_hash: Option<PerceptualHash>,
}

/// What is to be done with an image, known from its header.
struct Plan {
    /// Upright sizes of the scaled pixels and of the stored image.
    fitted: Fitted,
    /// The received bytes are stored.
    keeps_bytes: bool,
    format: ImageFormat,
}

impl Plan {
    /// An encoding that names a format is satisfied by bytes that already are what it would give.
    fn new(header: &ImageHeader, options: &ImagingOptions) -> Self {
        let fitted = match options.image_encoding {
            ImageEncoding::Original => Fitted::kept(header.size),
            _ => fit(header.size, options.image_size, options.resize_mode, options.resize_only_if_bigger),
        };
        let is_resized = fitted != Fitted::kept(header.size);
        let format = match options.image_encoding {
            ImageEncoding::Auto if is_resized => ImageFormat::Jpeg,
            ImageEncoding::Original | ImageEncoding::Auto => {
                return Self { fitted, keeps_bytes: true, format: header.image_format };
            }
            ImageEncoding::Jpeg => ImageFormat::Jpeg,
            ImageEncoding::Png => ImageFormat::Png,
            ImageEncoding::Webp => ImageFormat::Webp,
            ImageEncoding::Raw => ImageFormat::Raw,
        };
        let keeps_bytes = !is_resized && header.is_upright() && header.image_format == format;
        Self { fitted, keeps_bytes, format }
    }

    /// Whether an image that is enlarged, or gets a border, stays within the limit.
    fn check_pixels(&self, max_image_pixels: u64) -> Result<(), ImagingError> {
        let Fitted { scaled, target } = self.fitted;
        [scaled, target].into_iter().try_for_each(|size| check_pixels(size, size.pixels(), max_image_pixels))
    }
}

/// Turns a received body into what is stored.
///
/// # Errors
/// What is wrong with the body: see [`ImagingError::cause`]. A body that is refused is refused whatever
/// the encoding, except for damage that only decoding the pixels shows.
pub fn process(body: &Bytes, options: &ImagingOptions) -> Result<ProcessedImage, ImagingError> {
    catch_panic(|| {
        let header = inspect(body)?;
        header.check_pixels(options.max_image_pixels)?;
        check_complete(body, &header)?;
        let plan = Plan::new(&header, options);
        if !plan.keeps_bytes {
            plan.check_pixels(options.max_image_pixels)?;
            let eighths = options.jpeg_scaling.eighths(header.size, plan.fitted.scaled);
            let pixels = decode(body, &header, eighths)?;
            return convert(body, &header, pixels, &plan, options);
        }
        let hash = match options.perceptual_hash {
            PerceptualHashMode::Always => Some(hash_kept(body, &header)?),
            _ => None,
        };
        Ok(keep(body, &header, hash, options))
    })
}

/// The same for stored raw pixels (`image_format` raw, blue first) of `size`, which have no header.
///
/// `original_size` and `hashsum_original` are here those of `body`.
///
/// # Errors
/// `TruncatedImage` when the bytes are not as many as `size` says, `TooManyPixels`, `EncodeError`.
pub fn process_raw(
    body: &Bytes,
    size: PixelSize,
    options: &ImagingOptions,
) -> Result<ProcessedImage, ImagingError> {
    catch_panic(|| {
        let header = raw_header(body, size, options)?;
        let pixels = || {
            RgbImage::from_raw(size.width, size.height, swap_red_and_blue(body.to_vec()))
                .ok_or_else(|| ImagingError::bad("raw pixels of another size"))
        };
        let plan = Plan::new(&header, options);
        if !plan.keeps_bytes {
            plan.check_pixels(options.max_image_pixels)?;
            return convert(body, &header, pixels()?, &plan, options);
        }
        let hash = match options.perceptual_hash {
            PerceptualHashMode::Always => Some(perceptual_hash(&pixels()?, header.orientation)?),
            _ => None,
        };
        Ok(keep(body, &header, hash, options))
    })
}

/// What the header of raw pixels would say, if there are as many of them as `size` says.
pub(super) fn raw_header(
    body: &[u8],
    size: PixelSize,
    options: &ImagingOptions,
) -> Result<ImageHeader, ImagingError> {
    let header = ImageHeader {
        image_format: ImageFormat::Raw,
        size,
        orientation: Orientation::NoTransforms,
        coded_pixels: size.pixels(),
        decode_bytes: size.pixels().saturating_mul(3),
    };
    header.check_pixels(options.max_image_pixels)?;
    let PixelSize { height, width } = size;
    if size.pixels() == 0 || body.len() as u64 != size.pixels().saturating_mul(3) {
        let message = format!("{} bytes are not the raw pixels of `{width}x{height}`", body.len());
        return Err(ImagingError::truncated(message));
    }
    Ok(header)
}

/// Bytes that [`process`] takes at most besides the body itself, for a memory budget. 0 for what it refuses
/// by the header.
///
/// An upper bound by the formats' worst cases: for a photo decoded at a fraction of its size it is
/// several times too high.
#[must_use]
pub fn decode_bytes_estimate(body: &[u8], options: &ImagingOptions) -> u64 {
    let header = catch_panic(|| {
        let header = inspect(body)?;
        header.check_pixels(options.max_image_pixels)?;
        Ok(header)
    });
    header.map_or(0, |header| bytes_to_decode(&header, options))
}

/// The same for [`process_raw`].
#[must_use]
pub fn raw_bytes_estimate(body: &[u8], size: PixelSize, options: &ImagingOptions) -> u64 {
    raw_header(body, size, options).map_or(0, |header| bytes_to_decode(&header, options))
}

/// No sum or product of what a header claims may overflow, whatever `max_image_pixels` is.
fn bytes_to_decode(header: &ImageHeader, options: &ImagingOptions) -> u64 {
    let plan = Plan::new(header, options);
    if plan.keeps_bytes && options.perceptual_hash != PerceptualHashMode::Always {
        return 0;
    }
    if plan.keeps_bytes {
        return header.decode_bytes.saturating_add(thumbnail_bytes(header.size));
    }
    let Fitted { scaled, target } = plan.fitted;
    let result = target.pixels().saturating_mul(3);
    let scaled_bytes = scaled.pixels().saturating_mul(3);
    // Scaling keeps a strip between its two passes, and then its result.
    let scaling = match scaled == header.size {
        true => 0,
        false => {
            let strip = u64::from(scaled.longest_side()) * u64::from(header.size.longest_side());
            scaled_bytes.saturating_add(strip.saturating_mul(3))
        }
    };
    let turning = if header.is_upright() { 0 } else { scaled_bytes.saturating_mul(2) };
    let framing = if target == scaled { 0 } else { result };
    // An encoder's output may reach its input in size, and is moved while it grows.
    let encoding = match plan.format {
        ImageFormat::Raw => 0,
        _ => result.saturating_mul(3).saturating_add(ENCODER_BYTES),
    };
    let thumbnail = match options.perceptual_hash {
        PerceptualHashMode::Never => 0,
        _ => thumbnail_bytes(target),
    };
    let steps = [scaling, turning, framing, encoding, thumbnail];
    steps.iter().fold(header.decode_bytes, |sum, &bytes| sum.saturating_add(bytes))
}

/// Tables and row buffers of an encoder.
const ENCODER_BYTES: u64 = 1 << 20;

/// What the perceptual hash of an image of this size takes: its own small pictures, its DCT, and the strip between
/// the two passes of a resize, of 3 bytes a pixel.
fn thumbnail_bytes(size: PixelSize) -> u64 {
    (1 << 20) + 3 * u64::from(THUMBNAIL_SIDE) * u64::from(size.longest_side())
}

/// Runs codecs, whose panics on hostile bytes become an error of the one image.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> Result<T, ImagingError>) -> Result<T, ImagingError> {
    // Nothing outlives the call but its result, so nothing half-done can be seen afterwards.
    runtime::catch_panic(run).unwrap_or_else(|message| {
        Err(ImagingError::new(FailureCause::DecoderPanic, format!("the decoder panicked: {message}")))
    })
}

fn keep(
    body: &Bytes,
    header: &ImageHeader,
    perceptual_hash: Option<PerceptualHash>,
    options: &ImagingOptions,
) -> ProcessedImage {
    let hashsum = options.hash_algorithm.digest(body);
    ProcessedImage {
        image: body.clone(),
        image_format: header.image_format,
        original_size: header.size,
        resized_size: header.size,
        hashsum_original: hashsum,
        hashsum_resized: hashsum,
        perceptual_hash,
    }
}

fn convert(
    body: &Bytes,
    header: &ImageHeader,
    pixels: RgbImage,
    plan: &Plan,
    options: &ImagingOptions,
) -> Result<ProcessedImage, ImagingError> {
    // Turning comes after shrinking: there are fewer pixels to turn.
    let Fitted { scaled, target } = plan.fitted;
    let pixels = scale(pixels, turned(scaled, header.orientation))?;
    let pixels = frame(turn(pixels, header.orientation), target);
    let perceptual_hash = match options.perceptual_hash {
        PerceptualHashMode::Never => None,
        _ => Some(perceptual_hash(&pixels, Orientation::NoTransforms)?),
    };
    let mut image = encode(pixels, plan.format, options.jpeg_quality)?;
    // It waits until its row group is written, in what its memory was bought for.
    image.shrink_to_fit();
    let image = Bytes::from(image);
    Ok(ProcessedImage {
        image_format: plan.format,
        original_size: header.size,
        resized_size: target,
        hashsum_original: options.hash_algorithm.digest(body),
        hashsum_resized: options.hash_algorithm.digest(&image),
        perceptual_hash,
        image,
    })
}

/// The hash of an image that is kept, from as few pixels as will do.
fn hash_kept(body: &[u8], header: &ImageHeader) -> Result<PerceptualHash, ImagingError> {
    let eighths = fewest_eighths(header.size.height.min(header.size.width), THUMBNAIL_SIDE);
    perceptual_hash(&decode(body, header, eighths)?, header.orientation)
}
