//! What a report shows.

/// Bounds of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportOptions {
    /// Images on the contact sheet; each takes some 6 kB of the page.
    pub num_samples: usize,
    /// Pairs of duplicates with their pictures.
    pub num_pairs: usize,
    /// Rows of a table; the rest is counted.
    pub num_rows: usize,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self { num_samples: 60, num_pairs: 12, num_rows: 20 }
    }
}

/// Most pictures of one kind, whatever is asked for: with these the page has some 6 MB.
pub const MAX_PICTURES: usize = 1_000;
