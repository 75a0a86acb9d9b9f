//! Slurm: what it says about the job around this process, and how jobs are written and handed to it.
//!
//! A job is a script in bash ([`JobScript`]) whose last lines say what `ddl` is to do; all else is the same in each and
//! comes from one template. `sbatch` takes it ([`sbatch`]), or a script of the site does ([`submit_by_script`]).
//! Ranks are started by `srun` or by MPI's own `mpirun` ([`Launcher::choose`]).

mod allocation;
mod commands;
mod env;
mod error;
mod launcher;
mod options;
#[cfg(test)]
mod ready_scripts;
mod script;

pub use allocation::Allocation;
pub use commands::{
    Dependency, DependencyKind, JobId, cancel, job_states, queued_jobs, sbatch, sbatch_arguments,
    submit_by_script, test_only,
};
pub use env::JobEnvironment;
pub use error::SlurmError;
pub use launcher::{Launcher, MpiFamily, Site};
pub use options::SlurmOptions;
pub use script::{JobScript, JobSize, quote, quote_all};
