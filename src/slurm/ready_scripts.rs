//! The job scripts in `scripts/slurm/`, which have the same functions as those that `ddl submit` writes.
//!
//! `DDL_TEST_WRITE=1` writes them anew.

use std::path::{Path, PathBuf};

const FUNCTIONS: &str = include_str!("job.sh");

/// A script: its name, what it is for, its `#SBATCH` lines, and its last lines.
struct Ready {
    name: &'static str,
    about: &'static str,
    resources: &'static [&'static str],
    work: &'static str,
}

/// One process near its end needs no warning of three minutes, but it costs nothing.
const SIGNAL: &str = "--signal=B:USR2@180";

const OWN: &[Ready] = &[
    Ready {
        name: "ingest.slurm",
        about: "sbatch scripts/slurm/ingest.slurm: `ddl ingest` with ./ddl.yaml",
        resources: &["--job-name=ddl-ingest", "--ntasks=1", "--cpus-per-task=4", "--time=03:00:00", SIGNAL],
        work: "run \"${ddl[@]}\" ingest\nexit\n",
    },
    Ready {
        name: "download.slurm",
        about: "sbatch --dependency=afterany:PREVIOUS scripts/slurm/download.slurm: `ddl download` with ./ddl.yaml, as often as needed",
        resources: &[
            "--job-name=ddl-download",
            "--nodes=4",
            "--ntasks-per-node=1",
            "--cpus-per-task=8",
            "--time=03:00:00",
            SIGNAL,
            "--requeue",
        ],
        work: "run \"${launch[@]}\" \"${ddl[@]}\" download\nexit\n",
    },
    Ready {
        name: "check.slurm",
        about: "sbatch --dependency=afterany:PREVIOUS scripts/slurm/check.slurm: `ddl check` with ./ddl.yaml",
        resources: &["--job-name=ddl-check", "--ntasks=1", "--cpus-per-task=4", "--time=03:00:00", SIGNAL],
        work: "run \"${ddl[@]}\" check\nexit\n",
    },
    Ready {
        name: "tool.slurm",
        about: "sbatch --dependency=afterok:CHECK scripts/slurm/tool.slurm NAME: `ddl tool NAME` with ./ddl.yaml",
        resources: &[
            "--job-name=ddl-tool",
            "--nodes=4",
            "--ntasks-per-node=1",
            "--cpus-per-task=8",
            "--time=03:00:00",
            SIGNAL,
            "--requeue",
        ],
        work: "run \"${launch[@]}\" \"${ddl[@]}\" tool \"$1\"\nexit\n",
    },
];

