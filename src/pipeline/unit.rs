//! `ddl unit`: work units for other workflow engines.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::download::{Share, budgets_of, download_settings, download_share};
use super::ingest::now_ms;
use super::{Dataset, DownloadEnding, PipelineError};
use crate::cluster::Cluster;
use crate::config::{self, Chain, Origin, Resolved, contact_of};
use crate::dispatch::{PublishedStatus, RunEnding, RunReport};
use crate::imaging::ImagingOptions;
use crate::model::{ImageEncoding, ServerName};
use crate::runtime::Shutdown;
use crate::storage::StorageOptions;
use crate::units::{
    ExportOptions, ImportReport, Method, ResultHeader, UnitError, UnitExport, UnitFile, UnitSettings,
    export_units, import_result, is_work_of, pack, unpack,
};

/// What to export, and where to.
#[derive(Clone, Debug)]
pub struct UnitRequest {
    pub folder: PathBuf,
    pub groups: u32,
    /// Empty: all.
    pub servers: Vec<ServerName>,
}

/// Writes work units of what is pending, and leases their partitions. The texts are the keys of the configuration that were
/// left out of the units because they may hold a secret.
///
/// # Errors
/// As [`export_units`], and when the configuration has no contact or the catalog cannot be opened.
pub fn export_unit_files(
    dataset: &Dataset,
    request: &UnitRequest,
) -> Result<(UnitExport, Vec<String>), PipelineError> {
    // As before a download: else every unit would fail.
    contact_of(&dataset.settings)?;
    let settings = download_settings(dataset, 1)?;
    settings.fetch.validate()?;
    let catalog = dataset.open_writer()?;
    catalog.pin_hash_algorithm(settings.imaging.hash_algorithm)?;
    let resolved = &dataset.resolved;
    let options = ExportOptions {
        groups: request.groups,
        method: resolved.read::<Method>("unit_parameters.method")?,
        lease: resolved.read::<Duration>("unit_parameters.lease")?,
        host_column: resolved.read::<bool>("unit_parameters.host_column")?,
        servers: request.servers.clone(),
    };
    let (yaml, needs) = config::to_yaml_for_units(resolved);
    let unit_settings = UnitSettings {
        yaml,
        needs: needs.into_iter().map(str::to_owned).collect(),
        profiles: read_table(&dataset.layout.profiles_table())?,
        ignored: read_table(&dataset.layout.ignored_table())?,
    };
    let run = dataset.run_row("units", 0);
    let budget_of = budgets_of(settings);
    let folder = &request.folder;
    let export = export_units(&catalog, &dataset.layout, &options, &unit_settings, &budget_of, run, folder)?;
    Ok((export, unit_settings.needs))
}

fn read_table(path: &Path) -> Result<Option<String>, PipelineError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PipelineError::Io { action: format!("read `{}`", path.display()), source }),
    }
}

/// The dataset in which a unit is worked on: the unit's settings under those of `chain`, in the folder `work`.
///
/// # Errors
/// `Needs` when a setting is missing that was left out of the unit; or when the configuration is wrong.
pub fn unit_dataset(unit: &UnitFile, mut chain: Chain, work: &Path) -> Result<Dataset, PipelineError> {
    chain.overrides.flag("--work", "path_to_output_folder", work.display().to_string());
    let name = format!("settings of {}", unit.path().display());
    let resolved = config::load_over(&name, &unit.header.settings.yaml, &chain)?;
    for key in &unit.header.settings.needs {
        if !is_set(&resolved, key) {
            let variable = format!("DDL_{}", key.to_ascii_uppercase().replace('.', "__"));
            return Err(UnitError::Needs { key: key.clone(), variable }.into());
        }
    }
    Dataset::new(resolved)
}

fn is_set(resolved: &Resolved, key: &str) -> bool {
    resolved.origin(key).is_none_or(|origin| *origin != Origin::Default)
}

