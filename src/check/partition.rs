//! One partition: catalog against files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::data_file::{Flaw, StatedFile, check_bytes, guarded, number, open, record_at};
use super::error::CheckError;
use super::folders::partition_orphans;
use super::images::check_images;
use super::options::CheckOptions;
use super::records::{IDENTITY_COLUMNS, OUTCOME_COLUMNS, PartDigests, Records};
use super::report::{BreachKind, Findings, Offences};
use crate::catalog::{
    CatalogError, CatalogView, DispositionCounts, PartitionRow, PartitionStage, RecordStatus, ToolPiece,
};
use crate::model::{DataFile, PartitionKey, RecordState, ServerName, UrlKey};
use crate::storage::{DatasetLayout, errors_schema, successes_schema, verdicts_schema};

/// Gives a view of what is committed now.
pub(super) type ViewSource<'a> = &'a (dyn Fn() -> Result<CatalogView, CatalogError> + Sync);

/// Rows of the small columns read at a time: at most 32 MiB of URLs (`max_url_bytes` is 8 KiB by default).
const BATCH_ROWS: usize = 4096;

/// Looks at a partition that changes meanwhile: completion is two changes, and a retry two more.
const MAX_LOOKS: u32 = 6;

/// Checks a partition, its files and what else lies in its folders.
///
/// A partition that is completed, or set back to be retried, meanwhile gets other files than the view names. So what
/// does not hold is asked again of a fresh view, unless that says the same.
pub(super) fn check_partition(
    layout: &DatasetLayout,
    views: ViewSource<'_>,
    options: &CheckOptions,
    folder: &ServerName,
    key: PartitionKey,
) -> Result<Findings, CheckError> {
    let mut looks_left = MAX_LOOKS;
    loop {
        let view = views()?;
        let committed = Committed::of(&view, key)?;
        let findings = check_once(layout, &view, &committed, options, folder, key)?;
        looks_left -= 1;
        if findings.report.is_sound() || looks_left == 0 || Committed::of(&views()?, key)? == committed {
            return Ok(findings);
        }
    }
}

/// What the catalog has of a partition that names files.
#[derive(PartialEq)]
pub(super) struct Committed {
    pub row: PartitionRow,
    /// Every tool that ran, with what it has made of the partition if it is done with it.
    pub tools: Vec<(String, Option<ToolPiece>)>,
}

impl Committed {
    pub(super) fn of(view: &CatalogView, key: PartitionKey) -> Result<Self, CatalogError> {
        let row =
            view.partition(key)?.ok_or_else(|| CatalogError::Inconsistent(format!("there is no {key:?}")))?;
        let tools = view.tools()?.into_iter().map(|(name, _)| {
            let piece = view.tool_partition(&name, key)?.and_then(|partition| partition.done);
            Ok((name, piece))
        });
        Ok(Self { row, tools: tools.collect::<Result<_, CatalogError>>()? })
    }
}

fn check_once(
    layout: &DatasetLayout,
    view: &CatalogView,
    committed: &Committed,
    options: &CheckOptions,
    folder: &ServerName,
    key: PartitionKey,
) -> Result<Findings, CheckError> {
    let row = &committed.row;
    let findings = Findings::new(folder.clone(), Some(key.partition_id), options.max_breaches);
    let mut check = PartitionCheck { layout, folder, partition_id: key.partition_id, row, options, findings };
    let entries = check.read_entries(view, key)?;
    check.compare_entries(&entries);
    check.check_stage();
    let mut records = Records::new(entries.states.as_deref().unwrap_or_default());
    check.check_manifest(&mut records, entries.url_keys.as_deref());
    check.check_data(&mut records, &entries);
    check.check_marker();
    for (tool, piece) in &committed.tools {
        piece.iter().for_each(|piece| check.check_tool(tool, piece, entries.states.as_deref()));
    }
    let PartitionCheck { mut findings, .. } = check;
    let walk = partition_orphans(layout, folder, key.partition_id, committed, &mut |path, bytes| {
        findings.orphan(path, bytes);
    });
    if let Err(error) = walk {
        findings.breach(BreachKind::Unreadable, None, error.to_string());
    }
    Ok(findings)
}

