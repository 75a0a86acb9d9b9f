//! The second half of an ingest: buckets into partitions, files first, catalog second.
//!
//! One thread goes through the buckets: finds duplicates, cuts partitions. Others encode and write
//! files. This one commits, a few dozen partitions at a time and in a fixed order, so a killed ingest
//! has committed a beginning of what it would have committed in all, and the next one goes on there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, SchemaRef};

use super::cutter::{Cutter, PartRows};
use super::duplicates::{Marks, find_duplicates};
use super::duplicates_file::{duplicates_folder, duplicates_schema};
use super::error::{IngestError, keep_going};
use super::folders::{FolderPlan, KnownServers, ListedServer};
use super::input::Input;
use super::manifest_file::{NumberedOutput, write_file};
use super::options::IngestOptions;
use super::ordered::{Push, ordered};
use super::read_stage::Listed;
use super::report::{IngestProgress, IngestReport, IngestStage};
use super::spill::{Bucket, Chunk, bucket_of};
use crate::catalog::{Catalog, CatalogView, ManifestFile, NewPartition};
use crate::model::{RecordState, ServerId, ServerName, SkipReason, UrlKey};
use crate::runtime::Shutdown;
use crate::storage::{DatasetLayout, sync_folder};

/// Partitions of one transaction.
const COMMIT_PARTITIONS: usize = 32;

/// Or records of one transaction, if partitions are large.
const COMMIT_RECORDS: usize = 1_000_000;

/// What writing needs beside the rows.
pub(super) struct WritePlan<'a> {
    pub(super) inputs: &'a [Input],
    pub(super) options: &'a IngestOptions,
    pub(super) layout: &'a DatasetLayout,
    pub(super) catalog: &'a Catalog,
    pub(super) view: &'a CatalogView,
    pub(super) known: &'a KnownServers,
    pub(super) folders: FolderPlan,
    pub(super) shutdown: &'a Shutdown,
}

/// What goes from the thread of buckets to those that encode.
enum Job {
    Part(PartRows),
    Chunk { num_rows: u64, duplicates: Option<RecordBatch> },
}

/// And on to the one that commits.
enum Done {
    Part { folder: u32, partition_id: u32, closes: bool, file: ManifestFile, part: Records },
    Chunk { num_rows: u64, duplicates: Option<RecordBatch> },
}

struct Records {
    keys: Vec<UrlKey>,
    states: Vec<RecordState>,
}

