//! `ddl submit`.

use clap::Subcommand;

use crate::config::Overrides;

const SUBMIT_HELP: &str = "\
Prints job id, name and dependency of each job. Scripts and what the jobs print are in logs/jobs/NNNN/, progress in
`ddl status --schedule`. How large and how long jobs are is configured: `max_nodes`, `workers_per_node`, `cpu_per_worker`,
`num_downloads`, `account`, and `slurm_parameters`.

Examples:
  ddl submit all                             ingest, downloads, check, and the tools of `slurm_parameters.tools`
  ddl submit download --dry-run              prints the scripts, anywhere
  ddl submit download --set downloader_parameters.num_downloads=5 --set slurm_parameters.time=12h
  ddl submit tool resize                     a tool, alone";

#[derive(Debug, Subcommand)]
pub enum SubmitCommand {
    /// Downloads, then a check
    #[command(after_help = SUBMIT_HELP)]
    Download {
        #[command(flatten)]
        flags: SubmitFlags,
    },
    /// A tool, then a check
    #[command(after_help = SUBMIT_HELP)]
    Tool {
        /// Name of the tool, or path of its YAML file
        name: String,
        #[command(flatten)]
        flags: SubmitFlags,
    },
    /// Ingest, downloads, check; then tools, if all is downloaded and sound, and another check
    #[command(after_help = SUBMIT_HELP)]
    All {
        /// Tools to run, in this order (sets `slurm_parameters.tools`)
        #[arg(long = "tool", value_name = "NAME", value_delimiter = ',')]
        tools: Vec<String>,
        #[command(flatten)]
        flags: SubmitFlags,
    },
    /// For jobs: brings schedules/ up to date and prints how many partitions are left; exits 1 when a whole job changed nothing
    Verify {
        /// Number of the chain of jobs [default: the newest]
        chain: Option<u32>,
    },
}

#[derive(Debug, clap::Args)]
pub struct SubmitFlags {
    /// Prints the scripts; writes and submits nothing
    #[arg(long, conflicts_with_all = ["test_only", "json"])]
    pub dry_run: bool,
    /// Asks Slurm when the jobs would start; submits nothing
    #[arg(long, conflicts_with = "json")]
    pub test_only: bool,
    /// Submits by the `scripts` of the configuration, as distributed-downloader does (sets `use_scripts`)
    #[arg(long)]
    pub scripts: bool,
    /// Prints the jobs as JSON
    #[arg(long)]
    pub json: bool,
}

impl SubmitCommand {
    pub(in crate::cli) fn set(&self, overrides: &mut Overrides) {
        if let Self::All { tools, .. } = self
            && !tools.is_empty()
        {
            overrides.list("--tool", "slurm_parameters.tools", tools.clone());
        }
        if self.flags().is_some_and(|flags| flags.scripts) {
            overrides.flag("--scripts", "slurm_parameters.use_scripts", "true");
        }
    }

    /// `None`: nothing is submitted.
    pub(in crate::cli) fn flags(&self) -> Option<&SubmitFlags> {
        match self {
            Self::Download { flags } | Self::Tool { flags, .. } | Self::All { flags, .. } => Some(flags),
            Self::Verify { .. } => None,
        }
    }
}
