//! Exit codes, and how an error is told.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::pipeline::PipelineError;

/// What a process ends with. The table is in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Error = 1,
    Usage = 2,
    /// Finished, but records failed, and `--strict` was given.
    Failures = 3,
    /// Stopped early; the same command goes on from there (`EX_TEMPFAIL` of sysexits.h).
    Resumable = 75,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints an error with its causes and hints.
pub(super) fn report(error: &anyhow::Error) -> Exit {
    if let Some(PipelineError::Config(error @ ConfigError::Invalid(_))) = error.downcast_ref() {
        for problem in error.problems() {
            talk!("error: {problem}");
            if let Some(hint) = problem.hint() {
                talk!("hint: {hint}");
            }
        }
        if error.num_omitted() > 0 {
            talk!("and {} more", error.num_omitted());
        }
        return Exit::Error;
    }
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // A transparent error repeats what it wraps.
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    talk!("error: {text}");
    let hint =
        error.chain().find_map(|cause| cause.downcast_ref::<PipelineError>().and_then(PipelineError::hint));
    if let Some(hint) = hint {
        talk!("hint: {hint}");
    }
    Exit::Error
}
