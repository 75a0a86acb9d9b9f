//! Lists of image URLs in, manifest and catalog out.
//!
//! An ingest has two halves.
//!
//! 1. **Reading** (`read_stage`): every list to its end, its rows normalised, given a server and a
//!    key, and put into buckets by server, in memory or on disk. An error up to here leaves no trace.
//! 2. **Writing** (`write_stage`): bucket by bucket, rows that the list or the catalog has already
//!    are dropped, the others cut into partitions of at most `batch_size` records in input order and
//!    written; files first, catalog second.
//!
//! Records are told apart by the text of their URL. A row without a usable URL is a record too, a
//! skipped one, in the folder [`ServerName::NULL`](crate::model::ServerName::NULL).
//!
//! Everything that decides on ids, partitions and files is a function of the lists, the options and
//! the catalog: neither threads nor the way in which bytes arrive play a part. (How many files a
//! partition has may depend on an interruption, where memory was too small to hold it.)
//!
//! Formats are in `reader`, kinds of lists in `source`.

mod archive_files;
mod archive_meta;
mod chunk_file;
mod cutter;
mod darwin_core;
mod delimited;
mod duplicates;
mod duplicates_file;
mod error;
mod excel;
mod folders;
#[allow(clippy::module_inception, reason = "the verb that the room is named after")]
mod ingest;
mod input;
mod inspect;
mod json_lines;
mod json_object;
mod manifest_file;
mod manifest_schema;
mod normalize;
mod options;
mod ordered;
mod parquet_rows;
mod raw_batch;
mod read_stage;
mod reader;
mod record_reader;
mod report;
mod server_lookup;
mod source;
mod sources;
mod spill;
mod text_columns;
mod text_table;
mod uuid_ref;
mod window;
mod write_stage;
mod xml_list;
mod xml_stream;

#[cfg(test)]
mod tests;

pub use error::IngestError;
pub use ingest::ingest;
pub use input::STDIN;
pub use inspect::inspect;
pub use manifest_schema::{LEADING_COLUMNS, RECORD_COLUMN, SHARED_SERVER_COLUMN};
pub use options::{ColumnsOptions, IngestOptions, InputFormat};
pub use report::{
    ColumnUse, Count, IngestProgress, IngestReport, IngestStage, Inspection, MAX_MALFORMED_EXAMPLES,
    MalformedLine,
};
pub use source::{Binding, Header, Row, RowFilter, SOURCES, Source, UsualNames, Value, find_source};
