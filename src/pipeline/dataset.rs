//! A dataset as the configuration names it.

use std::path::PathBuf;
use std::time::Duration;

use super::PipelineError;
use crate::catalog::{
    Catalog, CatalogError, CatalogOptions, CatalogReader, LockHolder, live_holder, lock_holder,
};
use crate::config::{ConfigError, Resolved, Settings};
use crate::query::{QueryOptions, QuerySession};
use crate::slurm::JobEnvironment;
use crate::storage::{DatasetLayout, create_folder, sync_folder};

/// Configuration, paths, and the ways to open the catalog.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub resolved: Resolved,
    pub settings: Settings,
    pub layout: DatasetLayout,
}

impl Dataset {
    /// # Errors
    /// When the configuration names no output folder.
    pub fn new(resolved: Resolved) -> Result<Self, PipelineError> {
        let settings = Settings::of(&resolved)?;
        let root: PathBuf = match settings.output_folder() {
            Err(ConfigError::Unset { .. }) if !resolved.has_file() => return Err(ConfigError::NoFile.into()),
            root => root?.clone(),
        };
        let layout = DatasetLayout::new(root, resolved.section(&["output_structure"], &[])?);
        Ok(Self { resolved, settings, layout })
    }

    /// Opens the catalog for reading, beside a writer or alone. After a kill it is first opened for writing
    /// for a moment, which repairs it.
    ///
    /// # Errors
    /// As [`CatalogReader::open`]; `InUse` instead of `HeldElsewhere` where the lock file names the holder.
    pub fn open_reader(&self) -> Result<CatalogReader, PipelineError> {
        let path = self.layout.catalog();
        let options = self.catalog_options()?;
        let opened = match CatalogReader::open(&path, &options) {
            Err(CatalogError::NeedsRepair { .. }) => {
                drop(self.open_writer()?);
                CatalogReader::open(&path, &options)
            }
            opened => opened,
        };
        opened.map_err(|error| self.name_holder(error))
    }

    /// Opens the catalog for writing; only one process can.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub fn open_writer(&self) -> Result<Catalog, PipelineError> {
        Catalog::open(&self.layout.catalog(), &self.catalog_options()?)
            .map_err(|error| self.name_holder(error))
    }

    /// Opens the catalog for writing, or makes an empty one.
    ///
    /// # Errors
    /// As [`Catalog::create`].
    pub fn create(&self) -> Result<Catalog, PipelineError> {
        let root = self.layout.root();
        create_folder(root)?;
        let path = self.layout.catalog();
        let catalog =
            Catalog::create(&path, &self.catalog_options()?).map_err(|error| self.name_holder(error))?;
        sync_folder(&path)?;
        Ok(catalog)
    }

    /// Who is at work on it now, going by the lock file.
    ///
    /// # Errors
    /// When the configuration's `lock_timeout` is no duration.
    pub fn in_use_by(&self) -> Result<Option<LockHolder>, PipelineError> {
        Ok(live_holder(&self.layout.catalog(), self.catalog_options()?.lock_timeout))
    }

    /// Opens the dataset as it is now for SQL.
    ///
    /// # Errors
    /// As [`Dataset::open_reader`] and [`QuerySession::open`].
    pub fn query_session(&self) -> Result<QuerySession, PipelineError> {
        let options: QueryOptions = self.resolved.section(&["query_parameters"], &[])?;
        let view = self.open_reader()?.view()?;
        Ok(QuerySession::open(&self.layout, view, &options)?)
    }

    fn catalog_options(&self) -> Result<CatalogOptions, PipelineError> {
        Ok(CatalogOptions {
            lock_timeout: self.resolved.read::<Duration>("catalog_parameters.lock_timeout")?,
            job: JobEnvironment::read().job_id,
            ..CatalogOptions::default()
        })
    }

    fn name_holder(&self, error: CatalogError) -> PipelineError {
        match error {
            CatalogError::HeldElsewhere { path } => match lock_holder(&path) {
                Some(holder) => CatalogError::InUse { path, holder: Box::new(holder) }.into(),
                None => CatalogError::HeldElsewhere { path }.into(),
            },
            error => error.into(),
        }
    }
}
