//! What the user may set about reading lists.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How lists are read and cut into partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestOptions {
    /// Records of one partition at most. distributed-downloader's default.
    pub batch_size: u64,
    /// A line (CSV record, JSON object) that is longer, in bytes, is malformed. One row of a GBIF
    /// occurrence table is about 2 KB; a megabyte is a stray quote or not a list.
    pub max_row_bytes: u64,
    /// A URL that is longer, in bytes, is skipped (`url_too_long`). Servers refuse from about 8 KB on.
    pub max_url_bytes: u64,
    /// What rows in flight may take, in bytes. The process needs somewhat more: the code itself, some
    /// 200 bytes per server, and two bits per row of the largest server.
    pub memory_bytes: u64,
    /// Where rows wait between reading and writing (about a third of the list's size, compressed).
    /// Default: `_ingest-tmp` inside `servers_batched/`.
    pub temp_folder: Option<PathBuf>,
    /// With more servers than `max_server_folders`, those with fewer records than this share folders.
    pub share_servers_below: u64,
    /// Up to this many servers each have a folder of their own, however small they are.
    pub max_server_folders: u64,
    /// The first malformed line ends the ingest with an error.
    pub strict: bool,
    /// Threads that normalise rows and encode partitions; 0 means one per core.
    pub threads: usize,
    /// Which input columns mean what.
    pub columns: ColumnsOptions,
    /// The kind of list: a name from [`SOURCES`](super::SOURCES). Empty means `generic`.
    pub initializer_type: String,
    /// `tol200m_*`: the values of `data_source` that are taken.
    pub included_sources: Vec<String>,
    /// A CSV of servers (`server_name`) whose rows are left out; they do not become records.
    pub excluded_servers_path: Option<PathBuf>,
    /// `tol200m_fathomNet`: Parquet of bounding boxes, keyed by `uuid`.
    pub bounding_box_information_path: Option<PathBuf>,
    /// Format of all inputs; default: by the file's name, else by its first bytes.
    pub input_format: Option<InputFormat>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            batch_size: 10_000,
            max_row_bytes: 1 << 20,
            max_url_bytes: 8 << 10,
            memory_bytes: 512 << 20,
            temp_folder: None,
            share_servers_below: 100,
            max_server_folders: 10_000,
            strict: false,
            threads: 0,
            columns: ColumnsOptions::default(),
            initializer_type: String::new(),
            included_sources: Vec::new(),
            excluded_servers_path: None,
            bounding_box_information_path: None,
            input_format: None,
        }
    }
}

impl IngestOptions {
    /// `threads`, with 0 resolved.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            threads => threads,
        }
    }
}

/// Names of input columns. Unset ones are looked for under their usual names, whatever the case;
/// one that is set must exist.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnsOptions {
    /// The image's URL. Unset: the first of `identifier`, `url`, `image_url`, `photo_url`, `accessURI`.
    pub url: Option<String>,
    /// Becomes `source_id`.
    pub id: Option<String>,
    /// Becomes `label`.
    pub label: Option<String>,
    /// Becomes `license`.
    pub license: Option<String>,
    /// Becomes `source`.
    pub source: Option<String>,
    /// Becomes `title`.
    pub title: Option<String>,
    /// Becomes `uuid`; without it a UUIDv5 of the URL.
    pub uuid: Option<String>,
}

/// Formats of lists. Each may be gzipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputFormat {
    Parquet,
    /// Comma-separated, with a header line; tabs or semicolons if that has them and no comma.
    Csv,
    /// Tab-separated, with a header line.
    Tsv,
    /// One JSON object per line.
    #[serde(alias = "json", alias = "ndjson")]
    Jsonl,
    /// Delimiter found in the first line; or bare URLs, one per line.
    Txt,
    /// The first sheet of a workbook, `.xlsx` or `.xls`, with a header row.
    #[serde(alias = "xlsx", alias = "xls")]
    Excel,
    /// Children of the root are rows, their attributes and children cells.
    Xml,
    /// Darwin Core Archive: a zip or a folder.
    #[serde(alias = "zip")]
    Dwca,
}

impl InputFormat {
    /// Of a folder with several, the first is read.
    pub const ALL: [Self; 8] =
        [Self::Parquet, Self::Csv, Self::Tsv, Self::Jsonl, Self::Excel, Self::Xml, Self::Txt, Self::Dwca];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
            Self::Txt => "txt",
            Self::Excel => "excel",
            Self::Xml => "xml",
            Self::Dwca => "dwca",
        }
    }

    /// By the extension of a name, `.gz` apart.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        Some(match name.rsplit_once('.')?.1 {
            "parquet" | "pq" => Self::Parquet,
            "csv" => Self::Csv,
            "tsv" | "tab" => Self::Tsv,
            "json" | "jsonl" | "ndjson" => Self::Jsonl,
            "txt" => Self::Txt,
            "xlsx" | "xlsm" | "xls" => Self::Excel,
            "xml" => Self::Xml,
            "zip" => Self::Dwca,
            _ => return None,
        })
    }
}