/// Writes and commits all new records.
pub(super) fn write_partitions(
    plan: &WritePlan<'_>,
    listed: Listed,
    report: &mut IngestReport,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<(), IngestError> {
    let Listed { buckets, servers, schema } = listed;
    let manifest_schema = schema.manifest();
    let mut committer = Committer::new(plan);
    let bytes_total = plan.inputs.iter().map(Input::num_bytes).sum::<Option<u64>>();
    let mut now = IngestProgress {
        stage: IngestStage::Writing,
        rows: 0,
        rows_total: Some(buckets.iter().map(|bucket| bucket.num_rows).sum()),
        bytes_read: bytes_total.unwrap_or(0),
        bytes_total,
    };
    progress(now);
    let counts = ordered(
        plan.options.worker_threads(),
        |push| cut_buckets(plan, buckets, &servers, schema.rows(), push),
        |job| match job {
            Job::Part(part) => encode(plan, &servers, &manifest_schema, part),
            Job::Chunk { num_rows, duplicates } => Ok(Done::Chunk { num_rows, duplicates }),
        },
        |done| {
            keep_going(plan.shutdown)?;
            if let Done::Chunk { num_rows, .. } = &done {
                now.rows += num_rows;
                progress(now);
            }
            committer.take(done)
        },
    )?;
    committer.finish(report)?;
    report.records_new = counts.new;
    report.records_known = counts.known;
    report.duplicates = counts.duplicates;
    report.records_gone = plan.known.num_records().saturating_sub(counts.known);
    report.skipped =
        counts.skipped.iter().map(|(reason, count)| (reason.as_str().to_owned(), *count)).collect();
    Ok(())
}

#[derive(Default)]
struct Counts {
    new: u64,
    known: u64,
    duplicates: u64,
    skipped: BTreeMap<SkipReason, u64>,
}

fn cut_buckets(
    plan: &WritePlan<'_>,
    buckets: Vec<Bucket>,
    servers: &[ListedServer],
    schema: &SchemaRef,
    push: Push<'_, Job>,
) -> Result<Counts, IngestError> {
    let mut counts = Counts::default();
    let mut known_of_bucket = vec![BTreeSet::new(); buckets.len()];
    for server in servers {
        if let Some(row) = plan.known.find(&server.name) {
            known_of_bucket[bucket_of(&server.name) as usize].insert((row.id, row.num_records));
        }
    }
    for (mut bucket, known) in buckets.into_iter().zip(known_of_bucket) {
        let marks = mark(plan, &mut bucket, &known)?;
        let mut cutter = Cutter::new(&plan.folders, plan.options.batch_size, plan.options.memory_bytes);
        let mut first_row = 0;
        let mut stopped = false;
        bucket.for_each_chunk(schema, |chunk| {
            if stopped {
                return Ok(());
            }
            let Verdicts { states, new_rows, repeats } = judge(&chunk, &marks, first_row, &mut counts);
            let num_rows = chunk.keys.len() as u64;
            let duplicates = list_duplicates(plan, servers, &chunk, &repeats)?;
            first_row += num_rows;
            for part in cutter.push(&chunk, &states, &new_rows)? {
                stopped = stopped || !push(Job::Part(part));
            }
            stopped = stopped || !push(Job::Chunk { num_rows, duplicates });
            Ok(())
        })?;
        for part in cutter.finish() {
            stopped = stopped || !push(Job::Part(part));
        }
        if stopped {
            break;
        }
    }
    Ok(counts)
}

fn mark(
    plan: &WritePlan<'_>,
    bucket: &mut Bucket,
    known: &BTreeSet<(ServerId, u64)>,
) -> Result<Marks, IngestError> {
    let num_known = known.iter().map(|(_, num_records)| num_records).sum();
    find_duplicates(
        bucket.num_rows,
        num_known,
        plan.options.memory_bytes / 4,
        |each| {
            keep_going(plan.shutdown)?;
            bucket.for_each_key(each)
        },
        |each| {
            for (id, _) in known {
                plan.view.for_each_url_key(*id, each)?;
            }
            Ok(())
        },
    )
}

/// What becomes of the rows of a chunk.
#[derive(Default)]
struct Verdicts {
    /// Of all rows.
    states: Vec<RecordState>,
    new_rows: Vec<u32>,
    /// Rows that repeat an earlier one.
    repeats: Vec<u32>,
}

fn judge(chunk: &Chunk, marks: &Marks, first_row: u64, counts: &mut Counts) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for row in 0..chunk.keys.len() as u32 {
        // These bytes are our own and went no further than a temporary file.
        let state = RecordState::from_byte(chunk.states.value(row as usize)).unwrap_or(RecordState::Pending);
        verdicts.states.push(state);
        let at = first_row + u64::from(row);
        if marks.is_repeat(at) {
            verdicts.repeats.push(row);
        } else if marks.is_known(at) {
            counts.known += 1;
        } else {
            verdicts.new_rows.push(row);
            if let RecordState::Skipped(reason) = state {
                *counts.skipped.entry(reason).or_default() += 1;
            }
        }
    }
    counts.new += verdicts.new_rows.len() as u64;
    counts.duplicates += verdicts.repeats.len() as u64;
    verdicts
}

fn list_duplicates(
    plan: &WritePlan<'_>,
    servers: &[ListedServer],
    chunk: &Chunk,
    repeats: &[u32],
) -> Result<Option<RecordBatch>, IngestError> {
    if repeats.is_empty() {
        return Ok(None);
    }
    let indices = UInt32Array::from_iter_values(repeats.iter().copied());
    let rows = || repeats.iter().map(|&row| row as usize);
    let server = |row| servers[chunk.servers.value(row) as usize].name.as_str();
    let input = |row| plan.inputs[chunk.inputs.value(row) as usize].path.to_string_lossy();
    let columns: Vec<ArrayRef> = vec![
        take(chunk.rows.column(2), &indices, None)?,
        take(chunk.rows.column(1), &indices, None)?,
        Arc::new(StringArray::from_iter_values(rows().map(server))),
        Arc::new(StringArray::from_iter_values(rows().map(input))),
        Arc::new(UInt64Array::from_iter_values(rows().map(|row| chunk.positions.value(row)))),
    ];
    Ok(Some(RecordBatch::try_new(duplicates_schema(), columns)?))
}

