//! GBIF's multimedia table, alone or joined with occurrences.

use super::super::error::IngestError;
use super::super::options::IngestOptions;
use super::super::source::{Binding, Header, Row, Source, UsualNames};

/// Still images of GBIF occurrences. `gbifID` becomes `source_id`; the URL is `accessURI` where there is
/// one (Audubon Core, whose `identifier` need not be a URL), else `identifier`.
///
/// Kept are rows that have `gbifID` and a URL, and
/// - whose `type` is `StillImage` or `Image` (as publishers write it: in any case, or as the URL of the
///   term), or whose `type` is null and whose `format` contains `image`;
/// - whose `basisOfRecord` does not contain `MATERIAL_CITATION`.
///
/// As in SQL, what compares with null is not true: a null `basisOfRecord` leaves the row out (reason
/// `no_basis_of_record`), for nothing then says that the picture is not one of a publication. But a
/// table of media alone, such as `multimedia.txt`, is taken: its user has chosen. Of `type` and `format`
/// one is enough.
#[derive(Debug)]
pub struct Gbif;

const WANTED_BY: &str = "a `gbif` list needs";

/// Columns of occurrences. A table that has one of them is not one of media alone.
const OCCURRENCE_COLUMNS: [&str; 6] =
    ["scientificName", "datasetKey", "occurrenceID", "taxonKey", "speciesKey", "species"];

impl Source for Gbif {
    fn name(&self) -> &'static str {
        "gbif"
    }

    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError> {
        let url = if header.find("accessURI").is_some() { "accessURI" } else { "identifier" };
        let usual = UsualNames { url: Some(url), id: Some("gbifID"), ..UsualNames::default() };
        let mut binding = Binding::new(header, &options.columns, &usual, WANTED_BY)?;
        let id = header.require("gbifID", WANTED_BY)?;
        let url = binding.url[0];
        let (kind, format) = (header.find("type"), header.find("format"));
        if kind.or(format).is_none() {
            header.require("type", WANTED_BY)?;
        }
        let is_media_alone = OCCURRENCE_COLUMNS.iter().all(|name| header.find(name).is_none());
        let basis = match header.find("basisOfRecord") {
            None if !is_media_alone => Some(header.require("basisOfRecord", WANTED_BY)?),
            basis => basis,
        };
        if basis.is_none() {
            binding.warning = Some("without `basisOfRecord`, pictures of publications are not left out");
        }
        binding.filter = Some(Box::new(move |row: &Row<'_>| {
            if row.is_null(id) {
                return Some("no_gbif_id");
            }
            if row.is_null(url) {
                return Some("no_identifier");
            }
            let is_image = match kind.and_then(|kind| row.text(kind)) {
                Some(kind) => is_still_image(&kind),
                None => format.and_then(|format| row.text(format)).is_some_and(|f| f.contains("image")),
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

/// By the last segment: `http://purl.org/dc/dcmitype/StillImage` is the term itself.
fn is_still_image(kind: &str) -> bool {
    let term = kind.trim().rsplit(['/', '#', ':']).next().unwrap_or_default();
    ["StillImage", "Image"].iter().any(|image| term.eq_ignore_ascii_case(image))
}
