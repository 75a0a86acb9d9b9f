//! Tables that the catalog holds itself: `servers`, `partitions`, `runs`, `ingests`, `tools`.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondArray,
};
use datafusion::common::Result;
use datafusion::datasource::MemTable;

use super::dataset::Dataset;
use crate::catalog::{DispositionCounts, IngestRow, PartitionStage, RunRow, ToolPiece, ToolStage};
use crate::model::{Disposition, ServerId, ServerName};

fn table(columns: Vec<(&'static str, ArrayRef)>) -> Result<MemTable> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))?;
    MemTable::try_new(batch.schema(), vec![vec![batch]])
}

fn int32<T>(rows: &[T], value: impl Fn(&T) -> u32) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| value(row).cast_signed())))
}

fn int64<T>(rows: &[T], value: impl Fn(&T) -> u64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| value(row).cast_signed())))
}

fn text<'a, T>(rows: &'a [T], value: impl Fn(&'a T) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

fn time<T>(rows: &[T], value: impl Fn(&T) -> Option<u64>) -> ArrayRef {
    let times: TimestampMillisecondArray = rows.iter().map(|row| value(row).map(u64::cast_signed)).collect();
    Arc::new(times.with_timezone("UTC"))
}

fn dispositions<T>(
    rows: &[T],
    counts: impl Fn(&T) -> DispositionCounts,
) -> impl Iterator<Item = (&'static str, ArrayRef)> {
    Disposition::ALL.map(|d| (d.as_str(), int64(rows, |row| counts(row).get(d)))).into_iter()
}

/// One row per folder, with sums over its partitions.
pub(super) fn servers(dataset: &Dataset) -> Result<MemTable> {
    let mut sums: HashMap<ServerId, (DispositionCounts, u64)> = HashMap::new();
    for partition in &dataset.partitions {
        let (counts, image_bytes) = sums.entry(partition.key.server_id).or_default();
        *counts += partition.row.counts;
        *image_bytes += partition.row.image_bytes;
    }
    let mut rows: Vec<_> = dataset
        .servers
        .iter()
        .map(|server| (server, sums.get(&server.id).copied().unwrap_or_default()))
        .collect();
    rows.sort_by_key(|(server, _)| &server.folder);
    let mut columns = vec![
        (
            "server_name",
            text(&rows, |(s, _)| (s.folder.as_str() != ServerName::NULL).then(|| s.folder.as_str())),
        ),
        ("shared", Arc::new(BooleanArray::from_iter(rows.iter().map(|(s, _)| Some(s.shared)))) as ArrayRef),
        ("num_partitions", int32(&rows, |(s, _)| s.num_partitions)),
        ("num_records", int64(&rows, |(s, _)| s.num_records)),
    ];
    columns.extend(dispositions(&rows, |(_, (counts, _))| *counts));
    columns.push(("image_bytes", int64(&rows, |(_, (_, bytes))| *bytes)));
    table(columns)
}

/// One row per partition.
pub(super) fn partitions(dataset: &Dataset) -> Result<MemTable> {
    let rows = &dataset.partitions;
    let mut columns = vec![
        ("server_name", text(rows, |p| p.folder_value())),
        ("partition_id", int32(rows, |p| p.key.partition_id)),
        ("stage", text(rows, |p| Some(stage_name(p.row.stage)))),
        ("num_records", int64(rows, |p| p.row.counts.total())),
    ];
    columns.extend(dispositions(rows, |p| p.row.counts));
    columns.extend([
        ("num_parts", int32(rows, |p| p.row.parts.len() as u32)),
        ("image_bytes", int64(rows, |p| p.row.image_bytes)),
        ("successes_bytes", int64(rows, |p| p.row.successes.bytes)),
        ("errors_bytes", int64(rows, |p| p.row.errors.bytes)),
    ]);
    table(columns)
}

fn stage_name(stage: PartitionStage) -> &'static str {
    match stage {
        PartitionStage::Open => "open",
        PartitionStage::Compacted => "compacted",
        PartitionStage::Finished => "finished",
    }
}

pub(super) fn runs(rows: &[RunRow]) -> Result<MemTable> {
    table(vec![
        ("run_id", int32(rows, |r| r.run_id)),
        ("kind", text(rows, |r| Some(&r.kind))),
        ("started_at", time(rows, |r| Some(r.started_at))),
        ("ended_at", time(rows, |r| r.ended_at)),
        ("ending", text(rows, |r| r.ending.as_deref())),
        ("ddl_version", text(rows, |r| Some(&r.ddl_version))),
        ("num_ranks", int32(rows, |r| r.num_ranks)),
        ("node", text(rows, |r| Some(&r.node))),
        ("job", text(rows, |r| r.job.as_deref())),
        ("success", int64(rows, |r| r.success)),
        ("failed", int64(rows, |r| r.failed)),
        ("skipped", int64(rows, |r| r.skipped)),
        ("image_bytes", int64(rows, |r| r.image_bytes)),
        ("configuration", text(rows, |r| Some(&r.configuration))),
    ])
}

/// One row per tool that ran.
pub(super) fn tools(dataset: &Dataset) -> Result<MemTable> {
    let rows = &dataset.tools;
    let sum = |value: fn(&ToolPiece) -> u64| int64(rows, move |t| t.pieces.values().map(value).sum());
    let is_completed = rows.iter().map(|t| Some(t.row.stage == ToolStage::Completed));
    table(vec![
        ("tool", text(rows, |t| Some(&t.name))),
        ("completed", Arc::new(BooleanArray::from_iter(is_completed))),
        ("selected", int64(rows, |t| t.row.num_selected)),
        ("num_partitions", int64(rows, |t| t.num_partitions)),
        ("done", int64(rows, |t| t.pieces.len() as u64)),
        ("images", sum(|piece| piece.num_images)),
        ("removed", sum(|piece| piece.num_removed)),
        ("new_images", sum(|piece| piece.images.num_rows)),
        ("parameters", text(rows, |t| Some(&t.row.parameters))),
    ])
}

pub(super) fn ingests(rows: &[IngestRow]) -> Result<MemTable> {
    let mut inputs = ListBuilder::new(StringBuilder::new());
    for row in rows {
        inputs.append_value(row.inputs.iter().map(Some));
    }
    table(vec![
        ("ingest_id", int32(rows, |r| r.ingest_id)),
        ("started_at", time(rows, |r| Some(r.started_at))),
        ("ended_at", time(rows, |r| r.ended_at)),
        ("inputs", Arc::new(inputs.finish())),
        ("rows", int64(rows, |r| r.rows)),
        ("new", int64(rows, |r| r.new)),
        ("known", int64(rows, |r| r.known)),
        ("gone", int64(rows, |r| r.gone)),
        ("duplicates", int64(rows, |r| r.duplicates)),
        ("malformed", int64(rows, |r| r.malformed)),
        ("configuration", text(rows, |r| Some(&r.configuration))),
    ])
}
