//! The TreeOfLife-200M catalogue.

use std::collections::HashSet;

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Row, Source, UsualNames};

/// Rows of the wanted data sources; their UUIDs are kept. Servers of `excluded_servers_path` are
/// left out (as they are for every kind of list).
#[derive(Debug)]
pub struct Tol200mGeneral;

/// FathomNet's rows of the catalogue: one per bounding box, several with the same picture. Each URL
/// becomes one record with a UUID of its own; `uuid_ref` tells which rows it stands for.
#[derive(Debug)]
pub struct Tol200mFathomNet;

impl Source for Tol200mGeneral {
    fn name(&self) -> &'static str {
        "tol200m_general"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        if options.columns.uuid.is_none() {
            header.require("uuid", "a `tol200m_general` list needs")?;
        }
        bind(header, options, self.name(), Some("uuid"))
    }
}

impl Source for Tol200mFathomNet {
    fn name(&self) -> &'static str {
        "tol200m_fathomNet"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        header.require("uuid", "a `tol200m_fathomNet` list needs")?;
        bind(header, options, self.name(), None)
    }
}

fn bind(
    header: &Header<'_>,
    options: &IngestOptions,
    name: &'static str,
    uuid: Option<&'static str>,
) -> Result<Binding, IngestError> {
    if options.included_sources.is_empty() {
        return Err(IngestError::MissingOption { initializer_type: name, option: "included_sources" });
    }
    let wanted_by = format!("a `{name}` list needs");
    let usual = UsualNames { url: Some("source_url"), id: Some("source_id"), uuid, ..UsualNames::default() };
    let mut binding = Binding::new(header, &options.columns, &usual, &wanted_by)?;
    let data_source = header.require("data_source", &wanted_by)?;
    let included: HashSet<String> = options.included_sources.iter().cloned().collect();
    binding.filter = Some(Box::new(move |row: &Row<'_>| {
        let is_included = row.text(data_source).is_some_and(|source| included.contains(source.as_ref()));
        (!is_included).then_some("other_data_source")
    }));
    Ok(binding)
}
