//! The whole deed: the partitions, what tools have made, the search.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::{Dataset, PipelineError};
use super::partitions::{Work, digests_of, guarded, is_of_the_disk, manifest_records};
use super::plan::RETRACTED;
use super::{RetractPlan, RetractReport};
use crate::catalog::{Catalog, DispositionCounts, ToolStage};
use crate::check::{
    SOUGHT_COLUMNS, SearchReport, Sought, Unsearched, parquet_files, search_images, sweep_tools,
};
use crate::model::{Epoch, RecordIndex, RunId};
use crate::query::QueryOptions;
use crate::storage::{DatasetLayout, RetractionLog, RowRemoval, StorageOptions};
use crate::tools;

/// What is written beside verdicts and images, and never an image.
const TEXTS: [&str; 3] = ["csv", "json", "yaml"];

pub(super) fn work(
    dataset: &Dataset,
    catalog: &Catalog,
    plan: RetractPlan,
    run_id: RunId,
    reason: Option<&str>,
) -> Result<RetractReport, PipelineError> {
    let layout = &dataset.layout;
    let options: QueryOptions = dataset.resolved.section(&["query_parameters"], &[])?;
    let view = catalog.view()?;
    let report = RetractReport {
        plan,
        run_id,
        retracted: DispositionCounts::default(),
        image_bytes: 0,
        partitions_rewritten: 0,
        failed_partitions: Vec::new(),
        tools_to_run: Vec::new(),
        tool_files: Vec::new(),
        tool_rows: 0,
        num_sought: 0,
        search: SearchReport::default(),
        not_searched: Vec::new(),
        log: None,
    };
    let mut work = Work {
        layout,
        catalog,
        folders: view.servers()?.into_iter().map(|server| (server.id, server.folder)).collect(),
        options: view
            .hash_algorithm()?
            .map(|hash_algorithm| StorageOptions { hash_algorithm, raw_pixels: false }),
        epoch: Epoch::new(run_id, 0),
        reason,
        log: RetractionLog::new(layout, run_id),
        report,
    };
    drop(view);
    work.retract_all()?;
    work.sweep_tools()?;
    let sought = work.sought()?;
    work.rewrite_others(&sought)?;
    let Work { log, mut report, .. } = work;
    report.num_sought = sought.num_records();
    report.search = search_images(layout.root(), &sought)?;
    let temp_folder = options.temp_folder.unwrap_or_else(|| layout.tmp());
    report.not_searched = not_searched(layout, &temp_folder, &mut report.search.unsearched);
    report.log = (report.retracted.total() > 0).then(|| log.path().to_owned());
    Ok(report)
}

impl Work<'_> {
    /// What tools have made of images that are retracted is forgotten since; here its files go, with what killed tools
    /// have left.
    fn sweep_tools(&mut self) -> Result<(), PipelineError> {
        let swept = sweep_tools(self.layout, self.catalog)?;
        tracing::info!(files = swept.orphans_removed, "files of tools removed that no commit names");
        for (tool, row) in self.catalog.view()?.tools()? {
            tools::sweep(self.layout, &tool, row.stage)?;
            if row.stage == ToolStage::New {
                self.report.tools_to_run.push(tool);
            }
        }
        Ok(())
    }

    /// All that was ever retracted: also what an earlier retraction, that was killed, has not searched for. Where a
    /// manifest cannot be read, images are still searched for by their bytes.
    fn sought(&mut self) -> Result<Sought, PipelineError> {
        let view = self.catalog.view()?;
        let mut partitions = Vec::new();
        view.for_each_partition(|key, row| {
            if row.counts.skipped > 0 {
                partitions.push((key, row));
            }
        })?;
        let mut sought = Sought::default();
        for (key, row) in partitions {
            let states = view.states(key)?;
            let retracted: HashSet<RecordIndex> = (0..)
                .zip(&states)
                .filter(|(_, status)| status.state == RETRACTED)
                .map(|(record, _)| record)
                .collect();
            if retracted.is_empty() {
                continue;
            }
            let mut digests = digests_of(&view, key)?;
            digests.retain(|record, _| retracted.contains(record));
            sought.add_digests(digests.into_values());
            self.or_note(key, |work| {
                let folder = work.folder(key)?;
                for record in manifest_records(work.layout, folder, key.partition_id, &row, &retracted)? {
                    sought.add(&record.uuid, &record.identifier);
                }
                Ok(())
            })?;
        }
        Ok(sought)
    }

    /// Rows of retracted records leave all other Parquet files below `tools/`, with or without images. Those of tools
    /// that the catalog knows have none of them.
    fn rewrite_others(&mut self, sought: &Sought) -> Result<(), PipelineError> {
        if sought.is_empty() {
            return Ok(());
        }
        let tools = self.catalog.view()?.tools()?;
        let known: Vec<_> =
            tools.iter().filter_map(|(tool, _)| self.layout.tool(tool).canonicalize().ok()).collect();
        for path in parquet_files(&self.layout.tools())? {
            // What is unfinished, damaged or somebody else's is not touched; the search tells of it.
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) || is_of_tool(&path, &known) {
                continue;
            }
            let mut num_rows = 0;
            let found = guarded(&path, || {
                RowRemoval::find(&path, None, &SOUGHT_COLUMNS, &mut |batch| {
                    let goes = sought.rows(batch)?;
                    num_rows += goes.true_count() as u64;
                    Ok(goes)
                })
            });
            match found {
                Ok(None) => {}
                Ok(Some(removal)) => {
                    guarded(&path, || removal.write(&path, "retract"))?;
                    self.report.tool_files.push(path);
                    self.report.tool_rows += num_rows;
                }
                Err(error) if !is_of_the_disk(&error) => {
                    tracing::warn!(%error, "a tool's file cannot be read")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Whether a path, also one through links, is where one of these tools keeps what the catalog names.
fn is_of_tool(path: &Path, tools: &[PathBuf]) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    tools.iter().filter_map(|tool| path.strip_prefix(tool).ok()).any(DatasetLayout::is_of_tool)
}

/// What may hold images and is no Parquet file: in the folders of exports and of queries, and what tools have beside
/// their texts.
fn not_searched(
    layout: &DatasetLayout,
    temp_folder: &Path,
    unsearched: &mut Vec<Unsearched>,
) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut list = |folder: &Path| match entries(folder) {
        Ok(entries) => entries,
        Err(error) => {
            unsearched.push(Unsearched { path: folder.to_owned(), reason: error.to_string() });
            Vec::new()
        }
    };
    // Elsewhere others have files, too: the engine's folders are known by their names.
    let is_of_query = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        temp_folder == layout.tmp() || name.starts_with("datafusion-")
    };
    let mut set_aside = list(temp_folder);
    set_aside.retain(is_of_query);
    paths.extend(list(&layout.exports()).into_iter().chain(set_aside));
    paths.retain(|path| !(path.is_file() && is_parquet(path)));
    let mut folders = vec![layout.tools()];
    while let Some(folder) = folders.pop() {
        for path in list(&folder) {
            let is_text =
                || path.extension().is_some_and(|extension| TEXTS.iter().any(|text| extension == *text));
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if !path.is_dir() && !is_parquet(&path) && !is_text() {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths
}

fn is_parquet(path: &Path) -> bool {
    path.to_string_lossy().contains(".parquet")
}

/// What lies in a folder; nothing, if there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listing => listing?.map(|entry| Ok(entry?.path())).collect(),
    }
}
