//! Work units: downloads for workflow engines, on machines that rank 0 cannot be heard on.
//!
//! A unit is a set of claims whose worker is far away and whose reports travel by file:
//!
//! ```text
//! catalog --export--> partition_001.parquet ...     records, and in the metadata all else that a worker needs
//!    |                        |
//!  leases                     run                   a dataset of its own in a work folder, downloaded as any other
//!    |                        |
//! catalog <--import-- partition_001.result.zip      files of finished partitions, and the report on each
//! ```
//! - The catalog remembers the claims as leases ([`crate::catalog::Lease`]); while they hold, downloads and other
//!   exports leave these servers alone, since their limits have gone with the units.
//! - A unit's limits are its part of each server's ([`UnitHeader::budgets`]): all units at once keep those of the cluster.
//! - The work folder is a dataset with a catalog that holds the unit's partitions and nothing else: so what a killed run
//!   has sealed is not fetched again, and the loop is that of every download.
//! - A result is written whole or not at all, so engines may run a unit twice; its reports are committed once.
//!
//! Memory: of an export, some bytes for each partition, and a slice of one manifest; of a run, a slice of the unit; of an
//! import, the states and digests of one partition.

mod deal;
mod error;
mod export;
mod import;
mod result_file;
mod unit_file;
mod unpack;

pub use deal::{Lot, Method, deal};
pub use error::UnitError;
pub use export::{ExportOptions, ExportedUnit, UnitExport, export_units};
pub use import::{ImportReport, import_result};
pub use result_file::{ResultHeader, pack, read_result_header};
pub use unit_file::{UnitClaim, UnitFile, UnitHeader, UnitSettings};
pub use unpack::{is_work_of, unpack};
