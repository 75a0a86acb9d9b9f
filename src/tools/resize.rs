//! `resize`: new images of another size.
//!
//! Every image of a partition is in the new file, but for those that cannot be decoded: these get a verdict. Images
//! that already are as they should be are carried byte for byte. `original_size`, `hashsum_original` and
//! `perceptual_hash` stay those of the image as it was downloaded.

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::options::hold_memory;
use super::stored::{NewImage, NewImages, StoredImage, StoredImages, batch_rows, reason};
use super::{FilterInput, FilterTable, RunInput, RunOutput, Selects, Tool, ToolError, ToolOptions};
use crate::imaging::{
    ImagingError, ImagingOptions, PerceptualHashMode, decode_bytes_estimate, process, process_raw,
    raw_bytes_estimate,
};
use crate::model::{ImageEncoding, PixelSize};
use crate::runtime::MemoryBudget;

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
            let _pixels = hold_memory(&self.memory, raw_bytes_estimate(&image, size, options));
            process_raw(&image, size, options)?
        } else {
            let _pixels = hold_memory(&self.memory, decode_bytes_estimate(&image, options));
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
        let mut made = NewImages::default();
        for batch in input.images(None, batch_rows(input)?) {
            let batch = batch?;
            let images = StoredImages::of(&batch)?;
            let others = without_image(&batch);
            for row in 0..batch.num_rows() {
                input.check_stop()?;
                let stored = images.get(row);
                match self.make(&stored) {
                    Ok(image) => made.push(others.slice(row, 1), image, output)?,
                    Err(error) => {
                        tracing::debug!(uuid = stored.uuid, %error, "an image is left out");
                        output.verdict(stored.removal(reason(&error)));
                    }
                }
            }
        }
        made.flush(output)
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
