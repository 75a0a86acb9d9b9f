//! What rank 0 does of a tool: the first two stages, and what comes after the third.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use super::filter::check_columns;
use super::{
    FilterInput, FilterTable, PartitionLoad, Selects, Tool, ToolError, checkpoint, corrupted, schedule,
};
use crate::catalog::{Catalog, CatalogView, ToolPartition, ToolRow, ToolStage};
use crate::model::{PartitionKey, ServerName};
use crate::query::QuerySession;
use crate::storage::{DatasetLayout, StorageError, remove_if_there, sweep_temporary};

/// A stage of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Filter,
    Schedule,
    Run,
}

/// How a tool stands after its stages.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StagesReport {
    pub tool: String,
    pub completed: bool,
    /// Partitions that it goes through, and how many of them are done.
    pub partitions: u64,
    pub done: u64,
    /// Images in those that are done.
    pub images: u64,
    pub removed: u64,
    /// Verdicts that remove nothing.
    pub flagged: u64,
    /// Images that it has made.
    pub new_images: u64,
}

/// Does the first two stages as far as they are not done, or `only` one of them; from stage `reset` on again, if that is
/// given. True when partitions are left to be run.
///
/// # Errors
/// `NotFiltered` or `Changed` when `only` asks for a stage whose predecessor is not done; what is committed stays.
pub async fn prepare(
    tool: &dyn Tool,
    catalog: &Catalog,
    session: &QuerySession,
    num_ranks: u32,
    only: Option<Stage>,
    reset: Option<Stage>,
) -> Result<bool, ToolError> {
    let stages = Stages { tool, catalog, layout: session.layout(), session };
    let view = catalog.view()?;
    let mut row = view.tool(tool.name())?;
    sweep(session.layout(), tool.name(), row.stage)?;
    let mut before: HashMap<_, _> = view.tool_partitions(tool.name())?.into_iter().collect();
    drop(view);
    let input = session.images_fingerprint();
    let same_parameters = row.parameters == tool.parameters();
    let is_same = same_parameters && row.input == input && !is_mended(session, &before);
    let has_changed = row.stage > ToolStage::New && !is_same;
    if has_changed {
        tracing::info!(tool = tool.name(), "its parameters or the images have changed: it starts again");
        row.stage = ToolStage::New;
    }
    if let Some(first) = reset {
        row.stage = row.stage.min(match first {
            Stage::Filter => ToolStage::New,
            Stage::Schedule => ToolStage::Filtered,
            Stage::Run => ToolStage::Scheduled,
        });
        // Also where the filter comes first: it would keep what is done of partitions that have not changed.
        before.values_mut().for_each(|partition| partition.done = None);
        if row.stage > ToolStage::New {
            stages.commit(&row, before.iter().map(|(&key, row)| (key, row.clone())).collect())?;
        }
    }
    if row.stage == ToolStage::New {
        if matches!(only, Some(Stage::Schedule | Stage::Run)) {
            let tool = tool.name().to_owned();
            return Err(if has_changed {
                ToolError::Changed { tool }
            } else {
                ToolError::NotFiltered { tool }
            });
        }
        let keep = tool.selects() == Selects::Partitions && same_parameters;
        row = ToolRow { stage: ToolStage::New, parameters: tool.parameters(), input, num_selected: 0 };
        stages.filter(&mut row, if keep { before } else { HashMap::new() }).await?;
    }
    if only == Some(Stage::Filter) {
        return Ok(false);
    }
    if row.stage == ToolStage::Filtered {
        stages.schedule(&mut row, num_ranks)?;
    }
    if only == Some(Stage::Schedule) {
        return Ok(false);
    }
    let partitions = catalog.view()?.tool_partitions(tool.name())?;
    Ok(partitions.iter().any(|(_, partition)| partition.done.is_none()))
}

/// Whether a partition can be read that the filter had to leave out. What the filter chose may then be another.
fn is_mended(session: &QuerySession, partitions: &HashMap<PartitionKey, ToolPartition>) -> bool {
    let is_left_out = |key| partitions.get(&key).is_some_and(|partition| partition.num_rows == 0);
    session.partitions().enumerate().filter(|(_, (key, ..))| is_left_out(*key)).any(|(position, _)| {
        session.image_files(position).iter().all(|(path, rows)| check_columns(path, *rows).is_ok())
    })
}

struct Stages<'a> {
    tool: &'a dyn Tool,
    catalog: &'a Catalog,
    layout: &'a DatasetLayout,
    session: &'a QuerySession,
}

/// Removes what rank 0 had begun to write for a tool when it was killed, and the table of a filter that is to be run
/// again. What ranks had, the next claims remove.
///
/// # Errors
/// When a folder cannot be read, or the table stays.
pub fn sweep(layout: &DatasetLayout, tool: &str, stage: ToolStage) -> Result<(), StorageError> {
    let folder = layout.tool(tool);
    for folder in
        [&folder, &folder.join("filter_table"), &folder.join("verification"), &folder.join("corrupted")]
    {
        sweep_temporary(folder)?;
    }
    if stage == ToolStage::New {
        let table = layout.filter_table(tool);
        remove_if_there(&table)?;
        remove_if_there(&table.with_extension("csv"))?;
    }
    Ok(())
}

