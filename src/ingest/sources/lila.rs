//! LILA BC's list of camera-trap images.

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Row, Source, UsualNames};

/// Images with an animal on them, from the first cloud that has them: Google, Amazon, Azure.
#[derive(Debug)]
pub struct Lila;

const WANTED_BY: &str = "a `lila` list needs";

impl Source for Lila {
    fn name(&self) -> &'static str {
        "lila"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        let usual = UsualNames { url: Some("url_gcp"), id: Some("image_id"), ..UsualNames::default() };
        let mut binding = Binding::new(header, &options.columns, &usual, WANTED_BY)?;
        if options.columns.url.is_none() {
            binding.url.push(header.require("url_aws", WANTED_BY)?);
            binding.url.push(header.require("url_azure", WANTED_BY)?);
        }
        let urls = binding.url.clone();
        let label = header.require("original_label", WANTED_BY)?;
        binding.filter = Some(Box::new(move |row: &Row<'_>| {
            if urls.iter().all(|&url| row.is_null(url)) {
                return Some("no_url");
            }
            // Exactly as it is written there: `Empty` is kept.
            match row.text(label).as_deref() {
                None => Some("no_label"),
                Some("empty") => Some("empty_picture"),
                Some(_) => None,
            }
        }));
        Ok(binding)
    }
}
