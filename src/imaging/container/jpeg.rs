//! JPEG: a chain of marker segments, then scans of entropy-coded data (ITU-T T.81, annex B).
//!
//! Lengths are followed up to the first scan, so an EXIF thumbnail (a whole JPEG with its own end
//! mark inside a segment) is never mistaken for the image. In a scan, `FF` is followed by 0 or a
//! restart mark unless the scan is over, so the end mark can be searched for.

use image::metadata::Orientation;
use memchr::memchr;

use super::{Container, ImagingError, exif_orientation, u16_be};

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const APP1: u8 = 0xE1;
const TEM: u8 = 0x01;

struct Frame {
    width: u16,
    height: u16,
    components: u8,
    is_progressive: bool,
}

struct Header {
    frame: Frame,
    orientation: Orientation,
    /// Components in the first scan.
    scan_components: u8,
    /// Where the first scan's entropy-coded data begins.
    scan_data: usize,
}

pub(super) fn read(body: &[u8]) -> Result<Container, ImagingError> {
    let Header { frame, orientation, scan_components, .. } = read_header(body)?;
    let size = (u32::from(frame.width), u32::from(frame.height));
    // The RGB result. Coefficients (two bytes each) are kept of the whole image when a component is
    // spread over several scans; blocks are complete, at most 4 x 8 pixels wide and high.
    let buffers_image = frame.is_progressive || scan_components < frame.components;
    let padded = |side: u32| u64::from(side.next_multiple_of(32));
    let coefficients =
        if buffers_image { 2 * u64::from(frame.components) * padded(size.0) * padded(size.1) } else { 0 };
    // One row of blocks of each component, upsampled and not, two bytes per sample.
    let rows = 2 * 2 * 4 * 32 * padded(size.0);
    let mut container = Container::new(size, orientation, size, 3);
    container.decode_bytes += coefficients + rows;
    Ok(container)
}

pub(super) fn check_complete(body: &[u8]) -> Result<(), ImagingError> {
    let mut at = read_header(body)?.scan_data;
    while let Some((marker, after)) = next_marker(body, at) {
        at = match marker {
            EOI => return Ok(()),
            _ if has_segment(marker) => after + 2 + segment(body, after)?.len(),
            _ => after,
        };
    }
    Err(ImagingError::truncated("the JPEG has no end mark"))
}

fn read_header(body: &[u8]) -> Result<Header, ImagingError> {
    let mut at = 2;
    let mut frame = None;
    let mut orientation = None;
    loop {
        let (marker, after) = next_marker(body, at)
            .ok_or_else(|| ImagingError::truncated("the JPEG ends before its image data"))?;
        at = after;
        if marker == EOI {
            return Err(ImagingError::bad("the JPEG has no image data"));
        }
        if !has_segment(marker) {
            continue;
        }
        let segment = segment(body, after)?;
        at += 2 + segment.len();
        match marker {
            0xC0..=0xC2 if frame.is_none() => frame = Some(read_frame(marker, segment)?),
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xF7 => {
                let kind = match marker {
                    0xC3 => "lossless",
                    0xF7 => "JPEG-LS",
                    0xC9..=0xCF => "arithmetic-coded",
                    _ => "hierarchical",
                };
                return Err(ImagingError::unsupported(format!("{kind} JPEG images are not read")));
            }
            APP1 if orientation.is_none() && segment.starts_with(b"Exif\0\0") => {
                orientation = Some(exif_orientation(segment));
            }
            SOS => {
                let frame = frame.ok_or_else(|| ImagingError::bad("the JPEG has no frame header"))?;
                return Ok(Header {
                    frame,
                    orientation: orientation.unwrap_or(Orientation::NoTransforms),
                    scan_components: segment.first().copied().unwrap_or(0),
                    scan_data: at,
                });
            }
            _ => {}
        }
    }
}

fn read_frame(marker: u8, segment: &[u8]) -> Result<Frame, ImagingError> {
    let &[precision, h1, h0, w1, w0, components, ..] = segment else {
        return Err(ImagingError::bad("the JPEG frame header is too short"));
    };
    if precision != 8 {
        return Err(ImagingError::unsupported(format!("JPEG images of {precision} bits are not read")));
    }
    if !(1..=4).contains(&components) {
        return Err(ImagingError::bad(format!("a JPEG of {components} components")));
    }
    Ok(Frame {
        width: u16::from_be_bytes([w1, w0]),
        height: u16::from_be_bytes([h1, h0]),
        components,
        is_progressive: marker == 0xC2,
    })
}

/// The next marker at or after `at`, and where what follows it begins. Bytes that are no marker are
/// passed over, as libjpeg does.
fn next_marker(body: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += memchr(0xFF, body.get(at..)?)?;
        // Any number of fill bytes may come before the marker's code.
        while *body.get(at)? == 0xFF {
            at += 1;
        }
        let code = body[at];
        at += 1;
        if code != 0 {
            return Some((code, at));
        }
    }
}

fn has_segment(marker: u8) -> bool {
    !matches!(marker, TEM | SOI | EOI | 0xD0..=0xD7)
}

/// The content of the segment whose length field is at `at`.
fn segment(body: &[u8], at: usize) -> Result<&[u8], ImagingError> {
    let cut = || ImagingError::truncated("the JPEG ends within a segment");
    let len = usize::from(u16_be(body, at).ok_or_else(cut)?);
    if len < 2 {
        return Err(ImagingError::bad("a JPEG segment of impossible length"));
    }
    body.get(at + 2..at + len).ok_or_else(cut)
}
