//! `ddl export`, and which images it takes.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::export::{
    CroissantOptions, ImagefolderOptions, MaxPer, NamingOptions, ParquetOptions, SubsetOptions,
    WebdatasetOptions,
};

/// Which images an export takes.
#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
    /// Only images for which this SQL condition holds
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Leaves out what these tools remove
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    pub clean: Vec<String>,
    /// With --clean and --from: also takes what tools say or have made that have not seen all images
    #[arg(long)]
    pub allow_stale: bool,
    /// Of each label, server or license so many images at most, such as label=500 (repeatable: one after the other)
    #[arg(long, value_name = "COLUMN=N")]
    pub max_per: Vec<MaxPer>,
    /// So many images at most, drawn from all that are left
    #[arg(long, value_name = "N")]
    pub sample: Option<u64>,
    /// With --max-per and --sample: another number draws other images
    #[arg(long, value_name = "S", default_value_t = SubsetOptions::default().seed)]
    pub seed: u64,
    /// The images that a tool has made, such as tools/resize, not the downloaded ones
    #[arg(long, value_name = "TOOL")]
    pub from: Option<PathBuf>,
}

/// How images are named.
#[derive(Debug, clap::Args)]
pub struct NamingArgs {
    /// sequential (00000001, ...; the default), url_based, or uuid
    #[arg(long, value_name = "MODE")]
    pub naming_mode: Option<NamingChoice>,
    /// With url_based: {segment[N]} (from the end, if negative), {segment_first}, {segment_parent}, {segment_last},
    /// {ext}, {key}
    #[arg(long, value_name = "PATTERN", default_value_t = NamingOptions::default().file_name_pattern)]
    pub file_name_pattern: String,
}

