//! Tools that are files: which images, as SQL, and a command that goes through them.
//!
//! A command sees a partition as files and answers with files, all in a folder of its claim that is swept afterwards:
//!
//! | place | what is there |
//! |---|---|
//! | `{input}` | a folder of links to the partition's Parquet files |
//! | `{selected}` | Parquet: the rows of the filter table that are this partition's |
//! | `{output}` | an empty folder, for `verdicts.parquet` and `successes.parquet` |
//!
//! What it writes is read back and checked row by row ([`answer`]), and only that is written into the dataset: whatever a
//! command answers, it costs its partition and no more. The links lead to the dataset's own files, though: a command that
//! writes to one of them ends the run ([`scratch`]). It runs in a process group of its own ([`command`]), of which nothing
//! is left when it ends, takes too long, or is told to stop, nor when ddl is killed.

mod answer;
mod argument;
mod command;
mod scratch;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub use argument::{Argument, Variable, WrongVariable};
pub use words::{WrongWords, split_words};

use super::run::remove_selected;
use super::stored::FullDecoder;
use super::{FilterInput, FilterTable, RunInput, RunOutput, Selects, Tool, ToolError, ToolOptions};

/// A script beside the tool's file that is longer than this is not looked into for changes.
const MAX_SCRIPT_BYTES: u64 = 1 << 20;

/// A tool, as its file defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDefinition {
    pub name: String,
    /// One line.
    pub description: String,
    /// Its file.
    pub path: PathBuf,
    /// Of the bytes of its file.
    pub digest: String,
    pub selects: Selects,
    /// An SQL condition over `images`; without one, all.
    pub filter: Option<String>,
    /// Why an image goes, where the command does not say.
    pub reason: String,
    /// Goes through the partitions; without one, all chosen images are to be removed.
    pub command: Option<CommandDefinition>,
}

/// A command and what is expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandDefinition {
    /// The program, and what it is given.
    pub arguments: Vec<Argument>,
    /// It is ended when it takes longer for a partition.
    pub timeout: Duration,
    /// Exit codes that mean that all went well.
    pub success_exit_codes: Vec<i32>,
    pub output: CommandOutput,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// Which files a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandOutput {
    /// `verdicts.parquet`.
    Verdicts,
    /// `successes.parquet`.
    Images,
    Both,
}

impl CommandOutput {
    /// The words of `output`.
    pub const WORDS: &[&str] = &["verdicts", "images", "both"];

    /// Reads one of [`CommandOutput::WORDS`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let values = [Self::Verdicts, Self::Images, Self::Both];
        Self::WORDS.iter().zip(values).find(|(word, _)| **word == text).map(|(_, value)| value)
    }
}

impl ToolDefinition {
    /// The folder in which its command runs.
    fn folder(&self) -> PathBuf {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        path.parent().map_or_else(PathBuf::new, Path::to_owned)
    }

    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            path: PathBuf::from(format!("{name}.yaml")),
            digest: String::new(),
            selects: Selects::Images,
            filter: None,
            reason: name.to_owned(),
            command: None,
        }
    }
}

/// The tool of a [`ToolDefinition`].
pub(super) struct CustomTool {
    definition: Arc<ToolDefinition>,
    parameters: String,
    decoder: FullDecoder,
}

impl CustomTool {
    pub fn new(definition: Arc<ToolDefinition>, options: &ToolOptions) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(definition.digest.as_bytes());
        for script in definition.command.iter().flat_map(|command| &command.arguments) {
            hash_script(&definition.folder(), script, &mut hasher);
        }
        let parameters = format!("definition: {}", hasher.finalize().to_hex());
        Self { definition, parameters, decoder: FullDecoder::new(options) }
    }
}

/// A script in the tool's folder that an argument names is a part of the tool: a changed one starts it again, too.
fn hash_script(folder: &Path, argument: &Argument, hasher: &mut blake3::Hasher) {
    let Some(name) = argument.as_text() else { return };
    let path = folder.join(name);
    let is_short = |file: fs::Metadata| file.is_file() && file.len() <= MAX_SCRIPT_BYTES;
    if Path::new(name).is_relative() && fs::metadata(&path).is_ok_and(is_short) {
        hasher.update(&fs::read(&path).unwrap_or_default());
    }
}

impl Tool for CustomTool {
    fn name(&self) -> &str {
        &self.definition.name
    }

    fn description(&self) -> &str {
        &self.definition.description
    }

    fn parameters(&self) -> String {
        self.parameters.clone()
    }

    fn selects(&self) -> Selects {
        self.definition.selects
    }

    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>> {
        async move {
            let ToolDefinition { selects, filter, reason, path, .. } = &*self.definition;
            let chosen = match (selects, filter) {
                (Selects::Images, filter) => {
                    let reason = format!("'{}'", reason.replace('\'', "''"));
                    input.select(table, filter.as_deref().unwrap_or("true"), &reason).await
                }
                (Selects::Partitions, Some(filter)) => input.select_partitions(table, filter).await,
                (Selects::Partitions, None) => input.all_partitions(table),
            };
            chosen.map_err(|error| match error {
                ToolError::Query(source) => ToolError::Condition { path: path.clone(), source },
                error => error,
            })
        }
        .boxed()
    }

    fn run(&self, input: &RunInput, output: &mut RunOutput) -> Result<(), ToolError> {
        let Some(command) = &self.definition.command else { return remove_selected(input, output) };
        input.check_files()?;
        let scratch = scratch::Scratch::new(input, output.epoch, self.definition.selects)?;
        let called = command::call(&self.definition, command, &scratch, input);
        scratch.check_input()?;
        called?;
        let reason = &self.definition.reason;
        answer::read(command.output, &scratch.output(), reason, &self.decoder, input, output)
    }
}
