//! The stored images of a partition, one at a time.

use arrow::array::{
    Array as _, ArrayRef, AsArray, BinaryArray, Int32Array, ListArray, RecordBatch, StringArray,
};
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType, Int32Type, Int64Type};

use super::{RunInput, ToolError, Verdict, VerdictKind};
use crate::imaging::ImagingError;
use crate::model::{FailureCause, ImageFormat, PixelSize, RecordIndex};

/// Bytes of images that are read at once, unless a single one has more.
const BATCH_BYTES: u64 = 16 << 20;
/// Images that are read at once at most.
const BATCH_ROWS: u64 = 32;
/// Rows of a small column that are read at once.
const NUMBER_ROWS: usize = 8192;

/// The columns that make a [`StoredImage`].
pub(super) const COLUMNS: [&str; 8] = [
    "record",
    "uuid",
    "image",
    "image_format",
    "original_size",
    "resized_size",
    "hashsum_original",
    "hashsum_resized",
];

/// How many rows to read at once, so that a batch has 16 MiB of images at most, or one image.
pub(super) fn batch_rows(input: &RunInput) -> Result<usize, ToolError> {
    let mut largest = 1;
    for batch in input.images(Some(&["image_bytes"]), NUMBER_ROWS) {
        let bytes = column(&batch?, "image_bytes", &DataType::Int64)?;
        largest = largest.max(max(bytes.as_primitive::<Int64Type>()).unwrap_or(0));
    }
    Ok((BATCH_BYTES / largest.unsigned_abs()).clamp(1, BATCH_ROWS) as usize)
}

/// A column, as the type that it has in every file of images.
pub(super) fn column(batch: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef, ToolError> {
    let failed = |detail: String| ToolError::Failed(format!("a file of images: {detail}"));
    let column = batch.column_by_name(name).ok_or_else(|| failed(format!("there is no column `{name}`")))?;
    cast(column, data_type).map_err(|error| failed(format!("column `{name}`: {error}")))
}

/// One image as it is stored, with what the other columns say of it.
pub(super) struct StoredImage<'a> {
    pub record: RecordIndex,
    pub uuid: &'a str,
    pub image: &'a [u8],
    pub image_format: &'a str,
    /// `None` where the column does not have two sides.
    pub original_size: Option<PixelSize>,
    pub resized_size: Option<PixelSize>,
    pub hashsum_original: &'a str,
    pub hashsum_resized: &'a str,
}

impl StoredImage<'_> {
    /// Raw pixels have no header: their size is in a column.
    pub fn is_raw(&self) -> bool {
        self.image_format == ImageFormat::Raw.as_str()
    }

    /// The verdict that the image goes.
    pub fn removal(&self, reason: &str) -> Verdict {
        Verdict {
            record: self.record,
            uuid: self.uuid.to_owned(),
            kind: VerdictKind::Remove,
            reason: reason.to_owned(),
            witness: None,
            distance: None,
        }
    }
}

/// The word for what keeps an image from being decoded, or made anew.
pub(super) fn reason(error: &ImagingError) -> &'static str {
    match error.cause {
        FailureCause::TooManyPixels => "too_many_pixels",
        FailureCause::EncodeError => "encode_error",
        _ => "undecodable",
    }
}

/// The images of a batch that has [`COLUMNS`].
pub(super) struct StoredImages {
    records: Int32Array,
    uuids: StringArray,
    images: BinaryArray,
    formats: StringArray,
    original_sizes: ListArray,
    resized_sizes: ListArray,
    hashsums_original: StringArray,
    hashsums_resized: StringArray,
}

impl StoredImages {
    /// # Errors
    /// When a column is missing or of another type.
    pub fn of(batch: &RecordBatch) -> Result<Self, ToolError> {
        let text = |name| -> Result<StringArray, ToolError> {
            Ok(column(batch, name, &DataType::Utf8)?.as_string().clone())
        };
        let sizes = |name| -> Result<ListArray, ToolError> {
            Ok(column(batch, name, &DataType::new_list(DataType::Int64, true))?.as_list().clone())
        };
        Ok(Self {
            records: column(batch, "record", &DataType::Int32)?.as_primitive::<Int32Type>().clone(),
            uuids: text("uuid")?,
            images: column(batch, "image", &DataType::Binary)?.as_binary::<i32>().clone(),
            formats: text("image_format")?,
            original_sizes: sizes("original_size")?,
            resized_sizes: sizes("resized_size")?,
            hashsums_original: text("hashsum_original")?,
            hashsums_resized: text("hashsum_resized")?,
        })
    }

    /// A row; what is null comes as empty.
    pub fn get(&self, row: usize) -> StoredImage<'_> {
        StoredImage {
            record: self.records.value(row).cast_unsigned(),
            uuid: text(&self.uuids, row),
            image: if self.images.is_valid(row) { self.images.value(row) } else { &[] },
            image_format: text(&self.formats, row),
            original_size: size(&self.original_sizes, row),
            resized_size: size(&self.resized_sizes, row),
            hashsum_original: text(&self.hashsums_original, row),
            hashsum_resized: text(&self.hashsums_resized, row),
        }
    }
}

fn text(column: &StringArray, row: usize) -> &str {
    if column.is_valid(row) { column.value(row) } else { "" }
}

fn size(column: &ListArray, row: usize) -> Option<PixelSize> {
    let sides = column.is_valid(row).then(|| column.value(row))?;
    let sides: Vec<_> = sides.as_primitive::<Int64Type>().iter().collect();
    match sides[..] {
        [Some(height), Some(width)] => {
            Some(PixelSize { height: height.try_into().ok()?, width: width.try_into().ok()? })
        }
        _ => None,
    }
}
