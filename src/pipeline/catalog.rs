//! `ddl catalog`: copies of the catalog, and what keeps its file in order.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ingest::now_ms;
use super::{Dataset, PipelineError};
use crate::catalog::{CatalogCopy, CatalogError, CatalogHold, CatalogSummary, DispositionCounts, copy_view};
use crate::check::{CheckError, refuse_other_lists};
use crate::storage::{AtomicFile, DatasetLayout, create_folder, keep_as};

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    pub file: PathBuf,
    pub file_bytes: u64,
    pub counts: DispositionCounts,
}

/// A catalog whose file was made smaller: lengths, and what they take of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CompactReport {
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub disk_bytes_before: u64,
    pub disk_bytes_after: u64,
}

/// A copy that was put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    pub restored: CatalogSummary,
    /// Where the catalog is that was there before.
    pub kept_as: Option<PathBuf>,
}

/// Copies what the catalog has at this moment, also beside a writer. The copy is whole and as small as can be.
///
/// # Errors
/// `FileThere` unless `force`; when the catalog cannot be read or the copy not be written. Nothing stands under the
/// copy's name then that did not before.
pub fn backup_catalog(dataset: &Dataset, file: &Path, force: bool) -> Result<BackupReport, PipelineError> {
    let view = dataset.open_reader()?.view()?;
    let is_own =
        matches!((file.canonicalize(), dataset.layout.catalog().canonicalize()), (Ok(a), Ok(b)) if a == b);
    if is_own || (file.exists() && !force) {
        return Err(PipelineError::FileThere { path: file.to_owned(), is_own });
    }
    let copy = AtomicFile::create(file, &std::process::id().to_string())?;
    copy_view(&view, copy.temporary(), 0, &dataset.catalog_options()?)?;
    let counts = view.counts()?;
    Ok(BackupReport { file: file.to_owned(), file_bytes: copy.commit()?, counts })
}

/// Checks every page and every row of the dataset's catalog, or of a copy; writes nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check_catalog(dataset: &Dataset, file: Option<&Path>) -> Result<CatalogSummary, PipelineError> {
    let own = dataset.layout.catalog();
    Ok(CatalogCopy::open(file.unwrap_or(&own), &dataset.catalog_options()?)?.summary())
}

/// Gives back what the catalog's file does not use.
///
/// # Errors
/// When another process holds the catalog or reads it.
pub fn compact_catalog(dataset: &Dataset) -> Result<CompactReport, PipelineError> {
    let mut catalog = dataset.open_writer()?;
    let path = dataset.layout.catalog();
    let size = || {
        std::fs::metadata(&path)
            .map(|meta| (meta.len(), meta.blocks() * 512))
            .map_err(|source| CatalogError::Io { action: "look at", path: path.clone(), source })
    };
    let (bytes_before, disk_bytes_before) = size()?;
    catalog.compact()?;
    drop(catalog);
    let (bytes_after, disk_bytes_after) = size()?;
    Ok(CompactReport { bytes_before, bytes_after, disk_bytes_before, disk_bytes_after })
}

/// The last run that has left a ledger or taken images down, whatever the catalog knows of it; 0 without any. Its
/// number, and the names of its files, are not to be those of another.
fn last_run(layout: &DatasetLayout) -> u32 {
    let number = |name: &str| {
        let digits = name.strip_prefix("run-")?;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    let folders = [layout.ledger(), layout.retractions()];
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    files.filter_map(|file| number(file.file_name().to_str()?)).max().unwrap_or(0)
}

/// Puts a copy in the catalog's place, after a look through all of it. What was there stays beside it under another name.
///
/// # Errors
/// When the copy is damaged, or that of another dataset (unless `force`); when another process holds the catalog.
pub fn restore_catalog(dataset: &Dataset, file: &Path, force: bool) -> Result<RestoreReport, PipelineError> {
    let options = dataset.catalog_options()?;
    let copy = CatalogCopy::open(file, &options)?;
    if !force {
        match refuse_other_lists(&dataset.layout, copy.view()?) {
            Err(CheckError::OtherLists { path }) => {
                return Err(PipelineError::OtherCatalog { file: file.to_owned(), list: path });
            }
            compared => compared?,
        }
    }
    let path = dataset.layout.catalog();
    create_folder(dataset.layout.root())?;
    let hold = CatalogHold::take(&path, &options)?;
    let restored = AtomicFile::create(&path, &std::process::id().to_string())?;
    copy_view(&copy.view()?, restored.temporary(), last_run(&dataset.layout) + 1, &options)?;
    hold.confirm(&path)?;
    let mut kept_as = path.clone().into_os_string();
    kept_as.push(format!(".replaced-{}", now_ms()));
    let kept_as = PathBuf::from(kept_as);
    let was_there = keep_as(&path, &kept_as)?;
    restored.commit()?;
    Ok(RestoreReport { restored: copy.summary(), kept_as: was_there.then_some(kept_as) })
}
