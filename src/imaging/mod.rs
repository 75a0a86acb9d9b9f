//! Pixels: from the bytes of a response to the bytes of a dataset. Pure CPU, bytes in, bytes out.
//!
//! The journey of a body ([`process`]):
//! 1. `sniff`: what is it? By its first bytes, never by its name or content type.
//! 2. `container`: its header (format, size, EXIF orientation), against `max_image_pixels`.
//! 3. `verify`: does it reach its own end mark? A few microseconds, so it is done for every image.
//! 4. When the stored bytes are the received bytes, that is all: no pixel is decoded.
//! 5. Else `decode`, `resize` (area-true), orientation, border or cut (`ResizeMode`), `hash` (perceptual), `encode`.
//!
//! Bodies are hostile: sizes are checked before anything is allocated, decoders get memory limits,
//! and a panic of a codec ends as [`FailureCause::DecoderPanic`](crate::model::FailureCause).
//! [`decode_bytes_estimate`] says beforehand what a call may need.
//!
//! Two builds: pure Rust (zune-jpeg, jpeg-encoder), or feature `turbojpeg` (libjpeg-turbo, which
//! decodes JPEG at a fraction of its size). Both accept the same files and give the same sizes;
//! pixels may differ by a few levels, and so may stored bytes and perceptual hashes by a few bits.

mod container;
mod decode;
mod encode;
mod error;
mod hash;
mod header;
mod options;
mod pipeline;
mod resize;
mod sniff;
#[cfg(test)]
mod tests;
#[cfg(feature = "turbojpeg")]
mod turbo;
mod verify;

pub use error::ImagingError;
pub use header::{ImageHeader, inspect};
pub use options::{ImagingOptions, JpegScaling, PerceptualHashMode, ResizeMode};
pub use pipeline::{ProcessedImage, decode_bytes_estimate, process, process_raw, raw_bytes_estimate};
pub use verify::{VerifiedImage, verify_image, verify_raw};
