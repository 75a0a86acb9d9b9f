//! Slurm, as far as a run needs to know that it is in a job.

mod allocation;
mod env;

pub use allocation::Allocation;
pub use env::JobEnvironment;
