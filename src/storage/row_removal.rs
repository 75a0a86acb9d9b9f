//! Rows taken out of a Parquet file: what is left, as a new file.
//!
//! Row groups without such a row are copied as they are; of the others what is left is read and written again, one
//! row group at a time, so memory holds one row group at most. Columns keep their compression and their other ways.
//!
//! A file whose checksum is known is read to its end first. Where the sum is another, the difference is carried over
//! to the new file's: damage from before still shows after it.

use std::fs::File;
use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};

use super::part_writer::num_small;
use super::schema::IMAGE_PAGE_BYTES;
use super::{AtomicFile, Checksum, Checksummed, StorageError};
use crate::model::DataFile;

/// Rows read at a time to be judged.
const JUDGED_ROWS: usize = 4096;
/// Rows read at a time to be written again: images are large.
const WRITTEN_ROWS: usize = 16;

/// Says of a batch which of its rows go.
pub type RowJudge<'a> = &'a mut dyn FnMut(&RecordBatch) -> Result<BooleanArray, String>;

/// The rows of a file that go, and with them what stays. The file is not kept open: a partition may have thousands.
pub struct RowRemoval {
    path: PathBuf,
    stated: Option<DataFile>,
    /// By row group, `true` for rows that stay.
    stays: Vec<BooleanArray>,
}

impl RowRemoval {
    /// Asks `goes` about every row of a file, by these of its columns (those that it has not are left out). `None`
    /// when all stay.
    ///
    /// # Errors
    /// When the file cannot be read, or is not as long, or has not as many rows, as `stated`.
    pub fn find(
        path: &Path,
        stated: Option<DataFile>,
        columns: &[&str],
        goes: RowJudge<'_>,
    ) -> Result<Option<Self>, StorageError> {
        let error = StorageError::parquet("read", path);
        let unexpected = |detail: String| StorageError::Unexpected { path: path.to_owned(), detail };
        let (file, metadata) = open(path)?;
        let bytes = file.metadata().map_err(StorageError::io("read", path))?.len();
        let num_rows = metadata.metadata().file_metadata().num_rows().unsigned_abs();
        if let Some(stated) = stated
            && (bytes, num_rows) != (stated.bytes, stated.num_rows)
        {
            return Err(unexpected(format!(
                "{bytes} bytes and {num_rows} rows instead of {} and {}",
                stated.bytes, stated.num_rows
            )));
        }
        let projection = ProjectionMask::columns(metadata.parquet_schema(), columns.iter().copied());
        let mut stays = Vec::new();
        let mut any = false;
        for row_group in 0..metadata.metadata().num_row_groups() {
            let handle = file.try_clone().map_err(StorageError::io("open", path))?;
            let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, metadata.clone())
                .with_row_groups(vec![row_group])
                .with_projection(projection.clone())
                .with_batch_size(JUDGED_ROWS)
                .build()
                .map_err(&error)?;
            let mut of_group = Vec::new();
            for batch in batches {
                let batch = batch.map_err(|source| error(source.into()))?;
                let goes = goes(&batch).map_err(unexpected)?;
                of_group.extend(goes.iter().map(|goes| goes != Some(true)));
            }
            any |= of_group.contains(&false);
            stays.push(BooleanArray::from(of_group));
        }
        Ok(any.then(|| Self { path: path.to_owned(), stated, stays }))
    }

    /// Rows that stay.
    #[must_use]
    pub fn num_left(&self) -> u64 {
        self.stays.iter().map(|stays| stays.true_count() as u64).sum()
    }

    /// Writes what stays as a file of its own; under the same name it takes the place of the old one.
    ///
    /// # Errors
    /// When the old file cannot be read, or the new one cannot be written.
    pub fn write(self, target: &Path, writer: &str) -> Result<DataFile, StorageError> {
        let (source, metadata) = open(&self.path)?;
        let metadata = with_image_views(&metadata).map_err(StorageError::parquet("read", &self.path))?;
        let damage = match self.stated {
            Some(stated) => {
                let mut whole = &source;
                let found = whole.rewind().and_then(|()| Checksum::of_rest(whole));
                found.map_err(StorageError::io("read", &self.path))?.crc32 ^ stated.crc32
            }
            None => 0,
        };
        let file = AtomicFile::create(target, writer)?;
        // Reading and writing alternate: which of the two failed, the error tells by itself, if it can.
        let error = StorageError::parquet("write", file.temporary());
        let footer = metadata.metadata();
        let schema = footer.file_metadata().schema_descr().root_schema_ptr();
        let properties = Arc::new(properties_of(footer));
        let output = Checksummed::new(file.handle()?);
        let mut output = SerializedFileWriter::new(output, schema, properties).map_err(&error)?;
        let writers = ArrowRowGroupWriterFactory::new(&output, metadata.schema().clone());
        for (row_group, stays) in self.stays.iter().enumerate() {
            if stays.true_count() == 0 {
                continue;
            }
            if stays.false_count() == 0 {
                let target = output.next_row_group().map_err(&error)?;
                copy_row_group(&source, footer, row_group, target).map_err(&error)?;
                continue;
            }
            let columns = writers.create_column_writers(row_group).map_err(&error)?;
            let columns = self.write_rows((&source, &metadata), row_group, columns)?;
            let mut target = output.next_row_group().map_err(&error)?;
            for column in columns {
                let chunk = column.close().map_err(&error)?;
                chunk.append_to_row_group(&mut target).map_err(&error)?;
            }
            target.close().map_err(&error)?;
        }
        let num_rows = self.num_left();
        let mut written = output.into_inner().map_err(&error)?.checksum().file_of(num_rows);
        file.commit()?;
        written.crc32 ^= damage;
        Ok(written)
    }

    fn write_rows(
        &self,
        (source, metadata): (&File, &ArrowReaderMetadata),
        row_group: usize,
        mut columns: Vec<ArrowColumnWriter>,
    ) -> Result<Vec<ArrowColumnWriter>, StorageError> {
        let error = StorageError::parquet("read", &self.path);
        let handle = source.try_clone().map_err(StorageError::io("open", &self.path))?;
        let stays = std::slice::from_ref(&self.stays[row_group]);
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, metadata.clone())
            .with_row_groups(vec![row_group])
            .with_row_selection(RowSelection::from_filters(stays))
            .with_batch_size(WRITTEN_ROWS)
            .build()
            .map_err(&error)?;
        for batch in batches {
            let batch = batch.map_err(|source| error(source.into()))?;
            let lengths = batch.column_by_name("image").and_then(|images| images.as_binary_view_opt());
            let small = lengths.map_or(batch.num_rows(), |images| {
                num_small((0..images.len()).map(|row| images.value(row).len()))
            });
            for batch in [batch.slice(0, small), batch.slice(small, batch.num_rows() - small)] {
                if batch.num_rows() > 0 {
                    write_batch(&batch, &mut columns).map_err(&error)?;
                }
            }
        }
        Ok(columns)
    }
}

fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), StorageError> {
    let file = File::open(path).map_err(StorageError::io("open", path))?;
    let metadata =
        ArrowReaderMetadata::load(&file, options()).map_err(StorageError::parquet("read", path))?;
    Ok((file, metadata))
}

fn options() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional)
}

fn write_batch(batch: &RecordBatch, columns: &mut [ArrowColumnWriter]) -> Result<(), ParquetError> {
    let mut columns = columns.iter_mut();
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        for leaf in compute_leaves(field, array)? {
            let column = columns.next().ok_or_else(|| ParquetError::General("too many columns".into()))?;
            column.write(&leaf)?;
        }
    }
    Ok(())
}

fn copy_row_group(
    source: &File,
    footer: &ParquetMetaData,
    row_group: usize,
    mut target: SerializedRowGroupWriter<'_, Checksummed<File>>,
) -> Result<(), ParquetError> {
    let metadata = footer.row_group(row_group);
    let column_index = footer.column_index().and_then(|index| index.get(row_group));
    let offset_index = footer.offset_index().and_then(|index| index.get(row_group));
    for (column, chunk) in metadata.columns().iter().enumerate() {
        let index = column_index.and_then(|index| index.get(column)).cloned();
        target.append_column(
            source,
            ColumnCloseResult {
                bytes_written: chunk.compressed_size().unsigned_abs(),
                rows_written: metadata.num_rows().unsigned_abs(),
                metadata: chunk.clone(),
                bloom_filter: None,
                column_index: index.filter(|index| !matches!(index, ColumnIndexMetaData::NONE)),
                offset_index: offset_index.and_then(|index| index.get(column)).cloned(),
            },
        )?;
    }
    target.close()?;
    Ok(())
}

/// The same with images as views, so that reading and writing them copies little.
fn with_image_views(metadata: &ArrowReaderMetadata) -> Result<ArrowReaderMetadata, ParquetError> {
    let fields = metadata.schema().fields().iter().map(|field| {
        let field = field.as_ref().clone();
        let is_image = field.name() == "image" && *field.data_type() == DataType::Binary;
        if is_image { field.with_data_type(DataType::BinaryView) } else { field }
    });
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata.schema().metadata().clone());
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), options().with_schema(Arc::new(schema)))
}

