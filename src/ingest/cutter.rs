//! Cuts the new rows of a bucket into partitions, in input order.
//!
//! A partition is full at `batch_size` records, so where it is cut depends on the list and the catalog
//! alone. Only how many files it consists of depends on memory: what is too much to hold is written as
//! one more file of the open partition.

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use super::error::IngestError;
use super::folders::FolderPlan;
use super::spill::{Chunk, num_bytes};
use crate::model::{RecordState, UrlKey};

/// Rows that become one file of a partition.
#[derive(Debug, Default)]
pub(super) struct PartRows {
    /// Index into the plan's folders.
    pub(super) folder: u32,
    pub(super) partition_id: u32,
    /// Number of the file in the partition.
    pub(super) part: u32,
    /// Position in the partition of the first of these.
    pub(super) first_record: u32,
    pub(super) rows: Vec<RecordBatch>,
    /// For each row, the number of its server.
    pub(super) servers: Vec<u32>,
    pub(super) keys: Vec<UrlKey>,
    pub(super) states: Vec<RecordState>,
    pub(super) num_bytes: usize,
    /// Whether the partition is complete with this file.
    pub(super) closes: bool,
}

impl PartRows {
    fn num_records(&self) -> u64 {
        u64::from(self.first_record) + self.keys.len() as u64
    }
}

/// The open partitions of one bucket.
#[derive(Debug)]
pub(super) struct Cutter<'a> {
    plan: &'a FolderPlan,
    batch_size: u64,
    /// Of one open partition; beyond, it is written out.
    max_part_bytes: usize,
    /// Of all open partitions; beyond, the largest is written out.
    max_open_bytes: usize,
    open: BTreeMap<u32, PartRows>,
    open_bytes: usize,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(plan: &'a FolderPlan, batch_size: u64, memory_bytes: u64) -> Self {
        let limit = |share: u64| {
            usize::try_from((memory_bytes / share).clamp(64 << 10, 256 << 20)).unwrap_or(256 << 20)
        };
        Self {
            plan,
            batch_size,
            max_part_bytes: limit(16),
            max_open_bytes: limit(4),
            open: BTreeMap::new(),
            open_bytes: 0,
        }
    }

    /// Adds the rows of a chunk that `new_rows` names, in order. Returns what is to be written, in
    /// the order of the rows that made it so: that order must not depend on how rows are chunked.
    pub(super) fn push(
        &mut self,
        chunk: &Chunk,
        states: &[RecordState],
        new_rows: &[u32],
    ) -> Result<Vec<PartRows>, IngestError> {
        let folder_of = |row: u32| self.plan.folder_of[chunk.servers.value(row as usize) as usize];
        let mut order: Vec<(u32, u32)> = new_rows.iter().map(|&row| (folder_of(row), row)).collect();
        order.sort_unstable();
        let mut done = Vec::new();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let folder = group[0].0;
            let rows: Vec<u32> = group.iter().map(|&(_, row)| row).collect();
            let mut rest = &rows[..];
            while !rest.is_empty() {
                let part = self.open.entry(folder).or_insert_with(|| PartRows {
                    folder,
                    partition_id: self.plan.folders[folder as usize].num_partitions,
                    ..PartRows::default()
                });
                let room = (self.batch_size - part.num_records()).min(rest.len() as u64) as usize;
                let (now, later) = rest.split_at(room);
                rest = later;
                append(part, chunk, states, now, &mut self.open_bytes)?;
                part.closes = part.num_records() == self.batch_size;
                if part.closes || part.num_bytes > self.max_part_bytes {
                    done.push((now[now.len() - 1], self.start_next(folder)));
                }
            }
        }
        while self.open_bytes > self.max_open_bytes {
            // The first of equals, so that a repetition does the same.
            let largest = self.open.values().max_by_key(|part| (part.num_bytes, u32::MAX - part.folder));
            let Some(folder) = largest.map(|part| part.folder) else { break };
            done.push((u32::MAX, self.start_next(folder)));
        }
        done.sort_by_key(|(row, _)| *row);
        Ok(done.into_iter().map(|(_, part)| part).collect())
    }

    /// What is still open when the bucket has no more rows, in order of the folders.
    pub(super) fn finish(self) -> Vec<PartRows> {
        let has_records = |part: &PartRows| part.num_records() > 0;
        let open = self.open.into_values().filter(has_records);
        open.map(|part| PartRows { closes: true, ..part }).collect()
    }

    /// Takes the open part of a folder and puts its successor in its place.
    fn start_next(&mut self, folder: u32) -> PartRows {
        let part = self.open.remove(&folder).unwrap_or_default();
        self.open_bytes -= part.num_bytes;
        let next = if part.closes {
            PartRows { folder, partition_id: part.partition_id + 1, ..PartRows::default() }
        } else {
            PartRows {
                folder,
                partition_id: part.partition_id,
                part: part.part + 1,
                first_record: part.num_records() as u32,
                ..PartRows::default()
            }
        };
        self.open.insert(folder, next);
        part
    }
}

fn append(
    part: &mut PartRows,
    chunk: &Chunk,
    states: &[RecordState],
    rows: &[u32],
    open_bytes: &mut usize,
) -> Result<(), IngestError> {
    let taken = take_record_batch(&chunk.rows, &UInt32Array::from_iter_values(rows.iter().copied()))?;
    let bytes = num_bytes(&taken) + rows.len() * (size_of::<UrlKey>() + size_of::<u32>());
    part.num_bytes += bytes;
    *open_bytes += bytes;
    part.rows.push(taken);
    for &row in rows {
        let row = row as usize;
        part.servers.push(chunk.servers.value(row));
        part.keys.push(chunk.keys[row]);
        part.states.push(states[row]);
    }
    Ok(())
}
