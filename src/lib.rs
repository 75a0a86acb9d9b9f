//! Turns a list of image URLs into a clean, documented dataset.
//!
//! A **catalog** (one redb file) is the only truth about progress; Parquet files are the bulk data it points
//! to. `ingest` reads lists into it, `download` claims partitions through rank 0 and fills them, alone or
//! under MPI, `query` answers SQL over everything, `export` writes what is left.
//!
//! Every verb is a function of [`pipeline`]; the binary `ddl` is a terminal around them:
//!
//! ```no_run
//! ddl::download_images("ddl.yaml".as_ref())?;
//! # Ok::<(), ddl::pipeline::PipelineError>(())
//! ```
//! `ARCHITECTURE.md` has the map of the rooms and which may use which.

// stdout is data, and a macro that panics when nobody reads stderr must not end a run.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod audit;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod doctor;
pub mod download;
pub mod export;
pub mod fetch;
pub mod imaging;
pub mod ingest;
pub mod model;
pub mod near;
pub mod pipeline;
pub mod query;
pub mod report;
pub mod runtime;
pub mod slurm;
pub mod storage;
pub mod tools;
pub mod units;

use std::path::Path;

/// Runs a tool over the dataset of a configuration file, as `ddl tool` does, quietly.
///
/// # Errors
/// Whatever ends it early; run it again to go on.
pub fn apply_tool(
    config_path: &Path,
    tool_name: &str,
) -> Result<pipeline::ToolEnding, pipeline::PipelineError> {
    apply_tool_with(&tools::Registry::default(), config_path, tool_name)
}

/// As [`apply_tool`], with tools of one's own.
///
/// # Errors
/// As [`apply_tool`].
pub fn apply_tool_with(
    tools: &tools::Registry,
    config_path: &Path,
    tool_name: &str,
) -> Result<pipeline::ToolEnding, pipeline::PipelineError> {
    let chain = config::Chain { files: vec![config_path.to_owned()], ..config::Chain::default() };
    let dataset = pipeline::Dataset::new(config::load(&chain)?)?;
    let tool = pipeline::find_tool(&dataset, tools, tool_name)?;
    let cluster = cluster::launch(&cluster::ClusterOptions::default())?;
    let request = pipeline::ToolRequest { tool, stage: None, reset: None };
    let shutdown = runtime::Shutdown::new();
    pipeline::tool(&dataset, &request, cluster, &shutdown, |_| |_: &dispatch::PublishedStatus| {})
        .map(|(ending, _)| ending)
}

/// Downloads what is pending in the dataset of a configuration file, as `ddl download` does, quietly.
///
/// # Errors
/// Whatever ends the run early; run it again to go on.
pub fn download_images(config_path: &Path) -> Result<pipeline::DownloadEnding, pipeline::PipelineError> {
    let chain = config::Chain { files: vec![config_path.to_owned()], ..config::Chain::default() };
    let dataset = pipeline::Dataset::new(config::load(&chain)?)?;
    let cluster = cluster::launch(&cluster::ClusterOptions::default())?;
    let shutdown = runtime::Shutdown::new();
    pipeline::download(&dataset, cluster, &shutdown, |_| |_: &dispatch::PublishedStatus| {})
        .map(|(ending, _)| ending)
}
