//! `ddl download` and `ddl run`, and what is downloaded again or taken down.

use std::path::PathBuf;

use crate::config::Overrides;
use crate::model::FailureCause;

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

impl DownloadArgs {
    pub(in crate::cli) fn set(&self, overrides: &mut Overrides) {
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
