//! Who started this process, and with how many others: the only file here that reads the environment.
//!
//! The danger is a wrong launcher. `mpirun` of one MPI around a program of another, or `srun` without
//! its MPI plug-in, starts N processes that each believe to be alone, and N coordinators would fight for
//! one catalog. So the number of processes that the launcher tells must be the number that MPI finds;
//! anything else stops the process before it opens a file.
//!
//! | started by | tells by | taken as |
//! |---|---|---|
//! | OpenMPI `mpirun` | `OMPI_COMM_WORLD_SIZE` | that many |
//! | MVAPICH `mpirun_rsh` | `MV2_COMM_WORLD_SIZE` | that many |
//! | MPICH, Intel `mpiexec`; `srun --mpi=pmi2` | `PMI_SIZE` | that many |
//! | `srun` | `SLURM_STEP_ID` and `SLURM_STEP_NUM_TASKS` (else `SLURM_NTASKS`) | that many |
//! | a PMIx launcher | `PMIX_RANK` | unknown, MPI tells |
//! | a shell; a script under `sbatch` or `salloc` | nothing (`SLURM_NTASKS` alone is the allocation's) | alone |
//!
//! The order matters: `mpirun` inside a Slurm job starts its helpers by `srun`, whose variables its
//! processes inherit, with the number of nodes for the number of tasks.

use super::{ClusterError, ClusterOptions, Endpoint, TransportChoice, local};

/// What [`launch`] gives: the endpoint to work with, and the membership to end with.
#[derive(Debug)]
pub struct Cluster {
    pub endpoint: Endpoint,
    pub membership: Membership,
}

/// This process's part in a cluster; ended by [`Membership::finish`].
///
/// Dropped without that, an MPI process exits without `MPI_Finalize`, and its launcher ends the whole
/// job: what an error wants.
#[derive(Debug)]
#[must_use]
pub struct Membership {
    #[cfg(feature = "mpi")]
    mpi: Option<super::mpi::MpiGuard>,
}

/// How a membership ended, and so how the process has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ending {
    /// All done: return from `main`.
    Finished,
    /// MPI was left without `MPI_Finalize`, which would wait for the lost ranks for ever. The process
    /// must end by `_exit`, so that no exit routine of the MPI library runs.
    Abandoned,
}

impl Membership {
    fn alone() -> Self {
        Self {
            #[cfg(feature = "mpi")]
            mpi: None,
        }
    }

    /// Hands over what is still queued, waits for the other ranks to do the same, and leaves.
    ///
    /// Call it last, after the catalog is closed and every rank has been told to stop; it blocks (up to
    /// [`ClusterOptions::finish_timeout`]), so not from an async task. With `lost_ranks` it waits for
    /// nobody: what the remaining ranks were sent is flushed for two seconds at most. All ranks must be
    /// told the same, else those that wait for the others time out and abandon too.
    pub fn finish(self, lost_ranks: bool) -> Ending {
        #[cfg(feature = "mpi")]
        if let Some(guard) = self.mpi {
            return guard.finish(lost_ranks);
        }
        let _nobody_to_wait_for = lost_ranks;
        Ending::Finished
    }
}

/// Joins the cluster that this process was started into; a process started alone is a cluster of one.
///
/// # Errors
/// A launcher that started several processes which cannot find each other (see the module), or MPI
/// refusing to start.
pub fn launch(options: &ClusterOptions) -> Result<Cluster, ClusterError> {
    let launcher = Launcher::find(&|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))?;
    match plan(launcher, options.transport, cfg!(feature = "mpi"))? {
        Plan::Alone => {
            let endpoint = local::endpoints_with(1, options).remove(0);
            Ok(Cluster { endpoint, membership: Membership::alone() })
        }
        Plan::Mpi(launcher) => join(options, launcher),
    }
}

/// The variable by which a launcher shows, and how many processes it says that it has started.
#[must_use]
pub fn launcher() -> Option<(&'static str, Option<u32>)> {
    let found = Launcher::find(&|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()));
    found.ok().flatten().map(|launcher| (launcher.variable, launcher.size))
}

