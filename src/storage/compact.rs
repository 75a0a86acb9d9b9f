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

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder,
    ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescriptor;

use super::atomic::sync_folder;
use super::part_writer::{arrow_writer, close, error_batch};
use super::schema::{errors_properties, successes_properties, successes_write_schema};
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

/// Where a file's pages are: one stretch, for nothing is between them.
fn data_range(metadata: &ParquetMetaData) -> Range<u64> {
    let chunks = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    let ranges = chunks.map(|chunk| chunk.byte_range()).map(|(start, length)| start..start + length);
    ranges.reduce(|all, next| all.start.min(next.start)..all.end.max(next.end)).unwrap_or_default()
}

/// Row groups of the parts, at their places in the merged file.
struct MergedMetadata {
    properties: WriterProperties,
    schema: SchemaDescriptor,
    row_groups: Vec<RowGroupMetaData>,
    column_index: Vec<Vec<ColumnIndexMetaData>>,
    offset_index: Vec<Vec<OffsetIndexMetaData>>,
}

impl MergedMetadata {
    fn new(options: StorageOptions) -> Self {
        Self {
            properties: successes_properties(options),
            schema: ArrowSchemaConverter::new()
                .convert(&successes_write_schema())
                .expect("the columns have Parquet types"),
            row_groups: Vec::new(),
            column_index: Vec::new(),
            offset_index: Vec::new(),
        }
    }

    fn num_rows(&self) -> u64 {
        self.row_groups.iter().map(|row_group| row_group.num_rows().unsigned_abs()).sum()
    }

    /// Adds what stands `by` bytes further on now.
    fn add(&mut self, part: ParquetMetaData, by: i64) -> parquet::errors::Result<()> {
        if part.file_metadata().schema() != self.schema.root_schema() {
            return Err(ParquetError::General("its columns are other ones".into()));
        }
        let mut part = part.into_builder();
        self.column_index.extend(part.take_column_index().into_iter().flatten());
        for mut chunks in part.take_offset_index().into_iter().flatten() {
            for page in chunks.iter_mut().flat_map(|chunk| &mut chunk.page_locations) {
                page.offset += by;
            }
            self.offset_index.push(chunks);
        }
        for row_group in part.take_row_groups() {
            let chunks =
                row_group.columns().iter().map(|chunk| moved(chunk, by)).collect::<Result<_, _>>()?;
            let ordinal = i16::try_from(self.row_groups.len())
                .map_err(|_| ParquetError::General("too many row groups".into()))?;
            let moved = row_group.into_builder().set_column_metadata(chunks).set_ordinal(ordinal);
            self.row_groups.push(moved.build()?);
        }
        Ok(())
    }

    /// What follows so many bytes of data.
    fn encode(self, data_bytes: u64) -> parquet::errors::Result<Vec<u8>> {
        let num_rows = self.num_rows().cast_signed();
        let file = FileMetaData::new(
            self.properties.writer_version().as_num(),
            num_rows,
            Some(self.properties.created_by().to_owned()),
            self.properties.key_value_metadata().cloned(),
            self.schema.into(),
            None,
        );
        let count = self.row_groups.len();
        let metadata = ParquetMetaDataBuilder::new(file)
            .set_row_groups(self.row_groups)
            .set_column_index((self.column_index.len() == count).then_some(self.column_index))
            .set_offset_index((self.offset_index.len() == count).then_some(self.offset_index))
            .build();
        let mut footer = Footer { skip: data_bytes, bytes: Vec::new() };
        let mut tracked = TrackedWrite::new(&mut footer);
        let piece = vec![0; 1 << 20];
        let mut left = data_bytes as usize;
        while left > 0 {
            let length = left.min(piece.len());
            tracked.write_all(&piece[..length])?;
            left -= length;
        }
        ParquetMetaDataWriter::new_with_tracked(tracked, &metadata).finish()?;
        Ok(footer.bytes)
    }
}

/// Takes the footer and drops what is before it. The writer of the metadata counts the bytes that pass
/// through it to know where it is in the file; the data does not pass through it.
struct Footer {
    skip: u64,
    bytes: Vec<u8>,
}

