//! The deed, partition by partition.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};

use super::super::PipelineError;
use super::super::ingest::now_ms;
use super::plan::{RETRACTED, partition_row};
use super::{FailedPartition, RecordName, RetractReport};
use crate::catalog::{
    Catalog, CatalogError, CatalogView, CompactionReport, PartitionRow, PartitionStage, Report,
    RetractedFiles, Retraction,
};
use crate::model::{
    ContentDigest, DataFile, Disposition, Epoch, PartId, PartRow, PartitionKey, RecordIndex, ServerId,
    ServerName, without_credentials,
};
use crate::runtime::catch_panic;
use crate::storage::{
    CompactionInput, DatasetLayout, ManifestReader, ManifestRecord, RetractionEntry, RetractionLog, RowJudge,
    RowRemoval, StorageError, StorageOptions, compact_partition, finish_partition, remove_final_files,
    remove_marker, second_name, sweep_parts, sync_folder,
};

/// Rows of a manifest read at a time.
const BATCH_ROWS: usize = 4096;

pub(super) struct Work<'a> {
    pub layout: &'a DatasetLayout,
    pub catalog: &'a Catalog,
    pub folders: HashMap<ServerId, ServerName>,
    /// `None` before the first download.
    pub options: Option<StorageOptions>,
    pub epoch: Epoch,
    pub reason: Option<&'a str>,
    pub log: RetractionLog,
    pub report: RetractReport,
}

/// A partition as it is now.
struct Partition {
    key: PartitionKey,
    folder: ServerName,
    row: PartitionRow,
}

