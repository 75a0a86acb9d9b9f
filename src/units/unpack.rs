//! A unit as a dataset of its own, for the downloader.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int32Type;

use super::UnitError;
use super::unit_file::{MANIFEST_NAME, UnitClaim, UnitFile, manifest_path, schema};
use crate::catalog::{Catalog, MAX_RECORDS, ManifestFile, NewPartition};
use crate::model::{RecordState, ServerName, SkipReason, UrlKey};
use crate::storage::{DatasetLayout, TableWriter, create_folder, write_atomically};

/// State of the records of a partition that are not the unit's. No download gives it.
pub(super) const NOT_OURS: RecordState = RecordState::Skipped(SkipReason::EmptyUrl);

/// Makes the dataset of a unit at `layout`: its manifest, then its catalog, which `open` opens or creates. Done again, it
/// leaves alone what is there.
///
/// # Errors
/// `OtherUnit` when another's is there; `NotAUnit` when the unit's rows are not what its header says; or when something
/// cannot be written.
pub fn unpack(
    unit: &UnitFile,
    layout: &DatasetLayout,
    open: impl FnOnce() -> Result<Catalog, UnitError>,
) -> Result<(), UnitError> {
    claim_folder(unit, layout)?;
    let settings = &unit.header.settings;
    for (path, text) in
        [(layout.profiles_table(), &settings.profiles), (layout.ignored_table(), &settings.ignored)]
    {
        if let Some(text) = text {
            write_atomically(&path, text.as_bytes())?;
        }
    }
    let catalog = open()?;
    if !catalog.view()?.servers()?.is_empty() {
        return Ok(());
    }
    let mut rows = Rows { unit, batches: unit.records()?, rest: None };
    let partitions: Vec<_> = unit
        .header
        .claims
        .iter()
        .map(|claim| unpack_partition(layout, claim, &mut rows))
        .collect::<Result<_, _>>()?;
    let facts: Vec<_> = unit.header.facts.iter().filter_map(|fact| fact.read()).collect();
    catalog.remember(&facts)?;
    Ok(catalog.add_partitions(&partitions)?)
}

/// The file that says whose work folder it is.
fn owner_file(work: &Path) -> PathBuf {
    work.join("unit")
}

/// Whether a folder is the work folder of a unit.
#[must_use]
pub fn is_work_of(unit: &UnitFile, work: &Path) -> bool {
    fs::read_to_string(owner_file(work)).is_ok_and(|owner| owner == unit.header.unit)
}

fn claim_folder(unit: &UnitFile, layout: &DatasetLayout) -> Result<(), UnitError> {
    create_folder(layout.root())?;
    let path = owner_file(layout.root());
    match fs::read_to_string(&path) {
        Ok(owner) if owner == unit.header.unit => Ok(()),
        Ok(_) => Err(UnitError::OtherUnit { path: layout.root().to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // A folder with a catalog and without an owner is somebody's dataset.
            if layout.catalog().exists() {
                return Err(UnitError::OtherUnit { path: layout.root().to_owned() });
            }
            Ok(write_atomically(&path, unit.header.unit.as_bytes())?)
        }
        Err(error) => Err(UnitError::io("read", &path)(error)),
    }
}

fn unpack_partition(
    layout: &DatasetLayout,
    claim: &UnitClaim,
    rows: &mut Rows<'_>,
) -> Result<NewPartition, UnitError> {
    let damaged = |detail: &str| rows_of(claim, detail);
    let num_records = claim.num_records as usize;
    if num_records as u64 > MAX_RECORDS {
        return Err(rows.unit.damaged(damaged("is larger than any")));
    }
    let mut states = vec![NOT_OURS; num_records];
    let mut members = BTreeSet::new();
    let path = manifest_path(layout, claim);
    let mut writer: Option<TableWriter> = None;
    let mut left = claim.num_pending as usize;
    while left > 0 {
        let Some(batch) = rows.next(left)? else {
            return Err(rows.unit.damaged(damaged("lacks rows")));
        };
        left -= batch.num_rows();
        let numbers =
            batch.column_by_name("record").and_then(|column| column.as_primitive_opt::<Int32Type>());
        let numbers = numbers.ok_or_else(|| rows.unit.damaged(damaged("lacks the column `record`")))?;
        for record in numbers.values() {
            match usize::try_from(*record).ok().and_then(|record| states.get_mut(record)) {
                Some(state) => *state = RecordState::Pending,
                None => return Err(rows.unit.damaged(damaged("has a record that it cannot have"))),
            }
        }
        if claim.shared {
            let names =
                batch.column_by_name("shared_server_name").and_then(|names| names.as_string_opt::<i32>());
            let names = names.into_iter().flat_map(|names| names.iter().flatten());
            members.extend(names.map(ServerName::from_catalog));
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            empty => empty.insert(TableWriter::plain(&path, batch.schema(), "unit")?),
        };
        writer.write(&batch)?;
    }
    let file = match writer {
        Some(writer) => writer.seal()?,
        None => TableWriter::plain(&path, schema(false), "unit")?.seal()?,
    };
    Ok(NewPartition {
        folder: claim.folder(),
        // What marks a folder as shared.
        members: if claim.shared && members.is_empty() {
            vec![claim.folder()]
        } else {
            members.into_iter().collect()
        },
        partition_id: claim.partition_id,
        // Counted as the partition that it is a part of: records keep their numbers.
        manifest_files: vec![ManifestFile {
            name: MANIFEST_NAME.into(),
            num_records: claim.num_records,
            bytes: file.bytes,
            crc32: file.crc32,
        }],
        states,
        url_keys: vec![UrlKey(0); num_records],
    })
}

fn rows_of(claim: &UnitClaim, detail: &str) -> String {
    format!("partition {} of `{}` {detail}", claim.partition_id, claim.server_name)
}

/// The unit's rows, as many at a time as are asked for.
struct Rows<'a> {
    unit: &'a UnitFile,
    batches: parquet::arrow::arrow_reader::ParquetRecordBatchReader,
    rest: Option<RecordBatch>,
}

impl Rows<'_> {
    /// Some rows, no more than `most`; `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<RecordBatch>, UnitError> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.batches.next() {
                Some(batch) => batch.map_err(|error| self.unit.damaged(error.to_string()))?,
                None => return Ok(None),
            },
        };
        if batch.num_rows() > most {
            self.rest = Some(batch.slice(most, batch.num_rows() - most));
            return Ok(Some(batch.slice(0, most)));
        }
        Ok(Some(batch))
    }
}