impl Write for Footer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.bytes.extend_from_slice(&bytes[skipped as usize..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn moved(chunk: &ColumnChunkMetaData, by: i64) -> parquet::errors::Result<ColumnChunkMetaData> {
    let dictionary = chunk.dictionary_page_offset().map(|offset| offset + by);
    chunk
        .clone()
        .into_builder()
        .set_data_page_offset(chunk.data_page_offset() + by)
        .set_dictionary_page_offset(dictionary)
        .set_column_index_offset(None)
        .set_column_index_length(None)
        .set_offset_index_offset(None)
        .set_offset_index_length(None)
        .build()
}

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
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use parquet::arrow::ProjectionMask;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};

    use super::*;
    use crate::model::PartId;
    use crate::storage::{ImageRow, LayoutOptions, ManifestRecord, PartWriter};

    fn image_of(record: RecordIndex) -> Vec<u8> {
        // From a hundred bytes to a megabyte and a half.
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

    /// Parts of ten, twenty and five rows, in row groups of at most ten.
    fn write_parts(layout: &DatasetLayout, folder: &ServerName) -> Vec<PartRow> {
        let mut records = 0..35;
        let mut write = |(sequence, row_groups): (u32, &[usize])| {
            let part = PartId { epoch: Epoch::new(1, 1), sequence };
            let path = layout.success_part(folder, 0, part);
            let mut writer = PartWriter::create(&path, StorageOptions::default()).unwrap();
            for &rows in row_groups {
                let mut rows: Vec<_> = records.by_ref().take(rows).map(row).collect();
                writer.write_row_group(&mut rows).unwrap();
            }
            PartRow { part, successes: writer.seal().unwrap(), errors: DataFile::default() }
        };
        [&[10][..], &[10, 10], &[5]].into_iter().zip(0..).map(|(groups, n)| write((n, groups))).collect()
    }

    fn compact(layout: &DatasetLayout, folder: &ServerName, parts: &[PartRow]) -> CompactionOutput {
        compact_partition(&CompactionInput {
            layout,
            folder,
            partition_id: 0,
            parts,
            failed: &HashSet::new(),
            epoch: Epoch::new(1, 1),
            options: StorageOptions::default(),
        })
        .unwrap()
    }

    /// A killed compaction may leave a second name of a part: the next must not write through it.
    #[test]
    fn a_single_part_gets_a_second_name_and_is_not_written_to() {
        let root = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(root.path(), LayoutOptions::default());
        let folder = ServerName::from_catalog("s");
        let parts = write_parts(&layout, &folder);
        let (part, path) = (layout.success_part(&folder, 0, parts[0].part), layout.successes(&folder, 0));
        let output = compact(&layout, &folder, &parts[..1]);
        assert_eq!(output.successes, parts[0].successes);
        assert_eq!(fs::metadata(&part).unwrap().nlink(), 2, "nothing was copied");
        let bytes = fs::read(&part).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        // Killed before its commit, a compaction is done again over its own result.
        compact(&layout, &folder, &parts[..1]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3, "`_parts` and both files");
        fs::hard_link(&part, path.with_file_name(format!("successes.parquet.tmp-{}", Epoch::new(1, 1))))
            .unwrap();
        compact(&layout, &folder, &parts);
        assert_eq!(fs::read(&part).unwrap(), bytes);
        finish_partition(&layout, &folder, 0).unwrap();
        assert_eq!(metadata_of(&path).file_metadata().num_rows(), 35);
    }

    fn compacted() -> (tempfile::TempDir, std::path::PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(root.path(), LayoutOptions::default());
        let folder = ServerName::from_catalog("s");
        let parts = write_parts(&layout, &folder);
        let output = compact(&layout, &folder, &parts);
        let path = layout.successes(&folder, 0);
        assert_eq!(output.successes, Checksum::of(&fs::read(&path).unwrap()).file_of(35));
        (root, path)
    }

    /// A flipped byte of a footer moved into the merged one, and its sum with it.
    #[test]
    fn damage_before_the_copy_shows_after_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(root.path(), LayoutOptions::default());
        let folder = ServerName::from_catalog("s");
        let parts = write_parts(&layout, &folder);
        let path = layout.success_part(&folder, 0, parts[1].part);
        let sound = fs::read(&path).unwrap();
        let title = sound.len() - sound.windows(12).rev().position(|at| at == b"Not provided").unwrap() - 12;
        let [in_pages, in_statistics] = [data_range(&metadata_of(&path)).end as usize / 2, title];
        for at in [in_pages, in_statistics] {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let stated = compact(&layout, &folder, &parts).successes;
            let merged = fs::read(layout.successes(&folder, 0)).unwrap();
            assert_eq!(stated.bytes, merged.len() as u64);
            assert_ne!(Checksum::stated(stated), Checksum::of(&merged), "byte {at}");
        }
        // One part alone gets a second name.
        let stated = compact(&layout, &folder, &parts[1..2]).successes;
        let linked = fs::read(layout.successes(&folder, 0)).unwrap();
        assert_ne!(Checksum::stated(stated), Checksum::of(&linked));
    }

    #[test]
    fn what_cannot_be_read_is_no_failure_to_write() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        let readable = File::open(&path).unwrap();
        let writable = File::options().write(true).open(&path).unwrap();
        let new = File::create(root.path().join("new")).unwrap();
        copy(&readable, 2..5, &new).unwrap();
        assert_eq!(fs::read(root.path().join("new")).unwrap(), b"234");
        assert!(matches!(copy(&writable, 2..5, &new), Err(CopyFailure::Read(_))));
        assert!(matches!(copy(&readable, 2..5, &readable), Err(CopyFailure::Write(_))));
        assert!(matches!(copy(&readable, 8..12, &new), Err(CopyFailure::Read(_))), "it is too short");

        let layout = DatasetLayout::new(root.path(), LayoutOptions::default());
        let folder = ServerName::from_catalog("s");
        let part = PartId { epoch: Epoch::new(1, 1), sequence: 0 };
        // It opens, and each read of it fails.
        let unreadable = layout.error_part(&folder, 0, part);
        fs::create_dir_all(&unreadable).unwrap();
        let errors = DataFile { num_rows: 1, ..DataFile::default() };
        let input = CompactionInput {
            layout: &layout,
            folder: &folder,
            partition_id: 0,
            parts: &[PartRow { part, successes: DataFile::default(), errors }],
            failed: &HashSet::new(),
            epoch: Epoch::new(1, 1),
            options: StorageOptions::default(),
        };
        let error = compact_partition(&input).unwrap_err();
        assert!(
            matches!(&error, StorageError::Io { action: "read", path, .. } if *path == unreadable),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_file_of_errors_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(root.path(), LayoutOptions::default());
        let folder = ServerName::from_catalog("s");
        let part = PartId { epoch: Epoch::new(1, 1), sequence: 0 };
        let path = layout.error_part(&folder, 0, part);
        let errors = crate::storage::write_error_part(&path, &[], StorageOptions::default()).unwrap();
        let errors = DataFile { num_rows: 1, crc32: errors.crc32 ^ 1, ..errors };
        let input = CompactionInput {
            layout: &layout,
            folder: &folder,
            partition_id: 0,
            parts: &[PartRow { part, successes: DataFile::default(), errors }],
            failed: &HashSet::new(),
            epoch: Epoch::new(1, 1),
            options: StorageOptions::default(),
        };
        let error = compact_partition(&input).unwrap_err().to_string();
        assert!(error.ends_with("its checksum is another"), "{error}");
    }

    fn metadata_of(path: &std::path::Path) -> ParquetMetaData {
        ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&File::open(path).unwrap())
            .unwrap()
    }

    #[test]
    fn every_image_is_read_alone_from_the_compacted_file() {
        let (_root, path) = compacted();
        for record in 0..35 {
            let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
            let builder =
                ParquetRecordBatchReaderBuilder::try_new_with_options(File::open(&path).unwrap(), options)
                    .unwrap();
            let image = ProjectionMask::columns(builder.parquet_schema(), ["image"]);
            let only = vec![RowSelector::skip(record), RowSelector::select(1)];
            let mut reader =
                builder.with_projection(image).with_row_selection(RowSelection::from(only)).build().unwrap();
            let batch = reader.next().unwrap().unwrap();
            assert_eq!(batch.column(0).as_binary::<i32>().value(0), image_of(record as u32));
        }
    }

    #[test]
    fn a_page_holds_little_beside_its_largest_image() {
        let (_root, path) = compacted();
        let metadata = metadata_of(&path);
        let rows: Vec<_> = metadata.row_groups().iter().map(RowGroupMetaData::num_rows).collect();
        assert_eq!(rows, [10, 10, 10, 5]);
        let image = metadata.row_group(0).columns().iter().position(|c| c.column_path().string() == "image");
        let mut first = 0;
        for (chunks, rows) in metadata.offset_index().unwrap().iter().zip(rows) {
            let pages = chunks[image.unwrap()].page_locations();
            let ends = pages.iter().skip(1).map(|page| page.first_row_index).chain([rows]);
            for (page, end) in pages.iter().zip(ends) {
                let images =
                    (first + page.first_row_index..first + end).map(|row| image_of(row as u32).len());
                let largest = images.max().unwrap();
                assert!(page.compressed_page_size as usize <= largest + (64 << 10) + 100, "{page:?}");
            }
            first += rows;
        }
    }

    #[test]
    fn statistics_and_metadata_survive() {
        let (_root, path) = compacted();
        let metadata = metadata_of(&path);
        let file = metadata.file_metadata();
        assert!(
            file.key_value_metadata()
                .unwrap()
                .iter()
                .any(|pair| pair.key == crate::storage::HASH_ALGORITHM_KEY)
        );
        assert_eq!(file.num_rows(), 35);
        let uuid = metadata.row_group(3).column(0);
        assert_eq!(uuid.statistics().unwrap().min_bytes_opt().unwrap(), format!("{:036}", 30).as_bytes());
        assert!(metadata.row_groups().iter().enumerate().all(|(n, group)| group.ordinal() == Some(n as i16)));
        let range = data_range(&metadata);
        let chunks: u64 = metadata
            .row_groups()
            .iter()
            .flat_map(RowGroupMetaData::columns)
            .map(|chunk| chunk.byte_range().1)
            .sum();
        assert_eq!(range, 4..4 + chunks, "chunks lie side by side");
    }
}
