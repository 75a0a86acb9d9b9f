//! The first half of an ingest: lists into buckets. Nothing outside the temporary folder changes.

use std::sync::Arc;

use super::error::{IngestError, keep_going};
use super::folders::ListedServer;
use super::input::Input;
use super::manifest_schema::UnionSchema;
use super::normalize::{BoundInput, NormalBatch, Normalizer};
use super::options::IngestOptions;
use super::ordered::ordered;
use super::raw_batch::{MalformedLog, RawBatch, ReadContext, check_num_columns};
use super::reader::Reader;
use super::report::{ColumnUse, IngestProgress, IngestReport, IngestStage};
use super::source::Source;
use super::spill::{Bucket, NUM_BUCKETS, bucket_of};
use super::uuid_ref::UuidRef;
use crate::model::ServerName;

/// What is known once all lists are read.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) buckets: Vec<Bucket>,
    /// In order of first appearance.
    pub(super) servers: Vec<ListedServer>,
    pub(super) schema: UnionSchema,
}

/// What reading needs beside the inputs.
pub(super) struct ReadPlan<'a> {
    pub(super) inputs: &'a [Input],
    pub(super) source: &'static dyn Source,
    pub(super) options: &'a IngestOptions,
    pub(super) context: &'a ReadContext,
    pub(super) normalizer: &'a Normalizer,
}

type Item = (RawBatch, Arc<BoundInput>);

/// Reads on one thread, normalises on others, and sorts into buckets on this one.
pub(super) fn read_lists(
    plan: &ReadPlan<'_>,
    schema: UnionSchema,
    mut uuid_ref: Option<&mut UuidRef>,
    report: &mut IngestReport,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Listed, IngestError> {
    let mut sorter = Sorter {
        inputs: plan.inputs,
        listed: Listed {
            buckets: (0..NUM_BUCKETS).map(|number| Bucket::new(&plan.context.temp_folder, number)).collect(),
            servers: Vec::new(),
            schema,
        },
        numbers: std::collections::HashMap::new(),
        // A quarter of the memory for rows that wait here; the rest is under way between threads.
        bucket_bytes: (plan.options.memory_bytes / 4 / u64::from(NUM_BUCKETS)).clamp(64 << 10, 16 << 20)
            as usize,
    };
    let bytes_total = plan.inputs.iter().map(Input::num_bytes).sum();
    let read = ordered(
        plan.options.worker_threads(),
        |push| read_all(plan, push),
        |(raw, input): Item| plan.normalizer.normalize(&raw, &input, bucket_of),
        |batch| {
            keep_going(plan.context.meter.shutdown())?;
            if let Some(uuid_ref) = uuid_ref.as_deref_mut() {
                batch.buckets.iter().try_for_each(|(_, rows)| uuid_ref.push(&rows.rows))?;
            }
            report.rows_read += batch.num_rows;
            report.bad_uuids += batch.bad_uuids;
            for (reason, count) in &batch.filtered {
                *report.filtered.entry((*reason).to_owned()).or_default() += count;
            }
            sorter.push(batch)?;
            let bytes_read = plan.context.meter.bytes_read();
            progress(IngestProgress {
                stage: IngestStage::Reading,
                rows: report.rows_read,
                rows_total: None,
                bytes_read,
                bytes_total,
            });
            Ok(())
        },
    )?;
    report.malformed = read.malformed.count;
    report.malformed_examples = read.malformed.examples;
    report.columns = read.columns;
    let has_name = |server: &&ListedServer| server.name.as_str() != ServerName::NULL;
    report.servers = sorter.listed.servers.iter().filter(has_name).count() as u64;
    Ok(sorter.listed)
}

/// What reading the inputs has shown of them.
struct Read {
    malformed: MalformedLog,
    columns: Vec<ColumnUse>,
}

fn read_all(plan: &ReadPlan<'_>, push: &mut dyn FnMut(Item) -> bool) -> Result<Read, IngestError> {
    let malformed = MalformedLog { strict: plan.options.strict, ..MalformedLog::default() };
    let mut read = Read { malformed, columns: Vec::new() };
    for (index, input) in plan.inputs.iter().enumerate() {
        let mut reader = Reader::open(input, plan.context)?;
        let mut bound: Option<Arc<BoundInput>> = None;
        let mut missing = None;
        while let Some(raw) = reader.next_batch(&mut read.malformed)? {
            let from = raw.rows.schema();
            let (source, options) = (plan.source, plan.options);
            let bound_now = match bound.take() {
                Some(bound) if bound.fits(&from) => bound,
                earlier => {
                    let (now, missing_now) = match earlier {
                        Some(earlier) => earlier.grown(from, source, options)?,
                        None => {
                            let may_grow = reader.may_grow();
                            BoundInput::new(index as u32, &input.path, from, may_grow, source, options)?
                        }
                    };
                    missing = missing_now;
                    Arc::new(now)
                }
            };
            bound = Some(Arc::clone(&bound_now));
            if !push((raw, bound_now)) {
                return Ok(read);
            }
        }
        if let Some(missing) = missing {
            return Err(missing);
        }
        if let Some(warning) = bound.as_ref().and_then(|bound| bound.warning()) {
            tracing::warn!("`{}`: {warning}", input.path.display());
        }
        if let Some(bound) = bound {
            bound.column_use().join(&mut read.columns);
        }
    }
    Ok(read)
}

/// Gives servers their numbers and rows their buckets.
struct Sorter<'a> {
    inputs: &'a [Input],
    listed: Listed,
    numbers: std::collections::HashMap<ServerName, u32>,
    bucket_bytes: usize,
}

impl Sorter<'_> {
    fn push(&mut self, batch: NormalBatch) -> Result<(), IngestError> {
        let listed = &mut self.listed;
        let numbers: Vec<u32> = batch
            .server_names
            .into_iter()
            .map(|name| match self.numbers.get(&name) {
                Some(&number) => number,
                None => {
                    let number = listed.servers.len() as u32;
                    listed.servers.push(ListedServer { name: name.clone(), num_rows: 0 });
                    self.numbers.insert(name, number);
                    number
                }
            })
            .collect();
        for (bucket, mut rows) in batch.buckets {
            for server in &mut rows.servers {
                *server = numbers[*server as usize];
                listed.servers[*server as usize].num_rows += 1;
            }
            if listed.schema.widen(rows.rows.schema_ref()) {
                check_num_columns(
                    &self.inputs[batch.input as usize].path,
                    listed.schema.rows().fields().len(),
                )?;
            }
            let bucket = &mut listed.buckets[bucket as usize];
            bucket.push(batch.input, rows, listed.schema.rows(), self.bucket_bytes)?;
        }
        Ok(())
    }
}
