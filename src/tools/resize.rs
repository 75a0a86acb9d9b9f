//! `resize`: new images of another size.
//!
//! Every image of a partition is in the new file, but for those that cannot be decoded: these get a verdict. Images
//! that already are as they should be are carried byte for byte. `original_size`, `hashsum_original` and
//! `perceptual_hash` stay those of the image as it was downloaded.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::stored::{StoredImage, StoredImages, batch_rows, column, reason};
use super::{FilterInput, FilterTable, RunInput, RunOutput, Selects, Tool, ToolError, ToolOptions};
use crate::imaging::{
    ImagingError, ImagingOptions, PerceptualHashMode, decode_bytes_estimate, process, process_raw,
};
use crate::model::{ImageEncoding, PixelSize};
use crate::runtime::MemoryBudget;
use crate::storage::successes_schema;

/// A row group ends at so many bytes of images: what a thread keeps.
const GROUP_BYTES: usize = 16 << 20;
/// ... or at so many images, since small ones too have their other columns.
const GROUP_ROWS: usize = 1000;

pub(super) struct Resize {
    options: ImagingOptions,
    /// Pixels of all threads.
    memory: MemoryBudget,
}

impl Resize {
    pub fn new(options: &ToolOptions) -> Self {
        let imaging = &options.imaging;
        let image_encoding = match imaging.image_encoding {
            // Bytes as received cannot be of another size.
            ImageEncoding::Original => ImageEncoding::Auto,
            encoding => encoding,
        };
        Self {
            options: ImagingOptions {
                image_size: options.new_resize_size,
                resize_mode: options.resize_mode,
                resize_only_if_bigger: options.resize_only_if_bigger,
                image_encoding,
                perceptual_hash: PerceptualHashMode::Never,
                ..imaging.clone()
            },
            memory: options.decode_budget(),
        }
    }

    fn make(&self, stored: &StoredImage<'_>) -> Result<NewImage, ImagingError> {
        let image = Bytes::copy_from_slice(stored.image);
        let options = &self.options;
        let made = if stored.is_raw() {
            // Without a size there can be no pixels of that size.
            let size = stored.resized_size.unwrap_or(PixelSize { height: 0, width: 0 });
            let _pixels = super::options::hold(&self.memory, 3 * image.len() as u64);
            process_raw(&image, size, options)?
        } else {
            let _pixels = super::options::hold(&self.memory, decode_bytes_estimate(&image, options));
            process(&image, options)?
        };
        if made.image.as_ptr() == image.as_ptr() {
            return Ok(NewImage {
                image,
                image_format: stored.image_format.to_owned(),
                resized_size: stored.resized_size,
                hashsum_resized: stored.hashsum_resized.to_owned(),
            });
        }
        Ok(NewImage {
            image: made.image,
            image_format: made.image_format.as_str().to_owned(),
            resized_size: Some(made.resized_size),
            hashsum_resized: made.hashsum_resized.to_string(),
        })
    }
}

impl Tool for Resize {
    fn name(&self) -> &str {
        "resize"
    }

    fn description(&self) -> &str {
        "makes new images of another size"
    }

    fn parameters(&self) -> String {
        let ImagingOptions { image_size, resize_mode, resize_only_if_bigger, .. } = &self.options;
        let ImagingOptions { image_encoding, jpeg_quality, jpeg_scaling, max_image_pixels, .. } =
            &self.options;
        format!(
            "new_resize_size: {image_size}, resize_mode: {}, resize_only_if_bigger: {resize_only_if_bigger}, \
             image_encoding: {image_encoding:?}, jpeg_quality: {jpeg_quality}, jpeg_scaling: {jpeg_scaling:?}, \
             max_image_pixels: {max_image_pixels}",
            resize_mode.as_str()
        )
    }

    fn selects(&self) -> Selects {
        Selects::Partitions
    }

    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>> {
        async move { input.all_partitions(table) }.boxed()
    }

    fn run(&self, input: &RunInput, output: &mut RunOutput) -> Result<(), ToolError> {
        let mut group = RowGroup::default();
        for batch in input.images(None, batch_rows(input)?) {
            let batch = batch?;
            let images = StoredImages::of(&batch)?;
            let others = without_image(&batch);
            for row in 0..batch.num_rows() {
                input.check_stop()?;
                let stored = images.get(row);
                match self.make(&stored) {
                    Ok(image) => group.push(others.slice(row, 1), image),
                    Err(error) => {
                        tracing::debug!(uuid = stored.uuid, %error, "an image is left out");
                        output.verdict(stored.removal(reason(&error)));
                    }
                }
                if group.is_full() {
                    output.images(&group.take()?)?;
                }
            }
        }
        if group.rows.is_empty() { Ok(()) } else { output.images(&group.take()?) }
    }
}

/// A row that waits for its row group is not to keep the images of its whole batch.
fn without_image(batch: &RecordBatch) -> RecordBatch {
    let mut batch = batch.clone();
    if let Ok(image) = batch.schema().index_of("image") {
        batch.remove_column(image);
    }
    batch
}

/// The columns that are new.
struct NewImage {
    image: Bytes,
    image_format: String,
    resized_size: Option<PixelSize>,
    hashsum_resized: String,
}

/// Rows that become a row group.
#[derive(Default)]
struct RowGroup {
    /// Batches of one row: the columns that stay, and others.
    rows: Vec<RecordBatch>,
    images: Vec<NewImage>,
    bytes: usize,
}

impl RowGroup {
    fn push(&mut self, row: RecordBatch, image: NewImage) {
        self.bytes += image.image.len();
        self.rows.push(row);
        self.images.push(image);
    }

    fn is_full(&self) -> bool {
        self.bytes >= GROUP_BYTES || self.rows.len() >= GROUP_ROWS
    }

    /// The rows with the columns of `successes.parquet`; what is left is empty. Not to be called without rows.
    fn take(&mut self) -> Result<RecordBatch, ToolError> {
        let Self { rows, images, .. } = std::mem::take(self);
        let failed = |error: arrow::error::ArrowError| ToolError::Failed(error.to_string());
        let others = concat_batches(&rows[0].schema(), &rows).map_err(failed)?;
        let text = |value: fn(&NewImage) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(images.iter().map(value)))
        };
        let schema = successes_schema();
        let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, ToolError> {
            Ok(match field.name().as_str() {
                "image" => Arc::new(BinaryArray::from_iter_values(images.iter().map(|new| &new.image))),
                "image_bytes" => {
                    Arc::new(Int64Array::from_iter_values(images.iter().map(|new| new.image.len() as i64)))
                }
                "image_format" => text(|new| &new.image_format),
                "hashsum_resized" => text(|new| &new.hashsum_resized),
                "resized_size" => sizes(images.iter().map(|new| new.resized_size)),
                name => column(&others, name, field.data_type())?,
            })
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(schema.clone(), columns).map_err(failed)
    }
}

fn sizes(sizes: impl Iterator<Item = Option<PixelSize>>) -> ArrayRef {
    let element = Field::new("element", DataType::Int64, true);
    let mut builder = ListBuilder::new(Int64Builder::new()).with_field(element);
    for size in sizes {
        builder.append_option(size.map(|size| [size.height, size.width].map(|side| Some(i64::from(side)))));
    }
    Arc::new(builder.finish())
}
