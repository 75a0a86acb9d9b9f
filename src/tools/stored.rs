//! The stored images of a partition, one at a time, and those that a tool makes of them.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, Int64Builder, ListArray, ListBuilder,
    RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{cast, concat_batches, max};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::options::hold_memory;
use super::{RunInput, RunOutput, ToolError, ToolOptions, Verdict, VerdictKind};
use crate::imaging::{
    ImagingError, ImagingOptions, PerceptualHashMode, VerifiedImage, decode_bytes_estimate, verify_image,
};
use crate::model::{FailureCause, ImageEncoding, ImageFormat, PixelSize, RecordIndex};
use crate::runtime::MemoryBudget;
use crate::storage::successes_schema;

/// Bytes of images that are read at once, unless a single one has more.
const BATCH_BYTES: u64 = 16 << 20;
/// Images that are read at once at most.
const BATCH_ROWS: u64 = 32;
/// Rows of a small column that are read at once.
const NUMBER_ROWS: usize = 8192;

/// A row group of new images ends at so many bytes of images: what a thread keeps.
const GROUP_BYTES: usize = 16 << 20;
/// ... or at so many images, since small ones too have their other columns.
const GROUP_ROWS: usize = 1000;

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

/// Decodes images in full, in memory that all threads share.
pub(super) struct FullDecoder {
    pub options: ImagingOptions,
    memory: MemoryBudget,
}

impl FullDecoder {
    pub fn new(options: &ToolOptions) -> Self {
        Self {
            options: ImagingOptions {
                image_size: 0,
                image_encoding: ImageEncoding::Raw,
                perceptual_hash: PerceptualHashMode::Never,
                ..options.imaging.clone()
            },
            memory: options.decode_budget(),
        }
    }

    pub fn verify(&self, image: &[u8]) -> Result<VerifiedImage, ImagingError> {
        let _pixels = hold_memory(&self.memory, decode_bytes_estimate(image, &self.options));
        verify_image(image, &self.options)
    }
}

/// An image that a tool has made, and the columns that speak of it. All others speak of what was downloaded, so do
/// `original_size`, `hashsum_original` and `perceptual_hash`.
pub(super) struct NewImage {
    pub image: Bytes,
    pub image_format: String,
    pub resized_size: Option<PixelSize>,
    pub hashsum_resized: String,
}

/// New images that become row groups.
#[derive(Default)]
pub(super) struct NewImages {
    /// Batches of one row: the columns that stay, and others.
    rows: Vec<RecordBatch>,
    images: Vec<NewImage>,
    bytes: usize,
}

impl NewImages {
    /// Adds an image. `row` is the row of what it is made of, without that image.
    pub fn push(
        &mut self,
        row: RecordBatch,
        image: NewImage,
        output: &mut RunOutput,
    ) -> Result<(), ToolError> {
        self.bytes += image.image.len();
        self.rows.push(row);
        self.images.push(image);
        let is_full = self.bytes >= GROUP_BYTES || self.rows.len() >= GROUP_ROWS;
        if is_full { self.flush(output) } else { Ok(()) }
    }

    /// Writes those that wait as a row group.
    pub fn flush(&mut self, output: &mut RunOutput) -> Result<(), ToolError> {
        let Self { rows, images, .. } = std::mem::take(self);
        if rows.is_empty() {
            return Ok(());
        }
        let batch = row_group(&rows, &images).map_err(|error| ToolError::Failed(error.to_string()))?;
        output.images(&batch)
    }
}

/// Rows with the columns of `successes.parquet`; those that are missing are null.
fn row_group(rows: &[RecordBatch], images: &[NewImage]) -> Result<RecordBatch, ArrowError> {
    let others = concat_batches(&rows[0].schema(), rows)?;
    let text = |value: fn(&NewImage) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(images.iter().map(value)))
    };
    let schema = successes_schema();
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, ArrowError> {
        Ok(match field.name().as_str() {
            "image" => Arc::new(BinaryArray::from_iter_values(images.iter().map(|new| &new.image))),
            "image_bytes" => {
                Arc::new(Int64Array::from_iter_values(images.iter().map(|new| new.image.len() as i64)))
            }
            "image_format" => text(|new| &new.image_format),
            "hashsum_resized" => text(|new| &new.hashsum_resized),
            "resized_size" => sizes(images.iter().map(|new| new.resized_size)),
            name => match others.column_by_name(name) {
                Some(column) => cast(column, field.data_type())?,
                None => new_null_array(field.data_type(), images.len()),
            },
        })
    });
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<Vec<_>, _>>()?)
}

fn sizes(sizes: impl Iterator<Item = Option<PixelSize>>) -> ArrayRef {
    let element = Field::new("element", DataType::Int64, true);
    let mut builder = ListBuilder::new(Int64Builder::new()).with_field(element);
    for size in sizes {
        builder.append_option(size.map(|size| [size.height, size.width].map(|side| Some(i64::from(side)))));
    }
    Arc::new(builder.finish())
}
