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
use ddl::imaging::{ImagingOptions, process};
use ddl::model::{ImageEncoding, RecordIndex};
use ddl::tools::{
    FilterInput, FilterTable, Registry, RunInput, RunOutput, Selects, Tool, ToolError, Verdict, VerdictKind,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

fn main() -> ExitCode {
    let mut tools = Registry::default();
    if let Err(error) = tools.add("dull", Some("colourless"), |_| Box::new(Dull { least_saturation: 0.08 })) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ddl::cli::run_with(&tools)
}

struct Dull {
    /// Of the mean over all pixels, from 0 (grey) to 1.
    least_saturation: f64,
}

/// So few pixels are enough to know the colours of an image.
const SIDE: u32 = 64;

/// Images that are read at a time.
const BATCH_ROWS: usize = 16;

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
        let options = ImagingOptions {
            image_size: SIDE,
            image_encoding: ImageEncoding::Raw,
            ..ImagingOptions::default()
        };
        for batch in input.images(Some(&["uuid", "record", "image"]), BATCH_ROWS) {
            let batch = batch?;
            let uuids = batch["uuid"].as_string::<i32>();
            let records = batch["record"].as_primitive::<Int32Type>();
            let images = batch["image"].as_binary::<i32>();
            for at in 0..batch.num_rows() {
                // To find what does not decode is the task of another tool.
                let Ok(small) = process(&Bytes::copy_from_slice(images.value(at)), &options) else {
                    continue;
                };
                let saturation = mean_saturation(&small.image);
                if saturation < self.least_saturation {
                    output.verdict(Verdict {
                        record: records.value(at) as RecordIndex,
                        uuid: uuids.value(at).to_owned(),
                        kind: VerdictKind::Remove,
                        reason: "dull".to_owned(),
                        witness: None,
                        // In hundredths.
                        distance: Some((saturation * 100.0).round() as i32),
                    });
                }
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
