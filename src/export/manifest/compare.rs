//! A manifest as a lock file: whether a dataset still, or again, has the images that it lists.
//!
//! Both are sorted by uuid, beyond the memory of queries on disk, and gone through side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use serde::Serialize;

use super::listed;
use crate::export::ExportError;
use crate::query::{QueryError, QuerySession, RowStream};

/// An image that only one of the two has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedImage {
    pub uuid: String,
    pub identifier: String,
}

/// An image that is another one than the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferentImage {
    pub uuid: String,
    pub column: &'static str,
    pub manifest: String,
    pub dataset: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ManifestComparison {
    pub manifest: PathBuf,
    /// Rows of the manifest.
    pub num_listed: u64,
    /// Images of the dataset.
    pub num_images: u64,
    pub equal: u64,
    /// Images of which something differs, and how often what does.
    pub different: u64,
    pub different_columns: BTreeMap<&'static str, u64>,
    /// Rows without an image.
    pub missing: u64,
    /// Images without a row.
    pub unlisted: u64,
    /// Columns that the manifest does not have.
    pub not_compared: Vec<&'static str>,
    /// Whether hashes have other lengths, as those of other algorithms have.
    pub other_algorithm: bool,
    /// The first of each, by uuid.
    pub different_examples: Vec<DifferentImage>,
    pub missing_examples: Vec<ListedImage>,
    pub unlisted_examples: Vec<ListedImage>,
}

impl ManifestComparison {
    /// Whether the dataset has exactly the images of the manifest.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.different + self.missing + self.unlisted == 0
    }
}

/// Compares the images of a dataset with a manifest, and names up to `max_examples` of what differs, of each kind.
///
/// Rows with one uuid are paired in order of their URLs. A column that the manifest does not have is not compared; a value
/// that it does not give, or that is none, is another.
///
/// # Errors
/// When the manifest cannot be read or is none, or a file of the dataset cannot be read, or there is no room to sort.
pub async fn compare_manifest(
    session: &QuerySession,
    manifest: &Path,
    max_examples: usize,
) -> Result<ManifestComparison, ExportError> {
    // What is wrong with the file is told before anything is sorted.
    let not_compared = listed::missing_columns(manifest)?;
    let path = manifest.to_owned();
    let open =
        move || listed::open(&path).unwrap_or_else(|error| Box::new(std::iter::once(Err(error.to_string()))));
    session.register_rows("listed_images", listed::SCHEMA.clone(), Box::new(open))?;
    let order = "ORDER BY 1, 2";
    let listed = format!(
        "SELECT coalesce(uuid, '') AS uuid, coalesce(identifier, '') AS identifier, hashsum_original, image_bytes, \
         height, width FROM listed_images {order}"
    );
    let images = format!(
        "SELECT coalesce(uuid, '') AS uuid, coalesce(identifier, '') AS identifier, hashsum_original, image_bytes, \
         resized_size[1] AS height, resized_size[2] AS width FROM images {order}"
    );
    let mut listed = Rows::start(session, &listed).await?;
    let mut images = Rows::start(session, &images).await?;
    let mut report =
        ManifestComparison { manifest: manifest.to_owned(), not_compared, ..ManifestComparison::default() };
    loop {
        let (row, image) = (listed.row(), images.row());
        let order = match (&row, &image) {
            (None, None) => return Ok(report),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(row), Some(image)) => row.uuid().cmp(image.uuid()),
        };
        if let Some(row) = row.filter(|_| order.is_le()) {
            report.num_listed += 1;
            if order.is_lt() {
                report.missing += 1;
                note(&mut report.missing_examples, max_examples, || row.name());
            } else if let Some(image) = &image {
                report.compare(&row, image, max_examples);
            }
        }
        if let Some(image) = image.filter(|_| order.is_ge()) {
            report.num_images += 1;
            if order.is_gt() {
                report.unlisted += 1;
                note(&mut report.unlisted_examples, max_examples, || image.name());
            }
        }
        if order.is_le() {
            listed.advance().await?;
        }
        if order.is_ge() {
            images.advance().await?;
        }
    }
}

