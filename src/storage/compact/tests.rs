use std::os::unix::fs::MetadataExt as _;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};

use parquet::file::metadata::RowGroupMetaData;

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

fn try_compact(
    layout: &DatasetLayout,
    folder: &ServerName,
    parts: &[PartRow],
) -> Result<CompactionOutput, StorageError> {
    compact_partition(&CompactionInput {
        layout,
        folder,
        partition_id: 0,
        parts,
        failed: &HashSet::new(),
        epoch: Epoch::new(1, 1),
        options: StorageOptions::default(),
    })
}

fn compact(layout: &DatasetLayout, folder: &ServerName, parts: &[PartRow]) -> CompactionOutput {
    try_compact(layout, folder, parts).unwrap()
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
    fs::hard_link(&part, path.with_file_name(format!("successes.parquet.tmp-{}", Epoch::new(1, 1)))).unwrap();
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
    let parts = [PartRow { part, successes: DataFile::default(), errors }];
    let error = try_compact(&layout, &folder, &parts).unwrap_err();
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
    let parts = [PartRow { part, successes: DataFile::default(), errors }];
    let error = try_compact(&layout, &folder, &parts).unwrap_err().to_string();
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
            let images = (first + page.first_row_index..first + end).map(|row| image_of(row as u32).len());
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
        file.key_value_metadata().unwrap().iter().any(|pair| pair.key == crate::storage::HASH_ALGORITHM_KEY)
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
