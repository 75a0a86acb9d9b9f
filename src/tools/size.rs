//! `size` (`size_based`): images that are too small.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{FilterInput, FilterTable, Selects, Tool, ToolError, ToolOptions};

pub(super) struct Size {
    threshold: u32,
}

impl Size {
    pub fn new(options: &ToolOptions) -> Self {
        Self { threshold: options.threshold_size }
    }
}

impl Tool for Size {
    fn name(&self) -> &str {
        "size"
    }

    fn description(&self) -> &str {
        "removes images whose shorter side is below `threshold_size`"
    }

    fn parameters(&self) -> String {
        format!("threshold_size: {}", self.threshold)
    }

    fn selects(&self) -> Selects {
        Selects::Images
    }

    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>> {
        async move {
            let condition = format!(
                "least(original_size[1], original_size[2]) < {threshold}",
                threshold = self.threshold
            );
            input.select(table, &condition, "'too_small'").await
        }
        .boxed()
    }
}