impl ManifestComparison {
    fn compare(&mut self, row: &Row<'_>, image: &Row<'_>, max_examples: usize) {
        let mut differs = false;
        let mut note_difference = |column: &'static str, manifest: String, dataset: String| {
            differs = true;
            *self.different_columns.entry(column).or_default() += 1;
            note(&mut self.different_examples, max_examples, || DifferentImage {
                uuid: row.uuid().to_owned(),
                column,
                manifest,
                dataset,
            });
        };
        let (listed, stored) = (row.text(2).unwrap_or_default(), image.text(2).unwrap_or_default());
        if listed != stored {
            self.other_algorithm |= listed.len() != stored.len() && !listed.is_empty();
            note_difference("hashsum_original", listed.to_owned(), stored.to_owned());
        }
        for (column, name) in [(3, "image_bytes"), (4, "height"), (5, "width")] {
            let (listed, stored) = (row.number(column), image.number(column));
            if listed != stored && !self.not_compared.contains(&name) {
                let text = |number: Option<i64>| number.map_or_else(String::new, |number| number.to_string());
                note_difference(name, text(listed), text(stored));
            }
        }
        *if differs { &mut self.different } else { &mut self.equal } += 1;
    }
}

fn note<T>(examples: &mut Vec<T>, max_examples: usize, example: impl FnOnce() -> T) {
    if examples.len() < max_examples {
        examples.push(example());
    }
}

/// Sorted rows, one at a time.
struct Rows {
    stream: RowStream,
    batch: Option<RecordBatch>,
    at: usize,
}

impl Rows {
    async fn start(session: &QuerySession, sql: &str) -> Result<Self, QueryError> {
        let mut rows = Self { stream: session.stream(sql).await?, batch: None, at: 0 };
        rows.read().await?;
        Ok(rows)
    }

    async fn read(&mut self) -> Result<(), QueryError> {
        self.at = 0;
        loop {
            self.batch = self.stream.next().await?;
            if self.batch.as_ref().is_none_or(|batch| batch.num_rows() > 0) {
                return Ok(());
            }
        }
    }

    fn row(&self) -> Option<Row<'_>> {
        self.batch.as_ref().map(|batch| Row { batch, at: self.at })
    }

    async fn advance(&mut self) -> Result<(), QueryError> {
        self.at += 1;
        match &self.batch {
            Some(batch) if self.at < batch.num_rows() => Ok(()),
            _ => self.read().await,
        }
    }
}

struct Row<'a> {
    batch: &'a RecordBatch,
    at: usize,
}

