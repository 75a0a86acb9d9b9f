//! A complete partition: its parts become `successes.parquet` and `errors.parquet`.
//!
//! Successes are copied as they are, each part's pages in one stretch, and their metadata is moved along with
//! them, page index included: nothing is decoded, and the bytes need not even pass through this process, as the
//! checksum of the whole follows from those of the parts. A reader of one image thus reads its page, not its row
//! group. A single part, which most servers have, needs no copy at all: it gets a second name. Errors are few; they
//! are read, and only those that still are the record's last word are kept.
//!
//! A part that was damaged since it was written passes no damage on as sound: the sum of the copy is that of
//! undamaged bytes, and a file of errors whose own sum is wrong is not read.

mod metadata;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use metadata::{MergedMetadata, data_range};

use super::atomic::sync_folder;
use super::part_writer::{arrow_writer, close, error_batch};
use super::schema::errors_properties;
use super::sweep::sweep_temporary;
use super::{
    AtomicFile, Checksum, DatasetLayout, StorageError, StorageOptions, errors_schema, write_atomically,
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
    sweep_temporary(&layout.images_folder(folder, partition_id))?;
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
    let writer = input.epoch.to_string();
    let parts: Vec<_> = input.parts.iter().filter(|part| part.successes.num_rows > 0).collect();
    if let [only] = parts[..]
        && let Some(file) = AtomicFile::link(&part_path(input, only), &path, &writer)?
    {
        read_metadata(&file.handle()?, file.temporary(), only.successes)?;
        file.commit()?;
        return Ok(only.successes);
    }
    let file = AtomicFile::create(&path, &writer)?;
    let write = |error| StorageError::io("write", file.temporary())(error);
    let mut target = file.handle()?;
    target.write_all(MAGIC).map_err(write)?;
    let mut checksum = Checksum::of(MAGIC);
    let mut merged = MergedMetadata::new(input.options);
    for part in parts {
        let path = part_path(input, part);
        let unexpected = |detail: String| StorageError::Unexpected { path: path.clone(), detail };
        let source = File::open(&path).map_err(StorageError::io("open", &path))?;
        let metadata = read_metadata(&source, &path, part.successes)?;
        let data = data_range(&metadata);
        let footer = read_from(&source, data.end).map_err(StorageError::io("read", &path))?;
        let pages = Checksum::stated(part.successes).before(&footer).and_then(|head| head.after(MAGIC));
        let pages = pages
            .filter(|pages| data == (MAGIC.len() as u64..MAGIC.len() as u64 + pages.bytes))
            .ok_or_else(|| unexpected("its pages do not stand where they were written".into()))?;
        copy(&source, data.clone(), &target).map_err(|failure| match failure {
            CopyFailure::Read(error) => StorageError::io("read", &path)(error),
            CopyFailure::Write(error) => write(error),
        })?;
        merged
            .add(metadata, checksum.bytes.cast_signed() - data.start.cast_signed())
            .map_err(|error| unexpected(error.to_string()))?;
        checksum = checksum.followed_by(pages);
    }
    let num_rows = merged.num_rows();
    let footer = merged.encode(checksum.bytes).map_err(StorageError::parquet("write", file.temporary()))?;
    target.write_all(&footer).map_err(write)?;
    file.commit()?;
    Ok(checksum.followed_by(Checksum::of(&footer)).file_of(num_rows))
}

fn part_path(input: &CompactionInput<'_>, part: &PartRow) -> PathBuf {
    input.layout.success_part(input.folder, input.partition_id, part.part)
}

/// The footer of a part, which must be as long and have as many rows as the catalog says.
fn read_metadata(source: &File, path: &Path, stated: DataFile) -> Result<ParquetMetaData, StorageError> {
    let unexpected = |detail: String| StorageError::Unexpected { path: path.to_owned(), detail };
    let bytes = source.metadata().map_err(StorageError::io("read", path))?.len();
    if bytes != stated.bytes {
        return Err(unexpected(format!("{bytes} bytes instead of {}", stated.bytes)));
    }
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .parse_and_finish(source)
        .map_err(StorageError::parquet("read", path))?;
    let rows = metadata.file_metadata().num_rows().unsigned_abs();
    if rows != stated.num_rows {
        return Err(unexpected(format!("{rows} rows instead of {}", stated.num_rows)));
    }
    Ok(metadata)
}

/// All bytes from there on.
fn read_from(mut source: &File, start: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.seek(SeekFrom::Start(start))?;
    source.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[derive(Debug)]
enum CopyFailure {
    Read(io::Error),
    Write(io::Error),
}

/// Appends a stretch of one file to another. Between two files the kernel copies by itself.
fn copy(source: &File, stretch: Range<u64>, mut target: &File) -> Result<(), CopyFailure> {
    let length = stretch.end - stretch.start;
    let from_start = || {
        let mut source = source;
        source.seek(SeekFrom::Start(stretch.start)).map(|_| source.take(length))
    };
    match from_start().and_then(|mut source| io::copy(&mut source, &mut target)) {
        Ok(copied) if copied == length => Ok(()),
        Ok(_) => Err(CopyFailure::Read(io::ErrorKind::UnexpectedEof.into())),
        // The error does not say which of the two files it is about; reading alone does.
        Err(error) => match from_start().and_then(|mut source| io::copy(&mut source, &mut io::sink())) {
            Ok(_) => Err(CopyFailure::Write(error)),
            Err(error) => Err(CopyFailure::Read(error)),
        },
    }
}

/// First and last bytes of a Parquet file.
const MAGIC: &[u8] = b"PAR1";

fn merge_errors(input: &CompactionInput<'_>) -> Result<DataFile, StorageError> {
    let path = input.layout.errors(input.folder, input.partition_id);
    let file = AtomicFile::create(&path, &input.epoch.to_string())?;
    let error = StorageError::parquet("write", file.temporary());
    let mut writer = arrow_writer(&file, errors_schema(), errors_properties(input.options))?;
    writer.write(&error_batch(&[])).map_err(&error)?;
    let mut written = HashSet::new();
    let mut num_rows = 0;
    // Newest first, so that of two errors of one record the later is kept.
    for part in input.parts.iter().rev().filter(|part| part.errors.num_rows > 0) {
        let path = input.layout.error_part(input.folder, input.partition_id, part.part);
        let source = File::open(&path).map_err(StorageError::io("open", &path))?;
        let checksum = Checksum::of_rest(&source).map_err(StorageError::io("read", &path))?;
        if checksum != Checksum::stated(part.errors) {
            let detail = "its checksum is another".into();
            return Err(StorageError::Unexpected { path, detail });
        }
        let read = StorageError::parquet("read", &path);
        let reader = ParquetRecordBatchReaderBuilder::try_new(source)
            .and_then(|builder| builder.build())
            .map_err(&read)?;
        for batch in reader {
            let batch = batch.map_err(|error| read(error.into()))?;
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
                .map_err(|error| read(error.into()))?;
            num_rows += kept.num_rows() as u64;
            writer.write(&kept).map_err(&error)?;
        }
    }
    close(file, writer, num_rows)
}

#[cfg(test)]
mod tests;
