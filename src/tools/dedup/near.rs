//! Near images: those whose perceptual hashes differ in few of their 256 bits (`crate::near`).
//!
//! 1. Images with a hash are read in order of preference and numbered; a table of the numbers is put aside.
//! 2. The search knows nothing but numbers and hashes.
//! 3. What goes is joined with the table, for both images' names.
//!
//! Memory: what the search takes ([`NearOptions`], with what queries may have), and 44 bytes for each image that goes.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int32Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use serde::Serialize;

use super::{Dedup, FilterInput, Gone, IMAGE, Places, TempTable, Tool as _, ToolError, failed, gone_schema};
use crate::model::PerceptualHash;
use crate::near::{
    HashCounts, Hashes, HashesBuilder, HotBucket, Match, NearError, NearOptions, Search, SearchReport, Shard,
    matches, stars,
};
use crate::query::{QueryOptions, QuerySession};
use crate::runtime::{Shutdown, StopReason};
use crate::storage::{remove_if_there, write_atomically};

/// The column of numbers: no list can have its name.
const NUMBER: &str = "ddl:number";

/// Buckets that the report names, the largest.
const MAX_BUCKETS: usize = 100;

/// `near_report.json`: what the search has seen, and what it has left out.
#[derive(Debug, Default, Serialize)]
struct NearReport {
    near_distance: u32,
    /// Images that have no `perceptual_hash`, and so take no part.
    without_hash: u64,
    images: Counts,
    /// Of the other dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Counts>,
    pairs: u64,
    comparisons: u64,
    removed: u64,
    left_out: LeftOut,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    with_hash: u64,
    /// Too plain to be told from each other; like nothing.
    flat: u64,
    /// With the hash of another image.
    copies: u64,
    distinct: u64,
}

/// Pairs may have been missed among these, where they agree nowhere else.
#[derive(Debug, Default, Serialize)]
struct LeftOut {
    buckets: u64,
    comparisons: u64,
    largest: Vec<Bucket>,
}

#[derive(Debug, Serialize)]
struct Bucket {
    slot: u32,
    key: u32,
    hashes: u64,
    comparisons: u64,
}

impl From<HashCounts> for Counts {
    fn from(counts: HashCounts) -> Self {
        let HashCounts { records, flat, copies, distinct } = counts;
        Self { with_hash: records, flat, copies, distinct }
    }
}

impl From<&[HotBucket]> for LeftOut {
    fn from(left_out: &[HotBucket]) -> Self {
        let mut largest: Vec<_> = left_out
            .iter()
            .map(|&HotBucket { slot, key, hashes, comparisons }| Bucket { slot, key, hashes, comparisons })
            .collect();
        largest.sort_by_key(|bucket| (std::cmp::Reverse(bucket.hashes), bucket.slot, bucket.key));
        largest.truncate(MAX_BUCKETS);
        let comparisons = left_out.iter().map(|bucket| bucket.comparisons).sum();
        Self { buckets: left_out.len() as u64, comparisons, largest }
    }
}

pub(super) async fn find(tool: &Dedup, input: &FilterInput<'_>, gone: &mut Gone) -> Result<(), ToolError> {
    let session = input.session();
    let report_path = session.layout().tool(tool.name()).join("near_report.json");
    if tool.near_distance == 0 {
        return Ok(remove_if_there(&report_path)?);
    }
    let readable = input.readable();
    let without_hash = count_without_hash(session, &readable).await?;
    if without_hash > 0 {
        tracing::warn!(
            images = without_hash,
            "images without a perceptual hash take no part in the search for near ones; \
             `perceptual_hash: always` gives one to all that are downloaded from then on"
        );
    }
    let &QueryOptions { memory_bytes, threads, .. } = session.options();
    let options =
        NearOptions { distance: tool.near_distance, memory_bytes, threads, ..NearOptions::default() };
    let order = if tool.against.is_some() { "\"ddl:partition\", record".into() } else { tool.keep.order() };
    let sql = format!(
        "select {IMAGE}, perceptual_hash from ordered_images \
         where {readable} and perceptual_hash is not null order by {order}"
    );
    let ours = number(session, "near_ours", &sql, &options, &gone.places).await?;
    let theirs = match &tool.against {
        None => None,
        Some(_) => {
            let sql = format!(
                "select {IMAGE}, perceptual_hash from other_images \
                 where perceptual_hash is not null order by uuid, source_id, perceptual_hash"
            );
            Some(number(session, "near_theirs", &sql, &options, &gone.places).await?)
        }
    };
    let mut report = NearReport {
        near_distance: tool.near_distance,
        without_hash,
        images: ours.counts().into(),
        other: theirs.as_ref().map(|theirs| theirs.counts().into()),
        ..NearReport::default()
    };
    let folder = session.temp_folder().to_owned();
    let stop = StopOnDrop(Shutdown::new());
    let shutdown = stop.0.clone();
    let compare = move || compare(&ours, theirs.as_ref(), &options, &folder, &shutdown);
    let compared = tokio::task::spawn_blocking(compare).await;
    let (found, searched) =
        compared.map_err(|panic| ToolError::Failed(format!("the search for near images: {panic}")))??;
    report.removed = found.len() as u64;
    (report.pairs, report.comparisons) = (searched.pairs, searched.comparisons);
    report.left_out = LeftOut::from(&searched.left_out[..]);
    let (witnesses, reason) = match &tool.against {
        None => ("near_ours", "near_duplicate"),
        Some(_) => ("near_theirs", "near_in_other"),
    };
    join(session, found, witnesses, reason, gone).await?;
    let NearReport { removed, images: Counts { flat, .. }, left_out: LeftOut { buckets, .. }, .. } = report;
    tracing::info!(near = removed, flat, left_out = buckets, "images that are near to another");
    let text = serde_json::to_string_pretty(&report).map_err(|error| ToolError::Failed(error.to_string()))?;
    Ok(write_atomically(&report_path, text.as_bytes())?)
}