impl<'a> Row<'a> {
    fn uuid(&self) -> &'a str {
        self.text(0).unwrap_or_default()
    }

    fn name(&self) -> ListedImage {
        ListedImage { uuid: self.uuid().to_owned(), identifier: self.text(1).unwrap_or_default().to_owned() }
    }

    fn text(&self, column: usize) -> Option<&'a str> {
        let column = self.batch.column(column).as_string_opt::<i32>()?;
        column.is_valid(self.at).then(|| column.value(self.at))
    }

    fn number(&self, column: usize) -> Option<i64> {
        let column = self.batch.column(column).as_primitive_opt::<Int64Type>()?;
        column.is_valid(self.at).then(|| column.value(self.at))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::export::{ManifestOptions, export_manifest};
    use crate::query::tests::fixture::Fixture;

    async fn export(fixture: &Fixture, name: &str) -> PathBuf {
        let output = fixture.outside(name);
        let options = ManifestOptions { output: output.clone(), ..ManifestOptions::default() };
        export_manifest(&fixture.session(), &options).await.unwrap();
        output
    }

    #[tokio::test]
    async fn a_dataset_has_what_its_manifest_lists() {
        let fixture = Fixture::full(100);
        for name in ["m.parquet", "m.csv", "m.tsv", "m.jsonl", "m.csv.gz", "m.ndjson.gz"] {
            let path = export(&fixture, name).await;
            let report = compare_manifest(&fixture.session(), &path, 3).await.unwrap();
            assert!(report.is_equal(), "{name}: {report:?}");
            assert_eq!((report.num_listed, report.num_images, report.equal), (6, 6, 6), "{name}");
        }
    }

    #[tokio::test]
    async fn every_difference_is_counted_and_some_are_named() {
        let fixture = Fixture::full(100);
        let path = export(&fixture, "m.csv").await;
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = |uuid: &str| lines.iter().position(|line| line.starts_with(uuid)).unwrap();
        let (changed, gone) = (at("uuid-a.example-2"), at("uuid-a.example-3"));
        assert!(lines[changed].contains(",240,322,"), "height and width: {}", lines[changed]);
        lines[changed] = lines[changed].replace(",240,322,", ",240,1,");
        lines[gone] = lines[gone].replace("uuid-a.example-3", "uuid-new");
        fs::write(&path, lines.join("\n")).unwrap();
        let report = compare_manifest(&fixture.session(), &path, 1).await.unwrap();
        assert_eq!((report.num_listed, report.num_images, report.equal), (6, 6, 4), "{report:?}");
        assert_eq!((report.different, report.missing, report.unlisted), (1, 1, 1));
        assert_eq!(report.different_columns, BTreeMap::from([("width", 1)]));
        assert_eq!(report.different_examples.len(), 1);
        assert_eq!(report.different_examples[0].manifest, "1");
        assert_eq!(report.missing_examples[0].uuid, "uuid-new");
        assert_eq!(report.unlisted_examples[0].uuid, "uuid-a.example-3");
        assert!(!report.is_equal() && !report.other_algorithm);
    }

    #[tokio::test]
    async fn what_is_no_number_is_another_and_a_column_that_is_missing_is_told() {
        let fixture = Fixture::full(100);
        let path = export(&fixture, "m.csv").await;
        let text = fs::read_to_string(&path).unwrap();
        for (found, wrong) in
            [(",240,322,", ",abc,322,"), (",240,322,", ",,322,"), (",240,322,", ",240.5,322,")]
        {
            assert!(text.contains(found));
            fs::write(&path, text.replace(found, wrong)).unwrap();
            let report = compare_manifest(&fixture.session(), &path, 1).await.unwrap();
            assert_eq!(report.different_columns, BTreeMap::from([("height", 1)]), "{wrong}");
            assert!(report.not_compared.is_empty());
        }
        fs::write(&path, text.replace(",height,", ",other,").replace(",240,", ",7,")).unwrap();
        let report = compare_manifest(&fixture.session(), &path, 1).await.unwrap();
        assert!(report.is_equal() && report.not_compared == ["height"], "{report:?}");
    }

    #[tokio::test]
    async fn hashes_of_another_algorithm_are_recognised() {
        let fixture = Fixture::full(100);
        let path = fixture.outside("m.jsonl");
        fs::write(&path, "{\"uuid\": \"uuid-a.example-0\", \"hashsum_original\": \"00ff\"}\n").unwrap();
        let report = compare_manifest(&fixture.session(), &path, 1).await.unwrap();
        assert!(report.other_algorithm, "{report:?}");
        assert_eq!((report.different, report.missing, report.unlisted), (1, 0, 5));
        assert_eq!(report.unlisted_examples.len(), 1);
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_refused() {
        let fixture = Fixture::full(100);
        let refused = async |name: &str, text: &str| {
            let path = fixture.outside(name);
            fs::write(&path, text).unwrap();
            compare_manifest(&fixture.session(), &path, 1).await.unwrap_err().to_string()
        };
        assert!(refused("a.csv", "uuid,url\n1,2\n").await.contains("no column `hashsum_original`"));
        assert!(refused("a.parquet", "no").await.contains("cannot read"));
        assert!(refused("a.json", "[]").await.contains(".jsonl"));
        assert!(refused("a.jsonl", "{\"uuid\": ").await.contains("cannot read"));
        assert!(refused("a.txt", "").await.contains("cannot tell a format"));
    }
}
