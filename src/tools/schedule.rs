//! The second stage: which rank is to do which partition.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use super::ToolError;
use crate::catalog::ToolPartition;
use crate::model::{Rank, ServerName};
use crate::storage::CsvFile;

/// A partition and what going through it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLoad {
    pub folder: ServerName,
    pub partition_id: u32,
    pub num_images: u64,
    pub image_bytes: u64,
}

/// The largest first, each to the rank that has least bytes so far: no rank has a third more than it would in the best
/// of all divisions (Graham 1969).
pub(super) fn balanced(partitions: &[PartitionLoad], num_ranks: u32) -> Vec<Rank> {
    let mut order: Vec<usize> = (0..partitions.len()).collect();
    order.sort_by_key(|&at| (Reverse(partitions[at].image_bytes), at));
    let mut ranks: BinaryHeap<Reverse<(u64, Rank)>> =
        (0..num_ranks.max(1)).map(|rank| Reverse((0, rank))).collect();
    let mut of = vec![0; partitions.len()];
    for at in order {
        let Some(Reverse((bytes, rank))) = ranks.pop() else { break };
        of[at] = rank;
        // An empty partition costs a little, too.
        ranks.push(Reverse((bytes.saturating_add(partitions[at].image_bytes).saturating_add(1), rank)));
    }
    of
}

/// Writes `schedule.csv`: distributed-downloader's columns, then the cost.
pub(super) fn write<'a>(
    path: &Path,
    partitions: impl IntoIterator<Item = (&'a ServerName, u32, &'a ToolPartition)>,
) -> Result<(), ToolError> {
    let mut csv = CsvFile::create(path)?;
    csv.row(["server_name", "partition_id", "rank", "images", "bytes"])?;
    for (folder, id, row) in partitions {
        let numbers =
            [u64::from(id), u64::from(row.rank), row.num_images, row.image_bytes].map(|n| n.to_string());
        let [id, rank, images, bytes] = &numbers;
        csv.row([folder.as_str(), id, rank, images, bytes])?;
    }
    Ok(csv.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_like_numbers_of_bytes() {
        let loads: Vec<_> = [7, 100, 30, 30, 40, 0, 0]
            .into_iter()
            .enumerate()
            .map(|(id, image_bytes)| PartitionLoad {
                folder: ServerName::from_catalog("s"),
                partition_id: id as u32,
                num_images: 1,
                image_bytes,
            })
            .collect();
        assert_eq!(balanced(&loads, 2), [0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(balanced(&loads, 0), [0; 7]);
        assert!(balanced(&[], 3).is_empty());
    }
}
