//! Whether any file of a dataset still holds certain images.
//!
//! Every file with `.parquet` in its name that has a column `image` is searched, whether a commit names it or not, in
//! whatever folder it lies: by record (`uuid` and `identifier`, as far as the file has them), and by the hash of the
//! image as it was downloaded (`hashsum_original`). Links to folders are followed, each folder is entered once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow::array::{BooleanArray, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use super::data_file::{Flaw, guarded, text, text_at};
use super::error::CheckError;
use crate::model::{ContentDigest, UrlKey};

/// Rows looked at a time.
const BATCH_ROWS: usize = 8192;

/// Columns by which a row is known.
pub const SOUGHT_COLUMNS: [&str; 2] = ["uuid", "identifier"];

/// What is searched for. Memory: some 100 bytes for each record.
#[derive(Debug, Default)]
pub struct Sought {
    uuids: HashSet<UrlKey>,
    /// Of uuid and identifier together: a list may have a uuid several times.
    records: HashSet<UrlKey>,
    digests: HashSet<ContentDigest>,
}

impl Sought {
    /// Adds a record.
    pub fn add(&mut self, uuid: &str, identifier: &str) {
        self.uuids.insert(UrlKey::of_bytes(uuid.as_bytes()));
        self.records.insert(record_key(uuid, identifier));
    }

    /// Adds images as they were downloaded.
    pub fn add_digests(&mut self, digests: impl IntoIterator<Item = ContentDigest>) {
        self.digests.extend(digests);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    #[must_use]
    pub fn num_records(&self) -> u64 {
        self.records.len() as u64
    }

    #[must_use]
    pub fn digests(&self) -> &HashSet<ContentDigest> {
        &self.digests
    }

    /// Which rows are of these records, by those of [`SOUGHT_COLUMNS`] that the batch has.
    ///
    /// # Errors
    /// When such a column is no text.
    pub fn rows(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        let column = |name| match batch.column_by_name(name) {
            Some(_) => text(batch, name).map(Some).map_err(|flaw| flaw.detail),
            None => Ok(None),
        };
        let [uuids, identifiers] = [column(SOUGHT_COLUMNS[0])?, column(SOUGHT_COLUMNS[1])?];
        let Some(uuids) = uuids else { return Ok(vec![false; batch.num_rows()].into()) };
        let is_sought = |row| {
            let uuid = text_at(&uuids, row);
            match &identifiers {
                Some(identifiers) => self.records.contains(&record_key(uuid, text_at(identifiers, row))),
                None => self.uuids.contains(&UrlKey::of_bytes(uuid.as_bytes())),
            }
        };
        Ok((0..batch.num_rows()).map(|row| Some(is_sought(row))).collect())
    }
}

fn record_key(uuid: &str, identifier: &str) -> UrlKey {
    UrlKey::of_bytes(format!("{uuid}\n{identifier}").as_bytes())
}

/// A file in which something was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundImages {
    pub path: PathBuf,
    /// Rows of the records that were searched for.
    pub records: u64,
    /// Rows of other records with the same bytes.
    pub same_bytes: u64,
}

/// A file that could not be searched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsearched {
    pub path: PathBuf,
    pub reason: String,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SearchReport {
    /// Files with images that were searched.
    pub num_files: u64,
    pub num_images: u64,
    pub found: Vec<FoundImages>,
    pub unsearched: Vec<Unsearched>,
}

impl SearchReport {
    /// Whether every file with images was searched, and none holds a record that was searched for.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        self.unsearched.is_empty() && self.found.iter().all(|found| found.records == 0)
    }
}

