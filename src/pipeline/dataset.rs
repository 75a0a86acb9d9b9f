//! A dataset as the configuration names it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PipelineError;
use super::ingest::now_ms;
use crate::catalog::{
    Catalog, CatalogError, CatalogOptions, CatalogReader, LockHolder, RunRow, live_holder, lock_holder,
};
use crate::config::{self, ConfigError, Resolved, Settings};
use crate::query::{QueryOptions, QuerySession, ToolState};
use crate::slurm::JobEnvironment;
use crate::storage::{DatasetLayout, create_folder, sync_folder};

/// Configuration, paths, and the ways to open the catalog.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub resolved: Resolved,
    pub settings: Settings,
    pub layout: DatasetLayout,
    /// The tool whose images are queried; else those that were downloaded.
    images_from: Option<String>,
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
        Ok(Self { resolved, settings, layout, images_from: None })
    }

    /// From now on the images of [`Dataset::query_session`] are those that a tool has made: `resize`, `tools/resize`,
    /// or the path of that folder. A query tells when there are none.
    #[must_use]
    pub fn with_images_from(mut self, from: Option<&Path>) -> Self {
        self.images_from = from.map(|from| self.tool_of(from));
        self
    }

    fn tool_of(&self, from: &Path) -> String {
        let name = from.file_name().unwrap_or_default();
        let folder = self.layout.tools().join(name);
        let in_dataset = folder.strip_prefix(self.layout.root());
        let is_folder =
            || from.canonicalize().is_ok_and(|from| folder.canonicalize().is_ok_and(|own| own == from));
        let is_own = from == Path::new(name) || in_dataset == Ok(from) || is_folder();
        if is_own { name.to_string_lossy().into_owned() } else { from.display().to_string() }
    }

    /// Opens the catalog for reading, beside a writer or alone. After a kill, or of an older format, it is first opened
    /// for writing for a moment, which repairs and upgrades it.
    ///
    /// # Errors
    /// As [`CatalogReader::open`]; `InUse` instead of `HeldElsewhere` where the lock file names the holder.
    pub fn open_reader(&self) -> Result<CatalogReader, PipelineError> {
        let path = self.layout.catalog();
        let options = self.catalog_options()?;
        let opened = match CatalogReader::open(&path, &options) {
            Err(CatalogError::NeedsRepair { .. } | CatalogError::NeedsUpgrade { .. }) => {
                drop(self.open_writer()?);
                CatalogReader::open(&path, &options)
            }
            opened => opened,
        };
        opened.map_err(|error| self.name_holder(error))
    }

    /// Opens the catalog for writing; only one process can. In a job it waits for one that may be dead.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub fn open_writer(&self) -> Result<Catalog, PipelineError> {
        let (path, options) = (self.layout.catalog(), self.catalog_options()?);
        patiently(&options, || Catalog::open(&path, &options)).map_err(|error| self.name_holder(error))
    }

    /// Opens the catalog for writing, or makes an empty one.
    ///
    /// # Errors
    /// As [`Catalog::create`].
    pub fn create(&self) -> Result<Catalog, PipelineError> {
        let root = self.layout.root();
        create_folder(root)?;
        let (path, options) = (self.layout.catalog(), self.catalog_options()?);
        let catalog = patiently(&options, || Catalog::create(&path, &options))
            .map_err(|error| self.name_holder(error))?;
        sync_folder(&path)?;
        Ok(catalog)
    }

    /// A run that begins now, as it will be recorded.
    pub(super) fn run_row(&self, kind: &str, num_ranks: u32) -> RunRow {
        let holder = LockHolder::this_process(JobEnvironment::read().job_id);
        RunRow {
            kind: kind.to_owned(),
            started_at: now_ms(),
            ddl_version: env!("CARGO_PKG_VERSION").into(),
            num_ranks,
            node: holder.node,
            job: holder.job,
            configuration: config::to_yaml(&self.resolved),
            ..RunRow::default()
        }
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
        let session = QuerySession::open_from(&self.layout, view, &options, self.images_from.as_deref())?;
        if let Some(tool) = &self.images_from {
            match session.tool_state(tool) {
                Some(ToolState { is_current: false, .. }) => tracing::warn!(
                    "the images have changed since `ddl tool {tool}` was run: of some there may be no new ones"
                ),
                Some(ToolState { is_completed: false, .. }) => tracing::warn!(
                    "`ddl tool {tool}` has not been completed: of some images there are no new ones"
                ),
                _ => {}
            }
        }
        Ok(session)
    }

    pub(super) fn catalog_options(&self) -> Result<CatalogOptions, PipelineError> {
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

/// Opens a catalog. In a batch job, one that is in use is tried again for twice `lock_timeout`: the job before may have been
/// killed on another node, where nobody can see that, and all jobs that follow would fail within seconds.
fn patiently<T>(
    options: &CatalogOptions,
    open: impl Fn() -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    let start = Instant::now();
    let may_wait = || options.job.is_some() && start.elapsed() < options.lock_timeout * 2;
    loop {
        match open() {
            Err(error @ (CatalogError::InUse { .. } | CatalogError::HeldElsewhere { .. })) if may_wait() => {
                tracing::warn!(%error, "waiting: whoever holds it may have been killed");
                std::thread::sleep(options.lock_timeout / 6);
            }
            opened => return opened,
        }
    }
}