/// How a unit's run ended.
#[derive(Debug)]
pub enum UnitRun {
    /// The result stands.
    Done(Box<ResultHeader>),
    /// Stopped, or some partitions could not be worked on. The work folder stays.
    Stopped(Box<RunReport>),
    /// A second Ctrl-C.
    Forced,
}

/// Downloads a unit in `dataset` ([`unit_dataset`]), and writes its result, whole or not at all. The work folder then goes.
///
/// # Errors
/// `Expired` when the unit's lease is over; else as a download.
pub fn run_unit<O>(
    unit: &UnitFile,
    dataset: &Dataset,
    result: &Path,
    cluster: Cluster,
    shutdown: &Shutdown,
    make_observer: impl FnOnce(u32) -> O,
) -> Result<UnitRun, PipelineError>
where
    O: FnMut(&PublishedStatus) + Send,
{
    let expired = || PipelineError::from(UnitError::Expired { path: unit.path().to_owned() });
    let left = unit.header.expires_at.checked_sub(now_ms()).filter(|left| *left > 0).ok_or_else(expired)?;
    contact_of(&dataset.settings)?;
    unpack(unit, &dataset.layout, || match dataset.create() {
        Ok(catalog) => Ok(catalog),
        Err(PipelineError::Catalog(error)) => Err(error.into()),
        Err(PipelineError::Storage(error)) => Err(error.into()),
        Err(error) => {
            Err(UnitError::Work { folder: dataset.layout.root().to_owned(), detail: error.to_string() })
        }
    })?;
    let budgets: HashMap<_, _> =
        unit.header.budgets.iter().map(|(name, budget)| (ServerName::from_catalog(name), *budget)).collect();
    let share = Share { num_downloads: unit.header.num_units, budgets, ends_in: Duration::from_millis(left) };
    let (ending, _) = download_share(dataset, Some(share), cluster, shutdown, make_observer)?;
    let report = match ending {
        DownloadEnding::Coordinated(report) => report,
        DownloadEnding::Worked | DownloadEnding::Forced => return Ok(UnitRun::Forced),
    };
    if report.ending != RunEnding::Done {
        return if now_ms() >= unit.header.expires_at {
            Err(expired())
        } else {
            Ok(UnitRun::Stopped(report))
        };
    }
    let reader = dataset.open_reader()?;
    let header = pack(&unit.header, &dataset.layout, &reader.view()?, result, now_ms())?;
    drop(reader);
    remove_work(unit, dataset.layout.root());
    Ok(UnitRun::Done(Box::new(header)))
}

/// Removes the work folder of a unit whose result stands, if it is there.
pub fn remove_work(unit: &UnitFile, work: &Path) {
    if !is_work_of(unit, work) {
        return;
    }
    if let Err(error) = fs::remove_dir_all(work) {
        tracing::warn!(folder = %work.display(), %error, "the work folder cannot be removed");
    }
}

/// Commits results of units, one after the other; `late` takes also what comes after its lease, where nobody else has
/// taken the partition. `each` is told what became of each.
///
/// # Errors
/// When the catalog or the disk fails. A result that is none is told to `each`, and the others are still taken.
pub fn import_unit_results(
    dataset: &Dataset,
    results: &[PathBuf],
    late: bool,
    mut each: impl FnMut(&Path, Result<ImportReport, UnitError>),
) -> Result<(), PipelineError> {
    let imaging: ImagingOptions = dataset.resolved.section(&["", "downloader_parameters"], &[])?;
    let options = StorageOptions {
        hash_algorithm: imaging.hash_algorithm,
        raw_pixels: imaging.image_encoding == ImageEncoding::Raw,
    };
    let catalog = dataset.open_writer()?;
    for path in results {
        match import_result(&catalog, &dataset.layout, options, path, now_ms(), late) {
            Err(error @ (UnitError::Catalog(_) | UnitError::Storage(_))) => return Err(error.into()),
            imported => each(path, imported),
        }
    }
    Ok(())
}
