//! Exports: what is left of a dataset, in the shapes that others read.
//!
//! The manifest is a table of the images with where each is stored; an answer is whatever a query says. A trait
//! for exporters comes with the second of them.

mod answer;
mod clean;
mod compare;
mod credits;
mod error;
mod listed;
mod manifest;
mod options;
mod target;

pub use answer::export_answer;
pub use clean::{CleanOptions, Removals, RemovedBy};
pub use compare::{DEFAULT_EXAMPLES, DifferentImage, ListedImage, ManifestComparison, compare_manifest};
pub use error::ExportError;
pub use manifest::export_manifest;
pub use options::{AnswerOptions, ManifestOptions, ManifestReport};
pub use target::ExportReport;
