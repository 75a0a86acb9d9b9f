//! `corrupted/corrupted.csv`: the images that a tool removes, each with its cause, as distributed-downloader lists them.

use std::path::PathBuf;

use arrow::array::{Array as _, AsArray};

use super::ToolError;
use super::run::{damaged, read};
use super::verdict::VerdictKind;
use crate::catalog::ToolPartition;
use crate::model::ServerName;
use crate::storage::{CsvFile, DatasetLayout, remove_if_there};

/// Rows of verdicts that are read at a time.
const BATCH_ROWS: usize = 8192;

fn path(layout: &DatasetLayout, tool: &str) -> PathBuf {
    layout.tool(tool).join("corrupted").join("corrupted.csv")
}

/// Writes the list from the verdicts of all partitions.
pub(super) fn write<'a>(
    layout: &DatasetLayout,
    tool: &str,
    partitions: impl IntoIterator<Item = (&'a ServerName, u32, &'a ToolPartition)>,
) -> Result<(), ToolError> {
    let mut csv = CsvFile::create(&path(layout, tool))?;
    csv.row(["uuid", "error", "server_name", "partition_id"])?;
    for (folder, id, row) in partitions {
        if row.done.is_none_or(|piece| piece.num_removed == 0) {
            continue;
        }
        let verdicts = layout.tool_verdicts(tool, folder, id);
        let columns = ["uuid", "verdict", "reason", "shared_server_name"];
        for batch in read(&verdicts, Some(&columns), BATCH_ROWS, None)? {
            let batch = batch.map_err(|error| damaged(&verdicts, error))?;
            let [uuid, verdict, reason, member] = columns.map(|name| batch[name].as_string::<i32>());
            for at in 0..batch.num_rows() {
                if verdict.value(at) == VerdictKind::Remove.as_str() {
                    let server = if member.is_valid(at) { member.value(at) } else { folder.as_str() };
                    csv.row([uuid.value(at), reason.value(at), server, &id.to_string()])?;
                }
            }
        }
    }
    Ok(csv.finish()?)
}

/// Removes the list: it is of an earlier run.
pub(super) fn remove(layout: &DatasetLayout, tool: &str) -> Result<(), ToolError> {
    Ok(remove_if_there(&path(layout, tool))?)
}
