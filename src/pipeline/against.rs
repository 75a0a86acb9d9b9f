//! Another dataset, for `dedup_against` to compare with.

use std::fs::{self, File};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Dataset, PipelineError};
use crate::catalog::Catalog;
use crate::config::{self, Chain};
use crate::model::HashAlgorithm;
use crate::query::QuerySession;
use crate::storage::{DatasetLayout, HASH_ALGORITHM_KEY};
use crate::tools::{OTHER_COLUMNS, ToolError, register_other};

/// Registers the images of what is at `path` (a dataset's folder, its configuration, or an exported manifest) with the
/// session of `dataset`. Returns a number that is another when they are others.
pub(super) async fn open(
    path: &Path,
    dataset: &Dataset,
    catalog: &Catalog,
    session: &QuerySession,
) -> Result<u64, PipelineError> {
    let unreadable = |source| PipelineError::Io { action: format!("read `{}`", path.display()), source };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    let ours = catalog.view()?.hash_algorithm()?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let other = if metadata.is_dir() {
        of_folder(path)?
    } else if ["yaml", "yml"].contains(&extension) {
        of_configuration(path)?
    } else {
        let file = File::open(path).map_err(unreadable)?;
        match QuerySession::fact_of_file(&file, path, HASH_ALGORITHM_KEY)? {
            Some(theirs) => check_algorithm(path, ours, Some(&theirs))?,
            None => tracing::warn!(
                path = %path.display(),
                "the file does not say of which algorithm its hashes are: taken to be that of this dataset"
            ),
        }
        let columns = session.register_file("other", file, path, &OTHER_COLUMNS)?;
        register_other(session, &columns).await?;
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        return Ok(metadata.len() ^ changed.unwrap_or_default().as_nanos() as u64);
    };
    if same_folder(&other.layout, &dataset.layout) {
        return Err(ToolError::Failed(format!("`{}` is this dataset itself", path.display())).into());
    }
    check_algorithm(path, ours, other.open_reader()?.view()?.hash_algorithm()?.map(HashAlgorithm::as_str))?;
    let images = other.query_session()?;
    session.register_table_of("other", &images, "images").await?;
    register_other(session, &OTHER_COLUMNS.map(str::to_owned)).await?;
    Ok(images.images_fingerprint())
}

/// Refuses hashes of another algorithm. Where nothing is hashed yet there is none.
fn check_algorithm(path: &Path, ours: Option<HashAlgorithm>, theirs: Option<&str>) -> Result<(), ToolError> {
    match ours.map(HashAlgorithm::as_str).zip(theirs) {
        Some((ours, theirs)) if ours != theirs => Err(ToolError::Failed(format!(
            "the hashes here are of {ours}, those in `{}` of {theirs}: nothing can be found equal",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// With the usual names of folders.
fn of_folder(path: &Path) -> Result<Dataset, PipelineError> {
    let mut dataset = Dataset::new(config::parse("other dataset", "path_to_output_folder: other")?)?;
    dataset.layout = DatasetLayout::new(path, dataset.resolved.section(&["output_structure"], &[])?);
    Ok(dataset)
}

/// Where it says, seen from the file.
fn of_configuration(path: &Path) -> Result<Dataset, PipelineError> {
    let mut dataset =
        Dataset::new(config::load(&Chain { files: vec![path.to_owned()], ..Chain::default() })?)?;
    let root = path.parent().unwrap_or_else(|| Path::new("")).join(dataset.layout.root());
    dataset.layout = DatasetLayout::new(root, dataset.resolved.section(&["output_structure"], &[])?);
    Ok(dataset)
}

fn same_folder(one: &DatasetLayout, other: &DatasetLayout) -> bool {
    let real = |layout: &DatasetLayout| layout.root().canonicalize().ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}