/// Sizes and logs are the submit scripts' to say.
const OF_DISTRIBUTED_DOWNLOADER: &[Ready] = &[
    Ready {
        name: "initialization.slurm",
        about: "scripts.initialization_script, for general_submit.sh",
        resources: &["--job-name=ddl-ingest", "--ntasks=1", "--cpus-per-task=4", "--time=03:00:00", SIGNAL],
        work: "run \"${ddl[@]}\" ingest\nexit\n",
    },
    Ready {
        name: "schedule_creation.slurm",
        about: "scripts.schedule_creation_script, for submit_schedule_creator.sh: not needed, the first download does it",
        resources: &["--job-name=ddl-schedule", "--time=00:30:00"],
        work: "run \"${ddl[@]}\" submit verify\nexit\n",
    },
    Ready {
        name: "download.slurm",
        about: "scripts.download_script, for submit_mpi_download.sh: SCHEDULE ITERATION",
        resources: &["--job-name=ddl-download", "--mem=0", "--time=03:00:00", SIGNAL, "--requeue"],
        work: "left=$(\"${ddl[@]}\" submit verify) || exit\n\
               if [ \"$left\" -eq 0 ]; then\n    echo 'nothing is left to download'\n    exit 0\nfi\n\
               run \"${launch[@]}\" \"${ddl[@]}\" download\ncode=$?\n\
               left=$(\"${ddl[@]}\" submit verify) || exit\n\
               # Some launchers hide how ddl has ended; the catalog does not.\n\
               [ \"$code\" -ne 0 ] || [ \"$left\" -eq 0 ] || code=75\nexit \"$code\"\n",
    },
    Ready {
        name: "verify.slurm",
        about: "scripts.verify_script, for submit_mpi_download.sh: SCHEDULE ITERATION",
        resources: &["--job-name=ddl-check", "--time=01:00:00", SIGNAL],
        work: "run \"${ddl[@]}\" check\ncode=$?\nleft=$(\"${ddl[@]}\" submit verify) || exit\n\
               [ \"$code\" -eq 0 ] || exit \"$code\"\n[ \"$left\" -eq 0 ] || exit 75\n",
    },
    Ready {
        name: "tools_filter.slurm",
        about: "scripts.tools_filter_script, for tools_submit.sh: TOOL",
        resources: &["--job-name=ddl-filter", "--time=01:00:00", SIGNAL],
        work: "run \"${ddl[@]}\" tool \"$1\" --stage filter\nexit\n",
    },
    Ready {
        name: "tools_scheduling.slurm",
        about: "scripts.tools_scheduling_script, for tools_submit.sh: TOOL",
        resources: &["--job-name=ddl-schedule", "--time=00:30:00", SIGNAL],
        work: "run \"${ddl[@]}\" tool \"$1\" --stage schedule\nexit\n",
    },
    Ready {
        name: "tools_worker.slurm",
        about: "scripts.tools_worker_script, for tools_submit.sh: TOOL",
        resources: &["--job-name=ddl-tool", "--mem=0", "--time=03:00:00", SIGNAL, "--requeue"],
        work: "run \"${launch[@]}\" \"${ddl[@]}\" tool \"$1\"\nexit\n",
    },
    Ready {
        name: "tools_verification.slurm",
        about: "scripts.tools_verification_script, for tools_submit.sh: TOOL",
        resources: &["--job-name=ddl-check", "--time=01:00:00", SIGNAL],
        work: "run \"${ddl[@]}\" check\ncode=$?\n\"${ddl[@]}\" tool --list\nexit \"$code\"\n",
    },
];

impl Ready {
    /// `program` are the lines that set `ddl`.
    fn text(&self, program: &str) -> String {
        let resources: String = self.resources.iter().map(|line| format!("#SBATCH {line}\n")).collect();
        format!(
            "#!/bin/bash\n{resources}\n# {}\n\n# What your site needs: module load ..., the account, the partition.\n{program}\
             # Open MPI; MPICH: --mpi=pmi2. Where srun has no plug-in for ddl's MPI: launch=(mpirun)\n\
             launch=(srun --mpi=pmix)\nmax_requeues=3\n\n{FUNCTIONS}\n{}",
            self.about, self.work
        )
    }
}

#[test]
fn ready_scripts_have_the_functions_of_those_that_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/slurm");
    let own = OWN.iter().map(|ready| (folder.join(ready.name), ready.text("ddl=(ddl -c ddl.yaml)\n")));
    let dd_folder = folder.join("distributed-downloader");
    let of_dd = OF_DISTRIBUTED_DOWNLOADER
        .iter()
        .map(|ready| (dd_folder.join(ready.name), ready.text("ddl=(\"$DDL\" -c \"$CONFIG_PATH\")\n")));
    let scripts: Vec<(PathBuf, String)> = own.chain(of_dd).collect();
    for (path, text) in &scripts {
        if std::env::var_os("DDL_TEST_WRITE").is_some() {
            std::fs::write(path, text).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == *text, "{} is old: DDL_TEST_WRITE=1 writes it anew", path.display());
        let checked = std::process::Command::new("bash").arg("-n").arg(path).status().unwrap();
        assert!(checked.success(), "{}", path.display());
    }
}
