//! Files of a dataset: where they are, how they are written so that a kill never shows, what is in them.
//!
//! Every file is written under a temporary name, synced, renamed, and its folder synced, as is what each new
//! folder lies in; only then may the catalog name it. Nothing that has its final name is ever written to again.

mod atomic;
mod checksum;
mod compact;
mod csv_file;
mod error;
mod layout;
mod ledger;
mod manifest;
mod part_writer;
mod reopen;
mod retraction_log;
mod row_removal;
mod schema;
mod server_tables;
mod sweep;
mod table_writer;

pub use atomic::{
    AtomicBatch, AtomicFile, create_folder, remove_if_there, rename_durably, sync_folder, write_atomically,
};
pub use checksum::{Checksum, Checksummed};
pub use compact::{CompactionInput, CompactionOutput, compact_partition, finish_partition};
pub use csv_file::CsvFile;
pub use error::StorageError;
pub use layout::{DatasetLayout, LayoutOptions, escape_hive, unescape_hive};
pub use ledger::{LedgerEnd, LedgerReader, LedgerWriter, ledger_files};
pub use manifest::{ManifestReader, ManifestRecord};
pub use part_writer::{ErrorRow, ImageRow, NOT_PROVIDED, PartWriter, write_error_part};
pub use reopen::{
    ErrorFacts, final_files_as_part, read_error_facts, remove_final_files, remove_marker, second_name,
};
pub use retraction_log::{RetractionEntry, RetractionLog};
pub use row_removal::{RowJudge, RowRemoval};
pub use schema::{
    HASH_ALGORITHM_KEY, StorageOptions, errors_schema, manifest_core_columns, successes_schema,
    verdicts_schema,
};
pub use server_tables::{ServerTableError, read_server_list, read_server_rates};
pub use sweep::{epoch_in, sweep_parts, sweep_temporary};
pub use table_writer::TableWriter;
