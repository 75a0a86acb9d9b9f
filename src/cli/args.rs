//! What can be typed. No defaults here: the option types have them.

mod check;
mod download;
mod export;
mod ingest;
mod submit;
mod tool;
mod unit;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use self::check::{AuditArgs, CheckArgs, DoctorArgs, ReportArgs};
pub use self::download::{DownloadArgs, RetractArgs, RetryArgs, RunArgs};
pub use self::export::{
    CroissantChoice, CroissantVersionChoice, DescriptionArgs, ExportCommand, MetadataChoice, NamingArgs,
    NamingChoice, SelectionArgs,
};
pub use self::ingest::{IngestArgs, PlanArgs};
pub use self::submit::SubmitCommand;
pub use self::tool::{StageChoice, ToolArgs};
pub use self::unit::{UnitCommand, UnitExportArgs, UnitImportArgs, UnitRunArgs};

use crate::config::Overrides;
use crate::query::OutputFormat;

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
