//! `check`: proves promises 1 and 2 on a dataset, catalog against files.
//!
//! [`check_dataset`] asks of every partition whether its states, counts and URL keys agree with each other and
//! with its manifest, and whether every success and every failure stands in the files where it must, once, with
//! the record's own uuid, URL, digest or cause. `deep` reads every file to its end, compares its checksum, and
//! measures and hashes the images again. Each rule has a [`BreachKind`].
//!
//! What tools have made of partitions must be there as it was committed, too, and of images that the dataset has
//! ([`BreachKind::ToolPiece`]).
//!
//! What no commit names is an orphan: it does not exist for ddl, so it is reported apart and is no breach.
//! [`repair_dataset`] removes orphans and writes missing `completed` markers; no breach of data can be repaired.
//! Where files show that the catalog is an older copy, it refuses.
//!
//! A writer may be at work beside a check. Partitions are then checked one by one as they are committed, and what
//! is suspect is asked again of a fresh view, for a download moves files (parts become final files). Only orphans
//! cannot be told from files that are being written: the caller takes them back
//! ([`CheckReport::set_in_use_by`]). A repair cannot start beside a writer, for it needs the writer's
//! [`Catalog`](crate::catalog::Catalog).
//!
//! Symbolic links are read through where the catalog names what is behind them, but no walk for orphans follows
//! one, and none is removed. Names that begin with `_` or `.` belong to others (`_duplicates/`, ingest's temporary
//! files, what filesystems leave), except `_parts/`; so does everything outside of `server_name=.../`, and the
//! folders in `tools/` of tools that the catalog does not know.
//!
//! Memory, per thread: some 200 bytes for each record of one partition, 64 MiB of URL keys, and with `deep` a
//! page or two of images (a page holds at most 16).

mod data_file;
mod dataset;
mod error;
mod folders;
mod images;
mod options;
mod partition;
mod records;
mod repair;
mod report;
mod search;
#[cfg(test)]
mod tests;
mod url_keys;

pub use dataset::check_dataset;
pub use error::CheckError;
pub use options::CheckOptions;
pub use repair::{RepairReport, refuse_other_lists, repair_dataset, sweep_tools};
pub use report::{Breach, BreachKind, CheckProgress, CheckReport, StageCounts};
pub use search::{
    FoundImages, SOUGHT_COLUMNS, SearchReport, Sought, Unsearched, parquet_files, search_images,
};
