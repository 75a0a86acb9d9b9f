//! What is wrong with a request for jobs.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// `use_scripts` is set, and not all of `scripts` that is needed.
    #[error("`use_scripts` is set, and `{key}` is not")]
    ScriptNotSet { key: &'static str },
    /// A site's scripts know of one file.
    #[error("scripts get one configuration file by `CONFIG_PATH`, and there are {num_files}")]
    NotOneFile { num_files: usize },
    #[error("`--test-only` asks `sbatch` about ddl's own scripts, not about those of `scripts`")]
    TestOnlyOfScripts,
    #[error("there is no chain of jobs {chain:04} in `{}`", folder.display())]
    UnknownChain { chain: u32, folder: PathBuf },
    #[error(
        "a whole job has changed nothing: {partitions} partitions with {pending} pending records are as they were when job \
         {job_id} began"
    )]
    Unchanged { job_id: u64, partitions: u64, pending: u64 },
}

impl SubmitError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ScriptNotSet { .. } => {
                "`scripts/slurm/distributed-downloader/` has ready ones; without `use_scripts` ddl needs none"
            }
            Self::NotOneFile { .. } => "put all into one file, or do without `use_scripts`",
            Self::TestOnlyOfScripts => "leave it away, or `use_scripts`",
            Self::UnknownChain { .. } => "`ddl submit` makes it",
            Self::Unchanged { .. } => {
                "the chain of jobs ends here; what the jobs print, and `ddl query`, say why: servers that only fail, a network \
                 that is gone, a time limit that is too short. Then `ddl submit download` goes on; \
                 `suppress_unchanged_error: true` lets the next jobs try"
            }
        };
        Some(hint.into())
    }
}
