//! FathomNet's image list.

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Row, Source, UsualNames, Value};

/// FathomNet publishes all of its images under this licence.
const LICENSE: &str = "https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode";

/// Valid images. Their `uuid` becomes `source_id`; the record's own is made from the URL.
#[derive(Debug)]
pub struct FathomNet;

const WANTED_BY: &str = "a `fathom_net` list needs";

impl Source for FathomNet {
    fn name(&self) -> &'static str {
        "fathom_net"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        let usual = UsualNames { url: Some("url"), id: Some("uuid"), uuid: None, ..UsualNames::default() };
        let mut binding = Binding::new(header, &options.columns, &usual, WANTED_BY)?;
        let url = binding.url[0];
        let id = binding.source_id;
        let valid = header.require("valid", WANTED_BY)?;
        if options.columns.license.is_none() {
            binding.license = Value::Literal(LICENSE);
        }
        binding.filter = Some(Box::new(move |row: &Row<'_>| {
            if id.is_some_and(|id| row.is_null(id)) {
                return Some("no_uuid");
            }
            if row.is_null(url) {
                return Some("no_url");
            }
            (!row.is_true(valid)).then_some("not_valid")
        }));
        Ok(binding)
    }
}
