//! A `ddl` with one more tool, written in Rust: `dull` removes images that have hardly any colour.
//!
//! `cargo run --example custom_tool -- tool dull`, in the folder of a `ddl.yaml`; all other commands are there, too, and
//! `tool --list` names it. In a crate of its own it needs these dependencies, arrow in the version that ddl uses:
//!
//! ```toml
//! [dependencies]
//! ddl = "0.1"
//! arrow = { version = "59", default-features = false }
//! bytes = "1"
//! futures-util = "0.3"
//! ```

use std::process::ExitCode;

use arrow::array::AsArray as _;
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use ddl::imaging::{ImagingError, ImagingOptions, PerceptualHashMode, decode_bytes_estimate, process};
use ddl::model::{ImageEncoding, RecordIndex};
use ddl::runtime::MemoryBudget;
use ddl::tools::{
    FilterInput, FilterTable, Registry, RunInput, RunOutput, Selects, Tool, ToolError, ToolOptions, Verdict,
    VerdictKind, hold_memory,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

fn main() -> ExitCode {
    let mut tools = Registry::default();
    if let Err(error) = tools.add("dull", Some("colourless"), |options| Box::new(Dull::new(options))) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ddl::cli::run_with(&tools)
}

struct Dull {
    /// Of the mean over all pixels, from 0 (grey) to 1.
    least_saturation: f64,
    imaging: ImagingOptions,
    /// What decoded images of all threads may take.
    memory: MemoryBudget,
}

/// So few pixels are enough to know the colours of an image.
const SIDE: u32 = 64;

/// Images that are read at a time.
const BATCH_ROWS: usize = 16;

impl Dull {
    /// With the user's limits: of pixels, and of memory.
    fn new(options: &ToolOptions) -> Self {
        let imaging = ImagingOptions {
            image_size: SIDE,
            image_encoding: ImageEncoding::Raw,
            perceptual_hash: PerceptualHashMode::Never,
            ..options.imaging.clone()
        };
        Self { least_saturation: 0.08, imaging, memory: options.decode_budget() }
    }

    fn saturation(&self, image: &[u8]) -> Result<f64, ImagingError> {
        let _pixels = hold_memory(&self.memory, decode_bytes_estimate(image, &self.imaging));
        Ok(mean_saturation(&process(&Bytes::copy_from_slice(image), &self.imaging)?.image))
    }
}

impl Tool for Dull {
    fn name(&self) -> &str {
        "dull"
    }

    fn description(&self) -> &str {
        "removes images with hardly any colour"
    }

    // With another threshold the results are others: then it starts again.
    fn parameters(&self) -> String {
        format!("least_saturation: {}", self.least_saturation)
    }

    // What is said of an image depends on no other, so a partition that has not changed is not gone through again.
    fn selects(&self) -> Selects {
        Selects::Partitions
    }

    // No column says how colourful an image is: all partitions are gone through.
    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>> {
        async move { input.all_partitions(table) }.boxed()
    }

    // One partition; several run at once, on the threads of all ranks.
    fn run(&self, input: &RunInput, output: &mut RunOutput) -> Result<(), ToolError> {
        for batch in input.images(Some(&["uuid", "record", "image"]), BATCH_ROWS) {
            let batch = batch?;
            let uuids = batch["uuid"].as_string::<i32>();
            let records = batch["record"].as_primitive::<Int32Type>();
            let images = batch["image"].as_binary::<i32>();
            for at in 0..batch.num_rows() {
                let (kind, reason, saturation) = match self.saturation(images.value(at)) {
                    Ok(saturation) if saturation < self.least_saturation => {
                        (VerdictKind::Remove, "dull", Some(saturation))
                    }
                    Ok(_) => continue,
                    // Not damaged, if they are raw pixels: `process_raw` takes these, with the size in `resized_size`.
                    Err(_) => (VerdictKind::Flag, "not_decoded", None),
                };
                output.verdict(Verdict {
                    record: records.value(at) as RecordIndex,
                    uuid: uuids.value(at).to_owned(),
                    kind,
                    reason: reason.to_owned(),
                    witness: None,
                    // In hundredths.
                    distance: saturation.map(|saturation| (saturation * 100.0).round() as i32),
                });
            }
        }
        Ok(())
    }
}

/// Saturation as HSV has it: how far the weakest of three colours is below the strongest.
fn mean_saturation(pixels: &[u8]) -> f64 {
    let (pixels, _) = pixels.as_chunks::<3>();
    let saturation = |pixel: &[u8; 3]| {
        let (least, most) = (pixel.iter().min().copied(), pixel.iter().max().copied());
        let (least, most) = (f64::from(least.unwrap_or(0)), f64::from(most.unwrap_or(0)));
        if most > 0.0 { (most - least) / most } else { 0.0 }
    };
    pixels.iter().map(saturation).sum::<f64>() / pixels.len().max(1) as f64
}
