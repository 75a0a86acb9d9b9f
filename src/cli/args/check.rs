//! `ddl check`, `audit`, `report` and `doctor`: what shows how a dataset or a machine is.

use std::path::PathBuf;

use crate::export::DEFAULT_EXAMPLES;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits 1 when anything does not agree; each breach is told with what to do about it.
Beside a download it checks what is committed; only --repair needs the dataset for itself.
What tools have made of the images is checked with them.

Examples:
  ddl check
  ddl check --deep                           reads every byte; takes as long as a copy
  ddl check --repair                         after a kill: removes what was never committed
  ddl check --manifest images.parquet        whether the dataset has what an exported manifest lists
  ddl check --manifest clean.csv --clean size,verify      the same of one that was exported so
  ddl check --json | jq .breaches")]
pub struct CheckArgs {
    /// Reads every file to its end, compares its checksum, and computes the digest of every image again
    #[arg(long)]
    pub deep: bool,
    /// First removes files that no commit names, and writes missing `completed` markers
    #[arg(long)]
    pub repair: bool,
    /// With --repair: also removes files that are newer than the catalog, where it is an older copy
    #[arg(long, requires = "repair")]
    pub discard_newer: bool,
    /// Instead compares the images with a manifest (`ddl export manifest`): Parquet, CSV, TSV, JSON lines
    #[arg(long, value_name = "FILE", conflicts_with_all = ["deep", "repair"])]
    pub manifest: Option<PathBuf>,
    /// With --manifest: only images for which this SQL condition holds, as it was exported
    #[arg(long = "where", value_name = "SQL", requires = "manifest")]
    pub condition: Option<String>,
    /// With --manifest: without what these tools remove, as it was exported
    #[arg(long, value_name = "TOOL", value_delimiter = ',', requires = "manifest")]
    pub clean: Vec<String>,
    /// With --manifest: also takes what tools say or have made that have not seen all images
    #[arg(long, requires = "manifest")]
    pub allow_stale: bool,
    /// With --manifest: the images that a tool has made, such as tools/resize, as it was exported
    #[arg(long, value_name = "TOOL", requires = "manifest")]
    pub from: Option<PathBuf>,
    /// With --manifest: of each kind of difference so many are named
    #[arg(long, value_name = "N", default_value_t = DEFAULT_EXAMPLES, requires = "manifest")]
    pub examples: usize,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Replays the ledger that a download keeps of its requests (logs/requests/), over all ranks, and counts again.
Exits 1 when a server saw more than its limits, or was asked while it had asked to be left alone.

Examples:
  ddl audit
  ddl audit --run 3 --all
  ddl audit --letter images.museum.example   a text for the server's administrator
  ddl audit --json | jq .violations")]
pub struct AuditArgs {
    /// Only this run; `ddl query "SELECT * FROM runs"` lists them
    #[arg(long, value_name = "RUN_ID")]
    pub run: Option<u32>,
    /// Shows all servers, not only those with violations or most requests
    #[arg(long)]
    pub all: bool,
    /// Prints what one server has seen as a text for its administrator
    #[arg(long, value_name = "SERVER")]
    pub letter: Option<String>,
    /// Prints the report as JSON
    #[arg(long, conflicts_with = "letter")]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Totals, a time line, servers, failures, sizes, licences, what tools remove, duplicates side by side and a contact
sheet. The page asks for nothing from elsewhere: it can be opened from a file share, mailed and printed.
Pictures are samples, made anew; of what was retracted or opted out there are none.

Examples:
  ddl report                                 writes report.html into the dataset
  ddl report -o /share/photos.html --samples 200 --top 50")]
pub struct ReportArgs {
    /// The page to write [default: report.html in the dataset]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Images on the contact sheet [default: 60]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Pairs of duplicates with their pictures [default: 12]
    #[arg(long, value_name = "N")]
    pub pairs: Option<usize>,
    /// Rows of each table; the rest is counted [default: 20]
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Network, filesystems, limits, and over several ranks whether they are one cluster. Everything is tried: a request is
sent (robots.txt of a server of the list, or --url), a file written and removed, a lock taken.
Exits 1 where a run would not start, or not get far; each such line says what to do.

Examples:
  ddl doctor
  srun --mpi=pmix ddl doctor                 all nodes of a job, one after another
  ddl doctor --url https://images.example.org/1.jpg
  ddl doctor --json | jq .failures")]
pub struct DoctorArgs {
    /// Asks for this URL, as the configuration says, and not for a robots.txt
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}
