//! Tools: what goes through the downloaded images and says which of them should go, or makes new ones of them.
//!
//! A [`Tool`] has three stages, as in distributed-downloader, and what each has done is in the catalog:
//!
//! | stage | who | does | leaves in `tools/<name>/` |
//! |---|---|---|---|
//! | filter | rank 0 | chooses images, or whole partitions, by what their columns say | `filter_table/` |
//! | schedule | rank 0 | one entry per partition, balanced by bytes | `schedule.csv` |
//! | run | all ranks | goes through partitions as they are claimed | `server_name=S/partition_id=P/` |
//!
//! A partition's piece is `verdicts.parquet`, `successes.parquet` (new images), both, or neither. It is written and
//! synced under a name of its claim; rank 0 gives it its own name and commits it ([`settle`]). What is committed is
//! not done again as long as the tool's parameters and the partition's images are the same. Nothing under
//! `downloaded_images/` is ever written.
//!
//! A tool is one of a [`Registry`], to which a program may add its own, or it is a file (a [`ToolDefinition`]): a condition
//! in SQL and a command, of whose answer nothing gets into the dataset unchecked.
//!
//! A verdict says `remove` of one image, or `flag` (nothing comes of that). They take effect where they are asked for:
//! `ddl export FORMAT --clean NAME`. A piece depends on the images and the parameters alone, so it is the same whatever the
//! number of ranks.

mod checkpoint;
mod corrupted;
mod custom;
mod dedup;
mod error;
mod executor;
mod filter;
#[cfg(test)]
mod image_tests;
mod options;
mod placeholder;
mod registry;
mod resize;
mod run;
mod schedule;
mod size;
mod stages;
mod stored;
mod tool;
mod verdict;
mod verify;

pub use custom::{
    Argument, CommandDefinition, CommandOutput, ToolDefinition, Variable, WrongVariable, WrongWords,
    split_words,
};
pub use dedup::{AGAINST, Keep, OTHER_COLUMNS, register_other};
pub use error::ToolError;
pub use executor::{ToolExecutor, settle};
pub use filter::{FilterInput, FilterTable};
pub use options::{ToolOptions, hold_memory};
pub use registry::{NAME_RULE, RegisteredTool, Registry, ToolFactory, is_tool_name};
pub use run::{RunInput, RunOutput, SelectedRow};
pub use schedule::PartitionLoad;
pub use stages::{Stage, StagesReport, finish, prepare, sweep};
pub use tool::{Selects, Tool};
pub use verdict::{Verdict, VerdictKind};
