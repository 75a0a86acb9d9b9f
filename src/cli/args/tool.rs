//! `ddl tool`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::config::Overrides;
use crate::tools::AGAINST;

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

impl ToolArgs {
    pub(in crate::cli) fn set(&self, overrides: &mut Overrides) {
        if let Some(distance) = self.near {
            overrides.flag("--near", "tools_parameters.near_distance", distance.to_string());
        }
        if let Some(path) = &self.against {
            overrides.flag("--against", "tools_parameters.against", path.display().to_string());
        }
    }

    /// Its name, or that of the tool that `--against` makes of it.
    pub(in crate::cli) fn tool(&self) -> Option<&str> {
        match self.name.as_deref()? {
            "dedup" | "duplication_based" if self.against.is_some() => Some(AGAINST),
            name => Some(name),
        }
    }
}
