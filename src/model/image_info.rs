//! Facts about one image.

use serde::{Deserialize, Serialize};

/// Formats that are recognised by their first bytes. Column `image_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    Jpeg,
    Png,
    Webp,
    Gif,
    Tiff,
    Bmp,
    /// Height x width x 3 bytes, blue first, row by row, no header (`image_encoding: raw`).
    Raw,
}

impl ImageFormat {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::Raw => "raw",
        }
    }
}

/// How the stored image is encoded (`image_encoding`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageEncoding {
    /// The bytes as received, never resized.
    Original,
    /// The bytes as received unless resized, then JPEG.
    #[default]
    Auto,
    Jpeg,
    Png,
    /// Lossless WebP.
    Webp,
    /// Raw BGR pixels, for consumers of distributed-downloader.
    Raw,
}

/// Height and width in pixels, in this order as in `original_size` and `resized_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PixelSize {
    pub height: u32,
    pub width: u32,
}

impl PixelSize {
    #[must_use]
    pub fn pixels(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    #[must_use]
    pub fn longest_side(self) -> u32 {
        self.height.max(self.width)
    }
}
