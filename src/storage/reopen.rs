//! A complete partition that is opened again: its final files become its first part.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use arrow::array::{Array as _, AsArray};
use arrow::datatypes::{Int32Type, TimestampMillisecondType};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::atomic::sync_folder;
use super::{AtomicFile, DatasetLayout, StorageError};
use crate::model::{DataFile, PartId, PartRow, RecordIndex, ServerName};

/// Gives the final files second names, as those of a part. Nothing is copied, where the filesystem has hard links.
///
/// # Errors
/// When a file is missing or has another length than the catalog says, or cannot be linked or copied.
pub fn final_files_as_part(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    part: PartId,
    successes: DataFile,
    errors: DataFile,
) -> Result<PartRow, StorageError> {
    let mut row = PartRow { part, successes: DataFile::default(), errors: DataFile::default() };
    if successes.num_rows > 0 {
        let from = layout.successes(folder, partition_id);
        second_name(&from, &layout.success_part(folder, partition_id, part), part, successes)?;
        row.successes = successes;
    }
    if errors.num_rows > 0 {
        let from = layout.errors(folder, partition_id);
        second_name(&from, &layout.error_part(folder, partition_id, part), part, errors)?;
        row.errors = errors;
    }
    Ok(row)
}

/// Gives a file a second name, as a file of a part. Copied where the filesystem has no hard links.
///
/// # Errors
/// When it is missing or has another length than the catalog says, or cannot be linked or copied.
pub fn second_name(from: &Path, to: &Path, part: PartId, stated: DataFile) -> Result<(), StorageError> {
    let writer = part.epoch.to_string();
    let file = match AtomicFile::link(from, to, &writer)? {
        Some(file) => file,
        None => {
            let mut source = File::open(from).map_err(StorageError::io("open", from))?;
            let file = AtomicFile::create(to, &writer)?;
            let mut target = file.handle()?;
            io::copy(&mut source, &mut target)
                .and_then(|_| target.flush())
                .map_err(StorageError::io("write", file.temporary()))?;
            file
        }
    };
    let bytes = file.commit()?;
    if bytes == stated.bytes {
        return Ok(());
    }
    let detail = format!("{bytes} bytes instead of {}", stated.bytes);
    Err(StorageError::Unexpected { path: from.to_owned(), detail })
}

/// Removes the marker that says that a partition is complete, durably: before it is opened again.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_marker(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
) -> Result<(), StorageError> {
    remove(&layout.completed_marker(folder, partition_id))?;
    sync_folder(&layout.completed_marker(folder, partition_id))
}

/// Removes the final files of a partition that is open again.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_final_files(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
) -> Result<(), StorageError> {
    remove(&layout.successes(folder, partition_id))?;
    remove(&layout.errors(folder, partition_id))
}

fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What a row of errors says of its record beside the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFacts {
    pub record: RecordIndex,
    /// Milliseconds since 1970.
    pub fetched_at: Option<i64>,
    /// The record's server, in a shared folder.
    pub shared_server_name: Option<String>,
}

/// Reads a file of errors.
///
/// # Errors
/// When it cannot be read, or has other columns.
pub fn read_error_facts(path: &Path) -> Result<Vec<ErrorFacts>, StorageError> {
    const COLUMNS: [&str; 3] = ["record", "fetched_at", "shared_server_name"];
    let source = File::open(path).map_err(StorageError::io("open", path))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(source).map_err(StorageError::parquet("read", path))?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let reader = builder.with_projection(columns).build().map_err(StorageError::parquet("read", path))?;
    let mut facts = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| StorageError::parquet("read", path)(error.into()))?;
        let column = |name: &str| batch.column_by_name(name);
        let columns = (|| {
            Some((
                column(COLUMNS[0])?.as_primitive_opt::<Int32Type>()?,
                column(COLUMNS[1])?.as_primitive_opt::<TimestampMillisecondType>()?,
                column(COLUMNS[2])?.as_string_opt::<i32>()?,
            ))
        })();
        let Some((records, times, servers)) = columns else {
            let detail = "its columns are other ones".to_owned();
            return Err(StorageError::Unexpected { path: path.to_owned(), detail });
        };
        facts.extend((0..batch.num_rows()).map(|row| ErrorFacts {
            record: records.value(row).cast_unsigned(),
            fetched_at: times.is_valid(row).then(|| times.value(row)),
            shared_server_name: servers.is_valid(row).then(|| servers.value(row).to_owned()),
        }));
    }
    Ok(facts)
}
