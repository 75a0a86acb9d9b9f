//! How far tools are: what they chose, which partitions they have still to go through, and what came of each.
//!
//! | report | partition is | then |
//! |---|---|---|
//! | piece | scheduled, not done | done |
//! | piece | otherwise | refused |

use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::encoding::{decode, encode};
use super::report::Refusal;
use super::{Catalog, CatalogError, CatalogView, tables};
use crate::model::{DataFile, Epoch, PartitionKey, Rank, ServerId};

/// Which of its stages a tool has behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ToolStage {
    #[default]
    New,
    /// The filter table stands.
    Filtered,
    /// Its partitions are in the catalog.
    Scheduled,
    /// Every one of them is done.
    Completed,
}

/// A tool as the catalog has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRow {
    pub stage: ToolStage,
    /// What its results depend on besides the images, as text.
    pub parameters: String,
    /// Fingerprint of the images that it was filtered over.
    pub input: u64,
    /// Rows of the filter table.
    pub num_selected: u64,
}

/// A partition that a tool goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolPartition {
    /// The rank that `schedule.csv` has for it; whoever is free does it.
    pub rank: Rank,
    pub num_images: u64,
    pub image_bytes: u64,
    /// Its rows in the filter table: they lie together.
    pub first_row: u64,
    pub num_rows: u64,
    /// Fingerprint of the images of this partition.
    pub input: u64,
    pub done: Option<ToolPiece>,
}

/// What a tool made of one partition. A file without rows is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolPiece {
    pub epoch: Epoch,
    /// The rank that did it.
    pub rank: Rank,
    /// Images that it has looked at.
    pub num_images: u64,
    /// Verdicts that say so.
    pub num_removed: u64,
    pub verdicts: DataFile,
    /// New images, of tools that make them.
    pub images: DataFile,
}

/// A partition is done: its files are closed and synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolReport {
    pub tool: String,
    pub partition: PartitionKey,
    pub piece: ToolPiece,
}

impl Catalog {
    /// Sets how far a tool is, and leaves its partitions alone.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn put_tool(&self, name: &str, row: &ToolRow) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        txn.open_table(tables::TOOLS)?.insert(name, encode(row).as_slice())?;
        self.commit(txn)
    }

    /// Sets how far a tool is, and these partitions in place of all that it had.
    ///
    /// # Errors
    /// When the storage fails: then nothing has changed.
    pub fn schedule_tool(
        &self,
        name: &str,
        row: &ToolRow,
        partitions: &[(PartitionKey, ToolPartition)],
    ) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        txn.open_table(tables::TOOLS)?.insert(name, encode(row).as_slice())?;
        {
            let mut table = txn.open_table(tables::TOOL_PARTITIONS)?;
            table.retain_in((name, 0, 0)..=(name, u32::MAX, u32::MAX), |_, _| false)?;
            for (key, partition) in partitions {
                table.insert((name, key.server_id.0, key.partition_id), encode(partition).as_slice())?;
            }
        }
        self.commit(txn)
    }
}

/// Forgets what tools have made of a partition, whose images are no longer the same. Every tool starts again: what it
/// chose and said of other images may rest on those that are gone.
pub(super) fn forget_pieces(
    txn: &redb::WriteTransaction,
    partition: PartitionKey,
) -> Result<(), CatalogError> {
    let mut tools = txn.open_table(tables::TOOLS)?;
    let mut partitions = txn.open_table(tables::TOOL_PARTITIONS)?;
    let rows = tools.iter()?.map(|entry| {
        let (name, value) = entry?;
        Ok((name.value().to_owned(), decode::<ToolRow>(value.value(), "tool")?))
    });
    for (name, mut row) in rows.collect::<Result<Vec<_>, CatalogError>>()? {
        row.stage = ToolStage::New;
        tools.insert(name.as_str(), encode(&row).as_slice())?;
        let at = (name.as_str(), partition.server_id.0, partition.partition_id);
        let row = partitions.get(at)?.map(|value| decode::<ToolPartition>(value.value(), "tool's partition"));
        if let Some(mut row) = row.transpose()? {
            row.done = None;
            partitions.insert(at, encode(&row).as_slice())?;
        }
    }
    Ok(())
}

pub(super) fn commit_piece(
    txn: &redb::WriteTransaction,
    report: &ToolReport,
) -> Result<Result<(), Refusal>, CatalogError> {
    let partition = report.partition;
    let refuse = |reason| Ok(Err(Refusal { partition, reason }));
    let mut table = txn.open_table(tables::TOOL_PARTITIONS)?;
    let key = (report.tool.as_str(), partition.server_id.0, partition.partition_id);
    let row = table.get(key)?.map(|value| decode::<ToolPartition>(value.value(), "tool's partition"));
    let Some(mut row) = row.transpose()? else { return refuse("the tool has not scheduled it") };
    if row.done.is_some() {
        return refuse("it is done");
    }
    row.done = Some(report.piece);
    table.insert(key, encode(&row).as_slice())?;
    Ok(Ok(()))
}

