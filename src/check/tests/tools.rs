//! What tools have made: named files, and files beside them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::DataType;

use super::builder::{PENDING, TestDataset, read_parquet};
use super::kinds;
use crate::catalog::{Report, ToolPartition, ToolPiece, ToolReport, ToolRow, ToolStage};
use crate::check::{BreachKind, CheckOptions};
use crate::model::{DataFile, Epoch, PartitionKey, ServerName};
use crate::storage::{StorageOptions, TableWriter, successes_schema, verdicts_schema};

const EPOCH: Epoch = Epoch(1 << 32 | 2);

/// Two partitions, of which the tool `resize` has done the first.
struct Made {
    dataset: TestDataset,
    keys: [PartitionKey; 2],
    images: PathBuf,
    verdicts: PathBuf,
}

fn server() -> ServerName {
    ServerName::from_catalog("a.example")
}

fn made(change: impl FnOnce(RecordBatch) -> RecordBatch) -> Made {
    let mut dataset = TestDataset::new();
    let keys = [0, 1].map(|id| dataset.partition("a.example", id, &[PENDING; 3]));
    keys.iter().for_each(|&key| dataset.part(key, &[0, 1, 2], &[]));
    let stage = ToolStage::Scheduled;
    let row = ToolRow { stage, ..ToolRow::default() };
    let (first_row, num_rows) = (0, 1);
    let partitions = keys.map(|key| {
        let row = ToolPartition {
            rank: 0,
            num_images: 3,
            image_bytes: 9,
            first_row,
            num_rows,
            input: 0,
            done: None,
        };
        (key, row)
    });
    dataset.catalog().schedule_tool("resize", &row, &partitions).unwrap();

    let layout = &dataset.layout;
    let [images, verdicts] =
        [layout.tool_images("resize", &server(), 0), layout.tool_verdicts("resize", &server(), 0)];
    // A row group has two images.
    let batch = read_parquet(&dataset.success_part(keys[0], 0)).slice(0, 2);
    let mut writer = TableWriter::images(&images, StorageOptions::default(), "tool").unwrap();
    writer.write(&change(batch)).unwrap();
    let piece = ToolPiece {
        epoch: EPOCH,
        rank: 0,
        num_images: 3,
        num_removed: 1,
        verdicts: write_verdict(&verdicts),
        images: writer.seal().unwrap(),
    };
    dataset.commit(Report::Tool(ToolReport { tool: "resize".into(), partition: keys[0], piece }));
    Made { dataset, keys, images, verdicts }
}

fn write_verdict(path: &std::path::Path) -> DataFile {
    let schema = verdicts_schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.data_type() {
            DataType::Int32 => Arc::new(Int32Array::from(vec![2])),
            _ if field.is_nullable() => new_null_array(field.data_type(), 1),
            _ => Arc::new(StringArray::from(vec!["remove"])),
        }
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    let mut writer = TableWriter::plain(path, verdicts_schema(), "tool").unwrap();
    writer.write(&batch).unwrap();
    writer.seal().unwrap()
}

fn put(path: PathBuf) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"four").unwrap();
    path
}

#[test]
fn pieces_that_stand_are_sound_and_counted() {
    let Made { dataset, .. } = made(|batch| batch);
    let report = dataset.check_deep();
    assert_eq!(report.breaches, []);
    assert_eq!((report.num_orphans, report.num_images, report.num_tool_images), (0, 6, 2));
    assert_eq!(report.num_files, 4 + 2 + 2, "manifest, parts, and the two of the tool");
    assert_eq!(dataset.check(CheckOptions::default()).breaches, []);
}

