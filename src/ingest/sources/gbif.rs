//! GBIF's multimedia table, alone or joined with occurrences.

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Row, Source, UsualNames};

/// Still images of GBIF occurrences. `gbifID` becomes `source_id`.
///
/// Kept are rows that have `gbifID` and `identifier`, and
/// - whose `type` is `StillImage`, or whose `type` is null and whose `format` contains `image`;
/// - whose `basisOfRecord` does not contain `MATERIAL_CITATION`.
///
/// As in SQL, what compares with null is not true: a null `basisOfRecord` leaves the row out (reason
/// `no_basis_of_record`), for nothing then says that the picture is not one of a publication. But an
/// input without the column at all, such as `multimedia.txt` alone, is taken: its user has chosen.
#[derive(Debug)]
pub struct Gbif;

const WANTED_BY: &str = "a `gbif` list needs";

impl Source for Gbif {
    fn name(&self) -> &'static str {
        "gbif"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        let usual = UsualNames { url: Some("identifier"), id: Some("gbifID"), ..UsualNames::default() };
        let mut binding = Binding::new(header, &options.columns, &usual, WANTED_BY)?;
        let id = header.require("gbifID", WANTED_BY)?;
        let url = binding.url[0];
        let kind = header.require("type", WANTED_BY)?;
        let format = header.require("format", WANTED_BY)?;
        let basis = header.find("basisOfRecord");
        binding.filter = Some(Box::new(move |row: &Row<'_>| {
            if row.is_null(id) {
                return Some("no_gbif_id");
            }
            if row.is_null(url) {
                return Some("no_identifier");
            }
            let is_image = match row.text(kind) {
                Some(kind) => kind == "StillImage",
                None => row.text(format).is_some_and(|format| format.contains("image")),
            };
            if !is_image {
                return Some("not_a_still_image");
            }
            match basis.map(|basis| row.text(basis)) {
                None => None,
                Some(None) => Some("no_basis_of_record"),
                Some(Some(basis)) => basis.contains("MATERIAL_CITATION").then_some("material_citation"),
            }
        }));
        Ok(binding)
    }
}
