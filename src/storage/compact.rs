//! A complete partition: its parts become `successes.parquet` and `errors.parquet`.
//!
//! Successes are copied row group by row group, bytes as they are: nothing is decoded, so it costs a read and
//! a write of the disk. Errors are few; they are read, and only those that still are the record's last word
//! are kept.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::column::writer::ColumnCloseResult;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;

use super::atomic::sync_folder;
use super::part_writer::{arrow_writer, error_batch};
use super::schema::{errors_properties, successes_properties, successes_write_schema};
use super::{
    AtomicFile, Checksummed, DatasetLayout, Sign as _, StorageError, StorageOptions, errors_schema,
    write_atomically,
};
use crate::model::{DataFile, Epoch, PartRow, RecordIndex, ServerName};

/// What to compact.
pub struct CompactionInput<'a> {
    pub layout: &'a DatasetLayout,
    pub folder: &'a ServerName,
    pub partition_id: u32,
    /// Parts in the order of their commits.
    pub parts: &'a [PartRow],
    /// Records that are failed or skipped now: a part may hold an error that a later attempt undid.
    pub failed: &'a HashSet<RecordIndex>,
    /// The claim under which this is done; names the temporary files.
    pub epoch: Epoch,
    pub options: StorageOptions,
}

/// The files made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionOutput {
    pub successes: DataFile,
    pub errors: DataFile,
}

/// Writes both files of a partition from its parts. The parts stay.
///
/// # Errors
/// When a part is missing or holds other rows than the catalog says, or the disk is full.
pub fn compact_partition(input: &CompactionInput<'_>) -> Result<CompactionOutput, StorageError> {
    Ok(CompactionOutput { successes: merge_successes(input)?, errors: merge_errors(input)? })
}

/// Writes the `completed` marker and removes the parts. Done again after a kill, it does what is left.
///
/// # Errors
/// When the marker cannot be written. Parts that cannot be removed are left to the next sweep.
pub fn finish_partition(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
) -> Result<(), StorageError> {
    let marker = layout.completed_marker(folder, partition_id);
    if !marker.exists() {
        write_atomically(&marker, b"")?;
    }
    let parts = layout.parts_folder(folder, partition_id);
    match fs::remove_dir_all(&parts) {
        Ok(()) => sync_folder(&parts),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            tracing::warn!(path = %parts.display(), %error, "cannot remove parts; `ddl check --repair` will");
            Ok(())
        }
    }
}

fn merge_successes(input: &CompactionInput<'_>) -> Result<DataFile, StorageError> {
    let path = input.layout.successes(input.folder, input.partition_id);
    let file = AtomicFile::create(&path, &input.epoch.to_string())?;
    let error = StorageError::parquet(file.temporary());
    let schema = ArrowSchemaConverter::new().convert(&successes_write_schema()).map_err(&error)?;
    let mut writer = SerializedFileWriter::new(
        Checksummed::new(file.handle()?),
        schema.root_schema_ptr(),
        successes_properties(input.options).into(),
    )
    .map_err(&error)?;
    let mut num_rows = 0;
    for part in input.parts.iter().filter(|part| part.successes.num_rows > 0) {
        let path = input.layout.success_part(input.folder, input.partition_id, part.part);
        let rows = append_row_groups(&mut writer, &path)?;
        if rows != part.successes.num_rows {
            let detail = format!("{rows} rows instead of {}", part.successes.num_rows);
            return Err(StorageError::Unexpected { path, detail });
        }
        num_rows += rows;
    }
    writer.sign().and_then(|()| writer.close()).map_err(&error)?;
    Ok(DataFile { num_rows, bytes: file.commit()? })
}

fn append_row_groups(
    writer: &mut SerializedFileWriter<Checksummed<File>>,
    path: &Path,
) -> Result<u64, StorageError> {
    let error = StorageError::parquet(path);
    let source = File::open(path).map_err(StorageError::io("open", path))?;
    let handle = source.try_clone().map_err(StorageError::io("open", path))?;
    let reader = SerializedFileReader::new(source).map_err(&error)?;
    let mut num_rows = 0;
    for row_group in reader.metadata().row_groups() {
        let rows = row_group.num_rows().unsigned_abs();
        let mut target = writer.next_row_group().map_err(&error)?;
        for column in row_group.columns() {
            let bytes_written = column.compressed_size().unsigned_abs();
            let close = ColumnCloseResult {
                bytes_written,
                rows_written: rows,
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            target.append_column(&handle, close).map_err(&error)?;
        }
        target.close().map_err(&error)?;
        num_rows += rows;
    }
    Ok(num_rows)
}

fn merge_errors(input: &CompactionInput<'_>) -> Result<DataFile, StorageError> {
    let path = input.layout.errors(input.folder, input.partition_id);
    let file = AtomicFile::create(&path, &input.epoch.to_string())?;
    let error = StorageError::parquet(file.temporary());
    let mut writer = arrow_writer(&file, errors_schema(), errors_properties(input.options))?;
    writer.write(&error_batch(&[])).map_err(&error)?;
    let mut written = HashSet::new();
    let mut num_rows = 0;
    // Newest first, so that of two errors of one record the later is kept.
    for part in input.parts.iter().rev().filter(|part| part.errors.num_rows > 0) {
        let path = input.layout.error_part(input.folder, input.partition_id, part.part);
        let source = File::open(&path).map_err(StorageError::io("open", &path))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(source)
            .and_then(|builder| builder.build())
            .map_err(StorageError::parquet(&path))?;
        for batch in reader {
            let batch = batch.map_err(|error| StorageError::parquet(&path)(error.into()))?;
            let keep: BooleanArray = batch
                .column_by_name("record")
                .and_then(|column| column.as_primitive_opt::<Int32Type>())
                .ok_or_else(|| StorageError::Unexpected {
                    path: path.clone(),
                    detail: "column `record` is missing".into(),
                })?
                .values()
                .iter()
                .map(|record| record.cast_unsigned())
                .map(|record| Some(input.failed.contains(&record) && written.insert(record)))
                .collect();
            let kept = filter_record_batch(&batch, &keep)
                .and_then(|batch| batch.with_schema(errors_schema()))
                .map_err(|error| StorageError::parquet(&path)(error.into()))?;
            num_rows += kept.num_rows() as u64;
            writer.write(&kept).map_err(&error)?;
        }
    }
    writer.sign().and_then(|()| writer.close()).map_err(&error)?;
    Ok(DataFile { num_rows, bytes: file.commit()? })
}
