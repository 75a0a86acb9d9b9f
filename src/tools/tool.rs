//! What a tool is.

use futures_util::future::BoxFuture;

use super::{FilterInput, FilterTable, PartitionLoad, RunInput, RunOutput, ToolError, run, schedule};
use crate::model::Rank;

/// What the rows of a filter table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selects {
    /// Partitions: the run goes through all their images. A partition that has not changed is not done again.
    Partitions,
    /// Images: any other image may change what is said of one, so a changed dataset is done again as a whole.
    Images,
}

/// A tool. The first stage is its own; the other two have defaults.
pub trait Tool: Send + Sync + 'static {
    /// Name of its folder and of its table `tool_<name>`: lower case, digits and underscores.
    fn name(&self) -> &str;

    /// What it does, in a line, for `ddl tool --list`.
    fn description(&self) -> &str {
        ""
    }

    /// What its results depend on besides the images: with other parameters it starts again.
    fn parameters(&self) -> String;

    /// What its filter chooses.
    fn selects(&self) -> Selects;

    /// First stage: fills the table, without reading pixels if that can be.
    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>>;

    /// Whether the images that it removes are damaged, and are listed in `corrupted/corrupted.csv` in the end.
    fn lists_corrupted(&self) -> bool {
        false
    }

    /// Second stage: the rank of each partition, as `schedule.csv` tells it. Whoever is free does it.
    fn schedule(&self, partitions: &[PartitionLoad], num_ranks: u32) -> Vec<Rank> {
        schedule::balanced(partitions, num_ranks)
    }

    /// Third stage, for one partition: says which images should go. As it is, all that were chosen, where images are.
    ///
    /// # Errors
    /// `Stopped` when it was asked to stop; anything else sets the partition aside.
    fn run(&self, input: &RunInput, output: &mut RunOutput) -> Result<(), ToolError> {
        run::remove_selected(input, output)
    }
}
