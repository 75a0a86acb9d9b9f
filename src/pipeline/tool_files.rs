//! Which tools there are: those of the program, and files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Dataset, PipelineError};
use crate::catalog::{CatalogError, ToolStage};
use crate::config::{Resolved, tool_file};
use crate::tools::{Registry, ToolError, ToolFactory, ToolOptions};

/// A tool that there is, or was.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ListedTool {
    pub name: String,
    /// A second name.
    pub alias: Option<String>,
    pub description: String,
    /// `ddl`, `program` (added to this one), a file, or `unknown`: it ran here, from a file that is elsewhere.
    pub from: String,
    /// How far it is with the dataset: `new`, `filtered`, `scheduled`, `completed`.
    pub stage: &'static str,
    /// Partitions that it goes through, and how many of them are done.
    pub partitions: u64,
    pub done: u64,
}

/// The tool of a name, or of a file.
///
/// A name is looked for among those of the program, then as `NAME.yaml` in `tools_parameters.custom_folder`.
///
/// # Errors
/// `ToolError::Unknown`, with the nearest name; what is wrong with the file.
pub fn find_tool(dataset: &Dataset, tools: &Registry, name: &str) -> Result<ToolFactory, PipelineError> {
    if is_path(name) {
        return from_file(tools, Path::new(name), None);
    }
    if let Some(factory) = tools.find(name) {
        return Ok(factory);
    }
    let files = files(&dataset.resolved)?;
    match files.get(name) {
        Some(path) => from_file(tools, path, Some(name)),
        None => Err(tools.unknown(name, &files.into_keys().collect::<Vec<_>>()).into()),
    }
}

/// The name by which the catalog knows a tool: it may have run from a file that is elsewhere, or gone.
///
/// # Errors
/// As [`find_tool`], of tools that never ran; when the catalog cannot be read.
pub fn tool_name(dataset: &Dataset, tools: &Registry, name: &str) -> Result<String, PipelineError> {
    if dataset.open_reader()?.view()?.tools()?.iter().any(|(known, _)| known == name) {
        return Ok(name.to_owned());
    }
    Ok(find_tool(dataset, tools, name)?.name().to_owned())
}

/// All tools: those of the program, then those of files, then those that ran on the dataset and are neither.
///
/// # Errors
/// When the catalog cannot be read; a dataset without one has run none.
pub fn list_tools(
    resolved: &Resolved,
    dataset: Option<&Dataset>,
    tools: &Registry,
) -> Result<Vec<ListedTool>, PipelineError> {
    let options: ToolOptions = resolved.section(&["tools_parameters"], &[])?;
    let mut listed = Vec::new();
    let mut list = |name: &str, alias: Option<&str>, description: &str, from: String| {
        let (name, alias, description) = (name.to_owned(), alias.map(str::to_owned), description.to_owned());
        listed.push(ListedTool { name, alias, description, from, stage: "new", partitions: 0, done: 0 });
    };
    for tool in tools.tools() {
        let from = if tool.built_in { "ddl" } else { "program" };
        let made = tool.factory.make(&options);
        list(tool.factory.name(), tool.alias.as_deref(), made.description(), from.to_owned());
    }
    for (name, path) in files(resolved)? {
        let description = match from_file(tools, &path, Some(&name)) {
            Ok(factory) => factory.make(&options).description().to_owned(),
            Err(error) => format!("cannot be used: {error}").lines().next().unwrap_or_default().to_owned(),
        };
        list(&name, None, &description, path.display().to_string());
    }
    let Some(dataset) = dataset else { return Ok(listed) };
    let view = match dataset.open_reader() {
        Err(PipelineError::Catalog(CatalogError::NotFound { .. })) => return Ok(listed),
        reader => reader?.view()?,
    };
    for (name, row) in view.tools()? {
        let at = listed.iter().position(|tool| tool.name == name).unwrap_or_else(|| {
            let (alias, description, from) = (None, String::new(), "unknown".to_owned());
            let name = name.clone();
            listed.push(ListedTool { name, alias, description, from, stage: "new", partitions: 0, done: 0 });
            listed.len() - 1
        });
        let partitions = view.tool_partitions(&name)?;
        let tool = &mut listed[at];
        tool.stage = match row.stage {
            ToolStage::New => "new",
            ToolStage::Filtered => "filtered",
            ToolStage::Scheduled => "scheduled",
            ToolStage::Completed => "completed",
        };
        tool.partitions = partitions.len() as u64;
        tool.done = partitions.iter().filter(|(_, partition)| partition.done.is_some()).count() as u64;
    }
    Ok(listed)
}

fn is_path(name: &str) -> bool {
    name.contains('/') || is_yaml(Path::new(name))
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// `expected` is the name by which it was found.
fn from_file(tools: &Registry, path: &Path, expected: Option<&str>) -> Result<ToolFactory, PipelineError> {
    let definition = tool_file(path)?;
    let refuse = |reason: String| {
        let name = format!("{}` of `{}", definition.name, path.display());
        Err(ToolError::Name { name, reason }.into())
    };
    if let Some(other) = tools.find(&definition.name) {
        return refuse(format!("it is that of the tool `{}`", other.name()));
    }
    if expected.is_some_and(|expected| expected != definition.name) {
        return refuse("it is looked for by the name of its file".to_owned());
    }
    Ok(definition.into())
}

/// Files of tools by their names. The folder is looked for beside each file of the configuration, the last first, then
/// in the working folder.
fn files(resolved: &Resolved) -> Result<BTreeMap<String, PathBuf>, PipelineError> {
    let folder: PathBuf = resolved.read("tools_parameters.custom_folder")?;
    let beside = resolved.files().iter().rev().filter_map(|file| file.parent());
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for beside in beside.chain([Path::new("")]) {
        let mut here: BTreeMap<String, PathBuf> = BTreeMap::new();
        for path in yaml_files(&beside.join(&folder))? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(other) = here.insert(name.clone(), path.clone()) {
                let reason = format!("`{}` and `{}` are both of this name", other.display(), path.display());
                return Err(ToolError::Name { name, reason }.into());
            }
        }
        for (name, path) in here {
            found.entry(name).or_insert(path);
        }
    }
    Ok(found)
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.and_then(|listing| listing.map(|entry| Ok(entry?.path())).collect()),
    };
    let mut paths: Vec<_> = listed.map_err(|source| PipelineError::Io {
        action: format!("read folder `{}`", folder.display()),
        source,
    })?;
    paths.retain(|path| is_yaml(path));
    paths.sort();
    Ok(paths)
}