/// What the catalog has of a partition beside its row; `None` for what does not decode.
struct Entries {
    states: Option<Vec<RecordStatus>>,
    url_keys: Option<Vec<UrlKey>>,
    digests: Option<PartDigests>,
}

struct PartitionCheck<'a> {
    layout: &'a DatasetLayout,
    folder: &'a ServerName,
    partition_id: u32,
    row: &'a PartitionRow,
    options: &'a CheckOptions,
    findings: Findings,
}

#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Successes,
    Errors,
}

impl PartitionCheck<'_> {
    fn read_entries(&mut self, view: &CatalogView, key: PartitionKey) -> Result<Entries, CatalogError> {
        Ok(Entries {
            states: self.usable(view.states(key))?,
            url_keys: self.usable(view.url_keys(key))?,
            digests: self.usable(view.digests(key))?,
        })
    }

    /// A value that contradicts itself, or is damaged, is a finding; storage that fails is an error.
    fn usable<T>(&mut self, read: Result<T, CatalogError>) -> Result<Option<T>, CatalogError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(CatalogError::Inconsistent(detail) | CatalogError::Corrupted(detail)) => {
                self.findings.breach(BreachKind::CatalogEntry, None, detail);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn compare_entries(&mut self, entries: &Entries) {
        let counts = self.row.counts;
        self.findings.report.counts = counts;
        self.findings.report.num_records = counts.total();
        self.findings.report.partitions.add(self.row.stage);

        let in_manifest: u64 = self.row.manifest_files.iter().map(|file| u64::from(file.num_records)).sum();
        let states = entries.states.as_ref().map(|states| states.len() as u64);
        let url_keys = entries.url_keys.as_ref().map(|keys| keys.len() as u64);
        let agree = [Some(in_manifest), states, url_keys].into_iter().flatten().all(|n| n == counts.total());
        if !agree {
            let shown = |number: Option<u64>| number.map_or("unknown".into(), |number| number.to_string());
            let detail = format!(
                "{} by the counts, {in_manifest} in the manifest, {} states, {} URL keys",
                counts.total(),
                shown(states),
                shown(url_keys)
            );
            self.findings.breach(BreachKind::RecordCount, None, detail);
        }
        if let Some(states) = &entries.states {
            let counted = DispositionCounts::of(states.iter().map(|status| status.state));
            // Other numbers of records have been reported above.
            if counted != counts && counted.total() == counts.total() {
                let detail = format!("{counts:?}, but the states give {counted:?}");
                self.findings.breach(BreachKind::StateCount, None, detail);
            }
        }
    }

    fn check_stage(&mut self) {
        let PartitionRow { stage, counts, parts, .. } = self.row;
        if *stage == PartitionStage::Open {
            return;
        }
        if counts.pending > 0 {
            let detail = format!("it is {stage:?} with {} records pending", counts.pending);
            self.findings.breach(BreachKind::Stage, None, detail);
        }
        if !parts.is_empty() {
            let detail = format!("it is {stage:?} with {} parts", parts.len());
            self.findings.breach(BreachKind::Stage, None, detail);
        }
    }

    fn check_manifest(&mut self, records: &mut Records<'_>, url_keys: Option<&[UrlKey]>) {
        let folder = self.layout.manifest_folder(self.folder, self.partition_id);
        let mut is_sound = true;
        for file in &self.row.manifest_files {
            let path = folder.join(&file.name);
            let mut offences = Offences::default();
            let done = self.read(&path, file.data_file(), |open| {
                open.for_each_batch(&IDENTITY_COLUMNS, BATCH_ROWS, &mut |batch| {
                    // Behind a file that could not be read, positions are unknown.
                    if is_sound { records.manifest_rows(batch, url_keys, &mut offences) } else { Ok(()) }
                })
            });
            is_sound &= done && offences.is_empty();
            self.findings.offences(Some(&path), offences);
        }
        if !is_sound {
            records.forget_manifest();
        }
    }

    fn check_data(&mut self, records: &mut Records<'_>, entries: &Entries) {
        let mut offences = Offences::default();
        if let (Some(_), Some(digests)) = (&entries.states, &entries.digests) {
            records.set_digests(digests, &mut offences);
        }
        let has_states = entries.states.is_some();
        let mut is_complete = has_states;
        for (path, stated, holds) in self.data_files() {
            is_complete &= self.check_data_file(&path, stated, holds, has_states.then_some(&mut *records));
        }
        if is_complete {
            records.compare_outcomes(self.row.image_bytes, &mut offences);
        }
        self.findings.offences(None, offences);
    }

    /// The files that hold the partition's data, successes before errors in each part.
    fn data_files(&self) -> Vec<(PathBuf, DataFile, Holds)> {
        let (layout, folder, id) = (self.layout, self.folder, self.partition_id);
        if self.row.stage != PartitionStage::Open {
            return vec![
                (layout.successes(folder, id), self.row.successes, Holds::Successes),
                (layout.errors(folder, id), self.row.errors, Holds::Errors),
            ];
        }
        let files = self.row.parts.iter().flat_map(|part| {
            [
                (layout.success_part(folder, id, part.part), part.successes, Holds::Successes),
                (layout.error_part(folder, id, part.part), part.errors, Holds::Errors),
            ]
        });
        files.filter(|(_, stated, _)| is_named(*stated)).collect()
    }

    /// Whether the file could be read to its end.
    fn check_data_file(
        &mut self,
        path: &Path,
        stated: DataFile,
        holds: Holds,
        records: Option<&mut Records<'_>>,
    ) -> bool {
        let mut offences = Offences::default();
        let is_part = self.row.stage == PartitionStage::Open;
        let done = self.read(path, stated, |open| {
            match holds {
                Holds::Successes => open.has_schema(&successes_schema())?,
                Holds::Errors => open.has_schema(&errors_schema())?,
            }
            let Some(records) = records else { return Ok(()) };
            if holds == Holds::Successes {
                let columns = [&IDENTITY_COLUMNS[..], &["hashsum_original", "image_bytes"]].concat();
                return open.for_each_batch(&columns, BATCH_ROWS, &mut |batch| {
                    records.success_rows(batch, &mut offences)
                });
            }
            let mut in_file = HashSet::new();
            let columns = [&IDENTITY_COLUMNS[..], &OUTCOME_COLUMNS].concat();
            open.for_each_batch(&columns, BATCH_ROWS, &mut |batch| {
                records.error_rows(batch, &mut in_file, is_part, &mut offences)
            })
        });
        if done && holds == Holds::Successes {
            self.findings.report.num_images += stated.num_rows;
            if self.options.deep {
                let hashed =
                    guarded(|| check_images(StatedFile::new(open(path, stated)?, stated)?, &mut offences));
                match hashed {
                    Ok(bytes) => self.findings.report.hashed_bytes += bytes,
                    Err(flaw) => self.findings.breach(flaw.kind, Some(path), flaw.detail),
                }
            }
        }
        self.findings.offences(Some(path), offences);
        done
    }

    /// What a tool has made of the partition: the file's length and rows, whether they are of images, its bytes, and new
    /// images like others.
    fn check_tool(&mut self, tool: &str, piece: &ToolPiece, states: Option<&[RecordStatus]>) {
        let (folder, id) = (self.folder, self.partition_id);
        let verdicts = self.layout.tool_verdicts(tool, folder, id);
        let images = self.layout.tool_images(tool, folder, id);
        self.check_tool_file(&verdicts, piece.verdicts, &verdicts_schema(), false, states);
        self.check_tool_file(&images, piece.images, &successes_schema(), true, states);
    }

    fn check_tool_file(
        &mut self,
        path: &Path,
        stated: DataFile,
        schema: &Schema,
        has_images: bool,
        states: Option<&[RecordStatus]>,
    ) {
        if !is_named(stated) {
            return;
        }
        let mut offences = Offences::default();
        let hashed_bytes = guarded(|| {
            let file = open(path, stated)?;
            if self.options.deep {
                check_bytes(&file, stated)?;
            }
            let file = StatedFile::new(file, stated)?;
            file.has_schema(schema)?;
            if let Some(states) = states {
                file.for_each_batch(&["record"], BATCH_ROWS, &mut |batch| {
                    rows_of_images(batch, states, &mut offences)
                })?;
            }
            if !has_images || !self.options.deep {
                return Ok(0);
            }
            check_images(StatedFile::new(open(path, stated)?, stated)?, &mut offences)
        });
        let report = &mut self.findings.report;
        match hashed_bytes {
            Ok(hashed_bytes) => {
                report.num_files += 1;
                report.file_bytes += stated.bytes;
                report.num_tool_images += if has_images { stated.num_rows } else { 0 };
                report.hashed_bytes += hashed_bytes;
            }
            Err(Flaw { kind, detail }) => {
                self.findings.breach(BreachKind::ToolPiece, Some(path), format!("{kind}: {detail}"));
            }
        }
        self.findings.tool_offences(path, offences);
    }

    /// Opens a file as stated and reads it; a flaw becomes a breach. Whether there was none.
    fn read(
        &mut self,
        path: &Path,
        stated: DataFile,
        read: impl FnOnce(StatedFile) -> Result<(), Flaw>,
    ) -> bool {
        let mut damage = Ok(());
        let result = guarded(|| {
            let file = open(path, stated)?;
            if self.options.deep {
                // Read on all the same: the rows may say what is damaged.
                damage = check_bytes(&file, stated);
            }
            read(StatedFile::new(file, stated)?)
        });
        if let Err(flaw) = damage {
            self.findings.breach(flaw.kind, Some(path), flaw.detail);
        }
        match result {
            Ok(()) => {
                self.findings.report.num_files += 1;
                self.findings.report.file_bytes += stated.bytes;
                true
            }
            Err(flaw) => {
                self.findings.breach(flaw.kind, Some(path), flaw.detail);
                false
            }
        }
    }

    /// The marker of a compacted partition may be there or not: it is written before `Finished` is committed.
    fn check_marker(&mut self) {
        let marker = self.layout.completed_marker(self.folder, self.partition_id);
        let stands = marker.is_file();
        match self.row.stage {
            PartitionStage::Finished if !stands => {
                self.findings.breach(
                    BreachKind::MissingMarker,
                    Some(&marker),
                    "`ddl check --repair` writes it",
                );
            }
            PartitionStage::Open if stands => {
                let detail = "its consumers take the partition for complete; `ddl check --repair` removes it";
                self.findings.breach(BreachKind::StrayMarker, Some(&marker), detail);
            }
            _ => {}
        }
    }
}

/// What tools have made is of images: nobody may find there what was retracted.
fn rows_of_images(batch: &RecordBatch, states: &[RecordStatus], offences: &mut Offences) -> Result<(), Flaw> {
    let records = number(batch, "record")?;
    for row in 0..batch.num_rows() {
        let record = record_at(&records, row);
        let status = record.and_then(|record| states.get(record as usize));
        if status.is_none_or(|status| status.state != RecordState::Success) {
            offences.add(BreachKind::StrayRecord, || match record {
                Some(record) => format!("record {record} is no image"),
                None => "a row names no record".into(),
            });
        }
    }
    Ok(())
}

/// Whether a part has this file: there is none where there are no rows.
pub(super) fn is_named(stated: DataFile) -> bool {
    stated != DataFile::default()
}
