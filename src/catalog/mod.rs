//! The catalog: the only truth about progress, one redb file.
//!
//! One process writes it, rank 0 of a run or an ingest; any number follow it by [`CatalogView`]. State is kept
//! per partition, not per record: 200 million records are some 20,000 values, so a scan takes a moment and
//! a commit touches a few pages. `docs/catalog-format.md` has the bytes.
//!
//! # States of a record
//! ```text
//!            ingest                    report of a part
//! (new) ---------------> pending ----------------------------> success | failed | skipped
//!       \--------------> skipped   <------- a retry ---------- failed
//!            (unusable URL, ignored server)
//!
//! (any) ------------------------ a retraction ---------------> skipped, for good
//! ```
//! # What one commit contains
//! A part's report: the states of its records, their digests, and the part's files, all or nothing. The files
//! are closed, synced and renamed before ([`crate::storage`]); they are deleted only after a later commit no
//! longer names them. A file that no commit names does not exist and is swept.

mod copy;
mod encoding;
mod error;
mod facts;
mod leases;
mod lock;
mod overlay;
mod probe;
mod report;
mod retract;
mod retry;
mod rows;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod tools;
mod upgrade;
mod view;
mod writer;

pub use copy::{CatalogCopy, CatalogHold, CatalogSummary, copy_view};
pub use encoding::{MAX_RECORDS, RecordStatus};
pub use error::CatalogError;
pub use facts::{MAX_ROBOTS_TXT_BYTES, ReceivedBytes, ServerFact};
pub use leases::{Lease, Settled};
pub use lock::{LockHolder, live_holder, lock_holder};
pub use probe::{FileLocks, LockProbe, seen_from_elsewhere};
pub use report::{CompactionReport, PartReport, RecordOutcome, Refusal, Report};
pub use retract::{RetractedFiles, Retraction};
pub use retry::SetBack;
pub use rows::{
    DispositionCounts, IngestRow, ManifestFile, PartitionRow, PartitionStage, RunRow, ServerRow,
    images_fingerprint,
};
pub use tools::{ToolPartition, ToolPiece, ToolReport, ToolRow, ToolStage};
pub use upgrade::FORMAT;
pub use view::{CatalogReader, CatalogView};
pub use writer::{Catalog, CatalogOptions, NewPartition};
