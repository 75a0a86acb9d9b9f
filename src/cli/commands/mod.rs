//! One file per verb, each glue only: resolve, run the verb, print its report.

mod audit;
mod catalog;
mod check;
mod config;
mod demo;
mod doctor;
mod download;
mod export;
mod ingest;
mod init;
mod list_text;
mod plan;
mod prompt;
mod query;
mod ranks;
mod report;
mod retract;
mod retry;
mod run;
mod status;
mod submit;
pub(super) mod time;
mod tool;
mod unit;

use clap::CommandFactory as _;

use super::args::{Args, Command, GlobalArgs};
use super::{Exit, logging, print_line};
use crate::config::{Chain, Environment, Notice, Overrides, Resolved, load};
use crate::pipeline::{Dataset, PipelineError};
use crate::tools::Registry;

pub(super) fn run(args: Args, tools: &Registry) -> anyhow::Result<Exit> {
    let Args { global, command } = args;
    match command {
        Command::Init(args) => init::run(&args),
        Command::Ingest(args) => ingest::run(&global, &args),
        Command::Plan(args) => plan::run(&global, &args),
        Command::Download(args) => download::run(&global, &args),
        Command::Retry(args) => retry::run(&global, &args),
        Command::Retract(args) => retract::run(&global, &args),
        Command::Run(args) => run::run(&global, &args),
        Command::Status(args) => status::run(&global, &args),
        Command::Submit(command) => submit::run(&global, &command, tools),
        Command::Query(args) => query::run(&global, &args),
        Command::Tool(args) => tool::run(&global, &args, tools),
        Command::Export(command) => export::run(&global, &command, tools),
        Command::Unit(command) => unit::run(&global, &command),
        Command::Check(args) => check::run(&global, &args, tools),
        Command::Catalog(command) => catalog::run(&global, &command),
        Command::Report(args) => report::run(&global, &args),
        Command::Audit(args) => audit::run(&global, &args),
        Command::Doctor(args) => doctor::run(&global, &args),
        Command::Demo(args) => demo::run(&global, &args),
        Command::Config(command) => config::run(&global, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "ddl", &mut script);
            print_line(String::from_utf8_lossy(&script).trim_end())?;
            Ok(Exit::Done)
        }
    }
}

/// Reads the configuration with all its sources.
fn resolve(global: &GlobalArgs, overrides: Overrides) -> Result<Resolved, PipelineError> {
    let chain = Chain { files: global.config.clone(), environment: Environment::of_process(), overrides };
    Ok(load(&chain)?)
}

/// The dataset that the configuration names.
fn dataset(global: &GlobalArgs, overrides: Overrides) -> Result<Dataset, PipelineError> {
    Dataset::new(resolve(global, overrides)?)
}

/// Starts logging to stderr, and to a file of the dataset when the verb has one; then tells what the
/// configuration has to tell.
fn start_logging(global: &GlobalArgs, dataset: &Dataset, file_name: Option<String>) {
    let folder = dataset.layout.logs();
    let level = &dataset.settings.downloader_parameters.logger_level;
    let file = file_name.map(|name| logging::LogFile { folder: &folder, name, level });
    logging::start(global, file.as_ref());
    for notice in dataset.resolved.notices() {
        match notice {
            Notice::Unused { .. } => tracing::debug!("{notice}"),
            _ => tracing::warn!("{notice}"),
        }
    }
}
