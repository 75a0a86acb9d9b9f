//! `verify` (`image_verification`): whether stored images are what their columns say.
//!
//! | reason | what is wrong |
//! |---|---|
//! | `hash_mismatch` | the bytes do not give `hashsum_resized` |
//! | `undecodable` | they are no complete image |
//! | `too_many_pixels` | more than `max_image_pixels`: not decoded |
//! | `wrong_format` | they are of another format than `image_format` |
//! | `wrong_size` | another size than `resized_size`, or `original_size` where the received bytes are stored |
//! | `blank` | all pixels have one colour (only with `remove_blank`) |
//!
//! The first that holds is told. The received bytes are stored where `hashsum_original` equals `hashsum_resized`, so
//! the one digest proves both.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::stored::{COLUMNS, FullDecoder, StoredImage, StoredImages, batch_rows, reason};
use super::{FilterInput, FilterTable, RunInput, RunOutput, Selects, Tool, ToolError, ToolOptions};
use crate::imaging::{ImagingError, VerifiedImage, verify_raw};
use crate::model::PixelSize;

pub(super) struct Verify {
    decoder: FullDecoder,
    remove_blank: bool,
}

impl Verify {
    pub fn new(options: &ToolOptions) -> Self {
        Self { decoder: FullDecoder::new(options), remove_blank: options.remove_blank }
    }

    /// What is wrong with an image.
    fn fault(&self, stored: &StoredImage<'_>) -> Option<&'static str> {
        if self.decoder.options.hash_algorithm.digest(stored.image).to_string() != stored.hashsum_resized {
            return Some("hash_mismatch");
        }
        let seen = match self.decode(stored) {
            Ok(seen) => seen,
            Err(error) => {
                tracing::debug!(uuid = stored.uuid, %error, "an image does not decode");
                return Some(reason(&error));
            }
        };
        let is_received = stored.hashsum_original == stored.hashsum_resized;
        if seen.image_format.as_str() != stored.image_format {
            Some("wrong_format")
        } else if stored.resized_size != Some(seen.size)
            || (is_received && stored.original_size != Some(seen.size))
        {
            Some("wrong_size")
        } else {
            (self.remove_blank && seen.is_blank).then_some("blank")
        }
    }

    fn decode(&self, stored: &StoredImage<'_>) -> Result<VerifiedImage, ImagingError> {
        if stored.is_raw() {
            // Without a size there can be no pixels of that size.
            let size = stored.resized_size.unwrap_or(PixelSize { height: 0, width: 0 });
            return verify_raw(stored.image, size, &self.decoder.options);
        }
        self.decoder.verify(stored.image)
    }
}

impl Tool for Verify {
    fn name(&self) -> &str {
        "verify"
    }

    fn description(&self) -> &str {
        "finds images that are not what their columns say"
    }

    fn parameters(&self) -> String {
        format!(
            "remove_blank: {}, max_image_pixels: {}",
            self.remove_blank, self.decoder.options.max_image_pixels
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
        for batch in input.images(Some(&COLUMNS), batch_rows(input)?) {
            let batch = batch?;
            let images = StoredImages::of(&batch)?;
            for row in 0..batch.num_rows() {
                input.check_stop()?;
                let stored = images.get(row);
                if let Some(fault) = self.fault(&stored) {
                    output.verdict(stored.removal(fault));
                }
            }
        }
        Ok(())
    }

    fn lists_corrupted(&self) -> bool {
        true
    }
}
