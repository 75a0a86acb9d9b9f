//! Another dataset, for `dedup_against` to compare with.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Dataset, PipelineError};
use crate::catalog::Catalog;
use crate::config::{self, Chain};
use crate::query::QuerySession;
use crate::storage::DatasetLayout;
use crate::tools::{OTHER_COLUMNS, ToolError, register_other};

/// Registers the images of what is at `path` (a dataset's folder, its configuration, or an exported manifest) with the
/// session of `dataset`. Returns a number that is another when they are others.
pub(super) async fn open(
    path: &Path,
    dataset: &Dataset,
    catalog: &Catalog,
    session: &QuerySession,
) -> Result<u64, PipelineError> {
    let metadata = fs::metadata(path)
        .map_err(|source| PipelineError::Io { action: format!("read `{}`", path.display()), source })?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let other = if metadata.is_dir() {
        of_folder(path)?
    } else if ["yaml", "yml"].contains(&extension) {
        of_configuration(path)?
    } else {
        let columns = session.register_file("other", path, &OTHER_COLUMNS)?;
        register_other(session, &columns).await?;
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        return Ok(metadata.len() ^ changed.unwrap_or_default().as_nanos() as u64);
    };
    let refused = |why: String| PipelineError::from(ToolError::Failed(why));
    if same_folder(&other.layout, &dataset.layout) {
        return Err(refused(format!("`{}` is this dataset itself", path.display())));
    }
    let theirs = other.open_reader()?.view()?.hash_algorithm()?;
    if let Some((ours, theirs)) =
        catalog.view()?.hash_algorithm()?.zip(theirs).filter(|(ours, theirs)| ours != theirs)
    {
        return Err(refused(format!(
            "the hashes here are of {}, those in `{}` of {}: nothing can be found equal",
            ours.as_str(),
            path.display(),
            theirs.as_str()
        )));
    }
    let images = other.query_session()?;
    session.register_table_of("other", &images, "images").await?;
    register_other(session, &OTHER_COLUMNS.map(str::to_owned)).await?;
    Ok(images.images_fingerprint())
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
