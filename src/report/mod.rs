//! The report: one HTML page that shows a dataset, whole in itself.
//!
//! It asks for nothing: no script, no font, no picture that is not in it, and a policy in its head that forbids all of
//! these, so that it can be opened from a file share, mailed, and kept. Numbers come from SQL over the dataset, and of
//! requests from the ledger.
//!
//! URLs, labels and titles are what strangers wrote. Whatever becomes part of the page goes through `Markup`, which
//! escapes it; pictures are decoded and encoded anew, so that no byte of a received file is in the page.
//!
//! It is bounded: tables show the most frequent and count the rest, pictures are samples.

mod error;
mod figures;
mod markup;
mod options;
mod page;
mod plot;
mod rows;
mod sections;
mod thumbnails;
mod traffic;

use std::path::Path;

pub use error::ReportError;
use figures::Figures;
pub use figures::Totals;
pub use options::ReportOptions;

use crate::query::QuerySession;
use crate::storage::write_atomically;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportSummary {
    pub bytes: u64,
    pub totals: Totals,
    /// Pictures in it.
    pub num_thumbnails: usize,
}

/// Looks at the whole dataset and writes the page. It appears when it is whole.
///
/// Reads the small columns of all images and the whole ledger; of the images themselves only those that are shown.
///
/// # Errors
/// When a query fails, a file of the dataset cannot be read, or the page not be written.
pub async fn write_report(
    session: &QuerySession,
    output: &Path,
    options: &ReportOptions,
) -> Result<ReportSummary, ReportError> {
    let figures = Figures::read(session, options).await?;
    let html = page::html(&figures);
    write_atomically(output, html.as_bytes())?;
    Ok(ReportSummary {
        bytes: html.len() as u64,
        totals: figures.totals,
        num_thumbnails: figures.thumbnails.len(),
    })
}