/// Searches all files below a folder.
///
/// # Errors
/// When a folder cannot be listed. Files that cannot be read are told of in the report.
pub fn search_images(root: &Path, sought: &Sought) -> Result<SearchReport, CheckError> {
    let files = parquet_files(root)?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(files.len()) {
            scope.spawn(|| {
                while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = guarded(|| search_file(path, sought));
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((path, found));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(path, _)| *path);
    let mut report = SearchReport::default();
    for (path, found) in results {
        match found {
            Ok(None) => {}
            Ok(Some(found)) => {
                report.num_files += 1;
                report.num_images += found.num_images;
                if found.records + found.same_bytes > 0 {
                    let FileSearch { records, same_bytes, .. } = found;
                    report.found.push(FoundImages { path: path.clone(), records, same_bytes });
                }
            }
            Err(flaw) => {
                report.unsearched.push(Unsearched { path: path.clone(), reason: flaw.detail });
            }
        }
    }
    Ok(report)
}

#[derive(Default)]
struct FileSearch {
    num_images: u64,
    records: u64,
    same_bytes: u64,
}

/// `None` for a file without images.
fn search_file(path: &Path, sought: &Sought) -> Result<Option<FileSearch>, Flaw> {
    const HASH: &str = "hashsum_original";
    let file = File::open(path).map_err(Flaw::unreadable)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(Flaw::unreadable)?;
    let has = |name: &str| builder.schema().field_with_name(name).is_ok();
    if !has("image") {
        return Ok(None);
    }
    let has_hash = has(HASH);
    if !has("uuid") && !has_hash {
        return Err(Flaw::unreadable("it has images, but neither `uuid` nor `hashsum_original`"));
    }
    let columns = ProjectionMask::columns(builder.parquet_schema(), SOUGHT_COLUMNS.into_iter().chain([HASH]));
    let batches = builder.with_projection(columns).with_batch_size(BATCH_ROWS).build();
    let mut found = FileSearch::default();
    for batch in batches.map_err(Flaw::unreadable)? {
        let batch = batch.map_err(Flaw::unreadable)?;
        let rows = sought.rows(&batch).map_err(Flaw::unreadable)?;
        let hashes = if has_hash { Some(text(&batch, HASH)?) } else { None };
        found.num_images += batch.num_rows() as u64;
        for row in 0..batch.num_rows() {
            let has_bytes = || {
                let digest = hashes.as_ref().and_then(|hashes| ContentDigest::from_hex(text_at(hashes, row)));
                digest.is_some_and(|digest| sought.digests.contains(&digest))
            };
            if rows.value(row) {
                found.records += 1;
            } else if has_bytes() {
                found.same_bytes += 1;
            }
        }
    }
    Ok(Some(found))
}

/// Files that are Parquet by their names, also those that were never finished, in order.
///
/// # Errors
/// When a folder cannot be listed.
pub fn parquet_files(root: &Path) -> Result<Vec<PathBuf>, CheckError> {
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let listing = match folder
            .canonicalize()
            .and_then(|real| if seen.insert(real) { fs::read_dir(&folder).map(Some) } else { Ok(None) })
        {
            Ok(Some(listing)) => listing,
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CheckError::io("read folder", &folder)(error)),
        };
        for entry in listing {
            let path = entry.map_err(CheckError::io("read folder", &folder))?.path();
            // Of a link, what it leads to; one that leads nowhere holds nothing.
            let Ok(meta) = fs::metadata(&path) else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() && name.contains(".parquet") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::model::HashAlgorithm;

    fn write(path: &Path, columns: &[(&str, &[&str])]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let columns = columns.iter().map(|(name, values)| {
            let array: ArrayRef = match *name {
                "image" => Arc::new(BinaryArray::from_iter_values(values.iter().map(|v| v.as_bytes()))),
                _ => Arc::new(StringArray::from(values.to_vec())),
            };
            (*name, array)
        });
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn records_and_bytes_are_found_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let digest = HashAlgorithm::Blake3.digest(b"gone");
        let (gone, other) = (digest.to_string(), HashAlgorithm::Blake3.digest(b"other").to_string());
        let mut sought = Sought::default();
        sought.add("u1", "http://a/1");
        sought.add_digests([digest]);

        write(
            &at("a/successes.parquet"),
            &[
                ("uuid", &["u0", "u2", "u1"]),
                ("identifier", &["http://a/0", "http://a/2", "http://a/other"]),
                ("hashsum_original", &[&other, &gone, &other]),
                ("image", &["x", "gone", "x"]),
            ],
        );
        write(&at("tools/t/out.parquet"), &[("uuid", &["u1"]), ("image", &["small"])]);
        write(&at("tools/t/verdicts.parquet"), &[("uuid", &["u1"])]);
        write(&at("exports/bare.parquet"), &[("image", &["gone"])]);
        write(
            &outside.path().join("b.parquet"),
            &[("uuid", &["u1"]), ("identifier", &["http://a/1"]), ("image", &["gone"])],
        );
        std::os::unix::fs::symlink(outside.path(), at("linked")).unwrap();
        std::os::unix::fs::symlink(folder.path(), at("loop")).unwrap();
        fs::write(at("a/x.parquet.tmp-1-2"), "torn").unwrap();

        let report = search_images(folder.path(), &sought).unwrap();
        assert_eq!((report.num_files, report.num_images), (3, 5));
        let found = |name: &str, records, same_bytes| FoundImages { path: at(name), records, same_bytes };
        assert_eq!(
            report.found,
            [
                found("a/successes.parquet", 0, 1),
                found("linked/b.parquet", 1, 0),
                found("tools/t/out.parquet", 1, 0)
            ]
        );
        let unsearched: Vec<_> = report.unsearched.iter().map(|file| file.path.clone()).collect();
        assert_eq!(unsearched, [at("a/x.parquet.tmp-1-2"), at("exports/bare.parquet")]);
        assert!(!report.is_proof());

        let report = search_images(&at("a"), &Sought::default()).unwrap();
        assert!(report.found.is_empty() && !report.is_proof(), "{report:?}");
        fs::remove_file(at("a/x.parquet.tmp-1-2")).unwrap();
        assert!(search_images(&at("a"), &sought).unwrap().is_proof());
    }
}