/// What a dataset is said to be, in croissant.json and README.md.
#[derive(Debug, clap::Args)]
pub struct DescriptionArgs {
    /// How much croissant.json says: no_croissant, basic_croissant, comprehensive_croissant (the default)
    #[arg(long, value_name = "LEVEL", help_heading = "Description")]
    pub croissant: Option<CroissantChoice>,
    /// Version of Croissant: 1.0 or 1.1 (the default)
    #[arg(long, value_name = "VERSION", help_heading = "Description")]
    pub croissant_version: Option<CroissantVersionChoice>,
    /// Name of the dataset [default: that of the folder]
    #[arg(long, value_name = "TEXT", help_heading = "Description")]
    pub dataset_name: Option<String>,
    /// What it is
    #[arg(long, value_name = "TEXT", help_heading = "Description")]
    pub dataset_description: Option<String>,
    /// Its licence, best as a URL [default: those of the images]
    #[arg(long, value_name = "TEXT", help_heading = "Description")]
    pub dataset_license: Option<String>,
    /// Who made it
    #[arg(long, value_name = "NAME", help_heading = "Description")]
    pub dataset_creator: Option<String>,
    /// Where it is published
    #[arg(long, value_name = "URL", help_heading = "Description")]
    pub dataset_url: Option<String>,
    #[arg(long, value_name = "VERSION", help_heading = "Description",
        help = "Its version", default_value_t = CroissantOptions::default().dataset_version)]
    pub dataset_version: String,
    /// How to cite it, best as BibTeX
    #[arg(long, value_name = "TEXT", help_heading = "Description")]
    pub dataset_citation: Option<String>,
    /// Keywords
    #[arg(long, value_name = "WORD", value_delimiter = ',', help_heading = "Description")]
    pub dataset_keywords: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CroissantChoice {
    #[value(name = "no_croissant")]
    No,
    #[value(name = "basic_croissant")]
    Basic,
    #[value(name = "comprehensive_croissant")]
    Comprehensive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CroissantVersionChoice {
    #[value(name = "1.0")]
    V1_0,
    #[value(name = "1.1")]
    V1_1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetadataChoice {
    Csv,
    Jsonl,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum NamingChoice {
    Sequential,
    UrlBased,
    Uuid,
}

#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// One row per remaining image, without the image: where it is and what is known of it
    #[command(after_help = "\
Examples:
  ddl export manifest -o images.parquet
  ddl export manifest -o cc0.csv --where \"license LIKE '%publicdomain%'\"
  ddl export manifest -o clean.parquet --clean size,verify --attribution attribution.csv
  ddl export manifest -o small.parquet --from tools/resize")]
    Manifest {
        /// File to write: .parquet, .csv, .tsv, .json, .jsonl; text also .gz
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        selection: SelectionArgs,
        /// Without partition_id, record, file and row, in an order of its own: equal images then make equal bytes
        #[arg(long)]
        portable: bool,
        /// Also writes a CSV of licences and rights holders, with the number of images of each
        #[arg(long, value_name = "FILE")]
        attribution: Option<PathBuf>,
        /// Also writes a CSV of GBIF dataset keys, with the number of images of each
        #[arg(long, value_name = "FILE")]
        derived_dataset: Option<PathBuf>,
    },
    /// Tar archives of samples: key.jpg, key.json, key.cls, key.txt
    #[command(after_help = "\
Killed, the same command goes on: shards that are done are not written again.

Examples:
  ddl export webdataset -o shards
  ddl export webdataset -o shards --clean size,dedup --max-per label=500 --shuffle 7
  ddl export webdataset -o shards --text title --columns year,country --max-shard-images 1000")]
    Webdataset {
        /// Folder to write
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        naming: NamingArgs,
        /// Shards are NAME-000000.tar [default: the name of the folder]
        #[arg(long)]
        name: Option<String>,
        /// Images of a shard at most
        #[arg(long, value_name = "N", default_value_t = WebdatasetOptions::default().max_shard_images)]
        max_shard_images: u64,
        /// Bytes of a shard at most
        #[arg(long, value_name = "BYTES", default_value_t = WebdatasetOptions::default().max_shard_bytes)]
        max_shard_bytes: u64,
        /// Further columns, of the images or the list, in key.json
        #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
        columns: Vec<String>,
        /// Columns that are key.txt, or key.COLUMN.txt if there are several
        #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
        text: Vec<String>,
        /// Has the images in another order, that of this seed
        #[arg(long, value_name = "SEED")]
        shuffle: Option<u64>,
        #[command(flatten)]
        description: DescriptionArgs,
    },
    /// A folder for each label, with its images as files, and metadata.csv
    #[command(after_help = "\
Killed, the same command goes on where it was.

Examples:
  ddl export imagefolder -o birds
  ddl export imagefolder -o birds --naming-mode url_based --file-name-pattern '{segment[-2]}'
  ddl export imagefolder -o birds --metadata parquet --columns year,country --compress-tar")]
    Imagefolder {
        /// Folder to write
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        naming: NamingArgs,
        /// What the table of images is: csv (the default), jsonl, parquet
        #[arg(long, value_name = "FORMAT")]
        metadata: Option<MetadataChoice>,
        /// Further columns, of the images or the list, in the table
        #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
        columns: Vec<String>,
        /// Images after which what was written is made durable, and not written again after a kill
        #[arg(long, value_name = "N", default_value_t = ImagefolderOptions::default().sync_every)]
        sync_every: u64,
        /// Also makes DIR.tar of the folder
        #[arg(long)]
        create_tar: bool,
        /// Also makes DIR.tar.gz of the folder
        #[arg(long, conflicts_with = "create_tar")]
        compress_tar: bool,
        #[command(flatten)]
        description: DescriptionArgs,
    },
    /// Parquet files with the images, as Hugging Face has them: train, validation, test
    #[command(after_help = "\
Killed, the same command goes on: files that are done are not written again.

Examples:
  ddl export parquet -o birds
  ddl export parquet -o birds --validation 0 --test 0.2 --columns year --max-per label=500")]
    Parquet {
        /// Folder to write
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        naming: NamingArgs,
        /// Further columns, of the images or the list
        #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
        columns: Vec<String>,
        /// Bytes of images of a file at most
        #[arg(long, value_name = "BYTES", default_value_t = ParquetOptions::default().max_file_bytes)]
        max_file_bytes: u64,
        /// Share of the images for validation, 0 to 1
        #[arg(long, value_name = "SHARE", default_value_t = ParquetOptions::default().validation)]
        validation: f64,
        /// Share of the images for tests, 0 to 1
        #[arg(long, value_name = "SHARE", default_value_t = ParquetOptions::default().test)]
        test: f64,
        #[command(flatten)]
        description: DescriptionArgs,
    },
    /// A description of the dataset itself, as Croissant
    #[command(after_help = "\
Other exports have one of their own beside their files.

Examples:
  ddl export croissant                                            out/croissant.json
  ddl export croissant --dataset-name Birds --dataset-license https://creativecommons.org/licenses/by/4.0/")]
    Croissant {
        /// File to write, in the dataset's folder or above [default: croissant.json in the dataset's folder]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        description: DescriptionArgs,
    },
}
