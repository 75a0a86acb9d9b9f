//! The Encyclopedia of Life's media list.

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Row, Source, UsualNames};

/// Rows with a content id and a full-size URL; the copyright owner becomes `source`.
#[derive(Debug)]
pub struct Eol;

const WANTED_BY: &str = "an `eol` list needs";

impl Source for Eol {
    fn name(&self) -> &'static str {
        "eol"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        let usual = UsualNames {
            url: Some("EOL Full-Size Copy URL"),
            id: Some("EOL content ID"),
            license: "License Name",
            source: "Copyright Owner",
            ..UsualNames::default()
        };
        let mut binding = Binding::new(header, &options.columns, &usual, WANTED_BY)?;
        // What was renamed in the configuration is there; what was not must be under its usual name.
        if options.columns.license.is_none() {
            header.require(usual.license, WANTED_BY)?;
        }
        if options.columns.source.is_none() {
            header.require(usual.source, WANTED_BY)?;
        }
        let url = binding.url[0];
        let id = binding.source_id;
        binding.filter = Some(Box::new(move |row: &Row<'_>| {
            if id.is_some_and(|id| row.is_null(id)) {
                return Some("no_content_id");
            }
            row.is_null(url).then_some("no_url")
        }));
        Ok(binding)
    }
}