impl CatalogView {
    /// How far a tool is; `New` when it never ran.
    ///
    /// # Errors
    /// When the storage fails or a value does not decode; so for all here.
    pub fn tool(&self, name: &str) -> Result<ToolRow, CatalogError> {
        let tools = self.tools()?;
        Ok(tools.into_iter().find(|(known, _)| known == name).map(|(_, row)| row).unwrap_or_default())
    }

    /// Every tool that ran, by name.
    pub fn tools(&self) -> Result<Vec<(String, ToolRow)>, CatalogError> {
        self.read(|txn| {
            // A reader may find a catalog that no writer with tools has opened yet.
            let table = match txn.open_table(tables::TOOLS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let rows = table.iter()?.map(|entry| {
                let (name, value) = entry?;
                Ok((name.value().to_owned(), decode(value.value(), "tool")?))
            });
            rows.collect()
        })
    }

    /// A partition that a tool goes through; `None` when it does not.
    pub fn tool_partition(
        &self,
        name: &str,
        key: PartitionKey,
    ) -> Result<Option<ToolPartition>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::TOOL_PARTITIONS)?;
            let value = table.get((name, key.server_id.0, key.partition_id))?;
            value.map(|value| decode(value.value(), "tool's partition")).transpose()
        })
    }

    /// The partitions that a tool goes through.
    pub fn tool_partitions(&self, name: &str) -> Result<Vec<(PartitionKey, ToolPartition)>, CatalogError> {
        self.read(|txn| {
            let table = match txn.open_table(tables::TOOL_PARTITIONS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let rows = table.range((name, 0, 0)..=(name, u32::MAX, u32::MAX))?.map(|entry| {
                let (key, value) = entry?;
                let (_, server_id, partition_id) = key.value();
                let key = PartitionKey { server_id: ServerId(server_id), partition_id };
                Ok((key, decode(value.value(), "tool's partition")?))
            });
            rows.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogOptions, Report};

    fn partition(server_id: u32) -> (PartitionKey, ToolPartition) {
        let key = PartitionKey { server_id: ServerId(server_id), partition_id: 1 };
        (
            key,
            ToolPartition {
                rank: 0,
                num_images: 3,
                image_bytes: 30,
                first_row: 0,
                num_rows: 2,
                input: 7,
                done: None,
            },
        )
    }

    fn piece(counter: u32) -> ToolPiece {
        let verdicts = DataFile { num_rows: 1, bytes: 9, crc32: 5 };
        let epoch = Epoch::new(2, counter);
        ToolPiece { epoch, rank: 1, num_images: 3, num_removed: 1, verdicts, images: DataFile::default() }
    }

    #[test]
    fn a_piece_is_committed_once_and_only_where_it_was_scheduled() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        assert_eq!(catalog.view().unwrap().tool("size").unwrap(), ToolRow::default());
        let row = ToolRow { stage: ToolStage::Scheduled, num_selected: 4, ..ToolRow::default() };
        // A tool whose name begins with that of the other is another.
        catalog.schedule_tool("size", &row, &[partition(1), partition(2)]).unwrap();
        catalog.schedule_tool("size2", &row, &[partition(3)]).unwrap();
        let report = |server_id, counter| {
            let partition = partition(server_id).0;
            let report = ToolReport { tool: "size".into(), partition, piece: piece(counter) };
            catalog
                .commit_reports(&[Report::Tool(report)])
                .unwrap()
                .swap_remove(0)
                .map_err(|refusal| refusal.reason)
        };
        assert_eq!(report(1, 1), Ok(()));
        assert_eq!(report(1, 1), Err("it is done"));
        assert_eq!(report(1, 2), Err("it is done"));
        assert_eq!(report(3, 1), Err("the tool has not scheduled it"));
        let done = |name| -> Vec<_> {
            let rows = catalog.view().unwrap().tool_partitions(name).unwrap();
            rows.into_iter().map(|(key, row)| (key.server_id.0, row.done)).collect()
        };
        assert_eq!(done("size"), [(1, Some(piece(1))), (2, None)]);
        catalog.put_tool("size", &ToolRow { stage: ToolStage::Completed, ..row.clone() }).unwrap();
        let txn = catalog.begin().unwrap();
        forget_pieces(&txn, partition(1).0).unwrap();
        catalog.commit(txn).unwrap();
        assert_eq!(done("size"), [(1, None), (2, None)]);
        for tool in ["size", "size2"] {
            assert_eq!(catalog.view().unwrap().tool(tool).unwrap().stage, ToolStage::New);
        }
        assert_eq!(report(1, 3), Ok(()));
        catalog.schedule_tool("size", &row, &[partition(2)]).unwrap();
        assert_eq!(done("size"), [(2, None)]);
        assert_eq!(done("size2"), [(3, None)]);
        let names: Vec<_> =
            catalog.view().unwrap().tools().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["size", "size2"]);
    }
}
