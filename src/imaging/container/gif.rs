//! GIF: a screen, then blocks of extensions and frames up to the trailer (GIF89a specification).

use image::metadata::Orientation;

use super::{Container, ImagingError, u16_le};

const EXTENSION: u8 = 0x21;
const FRAME: u8 = 0x2C;
const TRAILER: u8 = 0x3B;

/// Peak bytes per pixel: the screen and a frame in RGBA.
const BYTES_PER_PIXEL: u64 = 8;

pub(super) fn read(body: &[u8]) -> Result<Container, ImagingError> {
    let cut = || ImagingError::truncated("the GIF ends within its header");
    let side = |at| u16_le(body, at).map(u32::from).ok_or_else(cut);
    let screen = (side(6)?, side(8)?);
    // A frame may exceed the screen; a decoder makes its surface all the same.
    let mut surface = screen;
    let mut at = first_block(body).ok_or_else(cut)?;
    while let Some(&EXTENSION) = body.get(at) {
        let Some(after) = sub_blocks_end(body, at + 2) else { break };
        at = after;
    }
    if body.get(at) == Some(&FRAME) {
        surface = (screen.0.max(side(at + 5)?), screen.1.max(side(at + 7)?));
    }
    Ok(Container::new(screen, Orientation::NoTransforms, surface, BYTES_PER_PIXEL))
}

pub(super) fn check_complete(body: &[u8]) -> Result<(), ImagingError> {
    let mut has_frame = false;
    match walk(body, &mut has_frame) {
        Some(TRAILER) if has_frame => Ok(()),
        Some(TRAILER) => Err(ImagingError::bad("the GIF has no frame")),
        Some(other) => Err(ImagingError::bad(format!("the GIF has an unknown block `{other:#04x}`"))),
        None => Err(ImagingError::truncated("the GIF has no trailer")),
    }
}

/// Walks to the trailer or to an unknown block, and returns its first byte; `None` if the file ends before.
fn walk(body: &[u8], has_frame: &mut bool) -> Option<u8> {
    let mut at = first_block(body)?;
    loop {
        at = match *body.get(at)? {
            EXTENSION => sub_blocks_end(body, at + 2)?,
            FRAME => {
                let data = at + 10 + color_table_bytes(*body.get(at + 9)?);
                let end = sub_blocks_end(body, data + 1)?;
                *has_frame = true;
                end
            }
            // Some writers end blocks twice.
            0 => at + 1,
            other => return Some(other),
        };
    }
}

fn first_block(body: &[u8]) -> Option<usize> {
    Some(13 + color_table_bytes(*body.get(10)?))
}

fn color_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Where the chain of length-prefixed blocks that begins at `at` ends.
fn sub_blocks_end(body: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = usize::from(*body.get(at)?);
        at += 1 + len;
        if len == 0 {
            return Some(at);
        }
    }
}
