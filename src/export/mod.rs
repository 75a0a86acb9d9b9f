//! Exports: what is left of a dataset, in the shapes that others read.
//!
//! The manifest is a table of the images with where each is stored; an answer is whatever a query says. What has the
//! images themselves goes into a folder, by the same steps whatever the format:
//!
//! - `select.rs` says which images (a condition, the verdicts of tools, a balanced subset);
//! - `rows.rs` goes through them in order, gives each a name that is safe (`names.rs`) and reads the bytes ahead;
//! - the format makes files of them, in units that are whole or not there (`files.rs`);
//! - `journal.rs` knows the units that are done, so that a killed export goes on where it was.
//!
//! Nothing of it depends on when or by how many ranks something was downloaded, so an export is the same bytes again.

mod answer;
mod clean;
mod croissant;
mod error;
mod files;
mod imagefolder;
mod journal;
mod labels;
mod manifest;
mod names;
mod options;
mod parquet;
mod rows;
mod select;
mod subset;
mod tar;
mod target;
mod webdataset;

pub use answer::export_answer;
pub use clean::{CleanOptions, Removals, RemovedBy};
pub use croissant::{CroissantLevel, CroissantOptions, CroissantVersion, export_croissant};
pub use error::ExportError;
pub use imagefolder::export_imagefolder;
pub use manifest::{DifferentImage, ListedImage, ManifestComparison, compare_manifest, export_manifest};
pub use names::{NamingMode, NamingOptions};
pub use options::{
    AnswerOptions, FolderReport, ImagefolderOptions, ManifestOptions, ManifestReport, MetadataFormat,
    ParquetOptions, WebdatasetOptions,
};
pub use parquet::export_parquet;
pub use select::SelectionOptions;
pub use subset::{GroupColumn, MaxPer, SubsetOptions};
pub use target::ExportReport;
pub use webdataset::export_webdataset;
