//! Slurm, as far as a run needs to know that it is in a job.

mod env;

pub use env::JobEnvironment;
