//! What a body is, by its first bytes.

use super::error::ImagingError;
use crate::model::{FailureCause, ImageFormat};

/// Images that are recognised but not read: (offset, bytes, name).
const UNSUPPORTED: &[(usize, &[u8], &str)] = &[
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypcrx ", "Canon raw"),
    (0, b"\xFF\x0A", "JPEG XL"),
    (0, b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xFF\x4F\xFF\x51", "JPEG 2000"),
    (0, b"II\xBC\x01", "JPEG XR"),
    (0, b"II\x2B\0\x08\0\0\0", "BigTIFF"),
    (0, b"MM\0\x2B\0\x08\0\0", "BigTIFF"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\0\0\x01\0", "icon (ICO)"),
    (0, b"\0\0\x02\0", "cursor (CUR)"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2F\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"\xC5\xD0\xD3\xC6", "EPS"),
    (0, b"%!PS-Adobe", "PostScript"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"SIMPLE  =", "FITS"),
];

/// Things that are no images but often come in their place.
const OTHER: &[(usize, &[u8], &str)] = &[
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (0, b"\x1F\x8B", "gzip data"),
    (0, b"\x28\xB5\x2F\xFD", "zstd data"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xBC\xAF\x27\x1C", "a 7z archive"),
    (4, b"ftyp", "an MP4 video"),
    (4, b"moov", "a QuickTime video"),
    (0, b"\x1A\x45\xDF\xA3", "a Matroska or WebM video"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "WAV audio"),
    (0, b"OggS", "Ogg audio or video"),
    (0, b"ID3", "MP3 audio"),
    (0, b"fLaC", "FLAC audio"),
    (0, b"\0\0\x01\xBA", "an MPEG video"),
    (0, b"CWS", "a Flash animation"),
    (0, b"FWS", "a Flash animation"),
    (0, b"PAR1", "a Parquet file"),
];

/// The format of a body that is an image we read.
///
/// # Errors
/// `EmptyBody`, `UnsupportedFormat` with the format's name, `NotAnImage` with what it looks like.
pub(super) fn sniff(body: &[u8]) -> Result<ImageFormat, ImagingError> {
    if body.is_empty() {
        return Err(ImagingError::new(FailureCause::EmptyBody, "the body has no bytes"));
    }
    if let Some(format) = supported(body) {
        return Ok(format);
    }
    let find = |table: &[(usize, &[u8], &'static str)]| {
        table
            .iter()
            .find(|(offset, magic, _)| body.get(*offset..).is_some_and(|rest| rest.starts_with(magic)))
            .map(|(_, _, name)| *name)
    };
    if let Some(name) = find(UNSUPPORTED).or_else(|| netpbm(body)) {
        return Err(ImagingError::unsupported(format!("{name} images are not read")));
    }
    let guess = match find(OTHER).map(str::to_owned).or_else(|| describe_text(body)) {
        Some(guess) => guess,
        None => format!("unknown data that starts with `{}`", body[..body.len().min(8)].escape_ascii()),
    };
    Err(ImagingError::new(FailureCause::NotAnImage, format!("the body is {guess}")))
}

fn supported(body: &[u8]) -> Option<ImageFormat> {
    match body {
        [0xFF, 0xD8, 0xFF, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(ImageFormat::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(ImageFormat::Webp),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(ImageFormat::Tiff),
        // Two letters prove little, so the length of the second header must be a known one.
        [b'B', b'M', ..] => matches!(body.get(14..18)?, [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
            .then_some(ImageFormat::Bmp),
        _ => None,
    }
}

fn netpbm(body: &[u8]) -> Option<&'static str> {
    matches!(body, [b'P', b'1'..=b'7', b' ' | b'\t' | b'\n' | b'\r', ..]).then_some("Netpbm")
}

/// Names a body that is text, with its first words.
fn describe_text(body: &[u8]) -> Option<String> {
    let head = &body[..body.len().min(512)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut at 512 bytes may split a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{FEFF}').trim_start();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let kind = if lower.starts_with("<svg") || (lower.starts_with("<?xml") && lower.contains("<svg")) {
        "an SVG drawing"
    } else if ["<!doctype html", "<html", "<head", "<body", "<script", "<!--"]
        .iter()
        .any(|t| lower.starts_with(t))
    {
        "an HTML page"
    } else if lower.starts_with('<') {
        "XML"
    } else if lower.starts_with(['{', '[']) {
        "JSON"
    } else if text.is_empty() {
        return Some("white space".to_owned());
    } else {
        "text"
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let start: String = words.join(" ").chars().take(60).collect();
    Some(format!("{kind}: `{start}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &[u8], cause: FailureCause, part: &str) {
        let error = sniff(body).unwrap_err();
        assert_eq!(error.cause, cause, "{}", error.message);
        assert!(error.message.contains(part), "`{}` lacks `{part}`", error.message);
    }

    #[test]
    fn other_things_are_named() {
        use FailureCause::{EmptyBody, NotAnImage, UnsupportedFormat};
        check(b"", EmptyBody, "no bytes");
        check(b"\xEF\xBB\xBF \n<!DOCTYPE HTML><title>404</title>", NotAnImage, "HTML page: `<!DOCTYPE HTML>");
        check(b"<?xml version=\"1.0\"?>\n<svg/>", NotAnImage, "SVG");
        check(b"<?xml version=\"1.0\"?><Error>", NotAnImage, "XML");
        check(b"{\"error\": \"quota\"}", NotAnImage, "JSON: `{\"error\": \"quota\"}`");
        check(b"Not Found", NotAnImage, "text: `Not Found`");
        check(b"BMW is a brand of cars, not a bitmap", NotAnImage, "text");
        check("é".repeat(400).as_bytes(), NotAnImage, "text");
        check(b"%PDF-1.7", NotAnImage, "PDF");
        check(b"\0\0\0\x20ftypisom", NotAnImage, "MP4");
        check(b"\x01\x02\x03", NotAnImage, "`\\x01\\x02\\x03`");
        check(b"\0\0\0\x1Cftypavif", UnsupportedFormat, "AVIF");
        check(b"\0\0\0\x1Cftypheic", UnsupportedFormat, "HEIC");
        check(b"\xFF\x0A\xFA", UnsupportedFormat, "JPEG XL");
        check(b"8BPS\0\x01", UnsupportedFormat, "PSD");
        check(b"\0\0\x01\0\x01\0", UnsupportedFormat, "ICO");
        check(b"P6\n4 4\n255\n", UnsupportedFormat, "Netpbm");
    }
}
