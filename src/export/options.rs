//! What the user may set about exports, and what an export did.
//!
//! Names that FLOW-DC has (`naming_mode`, `file_name_pattern`, `create_tar`, `compress_tar`) mean what they mean there.

use std::path::PathBuf;

use serde::Serialize;

use super::clean::Removals;
use super::croissant::CroissantOptions;
use super::journal::Journal;
use super::names::NamingOptions;
use super::select::SelectionOptions;
use super::target::ExportReport;
use crate::query::OutputFormat;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ManifestOptions {
    /// The file to write. Its name ends in `.parquet`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.ndjson`; text may also be
    /// compressed (`.csv.gz`).
    pub output: PathBuf,
    pub selection: SelectionOptions,
    /// Leaves out what depends on the order of the list and of the downloads (`partition_id`, `record`, `file`, `row`),
    /// and orders the rows of a partition by `uuid`.
    pub portable: bool,
    /// A CSV file to write beside: images by licence and rights holder.
    pub attribution: Option<PathBuf>,
    /// A CSV file to write beside: images by `datasetKey`, for GBIF.
    pub derived_dataset: Option<PathBuf>,
}

/// What an export of a manifest did.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestReport {
    pub file: ExportReport,
    pub removals: Removals,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AnswerOptions {
    /// The file to write.
    pub output: PathBuf,
    /// Told by the file's name, if none is given.
    pub format: Option<OutputFormat>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WebdatasetOptions {
    /// The folder to write: new, empty, or begun by the same export.
    #[serde(skip)]
    pub output: PathBuf,
    pub selection: SelectionOptions,
    /// Shards are `NAME-000000.tar`; the name of the folder, if none is given.
    pub name: Option<String>,
    #[serde(flatten)]
    pub naming: NamingOptions,
    /// Images of a shard at most.
    pub max_shard_images: u64,
    /// Bytes of a shard at most, unless one image alone has more. Readers recommend about 1 GB.
    pub max_shard_bytes: u64,
    /// Columns of the images or the list that `.json` has beside the usual ones.
    pub columns: Vec<String>,
    /// Columns that are members of their own: `.txt`, or `.COLUMN.txt` if there are several.
    pub text_columns: Vec<String>,
    /// A seed, to have the images in another order.
    pub shuffle: Option<u64>,
    #[serde(skip)]
    pub croissant: CroissantOptions,
}

impl Default for WebdatasetOptions {
    fn default() -> Self {
        Self {
            output: PathBuf::new(),
            selection: SelectionOptions::default(),
            name: None,
            naming: NamingOptions::default(),
            max_shard_images: 10_000,
            max_shard_bytes: 1_000_000_000,
            columns: Vec::new(),
            text_columns: Vec::new(),
            shuffle: None,
            croissant: CroissantOptions::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImagefolderOptions {
    /// The folder to write: new, empty, or begun by the same export.
    #[serde(skip)]
    pub output: PathBuf,
    pub selection: SelectionOptions,
    #[serde(flatten)]
    pub naming: NamingOptions,
    /// What the table of images is written as.
    pub metadata: MetadataFormat,
    /// Columns of the images or the list that it has beside the usual ones.
    pub columns: Vec<String>,
    /// Images after which what was written is made durable: after a kill no more than these are written again, and a sync
    /// of the file system takes as long as some hundred files.
    pub sync_every: u64,
    /// Also makes an archive, `OUTPUT.tar`, of the folder.
    pub create_tar: bool,
    /// With `create_tar`: makes `OUTPUT.tar.gz` instead.
    pub compress_tar: bool,
    #[serde(skip)]
    pub croissant: CroissantOptions,
}

impl Default for ImagefolderOptions {
    fn default() -> Self {
        Self {
            output: PathBuf::new(),
            selection: SelectionOptions::default(),
            naming: NamingOptions::default(),
            metadata: MetadataFormat::default(),
            columns: Vec::new(),
            sync_every: 2_000,
            create_tar: false,
            compress_tar: false,
            croissant: CroissantOptions::default(),
        }
    }
}

/// What `metadata` of an ImageFolder is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MetadataFormat {
    #[default]
    Csv,
    Jsonl,
    Parquet,
}

impl MetadataFormat {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParquetOptions {
    /// The folder to write: new, empty, or begun by the same export.
    #[serde(skip)]
    pub output: PathBuf,
    pub selection: SelectionOptions,
    #[serde(flatten)]
    pub naming: NamingOptions,
    /// Columns of the images or the list beside the usual ones.
    pub columns: Vec<String>,
    /// Bytes of images of a file at most, unless one image alone has more. Hugging Face makes files of 500 MB.
    pub max_file_bytes: u64,
    /// Share of the images for validation, by a hash of the uuid: 0 to 1.
    pub validation: f64,
    /// Share of the images for tests.
    pub test: f64,
    #[serde(skip)]
    pub croissant: CroissantOptions,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self {
            output: PathBuf::new(),
            selection: SelectionOptions::default(),
            naming: NamingOptions::default(),
            columns: Vec::new(),
            max_file_bytes: 500_000_000,
            validation: 0.1,
            test: 0.1,
            croissant: CroissantOptions::default(),
        }
    }
}

/// What an export into a folder did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolderReport {
    pub path: PathBuf,
    pub num_images: u64,
    /// Bytes of the images.
    pub image_bytes: u64,
    /// Files with images: shards, or the images themselves.
    pub num_files: u64,
    /// Images that were there already, from an export that was killed.
    pub num_resumed: u64,
    /// Names that several images would have had.
    pub num_names_met: u64,
    /// Labels that have a hash in the names of their folders, since others would have had the same, or they were cut.
    pub num_labels_met: u64,
    pub removals: Removals,
}

impl FolderReport {
    pub(super) fn of(journal: &Journal) -> Self {
        Self {
            path: journal.folder().to_owned(),
            num_images: journal.units.iter().map(|unit| unit.num_images).sum(),
            image_bytes: journal.units.iter().map(|unit| unit.image_bytes).sum(),
            ..Self::default()
        }
    }
}
