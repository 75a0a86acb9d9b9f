//! Deep: the images of one file, byte by byte.

use arrow::array::Array as _;

use super::data_file::{Flaw, StatedFile, binary, number, pixel_sizes, record_at, text, text_at};
use super::report::{BreachKind, Offences};
use crate::imaging::inspect;
use crate::model::{HashAlgorithm, ImageFormat, PixelSize};
use crate::storage::HASH_ALGORITHM_KEY;

/// Images per batch: as many as a page holds (`set_write_batch_size` in storage), so a batch keeps two pages.
const BATCH_ROWS: usize = 16;

/// Hashes every image of a file of successes, measures it and reads its header. Returns the bytes hashed.
///
/// Where the columns say that the received bytes are stored (`hashsum_original` equal to `hashsum_resized`),
/// this proves both of them.
pub(super) fn check_images(file: StatedFile, offences: &mut Offences) -> Result<u64, Flaw> {
    let algorithm = hash_algorithm(&file)?;
    let mut hashed_bytes = 0;
    let columns = ["record", "image", "image_bytes", "image_format", "resized_size", "hashsum_resized"];
    file.for_each_batch(&columns, BATCH_ROWS, &mut |batch| {
        let images = binary(batch, "image")?;
        let [records, lengths] = [number(batch, "record")?, number(batch, "image_bytes")?];
        let sizes = pixel_sizes(batch, "resized_size")?;
        let [formats, hashsums] = [text(batch, "image_format")?, text(batch, "hashsum_resized")?];
        for (row, size) in sizes.into_iter().enumerate() {
            let image = if images.is_valid(row) { images.value(row) } else { &[] };
            // A row that names no record has been reported by now.
            let record = record_at(&records, row).unwrap_or_default();
            hashed_bytes += image.len() as u64;

            let digest = algorithm.digest(image).to_string();
            let hashsum = text_at(&hashsums, row);
            if digest != hashsum {
                offences.add(BreachKind::ImageDigest, || {
                    format!("record {record} gives `{digest}`, `hashsum_resized` is `{hashsum}`")
                });
            }
            let length = lengths.is_valid(row).then(|| lengths.value(row));
            if length.and_then(|length| usize::try_from(length).ok()) != Some(image.len()) {
                offences.add(BreachKind::ImageLength, || {
                    format!("record {record} has {} bytes, `image_bytes` is {length:?}", image.len())
                });
            }
            if let Err(detail) = check_header(image, text_at(&formats, row), size) {
                offences.add(BreachKind::BrokenImage, || format!("record {record}: {detail}"));
            }
        }
        Ok(())
    })?;
    Ok(hashed_bytes)
}

fn hash_algorithm(file: &StatedFile) -> Result<HashAlgorithm, Flaw> {
    let name = file.fact(HASH_ALGORITHM_KEY).unwrap_or_default();
    HashAlgorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name).ok_or_else(|| {
        let detail = format!("`{HASH_ALGORITHM_KEY}` names no known algorithm: `{name}`");
        Flaw::new(BreachKind::WrongSchema, detail)
    })
}

/// Raw pixels have no header: there must be as many as the size says.
fn check_header(image: &[u8], format: &str, size: Option<PixelSize>) -> Result<(), String> {
    let shown = |size: Option<PixelSize>| {
        size.map_or("null".into(), |size| format!("{}x{}", size.height, size.width))
    };
    if format == ImageFormat::Raw.as_str() {
        let expected = size.map(|size| 3 * u128::from(size.height) * u128::from(size.width));
        return if expected == Some(image.len() as u128) {
            Ok(())
        } else {
            Err(format!("`resized_size` is {}, the pixels have {} bytes", shown(size), image.len()))
        };
    }
    let header = inspect(image).map_err(|error| error.to_string())?;
    let found = header.image_format.as_str();
    if found != format {
        return Err(format!("`image_format` is `{format}`, the bytes are `{found}`"));
    }
    if size != Some(header.size) {
        return Err(format!("`resized_size` is {}, the image is {}", shown(size), shown(Some(header.size))));
    }
    Ok(())
}
