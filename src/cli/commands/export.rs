use super::super::args::{
    CroissantChoice, CroissantVersionChoice, DescriptionArgs, ExportCommand, GlobalArgs, MetadataChoice,
    NamingArgs, NamingChoice, SelectionArgs,
};
use super::super::{Exit, format};
use super::query::{over_fresh_views, runtime};
use crate::export::{
    CleanOptions, CroissantLevel, CroissantOptions, CroissantVersion, ExportError, FolderReport,
    ImagefolderOptions, ManifestOptions, ManifestReport, MetadataFormat, NamingMode, NamingOptions,
    ParquetOptions, Removals, SelectionOptions, SubsetOptions, WebdatasetOptions, export_croissant,
    export_imagefolder, export_manifest, export_parquet, export_webdataset,
};
use crate::pipeline::{Dataset, tool_name};
use crate::query::QuerySession;
use crate::tools::Registry;

pub(super) fn run(global: &GlobalArgs, command: &ExportCommand, tools: &Registry) -> anyhow::Result<Exit> {
    let selection = match command {
        ExportCommand::Manifest { selection, .. }
        | ExportCommand::Webdataset { selection, .. }
        | ExportCommand::Imagefolder { selection, .. }
        | ExportCommand::Parquet { selection, .. } => Some(selection),
        ExportCommand::Croissant { .. } => None,
    };
    let from = selection.and_then(|selection| selection.from.as_deref());
    let dataset = super::dataset(global, global.overrides())?.with_images_from(from);
    super::start_logging(global, &dataset, None);
    let selection =
        selection.map(|args| selection_of(&dataset, args, tools)).transpose()?.unwrap_or_default();
    let clean = selection.clean.tools.clone();
    let text = match command {
        ExportCommand::Manifest { output, portable, attribution, derived_dataset, .. } => {
            let options = ManifestOptions {
                output: output.clone(),
                selection,
                portable: *portable,
                attribution: attribution.clone(),
                derived_dataset: derived_dataset.clone(),
            };
            let report = manifest(&dataset, &options)?;
            let images = format::count(report.file.num_rows);
            let mut text = format!("{images} images in {}", output.display());
            for (tool, parameters) in report.tools.iter().filter(|(_, parameters)| !parameters.is_empty()) {
                let parameters: Vec<_> = parameters.lines().collect();
                text += &format!("\n{tool} was run with {}", parameters.join(", "));
            }
            text + &removed(&report.removals, &clean)
        }
        ExportCommand::Webdataset {
            output,
            naming,
            name,
            max_shard_images,
            max_shard_bytes,
            columns,
            text,
            shuffle,
            description,
            ..
        } => {
            let options = WebdatasetOptions {
                output: output.clone(),
                selection,
                name: name.clone(),
                naming: naming_of(naming),
                max_shard_images: *max_shard_images,
                max_shard_bytes: *max_shard_bytes,
                columns: columns.clone(),
                text_columns: text.clone(),
                shuffle: *shuffle,
                croissant: croissant_of(description),
            };
            let report = in_session(&dataset, async |session| export_webdataset(session, &options).await)?;
            written(&report, "shards") + &removed(&report.removals, &clean)
        }
        ExportCommand::Imagefolder {
            output,
            naming,
            metadata,
            columns,
            sync_every,
            create_tar,
            compress_tar,
            description,
            ..
        } => {
            let options = ImagefolderOptions {
                output: output.clone(),
                selection,
                naming: naming_of(naming),
                metadata: match metadata {
                    None => MetadataFormat::default(),
                    Some(MetadataChoice::Csv) => MetadataFormat::Csv,
                    Some(MetadataChoice::Jsonl) => MetadataFormat::Jsonl,
                    Some(MetadataChoice::Parquet) => MetadataFormat::Parquet,
                },
                columns: columns.clone(),
                sync_every: *sync_every,
                create_tar: *create_tar || *compress_tar,
                compress_tar: *compress_tar,
                croissant: croissant_of(description),
            };
            let report = in_session(&dataset, async |session| export_imagefolder(session, &options).await)?;
            written(&report, "files") + &removed(&report.removals, &clean)
        }
        ExportCommand::Parquet {
            output,
            naming,
            columns,
            max_file_bytes,
            validation,
            test,
            description,
            ..
        } => {
            let options = ParquetOptions {
                output: output.clone(),
                selection,
                naming: naming_of(naming),
                columns: columns.clone(),
                max_file_bytes: *max_file_bytes,
                validation: *validation,
                test: *test,
                croissant: croissant_of(description),
            };
            let report = in_session(&dataset, async |session| export_parquet(session, &options).await)?;
            written(&report, "files") + &removed(&report.removals, &clean)
        }
        ExportCommand::Croissant { output, description } => {
            let output = output.clone().unwrap_or_else(|| dataset.layout.root().join("croissant.json"));
            let options = croissant_of(description);
            in_session(&dataset, async |session| export_croissant(session, &output, &options).await)?;
            format!("the dataset is described in {}", output.display())
        }
    };
    if !global.quiet {
        talk!("{text}");
    }
    Ok(Exit::Done)
}