/// This process's number among those that one launcher started, where there is a launcher and it says so: for
/// verbs that are no work for many.
#[must_use]
pub fn launched_rank() -> Option<u32> {
    rank_told(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
}

/// In the order of [`Launcher::find`].
fn rank_told(variable: &dyn Fn(&str) -> Option<String>) -> Option<u32> {
    let by_size = [
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
        ("PMI_SIZE", "PMI_RANK"),
        ("SLURM_STEP_ID", "SLURM_PROCID"),
        ("PMIX_RANK", "PMIX_RANK"),
    ];
    let (_, rank) = by_size.into_iter().find(|(mark, _)| variable(mark).is_some())?;
    variable(rank)?.trim().parse().ok()
}

#[cfg(feature = "mpi")]
fn join(options: &ClusterOptions, launcher: Option<Launcher>) -> Result<Cluster, ClusterError> {
    let (endpoint, guard) = super::mpi::join(options)?;
    if let Some(Launcher { variable, size: Some(launched) }) = launcher
        && launched != endpoint.size
    {
        // Finalize rather than leave: alone in its world, this waits for nobody, and the launcher then
        // reports our error instead of its own about a missing Finalize.
        let _ = guard.finish(false);
        return Err(ClusterError::SizeMismatch { variable, launched, joined: endpoint.size });
    }
    Ok(Cluster { endpoint, membership: Membership { mpi: Some(guard) } })
}

#[cfg(not(feature = "mpi"))]
fn join(_: &ClusterOptions, _: Option<Launcher>) -> Result<Cluster, ClusterError> {
    Err(ClusterError::NoMpi)
}

/// A launcher that left its mark in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Launcher {
    /// The variable that gave it away.
    variable: &'static str,
    /// How many processes it started, where it says so.
    size: Option<u32>,
}

impl Launcher {
    fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, ClusterError> {
        let told = |name: &'static str| -> Result<Option<Self>, ClusterError> {
            let Some(value) = variable(name) else { return Ok(None) };
            match value.trim().parse() {
                Ok(size) if size > 0 => Ok(Some(Self { variable: name, size: Some(size) })),
                _ => Err(ClusterError::LauncherVariable { variable: name, value }),
            }
        };
        for name in ["OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE"] {
            if let Some(launcher) = told(name)? {
                return Ok(Some(launcher));
            }
        }
        if variable("SLURM_STEP_ID").is_some() {
            for name in ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"] {
                if let Some(launcher) = told(name)? {
                    return Ok(Some(launcher));
                }
            }
        }
        Ok(variable("PMIX_RANK").map(|_| Self { variable: "PMIX_RANK", size: None }))
    }
}

/// What to do about it.
#[derive(Debug, PartialEq)]
enum Plan {
    Alone,
    Mpi(Option<Launcher>),
}

