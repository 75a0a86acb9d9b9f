//! `ddl run CONFIG`: what FLOW-DC's `download_batch --config CONFIG` does, from the list to the folder of images.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;

use super::super::args::{GlobalArgs, RunArgs};
use super::super::{Exit, print_line};
use super::export::{in_session, written};
use super::{download, ingest, list_text};
use crate::cluster::{ClusterOptions, launch};
use crate::config::{Chain, ConfigError, DEFAULT_FILE, Environment, Notice, Resolved, contact_of, load};
use crate::dispatch::RunEnding;
use crate::export::{
    CroissantLevel, CroissantOptions, FolderReport, ImagefolderOptions, NamingOptions, ParquetOptions,
    WebdatasetOptions, export_imagefolder, export_parquet, export_webdataset,
};
use crate::pipeline::{Dataset, DownloadEnding, PipelineError};
use crate::storage::write_atomically;

/// What is exported: the keys of `export_parameters`, but for those of names.
#[derive(Debug, Deserialize)]
struct ExportParameters {
    output: Option<PathBuf>,
    output_format: OutputFormat,
    create_tar: bool,
    compress_tar: bool,
    create_overview: bool,
    croissant: String,
    dataset_name: Option<String>,
    dataset_description: Option<String>,
    dataset_license: Option<String>,
    dataset_creator: Option<String>,
    dataset_url: Option<String>,
    dataset_version: Option<String>,
    dataset_citation: Option<String>,
    /// Each may be several, with commas between.
    dataset_keywords: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutputFormat {
    Imagefolder,
    Webdataset,
    Parquet,
}

pub(super) fn run(global: &GlobalArgs, args: &RunArgs) -> anyhow::Result<Exit> {
    let cluster = launch(&ClusterOptions::default()).map_err(PipelineError::from)?;
    if cluster.endpoint.size > 1 {
        if cluster.endpoint.rank == 0 {
            let config = args.file.display();
            talk!("error: `ddl run` is one process");
            talk!("hint: with ranks, `ddl -c {config} ingest`, then `mpirun ... ddl -c {config} download`");
        }
        return Ok(super::ranks::leave(cluster.membership.finish(false), Exit::Usage));
    }
    let resolved = resolve(global, &args.file)?;
    if let Some(exit) = refuse_split(&resolved) {
        return Ok(exit);
    }
    let parameters: ExportParameters =
        resolved.section(&["export_parameters"], &[]).map_err(PipelineError::from)?;
    let mut naming: NamingOptions =
        resolved.section(&["export_parameters"], &[]).map_err(PipelineError::from)?;
    if naming.file_name_pattern.is_empty() {
        naming.file_name_pattern = NamingOptions::default().file_name_pattern;
    }
    let output = parameters.output.clone().ok_or(ConfigError::Unset { key: "export_parameters.output" });
    let output = output.map_err(PipelineError::from)?;
    let dataset = Dataset::new(resolved)?;
    // Before anything is read: nothing could be downloaded without.
    contact_of(&dataset.settings).map_err(PipelineError::from)?;
    super::start_logging(global, &dataset, Some("run".into()));

    let Some(report) = ingest::shown(global, &dataset)? else { return Ok(Exit::Resumable) };
    if !global.quiet {
        talk!("{}", list_text::summary(&report).trim_end());
    }
    let started = Instant::now();
    let (ending, _) = download::shown(global, &dataset, cluster)?;
    let report = match ending {
        DownloadEnding::Coordinated(report) => report,
        DownloadEnding::Worked => return Ok(Exit::Done),
        DownloadEnding::Forced => return Ok(Exit::Interrupted),
    };
    if !global.quiet {
        talk!("{}", download::summary(&report, &download::causes(&dataset, &report)).trim_end());
    }
    match report.ending {
        RunEnding::Done => {}
        RunEnding::Stopped => return Ok(Exit::Resumable),
        RunEnding::Incomplete => return Ok(Exit::Error),
    }
    // These two lines are what FLOW-DC's manager reads.
    print_line(format!("Download time: {:.2}s", started.elapsed().as_secs_f64()))?;
    let started = Instant::now();
    let exported = export(&dataset, &output, &parameters, naming)?;
    if parameters.create_overview {
        copy_overview(&output)?;
    }
    print_line(format!("Tar creation time: {:.2}s", started.elapsed().as_secs_f64()))?;
    if !global.quiet {
        let files =
            if matches!(parameters.output_format, OutputFormat::Webdataset) { "shards" } else { "files" };
        talk!("{}", written(&exported, files));
    }
    Ok(if args.strict && report.counts.failed > 0 { Exit::Failures } else { Exit::Done })
}

/// The file, on top of what `-c` names or, without that, a `ddl.yaml` in the working folder.
fn resolve(global: &GlobalArgs, config: &Path) -> Result<Resolved, PipelineError> {
    let mut files = global.config.clone();
    if files.is_empty() && Path::new(DEFAULT_FILE).exists() {
        files.push(DEFAULT_FILE.into());
    }
    files.push(config.to_owned());
    let chain = Chain { files, environment: Environment::of_process(), overrides: global.overrides() };
    Ok(load(&chain)?)
}

/// FLOW-DC's SplitParquet has files of the same kind, and downloads nothing.
fn refuse_split(resolved: &Resolved) -> Option<Exit> {
    let is_groups = |notice: &Notice| matches!(notice, Notice::Unused { key, .. } if key == "groups");
    resolved.notices().iter().any(is_groups).then(|| {
        talk!("error: this is a configuration of SplitParquet, which cuts a list and downloads nothing");
        talk!("hint: ddl needs no such pieces: `ddl ingest` cuts the list by server, and ranks share what is left");
        Exit::Error
    })
}

/// Writes the folder, and its archive.
fn export(
    dataset: &Dataset,
    output: &Path,
    parameters: &ExportParameters,
    naming: NamingOptions,
) -> anyhow::Result<FolderReport> {
    let (output, croissant) = (output.to_owned(), parameters.description());
    match parameters.output_format {
        OutputFormat::Imagefolder => {
            let options = ImagefolderOptions {
                output,
                naming,
                create_tar: parameters.create_tar,
                compress_tar: parameters.create_tar && parameters.compress_tar,
                croissant,
                ..ImagefolderOptions::default()
            };
            in_session(dataset, async |session| export_imagefolder(session, &options).await)
        }
        OutputFormat::Webdataset => {
            let options = WebdatasetOptions { output, naming, croissant, ..WebdatasetOptions::default() };
            in_session(dataset, async |session| export_webdataset(session, &options).await)
        }
        OutputFormat::Parquet => {
            let options = ParquetOptions { output, naming, croissant, ..ParquetOptions::default() };
            in_session(dataset, async |session| export_parquet(session, &options).await)
        }
    }
}

impl ExportParameters {
    fn description(&self) -> CroissantOptions {
        let keywords = self.dataset_keywords.iter().flat_map(|words| words.split(','));
        let keywords = keywords.map(str::trim).filter(|word| !word.is_empty());
        let defaults = CroissantOptions::default();
        CroissantOptions {
            // The words that the table of keys admits.
            croissant: match self.croissant.as_str() {
                "basic_croissant" => CroissantLevel::BasicCroissant,
                "comprehensive_croissant" => CroissantLevel::ComprehensiveCroissant,
                _ => CroissantLevel::NoCroissant,
            },
            dataset_name: self.dataset_name.clone(),
            dataset_description: self.dataset_description.clone(),
            dataset_license: self.dataset_license.clone(),
            dataset_creator: self.dataset_creator.clone(),
            dataset_url: self.dataset_url.clone(),
            dataset_version: self.dataset_version.clone().unwrap_or(defaults.dataset_version),
            dataset_citation: self.dataset_citation.clone(),
            dataset_keywords: keywords.map(str::to_owned).collect(),
            croissant_version: defaults.croissant_version,
        }
    }
}

/// FLOW-DC has the overview beside the folder as well.
fn copy_overview(output: &Path) -> Result<(), PipelineError> {
    let io = |action: &str, path: &Path| {
        let action = format!("{action} `{}`", path.display());
        move |source| PipelineError::Io { action, source }
    };
    let inside = output.join("overview.json");
    let bytes = std::fs::read(&inside).map_err(io("read", &inside))?;
    let mut beside = output.as_os_str().to_owned();
    beside.push("_overview.json");
    Ok(write_atomically(Path::new(&beside), &bytes)?)
}
