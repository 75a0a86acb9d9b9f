//! `ddl unit`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::config::Overrides;

#[derive(Debug, Subcommand)]
pub enum UnitCommand {
    /// Writes what is pending as units, partition_001.parquet and so on, and leases their partitions
    #[command(after_help = "\
Until a lease ends, `ddl download` and other exports leave its server alone: its limits are in the units.
Units run without a catalog, at any time and in any order; docs/other-engines.md has examples.

Examples:
  ddl unit export -o units --groups 16
  ddl unit export -o units --groups 64 --method greedy --lease 2d
  ls units/*.parquet | xargs -P 4 -n 1 ddl unit run -o results/ && ddl unit import results/*.zip")]
    Export(UnitExportArgs),
    /// Does one unit, anywhere: needs only its file
    #[command(after_help = "\
The result is one file, written whole or not at all. Killed, the same command goes on from what was sealed,
in a work folder beside the result. With a result that is there already it does nothing.
Exits 75 when it was stopped early.

Examples:
  ddl unit run units/partition_001.parquet                      writes partition_001.result.zip here
  ddl unit run units/partition_001.parquet -o results/
  ddl unit run partition_001.parquet -o out.zip --work /scratch/$USER/unit-1
  ddl unit run units/partition_001.parquet --set http_proxy=http://proxy.cluster.example:3128")]
    Run(UnitRunArgs),
    /// Commits results of units to the catalog; again, it does nothing
    #[command(after_help = "\
Refused are partitions whose lease has expired, or that others have taken since. Needs the dataset for itself.

Examples:
  ddl unit import results/*.zip
  ddl unit import late.zip --late             a lease is over, but nobody has taken the partitions")]
    Import(UnitImportArgs),
}

#[derive(Debug, clap::Args)]
pub struct UnitExportArgs {
    /// Folder for the units
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Units at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub groups: u32,
    /// How partitions are dealt: host, greedy, simple (sets `unit_parameters.method`)
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// How long the partitions are the units' own, such as 12h or 7d (sets `unit_parameters.lease`)
    #[arg(long, value_name = "DURATION")]
    pub lease: Option<String>,
    /// Gives the units FLOW-DC's column `host`
    #[arg(long)]
    pub host_column: bool,
    /// Only these servers, or shared folders
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct UnitRunArgs {
    /// The unit
    pub unit: PathBuf,
    /// The result, or a folder for it [default: NAME.result.zip in the working folder]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Folder to work in; it goes when the result is written [default: the result's name and .work]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct UnitImportArgs {
    /// Results
    #[arg(required = true)]
    pub result: Vec<PathBuf>,
    /// Takes also what comes after its lease, where nobody else has taken the partition
    #[arg(long)]
    pub late: bool,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

impl UnitExportArgs {
    pub(in crate::cli) fn set(&self, overrides: &mut Overrides) {
        if let Some(method) = &self.method {
            overrides.flag("--method", "unit_parameters.method", method.clone());
        }
        if let Some(lease) = &self.lease {
            overrides.flag("--lease", "unit_parameters.lease", lease.clone());
        }
        if self.host_column {
            overrides.flag("--host-column", "unit_parameters.host_column", "true");
        }
    }
}
