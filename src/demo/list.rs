//! Lists as GBIF gives them: rows of an occurrence download with its multimedia columns.
//!
//! [`farm_list`] makes lists of any size for plain servers; the demo's own list comes from
//! [`DemoSet`](super::DemoSet). Both are written by [`write_list`].

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::error::DemoError;
use super::random::{Dice, mix};
use crate::model::RecordState;

/// One row of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListRow {
    /// `gbifID`, unique in the list.
    pub gbif_id: u64,
    /// The URL; deliberately unusable in some rows.
    pub identifier: String,
    /// `StillImage`, another media type, or empty.
    pub media_type: &'static str,
    /// Media type of the file as the publisher states it.
    pub format: &'static str,
    /// Title of the picture.
    pub title: String,
    /// Who made the picture.
    pub creator: &'static str,
    /// URL of the licence.
    pub license: &'static str,
    /// Who holds the rights.
    pub rights_holder: &'static str,
    /// What kind of occurrence the row belongs to.
    pub basis_of_record: &'static str,
    /// The label.
    pub scientific_name: &'static str,
    /// What becomes of the URL when it is asked for with the default limits; `None` where that
    /// depends on settings (robots.txt, opt-out headers). Rows that share a URL share it.
    pub expected: Option<RecordState>,
}

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFormat {
    /// Tabs and no quoting, as in GBIF's files.
    Tsv,
    /// Commas, quoted where needed (RFC 4180).
    Csv,
}

/// Names of the columns, in order.
pub const LIST_COLUMNS: [&str; 10] = [
    "gbifID",
    "identifier",
    "type",
    "format",
    "title",
    "creator",
    "license",
    "rightsHolder",
    "basisOfRecord",
    "scientificName",
];

pub(super) const SPECIES: [&str; 16] = [
    "Bombus terrestris",
    "Papilio machaon",
    "Carabus auratus",
    "Lucanus cervus",
    "Bellis perennis",
    "Quercus robur",
    "Taraxacum officinale",
    "Papaver rhoeas",
    "Helix pomatia",
    "Parus major",
    "Vulpes vulpes",
    "Rana temporaria",
    "Amanita muscaria",
    "Salmo trutta",
    "Lacerta agilis",
    "Apis mellifera",
];

pub(super) const LICENSES: [&str; 3] = [
    "http://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "http://creativecommons.org/licenses/by/4.0/legalcode",
    "http://creativecommons.org/licenses/by-nc/4.0/legalcode",
];

/// The name of a plain server.
#[must_use]
pub fn plain_server(index: u32) -> String {
    format!("server-{index:03}.example")
}

/// The first `num_records` rows for plain servers `0..num_servers` (at least one), about equally many
/// for each, every URL a picture of its own that a [`DemoFarm`](super::DemoFarm) answers.
pub fn farm_list(num_records: u64, num_servers: u32, seed: u64) -> impl Iterator<Item = ListRow> {
    (0..num_records).map(move |index| {
        let mut dice = Dice::new(mix(seed) ^ index);
        let server = plain_server(dice.below(num_servers.max(1)));
        ListRow {
            gbif_id: 1_000_000_000 + index,
            identifier: format!("http://{server}/plain/{seed}/{index}.jpg"),
            media_type: "StillImage",
            format: "image/jpeg",
            title: format!("Picture {index}"),
            creator: "A. Collector",
            license: dice.pick(&LICENSES),
            rights_holder: "Example Museum",
            basis_of_record: "HUMAN_OBSERVATION",
            scientific_name: dice.pick(&SPECIES),
            expected: Some(RecordState::Success),
        }
    })
}

/// Writes a header and the rows to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write_list(
    path: &Path,
    format: ListFormat,
    rows: impl IntoIterator<Item = ListRow>,
) -> Result<(), DemoError> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        write_rows(&mut file, format, rows)?;
        file.flush()
    };
    write().map_err(|source| DemoError::WriteList { path: path.to_owned(), source })
}

fn write_rows(
    out: &mut impl Write,
    format: ListFormat,
    rows: impl IntoIterator<Item = ListRow>,
) -> io::Result<()> {
    write_line(out, format, LIST_COLUMNS)?;
    for row in rows {
        let gbif_id = row.gbif_id.to_string();
        let fields = [
            gbif_id.as_str(),
            &row.identifier,
            row.media_type,
            row.format,
            &row.title,
            row.creator,
            row.license,
            row.rights_holder,
            row.basis_of_record,
            row.scientific_name,
        ];
        write_line(out, format, fields)?;
    }
    Ok(())
}

fn write_line(out: &mut impl Write, format: ListFormat, fields: [&str; 10]) -> io::Result<()> {
    for (index, field) in fields.into_iter().enumerate() {
        let quoted = format == ListFormat::Csv && field.contains([',', '"', '\n', '\r']);
        let separator = match (index, format) {
            (0, _) => "",
            (_, ListFormat::Tsv) => "\t",
            (_, ListFormat::Csv) => ",",
        };
        if quoted {
            write!(out, "{separator}\"{}\"", field.replace('"', "\"\""))?;
        } else {
            write!(out, "{separator}{field}")?;
        }
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn text(format: ListFormat, rows: Vec<ListRow>) -> String {
        let mut out = Vec::new();
        write_rows(&mut out, format, rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_are_quoted_where_commas_need_it() {
        let mut row = farm_list(1, 1, 1).next().unwrap();
        row.title = "a \"b\", c".into();
        let csv = text(ListFormat::Csv, vec![row.clone()]);
        assert!(csv.contains(",\"a \"\"b\"\", c\",A. Collector,"), "{csv}");
        let tsv = text(ListFormat::Tsv, vec![row]);
        assert!(tsv.contains("\ta \"b\", c\tA. Collector\t"), "{tsv}");
        assert!(tsv.starts_with("gbifID\tidentifier\ttype\t"));
        assert!(tsv.lines().all(|line| line.split('\t').count() == LIST_COLUMNS.len()));
    }

    #[test]
    fn a_farm_list_has_distinct_urls_spread_over_its_servers() {
        let rows: Vec<_> = farm_list(2_000, 5, 3).collect();
        let urls: HashSet<_> = rows.iter().map(|row| row.identifier.as_str()).collect();
        assert_eq!(urls.len(), 2_000);
        let mut servers = HashMap::new();
        for url in urls {
            *servers.entry(url.split('/').nth(2).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(servers.len(), 5);
        assert!(servers.values().all(|count| (300..500).contains(count)), "{servers:?}");
        assert_eq!(rows, farm_list(2_000, 5, 3).collect::<Vec<_>>());
        assert_ne!(rows, farm_list(2_000, 5, 4).collect::<Vec<_>>());
        assert_eq!(farm_list(3, 0, 1).count(), 3);
    }

    #[test]
    fn a_list_that_cannot_be_written_says_where() {
        let error = write_list(Path::new("/no/such/folder/list.tsv"), ListFormat::Tsv, []).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the demo list `/no/such/folder/list.tsv`");
    }
}
