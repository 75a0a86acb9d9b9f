//! Small pictures of images, made anew: no byte of a file that was received gets into the page, metadata included.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::ReportError;
use super::rows::{Row, plain, quoted};
use crate::imaging::{ImagingError, ImagingOptions, JpegScaling, PerceptualHashMode, process, process_raw};
use crate::model::{ImageEncoding, ImageFormat, PixelSize};
use crate::query::QuerySession;

/// Longest side in pixels: twice what is shown, for fine screens.
const SIDE: u32 = 240;
const QUALITY: u8 = 70;
/// Images of one query: those that are asked for at once stand in memory together.
const AT_ONCE: usize = 32;

/// A picture and what is known of its image.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    /// `data:image/jpeg;base64,...`; `None` where the image cannot be decoded.
    pub picture: Option<String>,
    pub size: PixelSize,
    pub server_name: String,
    pub identifier: String,
    pub label: Option<String>,
    pub license: Option<String>,
}

/// Makes those of the given images that are in the dataset: one that was taken down is not.
pub(super) async fn read(
    session: &QuerySession,
    uuids: &[String],
) -> Result<BTreeMap<String, Thumbnail>, ReportError> {
    let mut thumbnails = BTreeMap::new();
    for uuids in uuids.chunks(AT_ONCE) {
        let list: Vec<_> = uuids.iter().map(|uuid| quoted(uuid)).collect();
        // `urls` says what has become of a record at this moment, `images` what is in the files.
        let sql = format!(
            "SELECT uuid, server_name, identifier, label, license, image_format, original_size, resized_size, image \
             FROM images WHERE uuid IN ({list}) AND EXISTS (SELECT 1 FROM urls WHERE urls.uuid = images.uuid \
             AND urls.uuid IN ({list}) AND urls.disposition = 'success')",
            list = list.join(", ")
        );
        let mut rows = session.stream(&sql).await?;
        while let Some(batch) = rows.next().await? {
            let batch = plain(&batch)?;
            for at in 0..batch.num_rows() {
                let row = Row { batch: &batch, at };
                if let Some(uuid) = row.text("uuid") {
                    thumbnails.insert(uuid.to_owned(), thumbnail(row));
                }
            }
        }
    }
    Ok(thumbnails)
}

fn thumbnail(row: Row<'_>) -> Thumbnail {
    let owned = |name| row.text(name).map(str::to_owned);
    let given = |name| owned(name).filter(|text| !text.is_empty() && text != "Not provided");
    let stored = row.bytes("image").unwrap_or_default();
    let raw_size =
        row.size("resized_size").filter(|_| row.text("image_format") == Some(ImageFormat::Raw.as_str()));
    let picture = picture(stored, raw_size)
        .inspect_err(|error| tracing::debug!(%error, uuid = row.text("uuid"), "no thumbnail"))
        .ok();
    Thumbnail {
        picture,
        size: row.size("original_size").unwrap_or(PixelSize { height: 0, width: 0 }),
        server_name: owned("server_name").unwrap_or_default(),
        identifier: owned("identifier").unwrap_or_default(),
        label: given("label"),
        license: given("license"),
    }
}

/// `raw_size` is that of raw pixels, which have no header.
fn picture(stored: &[u8], raw_size: Option<PixelSize>) -> Result<String, ImagingError> {
    let options = |image_size, image_encoding| ImagingOptions {
        image_size,
        image_encoding,
        jpeg_quality: QUALITY,
        perceptual_hash: PerceptualHashMode::Never,
        jpeg_scaling: JpegScaling::Once,
        ..ImagingOptions::default()
    };
    let body = Bytes::copy_from_slice(stored);
    // By way of raw pixels, or a small JPEG would be kept as it came.
    let to_pixels = options(SIDE, ImageEncoding::Raw);
    let pixels = match raw_size {
        Some(size) => process_raw(&body, size, &to_pixels)?,
        None => process(&body, &to_pixels)?,
    };
    let picture = process_raw(&pixels.image, pixels.resized_size, &options(0, ImageEncoding::Jpeg))?;
    Ok(format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(&picture.image)))
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder as _};

    use super::*;

    #[test]
    fn even_a_small_jpeg_is_made_anew_and_hidden_words_stay_out() {
        let mut file = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut file, 90);
        encoder.set_exif_metadata(b"Exif\0\0MM\0*\0\0\0\x08\0\0secret place".to_vec()).unwrap();
        encoder.write_image(&[90; 40 * 30 * 3], 40, 30, ExtendedColorType::Rgb8).unwrap();
        assert!(file.windows(6).any(|bytes| bytes == b"secret"));
        let picture = picture(&file, None).unwrap();
        let bytes = BASE64_STANDARD.decode(picture.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
        assert!(!bytes.windows(6).any(|bytes| bytes == b"secret"));
        let made = image::load_from_memory(&bytes).unwrap();
        assert_eq!((made.width(), made.height()), (40, 30));
    }

    #[test]
    fn raw_pixels_have_a_picture_and_garbage_has_none() {
        let size = PixelSize { height: 300, width: 600 };
        assert!(picture(&vec![9; 300 * 600 * 3], Some(size)).is_ok());
        assert!(picture(b"<html>", None).is_err() && picture(b"", Some(size)).is_err());
    }
}
