//! Exports: what is left of a dataset, in the shapes that others read.
//!
//! So far one, the manifest: a table of the images with where each is stored. A trait for exporters comes
//! with the second.

mod error;
mod manifest;
mod options;
mod target;

pub use error::ExportError;
pub use manifest::export_manifest;
pub use options::ManifestOptions;
pub use target::ExportReport;
