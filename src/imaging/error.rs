//! Why an image could not be taken.

use image::ImageError;

use crate::model::FailureCause;

/// What is wrong with one body. Data about the image, never a failure of ddl.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImagingError {
    /// One of `EmptyBody`, `NotAnImage`, `UnsupportedFormat`, `TruncatedImage`, `BadImage`,
    /// `TooManyPixels`, `DecoderPanic`, `EncodeError`.
    pub cause: FailureCause,
    /// One line for people.
    pub message: String,
}

impl ImagingError {
    pub(super) fn new(cause: FailureCause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(FailureCause::BadImage, message)
    }

    pub(super) fn truncated(message: impl Into<String>) -> Self {
        Self::new(FailureCause::TruncatedImage, message)
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(FailureCause::UnsupportedFormat, message)
    }

    /// An error of a decoder of the `image` crate.
    pub(super) fn from_decoder(error: &ImageError) -> Self {
        let cause = match error {
            ImageError::Limits(_) => FailureCause::TooManyPixels,
            ImageError::Unsupported(_) => FailureCause::UnsupportedFormat,
            ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                FailureCause::TruncatedImage
            }
            _ => FailureCause::BadImage,
        };
        Self::new(cause, error.to_string())
    }

    pub(super) fn from_encoder(error: &dyn std::error::Error) -> Self {
        Self::new(FailureCause::EncodeError, error.to_string())
    }
}