/// By names or files of tools, also of those that only the catalog still knows.
pub(super) fn clean_options(
    dataset: &Dataset,
    tools: &Registry,
    names: &[String],
    allow_stale: bool,
) -> anyhow::Result<CleanOptions> {
    let tools = names.iter().map(|name| tool_name(dataset, tools, name));
    Ok(CleanOptions { tools: tools.collect::<Result<_, _>>()?, allow_stale })
}

fn croissant_of(args: &DescriptionArgs) -> CroissantOptions {
    CroissantOptions {
        croissant: match args.croissant {
            None => CroissantLevel::default(),
            Some(CroissantChoice::No) => CroissantLevel::NoCroissant,
            Some(CroissantChoice::Basic) => CroissantLevel::BasicCroissant,
            Some(CroissantChoice::Comprehensive) => CroissantLevel::ComprehensiveCroissant,
        },
        croissant_version: match args.croissant_version {
            None => CroissantVersion::default(),
            Some(CroissantVersionChoice::V1_0) => CroissantVersion::V1_0,
            Some(CroissantVersionChoice::V1_1) => CroissantVersion::V1_1,
        },
        dataset_name: args.dataset_name.clone(),
        dataset_description: args.dataset_description.clone(),
        dataset_license: args.dataset_license.clone(),
        dataset_creator: args.dataset_creator.clone(),
        dataset_url: args.dataset_url.clone(),
        dataset_version: args.dataset_version.clone(),
        dataset_citation: args.dataset_citation.clone(),
        dataset_keywords: args.dataset_keywords.clone(),
    }
}

fn selection_of(
    dataset: &Dataset,
    args: &SelectionArgs,
    tools: &Registry,
) -> anyhow::Result<SelectionOptions> {
    Ok(SelectionOptions {
        where_sql: args.condition.clone(),
        clean: clean_options(dataset, tools, &args.clean, args.allow_stale)?,
        subset: SubsetOptions { max_per: args.max_per.clone(), sample: args.sample, seed: args.seed },
    })
}

fn naming_of(args: &NamingArgs) -> NamingOptions {
    let naming_mode = match args.naming_mode {
        None => NamingMode::default(),
        Some(NamingChoice::Sequential) => NamingMode::Sequential,
        Some(NamingChoice::UrlBased) => NamingMode::UrlBased,
        Some(NamingChoice::Uuid) => NamingMode::Uuid,
    };
    NamingOptions { naming_mode, file_name_pattern: args.file_name_pattern.clone() }
}

/// What was written into a folder; `files` is what has the images.
pub(super) fn written(report: &FolderReport, files: &str) -> String {
    let mut text = format!(
        "{} images in {} {files} in {}",
        format::count(report.num_images),
        format::count(report.num_files),
        report.path.display()
    );
    if report.num_resumed > 0 {
        text += &format!("\n{} were there already", format::count(report.num_resumed));
    }
    if report.num_names_met > 0 {
        text += &format!(
            "\n{} names would have been those of several images: all of these have a hash in theirs",
            format::count(report.num_names_met)
        );
    }
    if report.num_labels_met > 0 {
        text += &format!(
            "\n{} labels would have shared a folder, or were too long: theirs have a hash, labels.csv has both",
            format::count(report.num_labels_met)
        );
    }
    text
}

fn removed(removals: &Removals, clean: &[String]) -> String {
    if clean.is_empty() {
        return String::new();
    }
    let mut text =
        format!("\n{} of {} removed", format::count(removals.removed), format::count(removals.images));
    let by_tool = clean.iter().map(|tool| format!("{tool} {}", format::count(removals.of(tool))));
    text += &format!(": {}", by_tool.collect::<Vec<_>>().join(", "));
    for by in removals.by_tools.iter().filter(|by| by.tools.len() > 1) {
        text += &format!("; by {} alike {}", by.tools.join(" and "), format::count(by.images));
    }
    text
}

pub(super) fn manifest(dataset: &Dataset, options: &ManifestOptions) -> anyhow::Result<ManifestReport> {
    let exported =
        over_fresh_views(dataset, async |session| Ok(export_manifest(session, options).await?), || true);
    Ok(runtime()?.block_on(exported)?)
}

pub(super) fn in_session<T>(
    dataset: &Dataset,
    export: impl AsyncFn(&QuerySession) -> Result<T, ExportError>,
) -> anyhow::Result<T> {
    let exported = over_fresh_views(dataset, async |session| Ok(export(session).await?), || true);
    Ok(runtime()?.block_on(exported)?)
}
