//! Undoing a `Content-Encoding` that nobody asked for, within the body's limit.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::model::FailureCause;

/// Encodings on top of each other that are undone; nobody has a reason for a second.
const MAX_ENCODINGS: usize = 3;

/// One encoding that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    Gzip,
    Deflate,
    Brotli,
}

/// The encodings of a header, in the order in which they were applied.
///
/// # Errors
/// [`FailureCause::BadContentEncoding`] with a message, if one is unknown or there are too many.
pub(super) fn parse(header: &[u8]) -> Result<Vec<ContentEncoding>, (FailureCause, String)> {
    let fail = |message: String| Err((FailureCause::BadContentEncoding, super::classify::shorten(message)));
    let mut encodings = Vec::new();
    for name in header.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        let encoding = match name.to_ascii_lowercase().as_slice() {
            b"" | b"identity" => continue,
            b"gzip" | b"x-gzip" => ContentEncoding::Gzip,
            b"deflate" => ContentEncoding::Deflate,
            b"br" => ContentEncoding::Brotli,
            _ => return fail(format!("unknown Content-Encoding `{}`", name.escape_ascii())),
        };
        encodings.push(encoding);
    }
    if encodings.len() > MAX_ENCODINGS {
        fail(format!("{} Content-Encodings", encodings.len()))
    } else {
        Ok(encodings)
    }
}

impl ContentEncoding {
    /// Reads what `encoded` holds.
    pub fn decoder(self, encoded: Bytes) -> Box<dyn Read + Send> {
        // Servers disagree on whether `deflate` means zlib (RFC 9110) or bare deflate: zlib's first byte names
        // method 8 and its header is a multiple of 31.
        let is_zlib = matches!(
            encoded[..],
            [a, b, ..] if a & 15 == 8 && u16::from_be_bytes([a, b]).is_multiple_of(31)
        );
        let encoded = encoded.reader();
        match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(encoded)),
            Self::Deflate if is_zlib => Box::new(ZlibDecoder::new(encoded)),
            Self::Deflate => Box::new(DeflateDecoder::new(encoded)),
            Self::Brotli => Box::new(Decompressor::new(encoded, 4096)),
        }
    }
}

/// What a decoder's error means: that the bytes are not what the header says.
pub(super) fn failure(error: &io::Error) -> (FailureCause, String) {
    (FailureCause::BadContentEncoding, super::classify::shorten(format!("corrupt Content-Encoding: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_encodings_in_order() {
        use ContentEncoding::{Brotli, Deflate, Gzip};
        let check = |header: &str, expect: Option<&[ContentEncoding]>| {
            assert_eq!(parse(header.as_bytes()).ok().as_deref(), expect, "{header}");
        };
        check("", Some(&[]));
        check("identity", Some(&[]));
        check("GZIP", Some(&[Gzip]));
        check("deflate, x-gzip , br", Some(&[Deflate, Gzip, Brotli]));
        check("gzip,gzip,gzip,gzip", None);
        check("zstd", None);
        check("image/jpeg", None);
        assert!(parse(b"\xff\xfe").is_err());
    }
}
