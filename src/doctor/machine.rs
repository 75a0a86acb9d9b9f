//! Limits of the process.

use super::{Check, DoctorOptions, Finding};
use crate::runtime::{available_cores, machine_cores, max_open_files, raise_open_files};

pub(super) fn look(options: &DoctorOptions) -> Vec<Finding> {
    vec![
        open_files(
            raise_open_files().unwrap_or(max_open_files() as u64),
            options.least_open_files,
            options.enough_open_files,
        ),
        cores(available_cores(), machine_cores(), options.is_launched),
    ]
}

fn open_files(limit: u64, least: u64, enough: u64) -> Finding {
    let check = Check::OpenFiles;
    let advice = format!(
        "raise the hard limit to {enough} or more (`ulimit -Hn`, limits.conf, Slurm's `PropagateResourceLimits`), or lower \
         `max_in_flight`"
    );
    if limit < least {
        Finding::failure(check, format!("{limit} may be open, {least} are the least"), advice)
    } else if limit < enough {
        Finding::warning(check, format!("{limit} may be open, up to {enough} are wanted"), advice)
    } else if limit >= 1 << 40 {
        Finding::ok(check, format!("no limit, up to {enough} are wanted"))
    } else {
        Finding::ok(check, format!("{limit} may be open, up to {enough} are wanted"))
    }
}

fn cores(available: usize, machine: usize, is_launched: bool) -> Finding {
    let message = format!("{available} of {machine}");
    if is_launched && available == 1 && machine > 1 {
        return Finding::warning(
            Check::Cores,
            format!("{message}: this rank is bound to one core"),
            "OpenMPI: `OMPI_MCA_hwloc_base_binding_policy=none` or `mpirun --bind-to none`; Slurm: `--cpus-per-task`",
        );
    }
    Finding::ok(Check::Cores, message)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn limits_are_judged_by_what_is_needed() {
        let level = |limit| open_files(limit, 320, 960).level;
        assert_eq!([64, 319].map(level), [Level::Failure; 2]);
        assert_eq!([320, 959].map(level), [Level::Warning; 2]);
        assert_eq!([960, 1 << 20, u64::MAX].map(level), [Level::Ok; 3]);
        assert!(open_files(64, 320, 960).advice.unwrap().contains("960"));
    }

    #[test]
    fn one_core_is_trouble_only_where_a_launcher_has_bound_a_rank_to_it() {
        assert_eq!(cores(1, 32, true).level, Level::Warning);
        assert_eq!(cores(1, 32, false).level, Level::Ok, "taskset, or a container");
        assert_eq!(cores(1, 1, true).level, Level::Ok);
        assert_eq!(cores(8, 32, true).level, Level::Ok);
    }
}
