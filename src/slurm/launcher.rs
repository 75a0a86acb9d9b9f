//! Which command starts the ranks of a job: `srun` where it speaks to the MPI that ddl was built with, else `mpirun`.
//!
//! | ddl's MPI | `srun --mpi=` | else |
//! |---|---|---|
//! | Open MPI | `pmix` | `mpirun` |
//! | MPICH, Intel MPI, MVAPICH | `pmi2`, `pmix` | `mpirun` |
//!
//! `srun --mpi=list` says which plug-ins a site has. Under `srun` the death of one rank ends the job's step. Open MPI's
//! `mpirun` is told to let the others go on (`orte_abort_on_non_zero_status`), and not to bind a rank to one core. It then
//! returns 0 whatever the ranks have returned: a job has to ask the catalog how it ended.

use std::path::Path;
use std::process::{Command, Stdio};

use super::SlurmError;

/// The MPI implementations that `srun` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MpiFamily {
    OpenMpi,
    /// MPICH and what descends from it.
    Mpich,
}

impl MpiFamily {
    /// By the first words of `MPI_Get_library_version`.
    #[must_use]
    pub fn of(library_version: &str) -> Self {
        if library_version.starts_with("Open MPI") { Self::OpenMpi } else { Self::Mpich }
    }

    fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
        }
    }

    /// The plug-ins of `srun` that start it, best first.
    fn plugins(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi => &["pmix"],
            Self::Mpich => &["pmi2", "pmix"],
        }
    }
}

/// What there is to start ranks with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// What `srun --mpi=list` names; none without `srun`.
    pub plugins: Vec<String>,
    pub has_mpirun: bool,
}

impl Site {
    /// Asks `srun`, and looks for `mpirun` in `PATH`.
    #[must_use]
    pub fn look() -> Self {
        let listed = Command::new("srun").arg("--mpi=list").stdin(Stdio::null()).output();
        // Some releases print it on stdout, others on stderr.
        let text = listed.map(|listed| [listed.stdout, listed.stderr].concat()).unwrap_or_default();
        Self { plugins: plugins(&String::from_utf8_lossy(&text)), has_mpirun: is_in_path("mpirun") }
    }
}

fn plugins(listed: &str) -> Vec<String> {
    let words = listed.split(|c: char| c.is_whitespace() || c == ',');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn is_in_path(program: &str) -> bool {
    let path = super::env::search_path();
    std::env::split_paths(&path).any(|folder: std::path::PathBuf| Path::new(&folder).join(program).is_file())
}

/// The command before `ddl` in a job of several tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// Its words; empty: none, the job has one task.
    pub words: Vec<String>,
    /// Set for it.
    pub environment: &'static [(&'static str, &'static str)],
    /// Why this one, for people.
    pub reason: String,
}

/// What Open MPI's `mpirun` needs to know; others ignore it.
const MPIRUN_ENVIRONMENT: &[(&str, &str)] =
    &[("OMPI_MCA_hwloc_base_binding_policy", "none"), ("OMPI_MCA_orte_abort_on_non_zero_status", "0")];

impl Launcher {
    /// None: the job's only process is started by its script.
    #[must_use]
    pub fn none() -> Self {
        Self { words: Vec::new(), environment: &[], reason: "one task needs none".into() }
    }

    /// For a job of `tasks` tasks. `configured` are the words of a command; `library` is the MPI that ddl has, `None`
    /// without one.
    ///
    /// # Errors
    /// Several tasks without MPI, or without anything that starts them.
    pub fn choose(
        configured: Option<&str>,
        library: Option<MpiFamily>,
        tasks: u64,
        look: impl FnOnce() -> Site,
    ) -> Result<Self, SlurmError> {
        if tasks <= 1 {
            return Ok(Self::none());
        }
        let mpirun =
            |reason: String| Self { words: vec!["mpirun".into()], environment: MPIRUN_ENVIRONMENT, reason };
        if let Some(command) = configured {
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            let reason = "`slurm_parameters.launcher` says so".to_owned();
            let is_mpirun = words.first().is_some_and(|word| word.ends_with("mpirun"));
            return Ok(match is_mpirun {
                true => Self { words, ..mpirun(reason) },
                false => Self { words, environment: &[], reason },
            });
        }
        let library = library.ok_or(SlurmError::BuiltWithoutMpi { tasks })?;
        let site = look();
        let has = |plugin: &&str| site.plugins.iter().any(|listed| listed == plugin);
        if let Some(plugin) = library.plugins().iter().copied().find(has) {
            return Ok(Self {
                words: vec!["srun".into(), format!("--mpi={plugin}")],
                environment: &[],
                reason: format!("`srun` has its plug-in for {}", library.name()),
            });
        }
        if site.has_mpirun {
            return Ok(mpirun(format!("`srun` has no plug-in for {}", library.name())));
        }
        Err(SlurmError::NoLauncher { library: library.name().into(), tasks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Slurm 22.05 of Debian prints it.
    const LISTED: &str =
        "MPI plugin types are...\n\tpmix\n\tpmi2\n\tnone\nspecific pmix plugin versions available: pmix_v4\n";

    fn words(configured: Option<&str>, library: &str, listed: &str, has_mpirun: bool) -> String {
        let library = Some(library).filter(|library| !library.is_empty()).map(MpiFamily::of);
        let site = Site { plugins: plugins(listed), has_mpirun };
        match Launcher::choose(configured, library, 4, || site) {
            Ok(launcher) => launcher.words.join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_launcher_fits_mpi_and_site() {
        assert_eq!(words(None, "Open MPI v4.1.4, package: Debian", LISTED, true), "srun --mpi=pmix");
        assert_eq!(words(None, "MPICH Version:\t4.0.2", LISTED, true), "srun --mpi=pmi2");
        assert_eq!(words(None, "Intel(R) MPI Library 2021.10", "none pmix", true), "srun --mpi=pmix");
        assert_eq!(words(None, "Open MPI v4.1.4", "none cray_shasta pmi2", true), "mpirun");
        assert!(words(None, "Open MPI v4.1.4", "", false).starts_with("neither `srun` with a plug-in for"));
        assert!(words(None, "", LISTED, true).contains("built without it"));
        assert_eq!(words(Some("srun --mpi=pmix_v4 -l"), "", "", false), "srun --mpi=pmix_v4 -l");
    }

    #[test]
    fn mpirun_lets_the_others_go_on_when_a_rank_dies() {
        let site = Site { plugins: Vec::new(), has_mpirun: true };
        let chosen = Launcher::choose(None, Some(MpiFamily::OpenMpi), 2, || site).unwrap();
        assert!(chosen.environment.contains(&("OMPI_MCA_orte_abort_on_non_zero_status", "0")));
        let named = Launcher::choose(Some("/opt/bin/mpirun -v"), None, 2, Site::default).unwrap();
        assert_eq!(named.environment, chosen.environment);
    }

    #[test]
    fn one_task_needs_neither_mpi_nor_launcher() {
        let launcher = Launcher::choose(None, None, 1, || panic!("nothing is looked for")).unwrap();
        assert_eq!(launcher, Launcher::none());
    }
}
