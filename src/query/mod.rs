//! SQL over a dataset, read-only.
//!
//! A [`QuerySession`] sees one consistent state of the catalog. Which files exist is the catalog's word alone:
//! nothing is listed on disk, so what no commit names does not show. Files that a download moves under a query are found again (`reader.rs`). The tables:
//!
//! | table | is | comes from |
//! |---|---|---|
//! | `urls` | every ingested record and what became of it | manifest files; states from the catalog |
//! | `images` | every downloaded image | `successes.parquet`, parts of open partitions |
//! | `errors` | the last word on every failed record | `errors.parquet`, parts of open partitions |
//! | `servers`, `partitions` | sums over the states | the catalog |
//! | `runs`, `ingests` | what was done when | the catalog |
//! | `tools` | how far each tool is | the catalog |
//! | `verdicts`, `tool_NAME` | what tools say of single images | `verdicts.parquet` in `tools/` |
//!
//! Where each limit bites: operators share `memory_bytes` and spill beyond it, `max_temp_bytes` at most; a query that touches image
//! bytes works on few rows at a time; results stream.

mod dataset;
mod error;
mod extend;
mod file_table;
mod last_word;
mod memory_tables;
mod options;
pub mod output;
mod prune;
mod reader;
mod session;
mod spill;
mod statement;
mod states;
mod stored_images;
mod views;

#[cfg(test)]
pub(crate) mod tests;

pub use error::QueryError;
pub use options::QueryOptions;
pub use output::{OutputFormat, OutputOptions, write_results};
pub(crate) use session::ForeignBatches;
pub(crate) use session::ToolState;
pub use session::{ColumnInfo, QuerySession, RowStream, TableInfo};
pub use statement::Script;
pub(crate) use stored_images::{ImagePlace, StoredImages};
