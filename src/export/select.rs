//! Which images an export takes: a condition, what tools leave, a balanced subset.

use super::{CleanOptions, ExportError, SubsetOptions, clean, subset};
use crate::query::QuerySession;

/// Images of a slice, unless one partition alone has more. A row is about 600 bytes, so this is half of what
/// queries may use by default.
pub(super) const SLICE_IMAGES: u64 = 1_000_000;

/// Which images; all, if nothing is set.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct SelectionOptions {
    /// A condition over the columns of the table `images`. A subquery in it is answered once per slice of the dataset.
    #[serde(rename = "where")]
    pub where_sql: Option<String>,
    /// Leaves out what tools remove.
    pub clean: CleanOptions,
    /// Takes some of what is left.
    pub subset: SubsetOptions,
}

/// The chosen images, in slices of the dataset: each is sorted by itself, so memory and disk for a sort of everything
/// are never needed.
pub(super) struct Selection {
    where_sql: Option<String>,
    tools: Vec<String>,
    /// A condition on the columns of `ordered_images`; what the subset leaves.
    subset: String,
    pub slices: Vec<(usize, usize)>,
}

impl Selection {
    /// # Errors
    /// When the condition is none, a tool has not been run, or a file cannot be read.
    pub async fn new(
        session: &QuerySession,
        options: &SelectionOptions,
        slice_images: u64,
    ) -> Result<Self, ExportError> {
        if let Some(sql) = &options.where_sql {
            session.check_condition(sql)?;
        }
        clean::check(session, &options.clean)?;
        session.register_ordered()?;
        let mut selection = Self {
            where_sql: options.where_sql.clone(),
            tools: options.clean.tools.clone(),
            subset: "true".into(),
            slices: session.image_slices(slice_images),
        };
        selection.subset = subset::condition(session, &selection, &options.subset).await?;
        Ok(selection)
    }

    /// A query for the chosen images of a slice.
    pub fn sql(&self, columns: &str, slice: (usize, usize)) -> String {
        // A line of its own, so that a comment in the condition ends.
        let condition = self.where_sql.as_ref().map_or("true".into(), |sql| format!("(\n{sql}\n)"));
        let (first, last) = slice;
        format!(
            "select {columns} from ordered_images as images \
             where \"ddl:partition\" between {first} and {last} and {condition} and {} and {}",
            clean::condition(&self.tools, slice),
            self.subset
        )
    }

    /// All slices as one, for what has no order of its own.
    pub fn whole(&self) -> (usize, usize) {
        (0, self.slices.last().map_or(0, |&(_, last)| last))
    }
}
