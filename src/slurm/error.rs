//! What can go wrong with jobs before they run.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlurmError {
    #[error("cannot start `{program}`: {source}")]
    Start { program: String, source: io::Error },
    #[error("`{program}` refused: {message}")]
    Refused { program: String, message: String },
    /// The contract of submit scripts: the last word on stdout is the job's number.
    #[error("the last word of what `{program}` printed is no job id: `{output}`")]
    NoJobId { program: String, output: String },
    #[error("`{key}` is `{value}`, which cannot stand in a job script: {reason}")]
    Value { key: &'static str, value: String, reason: &'static str },
    #[error("cannot find the working folder: {source}")]
    WorkingFolder { source: io::Error },
    #[error("a job of {tasks} tasks needs MPI, and this `ddl` was built without it")]
    BuiltWithoutMpi { tasks: u64 },
    #[error("neither `srun` with a plug-in for {library} nor `mpirun` was found to start {tasks} tasks with")]
    NoLauncher { library: String, tasks: u64 },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl SlurmError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "is this a machine of the cluster? `--dry-run` prints the scripts anywhere"
            }
            Self::Start { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "`chmod +x` makes a script executable"
            }
            Self::NoJobId { .. } => "a submit script ends as `sbatch` does: `Submitted batch job 123`",
            Self::BuiltWithoutMpi { .. } => {
                "build it with `--features mpi`, or set `max_nodes` and `workers_per_node` to 1"
            }
            Self::NoLauncher { .. } => {
                "`slurm_parameters.launcher` names one, such as `srun --mpi=pmix` or `mpirun`"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}
