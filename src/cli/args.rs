//! What can be typed. No defaults here: the option types have them.

mod export;
mod submit;
mod unit;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use self::export::{
    CroissantChoice, CroissantVersionChoice, DescriptionArgs, ExportCommand, MetadataChoice, NamingArgs,
    NamingChoice, SelectionArgs,
};
pub use self::submit::SubmitCommand;
pub use self::unit::{UnitCommand, UnitExportArgs, UnitImportArgs, UnitRunArgs};

use crate::config::Overrides;
use crate::export::DEFAULT_EXAMPLES;
use crate::model::FailureCause;
use crate::query::OutputFormat;
use crate::tools::AGAINST;

const ABOUT: &str = "Turns a list of image URLs into a clean, documented dataset";
const EXAMPLES: &str = "\
Examples:
  ddl demo                                  the whole pipeline on made-up images, no network needed
  ddl init && ddl ingest list.csv           start a dataset from a list
  ddl download                              download what is pending; run it again to go on
  mpirun -n 4 ddl download                  the same with four ranks
  ddl query \"SELECT disposition, count(*) FROM urls GROUP BY 1\"

Exit codes: 0 done, 1 error, 2 usage, 3 records failed (--strict), 75 stopped early and resumable, 130 Ctrl-C twice.";

#[derive(Debug, Parser)]
#[command(name = "ddl", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Args)]
pub struct GlobalArgs {
    /// Configuration file; repeatable, later ones win [default: ddl.yaml, else $DDL_CONFIG]
    #[arg(short, long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Vec<PathBuf>,
    /// Sets a key of the configuration; repeatable
    #[arg(long, global = true, value_name = "KEY.PATH=VALUE", help_heading = "Global options")]
    pub set: Vec<String>,
    /// Folder of the dataset (sets `path_to_output_folder`)
    #[arg(short, long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub dataset: Option<PathBuf>,
    /// Says less: errors only, no summary
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Says more: -v what is done, -vv details, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Form of log lines on stderr
    #[arg(long, global = true, value_enum, default_value = "text", help_heading = "Global options")]
    pub log_format: LogFormat,
    /// No progress bar
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_progress: bool,
    /// Colours on the terminal
    #[arg(long, global = true, value_enum, default_value = "auto", help_heading = "Global options")]
    pub color: ColorChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Writes a commented ddl.yaml to start from
    Init(InitArgs),
    /// Reads lists of URLs into the catalog; again with a newer list, adds what is new
    Ingest(IngestArgs),
    /// Shows what a download would do: servers, least time, ranks that help; with --estimate, its bytes
    Plan(PlanArgs),
    /// Downloads what is pending; alone, or as one rank of many under mpirun or srun
    Download(DownloadArgs),
    /// Does what a JSON file of FLOW-DC's says: reads the list, downloads, exports
    Run(RunArgs),
    /// Sets failed records back to pending, for the next download
    Retry(RetryArgs),
    /// Takes images down: their bytes go, their records stay and are never downloaded again
    Retract(RetractArgs),
    /// Shows how far the dataset is, also while a download runs
    Status(StatusArgs),
    /// Hands the work to Slurm as a chain of jobs, each going on where the one before ended
    #[command(subcommand)]
    Submit(SubmitCommand),
    /// Answers SQL over everything; without SQL, opens a prompt
    Query(QueryArgs),
    /// Goes through the images: says which should go, or makes new ones of them
    Tool(ToolArgs),
    /// Writes what remains of the dataset in another form
    #[command(subcommand)]
    Export(Box<ExportCommand>),
    /// Work units for other workflow engines: job arrays, xargs, Makeflow, TaskVine, Kubernetes
    #[command(subcommand)]
    Unit(UnitCommand),
    /// Proves that catalog and files agree
    Check(CheckArgs),
    /// Writes one HTML page that shows the dataset, whole in itself
    Report(ReportArgs),
    /// Looks at what a download needs on this machine, or on all nodes of a job, before it starts
    Doctor(DoctorArgs),
    /// Copies the catalog while it is in use, restores a copy, checks and compacts it
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Proves that no server saw more than it was promised
    Audit(AuditArgs),
    /// Runs the whole pipeline on a built-in image server
    Demo(DemoArgs),
    /// Shows the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints the completion script of a shell
    #[command(after_help = "\
Examples:
  ddl completions bash > ~/.local/share/bash-completion/completions/ddl
  ddl completions zsh > ~/.zfunc/_ddl
  ddl completions fish > ~/.config/fish/completions/ddl.fish")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ddl init
  ddl init photos && cd photos && ddl ingest ../list.csv")]
pub struct InitArgs {
    /// Folder to write into
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// Replaces a file that is there
    #[arg(long)]
    pub force: bool,
}

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

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C seals and commits what has come and exits 75; the same command goes on from there.
A second Ctrl-C stops at once and loses nothing that is committed.

Examples:
  ddl download --image-size 512
  mpirun -n 4 ddl download
  srun --mpi=pmix ddl download")]
pub struct DownloadArgs {
    /// Longest side of stored images in pixels; 0 keeps the originals
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<u32>,
    /// Requests per second to a server that has no rate of its own; 0 is no limit
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Requests under way at once to one server
    #[arg(long, value_name = "N")]
    pub connections: Option<u32>,
    /// Exits 3 when records have failed
    #[arg(long)]
    pub strict: bool,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The folder of images is where the file says (`output`), the dataset beside it, with .ddl behind the name. Interrupted, the
same command goes on. What -c names, or a ddl.yaml in the working folder, is read first.

Examples:
  DDL_USER_AGENT='my-project/1.0 (me@institute.org)' ddl run config.json
  ddl -c config.json status                   every other command takes the file, too")]
pub struct RunArgs {
    /// The JSON file (or YAML with `export_parameters`)
    #[arg(value_name = "CONFIG")]
    pub file: PathBuf,
    /// Exits 3 when records have failed
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
All that is given must hold; without any, every failure is tried again.

Examples:
  ddl retry --cause dns,connect              after an outage of your network
  ddl retry --code 503 --older-than 1d
  ddl retry --server images.example.org && ddl download")]
pub struct RetryArgs {
    /// Failures with this `error_code`: an HTTP status, -1 for the network, -2 for all else
    #[arg(long, value_name = "CODE", value_delimiter = ',', allow_negative_numbers = true)]
    pub code: Vec<i32>,
    /// Failures of this cause, as the column `cause` names it
    #[arg(long, value_name = "CAUSE", value_delimiter = ',')]
    pub cause: Vec<FailureCause>,
    /// Records of this server
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Failures that are at least so old, such as 12h or 7d
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<String>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true).multiple(true).args(["uuid", "url", "server", "condition"])),
    after_help = "\
All that is given must hold. Images, failures and what is still pending are retracted alike: the
records stay, as skipped (`retracted`). Parquet files of the dataset and of its tools are written
again without them; exports are not touched, but searched and named. Killed, the same command goes
on. Needs the dataset for itself.

A filesystem may keep the blocks of deleted files until it writes over them; snapshots and backups
keep them longer. Both are yours to see to.

Examples:
  ddl retract --uuid 6d3f6a0e-58f1-5d5c-9a53-0c6a4d6b4a11 --reason \"request of 2026-03-01\"
  ddl retract --url https://images.example.org/1.jpg https://images.example.org/2.jpg --duplicates
  ddl retract --server images.example.org --dry-run
  ddl retract --where \"source = 'Jane Doe'\" --yes
  ddl retract --where \"uuid IN (SELECT uuid FROM images WHERE hashsum_original = '...')\""
)]
pub struct RetractArgs {
    /// Records with these UUIDs
    #[arg(long, value_name = "UUID", num_args = 1..)]
    pub uuid: Vec<String>,
    /// Records of these URLs, as `identifier` has them
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub url: Vec<String>,
    /// Records of this server
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Records for which this SQL condition over the table `urls` holds
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Also other records whose images have the same bytes
    #[arg(long)]
    pub duplicates: bool,
    /// Why, for the record in logs/retractions/
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Does not ask
    #[arg(long)]
    pub yes: bool,
    /// Only says what would be done
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ddl status
  ddl status --watch                         again every 2 seconds, until all is downloaded
  ddl status --schedule                      the jobs of `ddl submit`, and its big batches of servers
  ddl status --json | jq .counts.pending")]
pub struct StatusArgs {
    /// Shows all servers, not only those with most to do
    #[arg(long)]
    pub all: bool,
    /// Shows it again every 2 seconds until nothing is left to do; Ctrl-C ends it
    #[arg(long)]
    pub watch: bool,
    /// Shows the jobs that were submitted last, and how far each big batch of servers is
    #[arg(long, conflicts_with_all = ["all", "watch"])]
    pub schedule: bool,
    /// Prints JSON; with --watch, one line each time
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tables: urls, images, errors, servers, partitions, runs, ingests, tools, verdicts, tool_NAME.

Examples:
  ddl query \"SELECT server_name, count(*) FROM urls WHERE disposition = 'failed' GROUP BY 1 ORDER BY 2 DESC\"
  ddl query \"SELECT uuid, identifier FROM images\" --format csv -o images.csv
  ddl query -f report.sql --format json
  ddl query --from tools/resize \"SELECT avg(image_bytes) FROM images\"
  ddl query                                  a prompt with history; \\d lists the tables")]
pub struct QueryArgs {
    /// The query, or - for statements on stdin; without it and without -f, opens a prompt
    pub sql: Option<String>,
    /// Reads statements from a file (with -o, one)
    #[arg(short, long, value_name = "FILE", conflicts_with = "sql")]
    pub file: Option<PathBuf>,
    /// Form of the answer: table, csv, tsv, json, ndjson, parquet [default: table, or as FILE is named]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<OutputFormat>,
    /// Writes the answer to a file: .parquet, .csv, .tsv, .json, .jsonl; text also .gz
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// `images` are those that a tool has made, such as tools/resize, not the downloaded ones
    #[arg(long, value_name = "TOOL")]
    pub from: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A tool has three stages: filter (what), schedule (where) and run. All are done as far as they are not done; what is
downloaded is never changed. `ddl export manifest -o FILE --clean NAME`
leaves out what it removes.

Examples:
  ddl tool size                              images whose shorter side is below `threshold_size`
  mpirun -n 4 ddl tool size                  the same with four ranks
  ddl tool resize                            new images, `new_resize_size` pixels at most
  ddl tool verify                            images that are not what their columns say
  ddl tool placeholder                       one picture in place of many images of a server
  ddl tool size --stage filter               chooses, and looks no further
  ddl tool size --reset filter               starts again
  ddl tool --list                            which tools there are, and how far they are
  ddl tool ./grey.yaml                       a tool of your own
  ddl tool dedup --near 16                   equal images, and near ones
  ddl tool dedup --against ../test           images that another dataset has as well (tool `dedup_against`)
  ddl query \"SELECT tool, reason, count(*) FROM verdicts GROUP BY ALL\"")]
pub struct ToolArgs {
    /// Name of the tool, or path of its YAML file
    #[arg(required_unless_present = "list")]
    pub name: Option<String>,
    /// Lists the tools: what they do, where they come from, how far they are
    #[arg(short, long, conflicts_with_all = ["name", "stage", "reset", "near", "against"])]
    pub list: bool,
    /// Only this stage
    #[arg(long, value_enum, value_name = "STAGE")]
    pub stage: Option<StageChoice>,
    /// Starts again from this stage on
    #[arg(long, value_enum, value_name = "STAGE")]
    pub reset: Option<StageChoice>,
    /// `dedup`: also images whose perceptual hashes differ in so many of 256 bits (sets `near_distance`)
    #[arg(long, value_name = "DISTANCE")]
    pub near: Option<u32>,
    /// `dedup`: instead, images that this dataset has: its folder, configuration or exported .parquet (sets `against`)
    #[arg(long, value_name = "PATH")]
    pub against: Option<PathBuf>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StageChoice {
    Filter,
    Schedule,
    Run,
}

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

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ddl demo
  ddl -c demo/ddl.yaml query                 SQL over what the demo has made
  ddl demo /tmp/again --force")]
pub struct DemoArgs {
    /// Folder to fill
    #[arg(default_value = "demo")]
    pub folder: PathBuf,
    /// Replaces an earlier demo in that folder
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Copies what it has at this moment into a file, also while a download runs
    #[command(after_help = "\
Examples:
  ddl catalog backup /safe/catalog-$(date +%F).redb
  ddl catalog backup /safe/catalog.redb --force")]
    Backup {
        /// The copy; its folder is made if it is missing
        file: PathBuf,
        /// Replaces a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Reads every page and every row of the catalog, or of a copy; changes nothing
    #[command(after_help = "\
`ddl check` compares the catalog with the files; this looks at the catalog alone.

Examples:
  ddl catalog check
  ddl catalog check /safe/catalog.redb")]
    Check {
        /// A copy [default: the dataset's catalog, which then must not be in use]
        file: Option<PathBuf>,
        /// Prints the summary as JSON
        #[arg(long)]
        json: bool,
    },
    /// Makes the file smaller: gives back what it does not use
    Compact,
    /// Puts a copy in the place of the catalog, after checking it; the old one stays beside it
    #[command(after_help = "\
What was committed after the copy is not known any more: `ddl check` names it, and `ddl download` asks for it again.

Examples:
  ddl catalog restore /safe/catalog.redb && ddl check")]
    Restore {
        /// The copy, which stays as it is
        file: PathBuf,
        /// Also where the lists in servers_batched/ are not those that it names
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Prints each value and where it comes from
    #[command(after_help = "\
Examples:
  ddl config show
  ddl config show --set downloader_parameters.image_size=512 | grep image_size
  ddl config show --yaml > resolved.yaml")]
    Show {
        /// Prints YAML without origins, to be read again
        #[arg(long)]
        yaml: bool,
    },
}

impl GlobalArgs {
    /// What the flags set in the configuration.
    pub(super) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        for assignment in &self.set {
            overrides.set(assignment);
        }
        if let Some(folder) = &self.dataset {
            overrides.flag("--dataset", "path_to_output_folder", folder.display().to_string());
        }
        overrides
    }
}

impl IngestArgs {
    pub(super) fn set(&self, overrides: &mut Overrides) {
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

impl DownloadArgs {
    pub(super) fn set(&self, overrides: &mut Overrides) {
        if let Some(pixels) = self.image_size {
            overrides.flag("--image-size", "downloader_parameters.image_size", pixels.to_string());
        }
        if let Some(rate) = self.rate {
            overrides.flag("--rate", "downloader_parameters.default_rate_limit", rate.to_string());
        }
        if let Some(connections) = self.connections {
            overrides.flag(
                "--connections",
                "downloader_parameters.max_connections_per_server",
                connections.to_string(),
            );
        }
    }
}

impl ToolArgs {
    pub(super) fn set(&self, overrides: &mut Overrides) {
        if let Some(distance) = self.near {
            overrides.flag("--near", "tools_parameters.near_distance", distance.to_string());
        }
        if let Some(path) = &self.against {
            overrides.flag("--against", "tools_parameters.against", path.display().to_string());
        }
    }

    /// Its name, or that of the tool that `--against` makes of it.
    pub(super) fn tool(&self) -> Option<&str> {
        match self.name.as_deref()? {
            "dedup" | "duplication_based" if self.against.is_some() => Some(AGAINST),
            name => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