impl Work<'_> {
    pub(super) fn retract_all(&mut self) -> Result<(), PipelineError> {
        let records = std::mem::take(&mut self.report.plan.records);
        for (&key, records) in &records {
            self.or_note(key, |work| work.retract(key, records))?;
        }
        // What an earlier retraction has left, whatever it had chosen.
        let view = self.catalog.view()?;
        let mut unfinished = Vec::new();
        view.for_each_partition(|key, row| {
            if row.counts.skipped > 0 && row.needs_work() && !records.contains_key(&key) {
                unfinished.push(key);
            }
        })?;
        for key in unfinished {
            if view.states(key)?.iter().any(|status| status.state == RETRACTED) {
                self.or_note(key, |work| work.settle(key))?;
            }
        }
        Ok(())
    }

    /// Files that are damaged or missing cost their partition: the others are to be done all the same.
    pub(super) fn or_note(
        &mut self,
        key: PartitionKey,
        work: impl FnOnce(&mut Self) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        match work(self) {
            Err(PipelineError::Storage(error)) if !is_of_the_disk(&error) => {
                let (server_name, partition_id) = (self.folder(key)?.clone(), key.partition_id);
                let error = error.to_string();
                tracing::error!(folder = %server_name, partition_id, error, "partition is left as it is");
                let failed = FailedPartition { server_name, partition_id, error };
                if !self.report.failed_partitions.contains(&failed) {
                    self.report.failed_partitions.push(failed);
                }
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn folder(&self, key: PartitionKey) -> Result<&ServerName, PipelineError> {
        let missing = || CatalogError::Inconsistent(format!("{key:?} has no server"));
        Ok(self.folders.get(&key.server_id).ok_or_else(missing)?)
    }

    fn partition(&self, key: PartitionKey) -> Result<Partition, PipelineError> {
        let row = partition_row(&self.catalog.view()?, key)?;
        Ok(Partition { key, folder: self.folder(key)?.clone(), row })
    }

    fn retract(&mut self, key: PartitionKey, records: &[RecordIndex]) -> Result<(), PipelineError> {
        let view = self.catalog.view()?;
        let states = view.states(key)?;
        let partition = self.partition(key)?;
        self.sweep(&partition)?;
        let chosen: HashSet<RecordIndex> =
            records.iter().copied().filter(|&record| states[record as usize].state != RETRACTED).collect();
        if !chosen.is_empty() {
            let was = |record: RecordIndex| states[record as usize].state.disposition();
            let entries = self.log_entries(&view, &partition, &chosen, was)?;
            let images = chosen.iter().filter(|&&record| was(record) == Disposition::Success).count() as u64;
            let num_left = partition.row.counts.success.saturating_sub(images);
            let rewritten = self.write_without(&partition, &chosen, num_left)?;
            let before = partition.row.image_bytes;
            self.log.append(&entries)?;
            let (files, left) = rewritten.map_or((None, before), |files| {
                let left = files.image_bytes;
                (Some(files), left)
            });
            self.report.partitions_rewritten += u64::from(files.is_some());
            let mut records: Vec<_> = chosen.into_iter().collect();
            records.sort_unstable();
            for &record in &records {
                *self.report.retracted.get_mut(was(record)) += 1;
            }
            self.report.image_bytes += before.saturating_sub(left);
            self.catalog.retract(&Retraction { partition: key, records, files })?;
        }
        tracing::info!(folder = %partition.folder, partition_id = key.partition_id, "partition retracted from");
        self.settle(key)
    }

    fn log_entries(
        &self,
        view: &CatalogView,
        partition: &Partition,
        chosen: &HashSet<RecordIndex>,
        was: impl Fn(RecordIndex) -> Disposition,
    ) -> Result<Vec<RetractionEntry>, PipelineError> {
        let Partition { key, folder, row } = partition;
        let digests = digests_of(view, *key)?;
        let time = arrow::temporal_conversions::timestamp_ms_to_datetime(now_ms().cast_signed());
        let time = time.map_or_else(String::new, |time| format!("{time:?}Z"));
        let records = manifest_records(self.layout, folder, key.partition_id, row, chosen)?;
        Ok(records
            .into_iter()
            .map(|record| RetractionEntry {
                url: without_credentials(&record.identifier).into_owned(),
                server_name: folder.to_string(),
                partition_id: key.partition_id,
                record: record.record,
                was: was(record.record).as_str().to_owned(),
                hashsum_original: digests.get(&record.record).map(ContentDigest::to_string),
                reason: self.reason.map(str::to_owned),
                time: time.clone(),
                uuid: record.uuid,
            })
            .collect())
    }

    /// Removes what no commit names: it may hold what is to go.
    fn sweep(&self, partition: &Partition) -> Result<(), PipelineError> {
        let Partition { key, folder, row } = partition;
        sweep_parts(self.layout, folder, key.partition_id, &row.parts, self.epoch)?;
        if row.stage == PartitionStage::Open {
            remove_final_files(self.layout, folder, key.partition_id)?;
        }
        Ok(())
    }

    /// Writes what is left of the partition's files as parts, with so many successes. `None` when no file holds any
    /// of the records.
    fn write_without(
        &self,
        partition: &Partition,
        records: &HashSet<RecordIndex>,
        num_successes: u64,
    ) -> Result<Option<RetractedFiles>, PipelineError> {
        let (layout, id) = (self.layout, partition.key.partition_id);
        let Partition { key, folder, row } = partition;
        let sources: Vec<Source> = match row.stage {
            PartitionStage::Open => {
                row.parts.iter().map(|part| Source::part(layout, folder, id, *part)).collect()
            }
            PartitionStage::Compacted | PartitionStage::Finished => vec![Source {
                part: None,
                successes: (layout.successes(folder, id), row.successes),
                errors: (layout.errors(folder, id), row.errors),
            }],
        };
        let mut image_bytes = row.image_bytes;
        let mut removals = Vec::new();
        let mut num_left = 0;
        for Source { successes, errors, .. } in &sources {
            let stated = successes.1;
            let successes = find_rows(successes, &["record", "image_bytes"], &mut |batch| {
                let goes = rows_of(batch, records)?;
                let lengths =
                    batch.column_by_name("image_bytes").and_then(|c| c.as_primitive_opt::<Int64Type>());
                let lengths = lengths.ok_or("column `image_bytes` is missing")?;
                let gone = lengths.iter().zip(&goes).filter(|(_, goes)| *goes == Some(true));
                let gone: u64 = gone.filter_map(|(length, _)| length).map(i64::unsigned_abs).sum();
                image_bytes = image_bytes.saturating_sub(gone);
                Ok(goes)
            })?;
            let errors = find_rows(errors, &["record"], &mut |batch| rows_of(batch, records))?;
            num_left += successes.as_ref().map_or(stated.num_rows, RowRemoval::num_left);
            removals.push((successes, errors));
        }
        if num_left != num_successes {
            let detail = format!("{num_left} images would be left instead of {num_successes}");
            return Err(StorageError::Unexpected { path: layout.images_folder(folder, id), detail }.into());
        }
        if removals.iter().all(|(successes, errors)| successes.is_none() && errors.is_none()) {
            return Ok(None);
        }
        if row.stage == PartitionStage::Finished {
            self.catalog.unfinish(&[*key])?;
        }
        if row.stage != PartitionStage::Open {
            remove_marker(layout, folder, id)?;
        }
        let mut parts = Vec::new();
        for ((source, (successes, errors)), sequence) in sources.into_iter().zip(removals).zip(0..) {
            if let (Some(part), None, None) = (source.part, &successes, &errors) {
                parts.push(part);
                continue;
            }
            let part = PartId { epoch: self.epoch, sequence };
            let new = PartRow {
                part,
                successes: write_part(
                    part,
                    source.successes,
                    successes,
                    &layout.success_part(folder, id, part),
                )?,
                errors: write_part(part, source.errors, errors, &layout.error_part(folder, id, part))?,
            };
            if new.successes.num_rows + new.errors.num_rows > 0 {
                parts.push(new);
            }
        }
        Ok(Some(RetractedFiles { parts, image_bytes, epoch: self.epoch }))
    }

    /// Removes what the last commit no longer names, and takes the partition as far as it goes without a download.
    fn settle(&mut self, key: PartitionKey) -> Result<(), PipelineError> {
        let partition = self.partition(key)?;
        self.sweep(&partition)?;
        let Partition { folder, row, .. } = &partition;
        let id = key.partition_id;
        // Before the first download there are no files, and the next one makes them.
        let Some(options) = self.options else { return Ok(()) };
        if row.stage == PartitionStage::Open {
            if row.counts.pending > 0 {
                if self.layout.parts_folder(folder, id).exists() {
                    sync_folder(&self.layout.parts_folder(folder, id).join("parts"))?;
                    sync_folder(&self.layout.parts_folder(folder, id))?;
                }
                return Ok(());
            }
            let states = self.catalog.view()?.states(key)?;
            let is_failed = |disposition| matches!(disposition, Disposition::Failed | Disposition::Skipped);
            let failed = (0..).zip(&states).filter(|(_, status)| is_failed(status.state.disposition()));
            let output = guarded(&self.layout.images_folder(folder, id), || {
                compact_partition(&CompactionInput {
                    layout: self.layout,
                    folder,
                    partition_id: id,
                    parts: &row.parts,
                    failed: &failed.map(|(record, _)| record).collect(),
                    epoch: self.epoch,
                    options,
                })
            })?;
            self.commit(Report::Compacted(CompactionReport {
                partition: key,
                epoch: self.epoch,
                parts: row.parts.iter().map(|part| part.part).collect(),
                successes: output.successes,
                errors: output.errors,
            }))?;
        }
        finish_partition(self.layout, folder, id)?;
        if row.needs_work() {
            self.commit(Report::Finished(key))?;
        }
        Ok(())
    }

    fn commit(&self, report: Report) -> Result<(), PipelineError> {
        for answer in self.catalog.commit_reports(&[report])? {
            answer.map_err(|refusal| CatalogError::Inconsistent(refusal.to_string()))?;
        }
        Ok(())
    }
}

/// The files of a part, or the final ones.
struct Source {
    part: Option<PartRow>,
    successes: (PathBuf, DataFile),
    errors: (PathBuf, DataFile),
}

impl Source {
    fn part(layout: &DatasetLayout, folder: &ServerName, partition_id: u32, part: PartRow) -> Self {
        Self {
            part: Some(part),
            successes: (layout.success_part(folder, partition_id, part.part), part.successes),
            errors: (layout.error_part(folder, partition_id, part.part), part.errors),
        }
    }
}

fn find_rows(
    (path, stated): &(PathBuf, DataFile),
    columns: &[&str],
    goes: RowJudge<'_>,
) -> Result<Option<RowRemoval>, StorageError> {
    if stated.num_rows == 0 {
        return Ok(None);
    }
    guarded(path, || RowRemoval::find(path, Some(*stated), columns, goes))
}

/// Rows of these records.
fn rows_of(batch: &RecordBatch, records: &HashSet<RecordIndex>) -> Result<BooleanArray, String> {
    let column = batch.column_by_name("record").and_then(|column| column.as_primitive_opt::<Int32Type>());
    let column = column.ok_or("column `record` is missing")?;
    let goes = |record: Option<i32>| record.is_some_and(|record| records.contains(&record.cast_unsigned()));
    Ok(column.iter().map(|record| Some(goes(record))).collect())
}

/// One file of a new part: what is left of the old one, or the old one under a second name.
fn write_part(
    part: PartId,
    (source, stated): (PathBuf, DataFile),
    removal: Option<RowRemoval>,
    target: &Path,
) -> Result<DataFile, StorageError> {
    match removal {
        Some(removal) if removal.num_left() == 0 => Ok(DataFile::default()),
        Some(removal) => guarded(&source, || removal.write(target, &part.epoch.to_string())),
        None if stated.num_rows == 0 => Ok(DataFile::default()),
        None => second_name(&source, target, part, stated).map(|()| stated),
    }
}

/// A panic on damaged pages is a file that cannot be read.
pub(super) fn guarded<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    catch_panic(work).unwrap_or_else(|detail| {
        let detail = format!("its reader panicked: {detail}");
        Err(StorageError::Unexpected { path: path.to_owned(), detail })
    })
}

/// Whether an error is one of the whole disk, so that going on is of no use.
pub(super) fn is_of_the_disk(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound)
}

pub(super) fn digests_of(
    view: &CatalogView,
    key: PartitionKey,
) -> Result<HashMap<RecordIndex, ContentDigest>, CatalogError> {
    Ok(view.digests(key)?.into_iter().flat_map(|(_, rows)| rows).collect())
}

/// These records of a partition, as its manifest has them.
pub(super) fn manifest_records(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    row: &PartitionRow,
    wanted: &HashSet<RecordIndex>,
) -> Result<Vec<ManifestRecord>, StorageError> {
    let home = layout.manifest_folder(folder, partition_id);
    let files = row.manifest_files.iter().map(|file| home.join(&file.name)).collect();
    guarded(&home, || {
        let mut reader = ManifestReader::new(files, BATCH_ROWS);
        let mut found = Vec::new();
        while let Some(records) = reader.next_batch()? {
            found.extend(records.into_iter().filter(|record| wanted.contains(&record.record)));
        }
        Ok(found)
    })
}

impl RecordName {
    pub(super) fn of(record: &ManifestRecord) -> Self {
        Self { uuid: record.uuid.clone(), url: without_credentials(&record.identifier).into_owned() }
    }
}