fn plan(
    launcher: Option<Launcher>,
    transport: TransportChoice,
    built_with_mpi: bool,
) -> Result<Plan, ClusterError> {
    match (transport, launcher) {
        (TransportChoice::Local, _) => Ok(Plan::Alone),
        (TransportChoice::Mpi, launcher) if built_with_mpi => Ok(Plan::Mpi(launcher)),
        (TransportChoice::Mpi, _) => Err(ClusterError::NoMpi),
        (TransportChoice::Auto, None | Some(Launcher { size: Some(1), .. })) => Ok(Plan::Alone),
        (TransportChoice::Auto, launcher) if built_with_mpi => Ok(Plan::Mpi(launcher)),
        (TransportChoice::Auto, Some(Launcher { variable, size })) => {
            Err(ClusterError::BuiltWithoutMpi { variable, size })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(environment: &[(&str, &str)]) -> Result<Option<(&'static str, Option<u32>)>, ClusterError> {
        let lookup = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Ok(Launcher::find(&lookup)?.map(|launcher| (launcher.variable, launcher.size)))
    }

    #[test]
    fn launchers_number_what_they_start() {
        let rank = |environment: &[(&str, &str)]| {
            rank_told(&|name| {
                environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(rank(&[]), None);
        assert_eq!(rank(&[("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0")]), None, "a batch script");
        assert_eq!(rank(&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "3"), ("PMIX_RANK", "3")]), Some(3));
        let mpirun_in_a_job = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "0"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_RANK", "2"),
        ];
        assert_eq!(rank(&mpirun_in_a_job), Some(2));
        assert_eq!(rank(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")]), Some(1));
    }

    #[test]
    fn launchers_are_told_from_allocations() {
        // As seen under OpenMPI 4.1, MPICH 4.0 and Slurm 22.05.
        assert_eq!(find(&[]).unwrap(), None);
        let batch = [("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")];
        assert_eq!(find(&batch).unwrap(), None, "a batch script is one process");
        let srun = [("SLURM_STEP_ID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(find(&srun).unwrap(), Some(("SLURM_STEP_NUM_TASKS", Some(2))));
        let pmix = [("PMIX_RANK", "1"), ("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(find(&pmix).unwrap(), Some(("SLURM_STEP_NUM_TASKS", Some(2))));
        let mpirun_in_a_job =
            [("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "1"), ("OMPI_COMM_WORLD_SIZE", "3")];
        assert_eq!(find(&mpirun_in_a_job).unwrap(), Some(("OMPI_COMM_WORLD_SIZE", Some(3))));
        assert_eq!(find(&[("PMI_SIZE", "8")]).unwrap(), Some(("PMI_SIZE", Some(8))));
        assert_eq!(find(&[("PMIX_RANK", "0")]).unwrap(), Some(("PMIX_RANK", None)));
    }

    #[test]
    fn a_senseless_size_is_an_error() {
        for value in ["", "zero", "0", "-1"] {
            let error = find(&[("PMI_SIZE", value)]).unwrap_err();
            assert!(matches!(error, ClusterError::LauncherVariable { variable: "PMI_SIZE", .. }), "{value}");
        }
    }

    #[test]
    fn several_processes_never_work_alone() {
        use TransportChoice::{Auto, Local, Mpi};
        let many = Some(Launcher { variable: "PMI_SIZE", size: Some(4) });
        let unknown = Some(Launcher { variable: "PMIX_RANK", size: None });
        let one = Some(Launcher { variable: "PMI_SIZE", size: Some(1) });

        assert_eq!(plan(None, Auto, true).unwrap(), Plan::Alone);
        assert_eq!(plan(one, Auto, false).unwrap(), Plan::Alone);
        assert_eq!(plan(many, Auto, true).unwrap(), Plan::Mpi(many));
        assert_eq!(plan(unknown, Auto, true).unwrap(), Plan::Mpi(unknown));
        assert_eq!(plan(many, Local, false).unwrap(), Plan::Alone, "only when asked for");
        assert_eq!(plan(None, Mpi, true).unwrap(), Plan::Mpi(None));
        assert!(matches!(plan(None, Mpi, false), Err(ClusterError::NoMpi)));
        assert!(matches!(plan(unknown, Auto, false), Err(ClusterError::BuiltWithoutMpi { size: None, .. })));
        let message = plan(many, Auto, false).unwrap_err().to_string();
        assert!(message.starts_with("a launcher started 4 processes (`PMI_SIZE`)"), "{message}");
        assert!(message.contains("--features mpi"), "{message}");
    }

    #[tokio::test]
    async fn alone_is_a_cluster_of_one() {
        let options = ClusterOptions { transport: TransportChoice::Local, ..ClusterOptions::default() };
        let Cluster { mut endpoint, membership } = launch(&options).unwrap();
        assert_eq!((endpoint.rank, endpoint.size), (0, 1));
        endpoint.outbox.send(0, b"note to self".to_vec()).unwrap();
        assert_eq!(endpoint.inbox.recv().await.unwrap().payload, b"note to self");
        assert_eq!(membership.finish(false), Ending::Finished);
    }
}
