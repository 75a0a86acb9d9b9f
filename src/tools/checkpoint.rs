//! What distributed-downloader's users look for in a tool's folder, written from the catalog.

use std::collections::BTreeMap;

use super::ToolError;
use crate::catalog::{ToolPartition, ToolStage};
use crate::model::{Rank, ServerName};
use crate::storage::{CsvFile, DatasetLayout, write_atomically};

/// Writes `tool_checkpoint.yaml`.
pub(super) fn write_checkpoint(
    layout: &DatasetLayout,
    tool: &str,
    stage: ToolStage,
) -> Result<(), ToolError> {
    let flag = |name: &str, since: ToolStage| format!("{name}: {}\n", stage >= since);
    let text = [
        flag("filtering_scheduled", ToolStage::Filtered),
        flag("filtering_completed", ToolStage::Filtered),
        flag("scheduling_scheduled", ToolStage::Scheduled),
        flag("scheduling_completed", ToolStage::Scheduled),
        flag("completed", ToolStage::Completed),
    ]
    .concat();
    Ok(write_atomically(&layout.tool(tool).join("tool_checkpoint.yaml"), text.as_bytes())?)
}

/// Writes `verification/RRRR.csv`: the partitions that each rank has done.
pub(super) fn write_verification<'a>(
    layout: &DatasetLayout,
    tool: &str,
    partitions: impl IntoIterator<Item = (&'a ServerName, u32, &'a ToolPartition)>,
) -> Result<(), ToolError> {
    let folder = layout.tool(tool).join("verification");
    let mut done: BTreeMap<Rank, Vec<(&ServerName, u32)>> = BTreeMap::new();
    for (server, id, row) in partitions {
        if let Some(piece) = row.done {
            done.entry(piece.rank).or_default().push((server, id));
        }
    }
    // Those of ranks that are no more: their partitions were done again.
    if let Ok(entries) = std::fs::read_dir(&folder) {
        entries.flatten().for_each(|entry| drop(std::fs::remove_file(entry.path())));
    }
    for (rank, partitions) in done {
        let mut csv = CsvFile::create(&folder.join(format!("{rank:04}.csv")))?;
        csv.row(["server_name", "partition_id"])?;
        for (server, id) in partitions {
            csv.row([server.as_str(), &id.to_string()])?;
        }
        csv.finish()?;
    }
    Ok(())
}
