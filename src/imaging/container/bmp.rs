//! BMP: a header, then rows of pixels. The file size in the header is often wrong, so completeness
//! goes by the rows themselves.

use image::metadata::Orientation;

use super::{Container, ImagingError, dynamic_image_bytes, u16_le, u32_le};

struct Header {
    width: u32,
    height: u32,
    bits_per_pixel: u16,
    compression: u32,
    data_offset: usize,
    file_bytes: usize,
}

pub(super) fn read(body: &[u8]) -> Result<Container, ImagingError> {
    let header = read_header(body)?;
    if matches!(header.compression, 4 | 5) {
        return Err(ImagingError::unsupported("BMP images with JPEG or PNG inside are not read"));
    }
    let size = (header.width, header.height);
    Ok(Container::new(size, Orientation::NoTransforms, size, dynamic_image_bytes(4, 1)))
}

pub(super) fn check_complete(body: &[u8]) -> Result<(), ImagingError> {
    let header = read_header(body)?;
    let is_run_length_coded = matches!(header.compression, 1 | 2);
    let needed = if is_run_length_coded {
        header.file_bytes as u64
    } else {
        let row_bits = u64::from(header.width) * u64::from(header.bits_per_pixel);
        header.data_offset as u64 + row_bits.div_ceil(32) * 4 * u64::from(header.height)
    };
    if body.len() as u64 >= needed {
        return Ok(());
    }
    Err(ImagingError::truncated(format!("the BMP needs {needed} bytes and has {}", body.len())))
}

fn read_header(body: &[u8]) -> Result<Header, ImagingError> {
    let parse = || {
        let is_core = u32_le(body, 14)? == 12;
        let (width, height, bits_per_pixel, compression) = if is_core {
            (u16_le(body, 18)?.into(), u16_le(body, 20)?.into(), u16_le(body, 24)?, 0)
        } else {
            // A negative height means that the first row is at the top.
            let height = u32_le(body, 22)?.cast_signed().unsigned_abs();
            (u32_le(body, 18)?, height, u16_le(body, 28)?, u32_le(body, 30)?)
        };
        Some(Header {
            width,
            height,
            bits_per_pixel,
            compression,
            data_offset: u32_le(body, 10)? as usize,
            file_bytes: u32_le(body, 2)? as usize,
        })
    };
    let header = parse().ok_or_else(|| ImagingError::truncated("the BMP ends within its header"))?;
    if header.width > i32::MAX as u32 {
        return Err(ImagingError::bad("a BMP of negative width"));
    }
    Ok(header)
}
