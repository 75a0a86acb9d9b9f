//! Any table with a URL column.

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Source, UsualNames};

/// Every row is a record; `source_id`, `license`, `source`, `title`, `label` and `uuid` are taken
/// where the input has them.
#[derive(Debug)]
pub struct Generic;

impl Source for Generic {
    fn name(&self) -> &'static str {
        "generic"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        Binding::new(header, &options.columns, &UsualNames::default(), "a generic list needs")
    }
}