impl Stages<'_> {
    async fn filter(
        &self,
        row: &mut ToolRow,
        mut before: HashMap<PartitionKey, ToolPartition>,
    ) -> Result<(), ToolError> {
        let name = self.tool.name();
        let selects = self.tool.selects();
        // From here on the catalog names nothing that the filter is about to replace.
        let kept: Vec<_> = before.iter().map(|(&key, row)| (key, row.clone())).collect();
        self.commit(row, kept)?;
        let mut input = FilterInput::new(self.session)?;
        let (file, mut rows) = loop {
            let mut table = FilterTable::create(&self.layout.filter_table(name), selects)?;
            match self.tool.filter(&input, &mut table).await {
                Ok(()) => break table.finish()?,
                // It need not be the statement that is wrong.
                Err(ToolError::Query(_) | ToolError::Condition { .. }) if input.leave_out_damaged().await => {
                }
                Err(error) => return Err(error),
            }
        };
        // Nothing of them could be chosen; the run sets them aside, so the tool does not end as if they were done.
        for &position in input.damaged() {
            rows.entry(position).or_default();
        }
        let mut partitions = Vec::with_capacity(rows.len());
        let by_position: Vec<_> = self.session.partitions().collect();
        for (position, (first_row, num_rows)) in rows {
            let Some(&(key, _, partition)) = by_position.get(position) else {
                return Err(ToolError::Failed(format!(
                    "the filter names partition {position}: there is none"
                )));
            };
            let input = partition.images_fingerprint();
            let done = before.remove(&key).filter(|old| old.input == input).and_then(|old| old.done);
            let (num_images, image_bytes) = (partition.counts.success, partition.image_bytes);
            let row = ToolPartition { rank: 0, num_images, image_bytes, first_row, num_rows, input, done };
            partitions.push((key, row));
        }
        row.stage = ToolStage::Filtered;
        row.num_selected = file.num_rows;
        self.commit(row, partitions)
    }

    fn schedule(&self, row: &mut ToolRow, num_ranks: u32) -> Result<(), ToolError> {
        let name = self.tool.name();
        let mut partitions = in_order(self.session, &self.catalog.view()?, name)?;
        let loads: Vec<_> = partitions
            .iter()
            .map(|(_, folder, id, row)| PartitionLoad {
                folder: folder.clone(),
                partition_id: *id,
                num_images: row.num_images,
                image_bytes: row.image_bytes,
            })
            .collect();
        for ((.., row), rank) in partitions.iter_mut().zip(self.tool.schedule(&loads, num_ranks)) {
            row.rank = rank;
        }
        let path = self.layout.tool(name).join("schedule.csv");
        schedule::write(&path, partitions.iter().map(|(_, folder, id, row)| (folder, *id, row)))?;
        row.stage = ToolStage::Scheduled;
        self.commit(row, partitions.into_iter().map(|(key, _, _, row)| (key, row)).collect())
    }

    /// Commits how far the tool is, then removes what is no longer named.
    fn commit(&self, row: &ToolRow, partitions: Vec<(PartitionKey, ToolPartition)>) -> Result<(), ToolError> {
        self.catalog.schedule_tool(self.tool.name(), row, &partitions)?;
        // It is of an earlier run.
        corrupted::remove(self.layout, self.tool.name())?;
        let done: HashMap<PartitionKey, _> =
            partitions.into_iter().filter_map(|(key, row)| Some((key, row.done?))).collect();
        for (key, folder, _) in self.session.partitions() {
            if !done.contains_key(&key) {
                let path = self.layout.tool_folder(self.tool.name(), folder, key.partition_id);
                let _ = fs::remove_dir_all(path);
            }
        }
        checkpoint::write_checkpoint(self.layout, self.tool.name(), row.stage)
    }
}

/// A tool's partitions in the order of the dataset.
fn in_order(
    session: &QuerySession,
    view: &CatalogView,
    name: &str,
) -> Result<Vec<(PartitionKey, ServerName, u32, ToolPartition)>, ToolError> {
    let mut rows: BTreeMap<PartitionKey, ToolPartition> = view.tool_partitions(name)?.into_iter().collect();
    let partitions = session.partitions();
    Ok(partitions
        .filter_map(|(key, folder, _)| Some((key, folder.clone(), key.partition_id, rows.remove(&key)?)))
        .collect())
}

/// After the third stage: marks the tool as completed if it is, and writes what people look for.
///
/// # Errors
/// When the catalog or a file cannot be written.
pub fn finish(tool: &dyn Tool, catalog: &Catalog, session: &QuerySession) -> Result<StagesReport, ToolError> {
    let (name, layout) = (tool.name(), session.layout());
    let view = catalog.view()?;
    let partitions = in_order(session, &view, name)?;
    let mut row = view.tool(name)?;
    drop(view);
    let mut report = StagesReport { tool: name.to_owned(), ..StagesReport::default() };
    for (.., partition) in &partitions {
        report.partitions += 1;
        let Some(piece) = &partition.done else { continue };
        report.done += 1;
        report.images += piece.num_images;
        report.removed += piece.num_removed;
        report.flagged += piece.verdicts.num_rows - piece.num_removed;
        report.new_images += piece.images.num_rows;
    }
    if row.stage == ToolStage::Scheduled && report.done == report.partitions {
        row.stage = ToolStage::Completed;
        catalog.put_tool(name, &row)?;
    }
    report.completed = row.stage == ToolStage::Completed;
    let rows = || partitions.iter().map(|(_, folder, id, row)| (folder, *id, row));
    checkpoint::write_verification(layout, name, rows())?;
    match tool.lists_corrupted() {
        true if report.completed => corrupted::write(layout, name, rows())?,
        true => corrupted::remove(layout, name)?,
        false => {}
    }
    checkpoint::write_checkpoint(layout, name, row.stage)?;
    Ok(report)
}
