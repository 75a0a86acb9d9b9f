//! Lists of image URLs in, manifest and catalog out.

mod catalog_shim;
mod delimited;
mod error;
mod input;
mod json_lines;
mod options;
mod parquet_rows;
mod raw_batch;
mod record_reader;
mod report;
mod text_columns;
mod window;

pub use error::IngestError;
pub use options::{ColumnsOptions, IngestOptions, InputFormat};
pub use report::{IngestProgress, IngestReport, IngestStage, MAX_MALFORMED_EXAMPLES, MalformedLine};
