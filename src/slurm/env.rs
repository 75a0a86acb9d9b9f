//! What Slurm says about the job in which this process runs: beside [`super::Allocation`] the only place that
//! reads `SLURM_*`, but for the launcher's in `cluster`; and where the site's programs are.

use std::ffi::OsString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The batch job around this process, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobEnvironment {
    pub job_id: Option<String>,
    /// When Slurm will end the job. Slurm before 23.02 does not say.
    pub end_time: Option<SystemTime>,
}

impl JobEnvironment {
    /// Reads `SLURM_JOB_ID` and `SLURM_JOB_END_TIME` (seconds since 1970).
    #[must_use]
    pub fn read() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            job_id: variable("SLURM_JOB_ID").filter(|id| !id.is_empty()),
            end_time: variable("SLURM_JOB_END_TIME")
                .and_then(|text| text.trim().parse().ok())
                // 0 is distributed-downloader's way of saying that there is none.
                .filter(|&seconds: &u64| seconds > 0)
                .map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    /// Time that is left of the job.
    #[must_use]
    pub fn time_left(&self, now: SystemTime) -> Option<Duration> {
        self.end_time.map(|end| end.duration_since(now).unwrap_or_default())
    }
}

/// Where programs are looked for.
pub(super) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_knows_its_end() {
        let job = JobEnvironment::from_variables(|name| {
            Some(if name == "SLURM_JOB_ID" { "81234".into() } else { "1000".into() })
        });
        assert_eq!(job.job_id.as_deref(), Some("81234"));
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(job.time_left(at(400)), Some(Duration::from_secs(600)));
        assert_eq!(job.time_left(at(2000)), Some(Duration::ZERO));
        assert_eq!(JobEnvironment::from_variables(|_| Some("0".into())).end_time, None);
    }
}
