//! The terminal around the verbs: arguments in, tables, bars and exit codes out.
//!
//! stdout is data, stderr is talk. Nothing below this room prints or knows an exit code.

/// Says a line on stderr, as `eprintln!` does. That nobody can read it (`2>&1 | head`, a full disk) ends no run.
macro_rules! talk {
    ($($text:tt)*) => { $crate::cli::say(format_args!($($text)*)) };
}

mod args;
mod commands;
mod exit;
mod format;
mod logging;
mod progress;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

pub use args::Args;
pub use exit::Exit;

use crate::model::mask_credentials;
use crate::runtime::silence_caught_panics;
use crate::tools::Registry;

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    run_with(&Registry::default())
}

/// As [`run`], with tools of the program's own: its `main` is then a `ddl` that has these, too.
#[must_use]
pub fn run_with(tools: &Registry) -> ExitCode {
    // What a decoder panicked on is in the dataset; on the terminal it would break the progress bar.
    silence_caught_panics();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    match commands::run(args, tools) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn say(text: std::fmt::Arguments<'_>) {
    // One write, so that lines of several processes do not mix.
    let line = format!("{text}\n");
    let _ = progress::above_bar(|| std::io::stderr().write_all(mask_credentials(&line).as_bytes()));
}

/// Writes a line of data. A reader that has seen enough closes the pipe: that ends the talk, it is no error.
fn print_line(line: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}
