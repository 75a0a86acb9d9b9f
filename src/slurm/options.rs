//! What a site wants of its jobs.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::SlurmError;

/// How jobs are written (`slurm_parameters`, and `account`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmOptions {
    pub account: Option<String>,
    pub partition: Option<String>,
    /// Of a job of many ranks: a download or a tool.
    pub time: Duration,
    /// Of a job of one process: an ingest or a check.
    pub serial_time: Duration,
    /// 0: left to Slurm.
    pub serial_cpus: u32,
    /// Per node, as `--mem` has it.
    pub memory: Option<String>,
    /// Further `#SBATCH` lines, without that word.
    pub extra_lines: Vec<String>,
    pub modules: Vec<String>,
    /// Lines of bash before anything is run.
    pub setup: Vec<String>,
    /// `ddl` runs in this image.
    pub apptainer_image: Option<PathBuf>,
    pub apptainer_options: Vec<String>,
    /// Words of a command; `None` where ddl chooses.
    pub launcher: Option<String>,
    /// How long before its end a job is told to stop.
    pub warn_before: Duration,
    /// How often a job begins again after one of its processes was killed.
    pub max_requeues: u32,
    /// Whether scripts of the site submit the jobs.
    pub use_scripts: bool,
    /// The tools of `ddl submit all`.
    pub tools: Vec<String>,
}

impl SlurmOptions {
    /// # Errors
    /// What cannot stand in a script, or leaves a job no time to work in.
    pub fn validate(&self) -> Result<(), SlurmError> {
        let texts = [("account", &self.account), ("partition", &self.partition), ("memory", &self.memory)];
        for (key, value) in texts {
            if let Some(value) = value.as_ref().filter(|value| value.contains(char::is_whitespace)) {
                return Err(refused(key, value, "it has to be one word"));
            }
        }
        for (key, lines) in [
            ("extra_lines", &self.extra_lines),
            ("modules", &self.modules),
            ("setup", &self.setup),
            ("apptainer_options", &self.apptainer_options),
        ] {
            if let Some(line) = lines.iter().find(|line| line.contains(['\n', '\r'])) {
                return Err(refused(key, line, "it has more than one line"));
            }
        }
        for (key, time) in [("time", self.time), ("serial_time", self.serial_time)] {
            if time <= self.warn_before {
                let value = format!("{} s", time.as_secs());
                return Err(refused(key, &value, "it has to be longer than `warn_before`"));
            }
        }
        Ok(())
    }
}

fn refused(key: &'static str, value: &str, reason: &'static str) -> SlurmError {
    SlurmError::Value { key, value: value.escape_debug().to_string(), reason }
}