#[test]
fn damage_to_a_piece_is_told_as_such() {
    type Damage = fn(&Made);
    let light: [Damage; 4] = [
        |made| fs::remove_file(&made.images).unwrap(),
        |made| fs::remove_file(&made.verdicts).unwrap(),
        |made| {
            put(made.verdicts.clone());
        },
        |made| {
            let bytes = fs::read(&made.images).unwrap();
            fs::write(&made.images, &bytes[..bytes.len() - 1]).unwrap();
        },
    ];
    for damage in light {
        let made = made(|batch| batch);
        damage(&made);
        assert_eq!(kinds(&made.dataset.check_light()), [BreachKind::ToolPiece]);
    }
    for path in [|made: &Made| made.images.clone(), |made: &Made| made.verdicts.clone()] {
        let made = made(|batch| batch);
        let path = path(&made);
        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(made.dataset.check_light().breaches, []);
        let report = made.dataset.check_deep();
        assert_eq!(kinds(&report), [BreachKind::ToolPiece]);
        assert!(report.breaches[0].detail.starts_with("file has other bytes"), "{}", report.breaches[0]);
    }
}

#[test]
fn new_images_are_hashed_again() {
    let Made { dataset, images, .. } = made(|batch| {
        let at = successes_schema().index_of("hashsum_resized").unwrap();
        let mut columns = batch.columns().to_vec();
        columns[at] = Arc::new(StringArray::from(vec!["00", "11"]));
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    });
    assert_eq!(dataset.check_light().breaches, []);
    let report = dataset.check_deep();
    assert_eq!(kinds(&report), [BreachKind::ToolPiece]);
    let breach = &report.breaches[0];
    assert_eq!(breach.file.as_ref(), Some(&images));
    assert!(breach.detail.starts_with("image has other bytes: record 0 gives"), "{breach}");
    assert!(breach.detail.ends_with(", and 1 more"), "{breach}");
}

/// A tool's images and verdicts of a record that was retracted since were "sound".
#[test]
fn what_is_made_of_no_image_is_told_of() {
    let Made { dataset, images, verdicts, .. } = made(|batch| {
        let at = successes_schema().index_of("record").unwrap();
        let mut columns = batch.columns().to_vec();
        columns[at] = Arc::new(Int32Array::from(vec![0, 3]));
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    });
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::ToolPiece]);
    let breach = &report.breaches[0];
    assert_eq!(breach.file.as_ref(), Some(&images));
    assert_eq!(breach.detail, "row that should not be: record 3 is no image");
    assert!(verdicts.exists());
}

#[test]
fn what_no_piece_names_is_an_orphan() {
    let Made { dataset, keys: [done, open], images, verdicts } = made(|batch| batch);
    let folder = |id| dataset.layout.tool_folder("resize", &server(), id);
    let tool = dataset.layout.tool("resize");
    let mut orphans = vec![
        put(folder(done.partition_id).join("verdicts-1-9-0.parquet")),
        put(folder(done.partition_id).join("successes-1-9-0.parquet.tmp")),
        // Named, and the process ended before the commit.
        put(folder(open.partition_id).join("successes.parquet")),
        put(folder(7).join("verdicts.parquet")),
        put(tool.join("server_name=gone.example/partition_id=0/verdicts.parquet")),
    ];
    orphans.sort();
    let foreign = [
        put(tool.join("filter_table/filter.csv")),
        put(tool.join("verification/0000.csv")),
        put(tool.join("schedule.csv")),
        put(folder(0).join("_notes")),
        put(dataset.layout.tool("mine").join("server_name=a.example/partition_id=0/x.parquet")),
    ];
    let report = dataset.check_light();
    let mut listed = report.orphans.clone();
    listed.sort();
    assert_eq!((report.breaches, listed), (vec![], orphans.clone()));
    assert_eq!(dataset.repair().unwrap().orphans_removed, orphans.len() as u64);
    assert!(orphans.iter().all(|path| !path.exists()));
    assert!(foreign.iter().chain([&images, &verdicts]).all(|path| path.exists()));
    assert!(!tool.join("server_name=gone.example").exists());
    let report = dataset.check_deep();
    assert_eq!((report.breaches, report.num_orphans), (vec![], 0));
}
