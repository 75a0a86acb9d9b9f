//! `ddl ingest` and `ddl plan`: what is to be downloaded.

use crate::config::Overrides;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C ends it with exit code 75; the same command goes on from there.

Examples:
  ddl ingest photos.csv                      URL column found by its name
  ddl ingest --inspect photos.xlsx           what is in it; nothing is written
  ddl ingest --source gbif 0012345.zip       a Darwin Core Archive as GBIF hands it out
  ddl ingest a.csv.gz b/ c.parquet           several lists at once; a folder of Parquet files
  zcat list.tsv.gz | ddl ingest --format tsv --url-column link -")]
pub struct IngestArgs {
    /// Lists: CSV, TSV, TXT, JSON lines, XML, Excel, Parquet (each also .gz), folders, Darwin Core Archives, - for stdin
    pub input: Vec<String>,
    /// Kind of list: generic, gbif, eol, fathom_net, lila, tol200m_general, tol200m_fathomNet
    #[arg(long, value_name = "KIND")]
    pub source: Option<String>,
    /// Column of the URL
    #[arg(long, visible_alias = "url", value_name = "NAME")]
    pub url_column: Option<String>,
    /// Column of the identifier that becomes `source_id`
    #[arg(long, value_name = "NAME")]
    pub id_column: Option<String>,
    /// Column of the label
    #[arg(long, visible_alias = "label", value_name = "NAME")]
    pub label_column: Option<String>,
    /// Column of the licence
    #[arg(long, value_name = "NAME")]
    pub license_column: Option<String>,
    /// Column of the source, or rights holder
    #[arg(long, value_name = "NAME")]
    pub source_column: Option<String>,
    /// Column of the title
    #[arg(long, value_name = "NAME")]
    pub title_column: Option<String>,
    /// Format of all inputs, whatever their names
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Ends with an error at the first malformed line
    #[arg(long)]
    pub strict: bool,
    /// Only says what the lists have: columns, servers, labels, duplicates, unusable URLs
    #[arg(long)]
    pub inspect: bool,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times are bounds: no download is faster at the limits that are set. The slowest server decides.
--estimate asks servers for the sizes of some images (HEAD, else the first byte), as politely as a download does.

Examples:
  ddl plan
  ddl plan --estimate --sample 2000
  ddl plan --json | jq '.servers[0]'")]
pub struct PlanArgs {
    /// Asks servers for sizes of images
    #[arg(long)]
    pub estimate: bool,
    /// With --estimate: of about so many images, at least two of each server [default: 1000]
    #[arg(long, value_name = "N", requires = "estimate", value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: Option<u64>,
    /// Shows all servers, not only the slowest
    #[arg(long)]
    pub all: bool,
    /// Prints the plan as JSON
    #[arg(long)]
    pub json: bool,
}

impl IngestArgs {
    pub(in crate::cli) fn set(&self, overrides: &mut Overrides) {
        if !self.input.is_empty() {
            overrides.list("INPUT", "path_to_input", self.input.clone());
        }
        let flags = [
            ("--source", "initializer_type", &self.source),
            ("--url-column", "columns.url", &self.url_column),
            ("--id-column", "columns.id", &self.id_column),
            ("--label-column", "columns.label", &self.label_column),
            ("--license-column", "columns.license", &self.license_column),
            ("--source-column", "columns.source", &self.source_column),
            ("--title-column", "columns.title", &self.title_column),
            ("--format", "ingest_parameters.input_format", &self.format),
        ];
        for (flag, key, value) in flags {
            if let Some(value) = value {
                overrides.flag(flag, key, value.clone());
            }
        }
        if self.strict {
            overrides.flag("--strict", "ingest_parameters.strict", "true");
        }
    }
}