/// Makes a file of the rows: adds `record` and `shared_server_name`, encodes, writes.
fn encode(
    plan: &WritePlan<'_>,
    servers: &[ListedServer],
    schema: &SchemaRef,
    part: PartRows,
) -> Result<Done, IngestError> {
    let folder = &plan.folders.folders[part.folder as usize];
    let Some(first) = part.rows.first() else {
        // A partition that was written out to its last row just before its bucket ended: it needs a
        // last file to be complete with, but that would be empty. See `Committer::take`.
        let file = ManifestFile { name: String::new(), num_records: 0, bytes: 0, crc32: 0 };
        return Ok(done(part, file));
    };
    let rows = concat_batches(first.schema_ref(), &part.rows)?;
    let num_rows = rows.num_rows();
    let mut columns = rows.columns().to_vec();
    let first_record = part.first_record as i32;
    columns.push(Arc::new(Int32Array::from_iter_values(first_record..first_record + num_rows as i32)));
    columns.push(if folder.shared {
        let names = part.servers.iter().map(|&server| servers[server as usize].name.as_str());
        Arc::new(StringArray::from_iter_values(names))
    } else {
        new_null_array(&DataType::Utf8, num_rows)
    });
    let rows = RecordBatch::try_new(Arc::clone(schema), columns)?;
    let path = plan.layout.manifest_folder(&folder.name, part.partition_id);
    let file = write_file(&path, part.part, &rows)?;
    debug_assert!(rows.column(0).as_string::<i32>().null_count() == 0);
    Ok(done(part, file))
}

fn done(part: PartRows, file: ManifestFile) -> Done {
    Done::Part {
        folder: part.folder,
        partition_id: part.partition_id,
        closes: part.closes,
        file,
        part: Records { keys: part.keys, states: part.states },
    }
}

/// Collects written files into partitions, and commits these in batches.
struct Committer<'a> {
    plan: &'a WritePlan<'a>,
    /// Partitions some of whose files are written, by folder.
    open: BTreeMap<u32, NewPartition>,
    /// Folders whose new members stand in a partition already.
    introduced: BTreeSet<u32>,
    ready: Vec<NewPartition>,
    ready_records: usize,
    duplicates: NumberedOutput,
    num_partitions: u64,
    num_files: u64,
}

impl<'a> Committer<'a> {
    fn new(plan: &'a WritePlan<'a>) -> Self {
        Self {
            plan,
            open: BTreeMap::new(),
            introduced: BTreeSet::new(),
            ready: Vec::new(),
            ready_records: 0,
            duplicates: NumberedOutput::new(duplicates_folder(plan.layout), "ingest", duplicates_schema()),
            num_partitions: 0,
            num_files: 0,
        }
    }

    fn take(&mut self, done: Done) -> Result<(), IngestError> {
        let (folder, partition_id, closes, file, records) = match done {
            Done::Chunk { duplicates, .. } => {
                return duplicates.map_or(Ok(()), |rows| self.duplicates.push(&rows));
            }
            Done::Part { folder, partition_id, closes, file, part } => {
                (folder, partition_id, closes, file, part)
            }
        };
        let partition = self.open.entry(folder).or_insert_with(|| {
            let planned = &self.plan.folders.folders[folder as usize];
            let is_first = self.introduced.insert(folder);
            NewPartition {
                folder: planned.name.clone(),
                members: if is_first { planned.new_members.clone() } else { Vec::new() },
                partition_id,
                manifest_files: Vec::new(),
                states: Vec::new(),
                url_keys: Vec::new(),
            }
        });
        if file.num_records > 0 {
            partition.manifest_files.push(file);
            self.num_files += 1;
        }
        partition.states.extend(records.states);
        partition.url_keys.extend(records.keys);
        if closes && let Some(partition) = self.open.remove(&folder) {
            self.ready_records += partition.url_keys.len();
            self.ready.push(partition);
            self.num_partitions += 1;
        }
        if self.ready.len() >= COMMIT_PARTITIONS || self.ready_records >= COMMIT_RECORDS {
            self.commit()?;
        }
        Ok(())
    }

    /// Files are synced already, and so are their folders; what is new above these is synced here.
    fn commit(&mut self) -> Result<(), IngestError> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let layout = self.plan.layout;
        let servers: BTreeSet<&ServerName> = self.ready.iter().map(|partition| &partition.folder).collect();
        // It is the folder around a path that is synced: here that of a server's partitions, then that of the
        // servers, then the root.
        let around = servers.into_iter().map(|server| layout.manifest_folder(server, 0));
        let around = around.chain([duplicates_folder(layout), layout.urls()]);
        around.into_iter().try_for_each(|path| sync_folder(&path))?;
        self.ready_records = 0;
        self.plan.catalog.add_partitions(&self.ready)?;
        self.ready.clear();
        Ok(())
    }

    fn finish(mut self, report: &mut IngestReport) -> Result<(), IngestError> {
        self.commit()?;
        report.partitions = self.num_partitions;
        report.files = self.num_files;
        report.duplicates_file = self.duplicates.finish()?;
        Ok(())
    }
}