/// Properties by which a file like this one is written.
fn properties_of(footer: &ParquetMetaData) -> WriterProperties {
    let file = footer.file_metadata();
    let version = if file.version() == 1 { WriterVersion::PARQUET_1_0 } else { WriterVersion::PARQUET_2_0 };
    let mut builder = WriterProperties::builder()
        .set_writer_version(version)
        .set_max_row_group_row_count(None)
        .set_key_value_metadata(file.key_value_metadata().cloned());
    if let Some(created_by) = file.created_by() {
        builder = builder.set_created_by(created_by.to_owned());
    }
    for chunk in footer.row_groups().first().into_iter().flat_map(|group| group.columns()) {
        let path = chunk.column_path().clone();
        if path.string() == "image" {
            builder = builder.set_column_data_page_size_limit(path.clone(), IMAGE_PAGE_BYTES);
        }
        let has_statistics = chunk.statistics().is_some();
        let statistics = if has_statistics { EnabledStatistics::Page } else { EnabledStatistics::None };
        builder = builder
            .set_column_compression(path.clone(), chunk.compression())
            .set_column_dictionary_enabled(path.clone(), has_dictionary(chunk))
            .set_column_statistics_enabled(path, statistics);
    }
    builder.build()
}

fn has_dictionary(chunk: &ColumnChunkMetaData) -> bool {
    chunk.dictionary_page_offset().is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use arrow::datatypes::Int32Type;
    use parquet::arrow::arrow_reader::RowSelector;
    use parquet::basic::Compression;
    use parquet::file::metadata::RowGroupMetaData;

    use super::*;
    use crate::model::RecordIndex;
    use crate::storage::{
        HASH_ALGORITHM_KEY, ImageRow, ManifestRecord, PartWriter, StorageOptions, successes_schema,
    };

    fn image_of(record: RecordIndex) -> Vec<u8> {
        let length = [100, 4_000, 30_000, 70_000, 1_500_000][record as usize % 5];
        (0..length).map(|at: u32| (at.wrapping_mul(31) ^ record.wrapping_mul(97)) as u8).collect()
    }

    fn row(record: RecordIndex) -> ImageRow {
        let image = image_of(record);
        let record = ManifestRecord {
            record,
            uuid: format!("{record:036}"),
            source_id: None,
            identifier: format!("https://s/{record}.jpg"),
            license: None,
            source: None,
            title: None,
            label: Some("label".into()),
            shared_server_name: None,
        };
        ImageRow::for_test(record, image)
    }

    /// Four row groups of ten.
    fn write_file(path: &Path) -> DataFile {
        let mut writer = PartWriter::create(path, StorageOptions::default()).unwrap();
        for first in [0, 10, 20, 30] {
            writer.write_row_group(&mut (first..first + 10).map(row).collect::<Vec<_>>()).unwrap();
        }
        writer.seal().unwrap()
    }

    fn find(path: &Path, stated: Option<DataFile>, records: &[RecordIndex]) -> Option<RowRemoval> {
        let mut goes = |batch: &RecordBatch| -> Result<BooleanArray, String> {
            let column = batch.column_by_name("record").unwrap().as_primitive::<Int32Type>();
            Ok(column.values().iter().map(|record| Some(records.contains(&record.cast_unsigned()))).collect())
        };
        RowRemoval::find(path, stated, &["record"], &mut goes).unwrap()
    }

    fn metadata_of(path: &Path) -> ParquetMetaData {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = ArrowReaderMetadata::load(&File::open(path).unwrap(), options).unwrap();
        ParquetMetaData::clone(metadata.metadata())
    }

    fn images(path: &Path) -> Vec<(RecordIndex, Vec<u8>)> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        assert_eq!(builder.schema().fields(), successes_schema().fields());
        let mut images = Vec::new();
        for batch in builder.build().unwrap().map(Result::unwrap) {
            let records = batch.column_by_name("record").unwrap().as_primitive::<Int32Type>();
            let bytes = batch.column_by_name("image").unwrap().as_binary::<i32>();
            images.extend(
                records
                    .values()
                    .iter()
                    .map(|r| r.cast_unsigned())
                    .zip(bytes.iter().map(|b| b.unwrap().to_vec())),
            );
        }
        images
    }

    #[test]
    fn what_is_left_is_whole_and_what_goes_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        let stated = write_file(&path);
        assert!(find(&path, Some(stated), &[77]).is_none());
        // Of the first group some, of the second none, of the third all.
        let gone: Vec<RecordIndex> = [0, 4, 9].into_iter().chain(20..30).collect();
        let removal = find(&path, Some(stated), &gone).unwrap();
        assert_eq!(removal.num_left(), 27);
        let written = removal.write(&left, "t").unwrap();

        let bytes = fs::read(&left).unwrap();
        assert_eq!(written, Checksum::of(&bytes).file_of(27));
        let expect: Vec<_> = (0..40).filter(|r| !gone.contains(r)).map(|r| (r, image_of(r))).collect();
        assert!(images(&left) == expect, "other images");
        for &record in &gone {
            let image = image_of(record);
            let is_there = bytes.windows(100).any(|window| window == &image[..100]);
            assert!(!is_there, "the bytes of record {record} are left");
        }

        let (before, after) = (metadata_of(&path), metadata_of(&left));
        let rows: Vec<_> = after.row_groups().iter().map(RowGroupMetaData::num_rows).collect();
        assert_eq!(rows, [7, 10, 10]);
        let facts = |metadata: &ParquetMetaData| {
            let file = metadata.file_metadata();
            let facts = file.key_value_metadata().unwrap().clone();
            assert!(facts.iter().any(|fact| fact.key == HASH_ALGORITHM_KEY));
            (facts, file.created_by().map(str::to_owned), file.version())
        };
        assert_eq!(facts(&after), facts(&before));
        // Copied as it was.
        let pages = |path: &Path, metadata: &ParquetMetaData, row_group: usize| {
            let file = fs::read(path).unwrap();
            let columns = metadata.row_group(row_group).columns().iter();
            let ranges = columns.map(|chunk| chunk.byte_range());
            ranges
                .flat_map(|(start, length)| file[start as usize..(start + length) as usize].to_vec())
                .collect::<Vec<u8>>()
        };
        assert!(pages(&left, &after, 1) == pages(&path, &before, 1));
        for (old, new) in before.row_group(0).columns().iter().zip(after.row_group(0).columns()) {
            assert_eq!(new.compression(), old.compression(), "{}", new.column_path());
            assert_eq!(new.statistics().is_some(), old.statistics().is_some(), "{}", new.column_path());
            assert_eq!(has_dictionary(new), has_dictionary(old), "{}", new.column_path());
        }
        let image = after.row_group(0).columns().iter().position(|c| c.column_path().string() == "image");
        let image = image.unwrap();
        assert_eq!(after.row_group(0).column(image).compression(), Compression::UNCOMPRESSED);
        let pages = after.offset_index().unwrap()[0][image].page_locations();
        let largest = 70_000 + IMAGE_PAGE_BYTES + 100;
        assert!(pages.iter().all(|page| (page.compressed_page_size as usize) < largest), "{pages:?}");
    }

    #[test]
    fn every_image_is_read_alone_from_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        let stated = write_file(&path);
        find(&path, Some(stated), &[3, 15]).unwrap().write(&left, "t").unwrap();
        let records: Vec<_> = (0..40).filter(|r| ![3, 15].contains(r)).collect();
        for (at, &record) in records.iter().enumerate() {
            let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
            let file = File::open(&left).unwrap();
            let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
            let image = ProjectionMask::columns(builder.parquet_schema(), ["image"]);
            let only = vec![RowSelector::skip(at), RowSelector::select(1)];
            let mut reader = builder.with_projection(image).with_row_selection(only.into()).build().unwrap();
            assert!(
                reader.next().unwrap().unwrap().column(0).as_binary::<i32>().value(0) == image_of(record)
            );
        }
    }

    #[test]
    fn damage_before_shows_after() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        let stated = write_file(&path);
        let mut bytes = fs::read(&path).unwrap();
        // In an image of a row group that is copied.
        let image = image_of(34);
        let at = bytes.windows(100).position(|window| window == &image[..100]).unwrap() + 700_000;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let written = find(&path, Some(stated), &[3]).unwrap().write(&left, "t").unwrap();
        assert_ne!(written.crc32, Checksum::of(&fs::read(&left).unwrap()).crc32);
        let shorter = DataFile { bytes: stated.bytes - 1, ..stated };
        let error = RowRemoval::find(&path, Some(shorter), &[], &mut |_| unreachable!()).err().unwrap();
        assert!(error.to_string().contains("instead of"), "{error}");
    }

    /// A file of anyone: other columns, compressed in another way, rewritten in its place.
    #[test]
    fn a_file_takes_the_place_of_the_old_one() {
        use arrow::array::{ArrayRef, Int64Array, StringArray};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.parquet");
        let uuids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let scores: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let batch = RecordBatch::try_from_iter([("uuid", uuids), ("score", scores)]).unwrap();
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let file = File::create(&path).unwrap();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let without = |gone: &'static str, left: &[&str]| {
            let mut goes = |batch: &RecordBatch| -> Result<BooleanArray, String> {
                Ok(batch.column(0).as_string::<i32>().iter().map(|uuid| Some(uuid == Some(gone))).collect())
            };
            let removal = RowRemoval::find(&path, None, &["uuid", "identifier"], &mut goes).unwrap().unwrap();
            removal.write(&path, "retract").unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            assert_eq!(reader.schema(), &batch.schema());
            let rows: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
            let found = rows.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten());
            assert_eq!(found.collect::<Vec<_>>(), left);
        };
        without("b", &["a", "c"]);
        without("a", &["c"]);
        without("c", &[]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