async fn count_without_hash(session: &QuerySession, readable: &str) -> Result<u64, ToolError> {
    let sql =
        format!("select count(*) as n from ordered_images where {readable} and perceptual_hash is null");
    let counted = session.collect(&sql).await?;
    Ok(counted.iter().map(|batch| batch["n"].as_primitive::<Int64Type>().value(0) as u64).sum())
}

/// Ends a search that nobody waits for any more: it is on a thread that knows nothing of that.
struct StopOnDrop(Shutdown);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.request(StopReason::Terminate);
    }
}

/// Numbers images in the order of the statement, but for those that have gone, and registers them as a table.
async fn number(
    session: &QuerySession,
    name: &str,
    sql: &str,
    options: &NearOptions,
    gone: &Places,
) -> Result<Hashes, ToolError> {
    let mut table = TempTable::create(session, name, numbered_schema())?;
    let mut hashes = HashesBuilder::new(session.temp_folder(), options);
    let mut next_number = 0;
    let mut rows = session.stream_sorted(sql).await?;
    while let Some(batch) = rows.next().await? {
        let bytes = cast(&batch["perceptual_hash"], &DataType::Binary).map_err(|error| failed(&error))?;
        let bytes = bytes.as_binary::<i32>();
        let numbers = |name: &str| batch[name].as_primitive::<Int32Type>();
        let (positions, records) = (numbers("ddl:partition"), numbers("record"));
        let mut taken = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if gone.has(positions.value(row), records.value(row)) {
                continue;
            }
            let hash: &PerceptualHash = bytes
                .value(row)
                .try_into()
                .map_err(|_| ToolError::Failed("a perceptual hash has other than 32 bytes".into()))?;
            hashes.push(next_number + taken.len() as u64, hash)?;
            taken.push(row as u32);
        }
        table.write(&numbered(&batch, &UInt32Array::from(taken), next_number)?)?;
        next_number = table.num_rows();
    }
    table.register(session)?;
    Ok(hashes.finish()?)
}

fn numbered_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int32, true);
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        Field::new(NUMBER, DataType::Int64, false),
        number("ddl:partition"),
        number("record"),
        text("uuid"),
        text("source_id"),
        text("server_name"),
        number("partition_id"),
    ]))
}

fn numbered(batch: &RecordBatch, taken: &UInt32Array, first_number: u64) -> Result<RecordBatch, ToolError> {
    let numbers = (first_number..).take(taken.len()).map(|number| number as i64);
    let mut columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(numbers))];
    for field in &numbered_schema().fields()[1..] {
        let column =
            cast(&batch[field.name().as_str()], field.data_type()).map_err(|error| failed(&error))?;
        columns.push(take(&column, taken, None).map_err(|error| failed(&error))?);
    }
    RecordBatch::try_new(numbered_schema(), columns).map_err(|error| failed(&error))
}

/// Which images go, and for which: those of one set for one of the same, or for one of the other.
fn compare(
    ours: &Hashes,
    theirs: Option<&Hashes>,
    options: &NearOptions,
    folder: &Path,
    shutdown: &Shutdown,
) -> Result<(Vec<Match>, SearchReport), NearError> {
    let search = Search { options, folder, shard: Shard::WHOLE, shutdown };
    let mut gone = Vec::new();
    let note = |found: Match| {
        gone.push(found);
        Ok::<(), NearError>(())
    };
    let searched = match theirs {
        None => {
            let found = search.pairs_within(ours)?;
            stars(found.pairs, ours.copies(), ours.counts().records, note)?;
            found.report
        }
        Some(theirs) => {
            let found = search.pairs_between(theirs, ours)?;
            matches(found.pairs, ours.copies(), note)?;
            found.report
        }
    };
    Ok((gone, searched))
}

async fn join(
    session: &QuerySession,
    found: Vec<Match>,
    witnesses: &str,
    reason: &str,
    gone: &mut Gone,
) -> Result<(), ToolError> {
    let schema = Arc::new(Schema::new(vec![
        Field::new(NUMBER, DataType::Int64, false),
        Field::new("witness", DataType::Int64, false),
        Field::new("distance", DataType::Int32, false),
    ]));
    let number =
        |of: fn(&Match) -> u64| Int64Array::from_iter_values(found.iter().map(|found| of(found) as i64));
    let distances = Int32Array::from_iter_values(found.iter().map(|found| found.distance as i32));
    let batch = RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(number(|found| found.record)),
            Arc::new(number(|found| found.witness)),
            Arc::new(distances),
        ],
    )
    .map_err(|error| failed(&error))?;
    drop(found);
    session.register_batch("near_found", batch)?;
    let sql = format!(
        "select o.\"ddl:partition\", o.record, o.uuid, o.source_id, o.server_name, o.partition_id, \
         '{reason}' as reason, m.uuid as uuid_main, m.source_id as source_id_main, \
         m.server_name as server_name_main, m.partition_id as partition_id_main, n.distance \
         from near_found n join near_ours o on o.\"{NUMBER}\" = n.\"{NUMBER}\" \
         join {witnesses} m on m.\"{NUMBER}\" = n.witness"
    );
    let mut rows = session.stream(&sql).await?;
    while let Some(batch) = rows.next().await? {
        gone.add(&batch.with_schema(gone_schema()).map_err(|error| failed(&error))?)?;
    }
    Ok(())
}
