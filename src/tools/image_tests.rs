//! `resize` and `verify` on one partition, and the filter of `placeholder`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use bytes::Bytes;
use image::{Rgb, RgbImage};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::PageIndexPolicy;

use super::filter::FilterTable;
use super::placeholder::Placeholder;
use super::resize::Resize;
use super::run::read;
use super::stored::StoredImages;
use super::verify::Verify;
use super::{FilterInput, RunInput, RunOutput, Selects, Tool, ToolOptions};
use crate::catalog::{ToolPartition, ToolPiece};
use crate::imaging::{ImagingOptions, ResizeMode, inspect};
use crate::model::{Epoch, HashAlgorithm, ImageEncoding, ImageFormat, PixelSize, ServerName};
use crate::query::tests::fixture::Fixture;
use crate::runtime::Shutdown;
use crate::storage::{
    DatasetLayout, ImageRow, LayoutOptions, ManifestRecord, PartWriter, StorageOptions, TableWriter,
    successes_schema,
};

const EPOCH: Epoch = Epoch(1 << 32 | 1);

/// A partition with these images, as a download leaves it.
struct Partition {
    _folder: tempfile::TempDir,
    input: RunInput,
    verdicts: PathBuf,
    images: PathBuf,
}

impl Partition {
    fn new(mut rows: Vec<ImageRow>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path(), LayoutOptions::default());
        let server = ServerName::from_catalog("a.example");
        let path = layout.successes(&server, 0);
        let num_images = rows.len() as u64;
        let mut writer = PartWriter::create(&path, StorageOptions::default()).unwrap();
        rows.chunks_mut(700).for_each(|rows| writer.write_row_group(rows).unwrap());
        writer.seal().unwrap();
        let (first_row, num_rows) = (0, 1);
        let scheduled =
            ToolPartition { rank: 0, num_images, image_bytes: 0, first_row, num_rows, input: 0, done: None };
        let input = RunInput {
            layout,
            tool: "test".into(),
            folder: server,
            partition_id: 0,
            shared: false,
            files: vec![(path, num_images)],
            scheduled,
            stop: Shutdown::new(),
            dropped: Arc::new(AtomicBool::new(false)),
        };
        let [verdicts, images] = ["v.parquet", "i.parquet"].map(|name| folder.path().join(name));
        Self { _folder: folder, input, verdicts, images }
    }

    fn run(&self, tool: &dyn Tool) -> ToolPiece {
        let (verdicts, images) = (self.verdicts.clone(), self.images.clone());
        let mut output = RunOutput::new(verdicts, images, StorageOptions::default(), EPOCH, 0);
        tool.run(&self.input, &mut output).unwrap();
        output.finish(&self.input).unwrap()
    }

    /// Records with the reasons of their verdicts.
    fn reasons(&self, tool: &dyn Tool) -> Vec<(i32, String)> {
        let piece = self.run(tool);
        if piece.verdicts.num_rows == 0 {
            return Vec::new();
        }
        let batch = read(&self.verdicts, None, 100, None).unwrap().next().unwrap().unwrap();
        assert_eq!(piece.num_removed, batch.num_rows() as u64);
        assert!(batch["verdict"].as_string::<i32>().iter().all(|verdict| verdict == Some("remove")));
        let records = batch["record"].as_primitive::<Int32Type>().values().to_vec();
        let reasons = batch["reason"].as_string::<i32>().iter().map(|reason| reason.unwrap().to_owned());
        records.into_iter().zip(reasons).collect()
    }
}

fn all(path: &Path) -> RecordBatch {
    let batches: Vec<_> = read(path, None, 1024, None).unwrap().map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// Something with detail.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x + y) as u8]))
}

fn encoded(picture: &RgbImage, format: image::ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    encoded(&picture(width, height), image::ImageFormat::Jpeg)
}

fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(&picture(width, height), image::ImageFormat::Png)
}

/// A row whose columns are as a download writes them for an image that it keeps.
fn row(record: u32, image: impl Into<Bytes>) -> ImageRow {
    let record = ManifestRecord {
        record,
        uuid: format!("uuid-{record}"),
        source_id: None,
        identifier: format!("http://a.example/{record}"),
        license: Some("CC0".into()),
        source: None,
        title: None,
        label: Some("Quercus".into()),
        shared_server_name: None,
    };
    let row = ImageRow { perceptual_hash: Some([7; 32]), ..ImageRow::for_test(record, image) };
    match inspect(&row.image) {
        Ok(header) => ImageRow {
            image_format: header.image_format,
            original_size: header.size,
            resized_size: header.size,
            ..row
        },
        Err(_) => row,
    }
}

/// Raw pixels, which a download has shrunk to that size.
fn raw_row(record: u32, width: u32, height: u32) -> ImageRow {
    ImageRow {
        image_format: ImageFormat::Raw,
        original_size: PixelSize { height: 2 * height, width: 2 * width },
        resized_size: PixelSize { height, width },
        hashsum_original: HashAlgorithm::Blake3.digest(b"another file"),
        ..row(record, picture(width, height).into_raw())
    }
}

fn resize(change: impl FnOnce(&mut ToolOptions)) -> Resize {
    let mut options = ToolOptions { new_resize_size: 100, ..ToolOptions::default() };
    change(&mut options);
    Resize::new(&options)
}

#[test]
fn large_images_are_made_anew_and_others_carried() {
    let small = png(40, 30);
    let rows = vec![
        row(0, jpeg(300, 200)),
        row(1, small.clone()),
        row(2, Bytes::from_static(b"<html>")),
        row(3, Bytes::new()),
        raw_row(4, 120, 180),
        row(5, png(70, 101)),
        ImageRow { resized_size: PixelSize { height: 9, width: 9 }, ..raw_row(6, 120, 180) },
    ];
    let partition = Partition::new(rows);
    let tool = resize(|_| {});
    let undecodable = [2, 3, 6].map(|record| (record, "undecodable".to_owned()));
    assert_eq!(partition.reasons(&tool), undecodable);
    let before = all(&partition.input.files[0].0);
    let after = all(&partition.images);
    assert_eq!(after.schema().fields(), successes_schema().fields());
    let kept: Vec<_> = after["record"].as_primitive::<Int32Type>().values().to_vec();
    assert_eq!(kept, [0, 1, 4, 5]);
    let new = ["resized_size", "hashsum_resized", "image", "image_bytes", "image_format"];
    for field in before.schema().fields().iter().filter(|field| !new.contains(&field.name().as_str())) {
        for (at, &record) in kept.iter().enumerate() {
            let (old, new) = (&before[field.name().as_str()], &after[field.name().as_str()]);
            assert_eq!(&old.slice(record as usize, 1), &new.slice(at, 1), "{}", field.name());
        }
    }
    let images = StoredImages::of(&after).unwrap();
    let expect = [("jpeg", 66, 100), ("png", 30, 40), ("jpeg", 100, 66), ("jpeg", 100, 69)];
    for (at, (format, height, width)) in expect.into_iter().enumerate() {
        let stored = images.get(at);
        assert_eq!((stored.image_format, stored.resized_size), (format, Some(PixelSize { height, width })));
        let header = inspect(stored.image).unwrap();
        assert_eq!((header.image_format.as_str(), Some(header.size)), (format, stored.resized_size));
        assert_eq!(stored.hashsum_resized, HashAlgorithm::Blake3.digest(stored.image).to_string());
        let bytes = after["image_bytes"].as_primitive::<Int64Type>().value(at);
        assert_eq!(bytes, stored.image.len() as i64);
    }
    assert_eq!(images.get(1).image, small);
    // What the tool has made it would not make again.
    let again = Partition::new(vec![row(0, images.get(0).image.to_vec())]);
    again.run(&tool);
    assert_eq!(StoredImages::of(&all(&again.images)).unwrap().get(0).image, images.get(0).image);
}

#[test]
fn modes_and_encodings_are_those_of_the_configuration() {
    use ImageEncoding::{Auto, Original, Png, Raw};
    use ResizeMode::{Border, CenterCrop, KeepRatio, KeepRatioLargest, No};
    let check = |mode, encoding, only_if_bigger, expect: [(&str, u32, u32); 3]| {
        let partition =
            Partition::new(vec![row(0, png(300, 200)), raw_row(1, 200, 300), row(2, jpeg(50, 40))]);
        let tool = resize(|options| {
            options.resize_mode = mode;
            options.resize_only_if_bigger = only_if_bigger;
            options.imaging = ImagingOptions { image_encoding: encoding, ..ImagingOptions::default() };
        });
        partition.run(&tool);
        let after = StoredImages::of(&all(&partition.images)).unwrap();
        for (at, (format, height, width)) in expect.into_iter().enumerate() {
            let stored = after.get(at);
            let size = PixelSize { height, width };
            assert_eq!((stored.image_format, stored.resized_size), (format, Some(size)), "{mode:?} {at}");
            if format == "raw" {
                assert_eq!(stored.image.len() as u64, 3 * size.pixels());
            } else {
                assert_eq!(inspect(stored.image).unwrap().size, size);
            }
        }
    };
    check(KeepRatio, Auto, true, [("jpeg", 100, 150), ("jpeg", 150, 100), ("jpeg", 40, 50)]);
    check(CenterCrop, Png, true, [("png", 100, 100), ("png", 100, 100), ("png", 40, 50)]);
    check(Border, Auto, false, [("jpeg", 100, 100); 3]);
    check(KeepRatioLargest, Raw, false, [("raw", 66, 100), ("raw", 100, 66), ("raw", 80, 100)]);
    // A dataset of received bytes can be resized, too.
    check(KeepRatioLargest, Original, true, [("jpeg", 66, 100), ("jpeg", 100, 66), ("jpeg", 40, 50)]);
    check(No, Png, true, [("png", 200, 300), ("png", 300, 200), ("png", 40, 50)]);
    check(No, Auto, true, [("png", 200, 300), ("raw", 300, 200), ("jpeg", 40, 50)]);
}

/// Row groups of any number of images would need any amount of memory.
#[test]
fn row_groups_are_bounded() {
    let small = png(3, 2);
    let partition = Partition::new((0..1500).map(|record| row(record, small.clone())).collect());
    assert_eq!(partition.run(&resize(|_| {})).images.num_rows, 1500);
    let groups = |path: &Path| -> Vec<i64> {
        let file = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        file.metadata().row_groups().iter().map(|group| group.num_rows()).collect()
    };
    assert_eq!(groups(&partition.images), [1000, 500]);
    let raw = |options: &mut ToolOptions| {
        options.new_resize_size = 1500;
        options.resize_only_if_bigger = false;
        options.imaging = ImagingOptions { image_encoding: ImageEncoding::Raw, ..ImagingOptions::default() };
    };
    // 6.75 MB each.
    let partition = Partition::new((0..5).map(|record| row(record, png(30, 30))).collect());
    partition.run(&resize(raw));
    assert_eq!(groups(&partition.images), [3, 2]);
}

/// An image behind small ones would be read with as many others as are in a page of small ones.
#[test]
fn large_images_have_pages_of_their_own() {
    let noise = |side, seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let picture = RgbImage::from_fn(side, side, |_, _| Rgb([rng.u8(..), rng.u8(..), rng.u8(..)]));
        encoded(&picture, image::ImageFormat::Png)
    };
    let large = noise(180, 1);
    assert!(large.len() > 64 << 10);
    let rows = (0..60).map(|at| row(at, if at < 20 { noise(4, u64::from(at)) } else { large.clone() }));
    let partition = Partition::new(rows.collect());
    partition.run(&resize(|options| options.new_resize_size = 180));
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let file = File::open(&partition.images).unwrap();
    let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
    let group = metadata.metadata().row_group(0);
    assert_eq!((metadata.metadata().num_row_groups(), group.num_rows()), (1, 60));
    let image = group.columns().iter().position(|column| column.column_path().string() == "image").unwrap();
    let pages = metadata.metadata().offset_index().unwrap()[0][image].page_locations();
    assert!(pages.len() >= 40, "{} pages", pages.len());
}

#[test]
fn nothing_to_make_is_no_file() {
    let partition = Partition::new(Vec::new());
    let piece = partition.run(&resize(|_| {}));
    assert_eq!((piece.num_images, piece.images.num_rows, piece.verdicts.num_rows), (0, 0, 0));
    assert!(!partition.images.exists() && !partition.verdicts.exists());
    let partition = Partition::new(vec![row(0, Bytes::new())]);
    let piece = partition.run(&resize(|_| {}));
    assert_eq!((piece.images.num_rows, piece.num_removed), (0, 1));
    assert!(!partition.images.exists());
}

#[test]
fn whatever_changes_the_result_is_a_parameter() {
    let plain = resize(|_| {}).parameters();
    let changes: [fn(&mut ToolOptions); 5] = [
        |options| options.new_resize_size = 99,
        |options| options.resize_mode = ResizeMode::Border,
        |options| options.resize_only_if_bigger = false,
        |options| options.imaging.image_encoding = ImageEncoding::Webp,
        |options| options.imaging.jpeg_quality = 80,
    ];
    for change in changes {
        assert_ne!(resize(change).parameters(), plain);
    }
    // Nothing comes of a size of downloads.
    assert_eq!(resize(|options| options.imaging.image_size = 64).parameters(), plain);
}

/// Stored a quarter turn to the left.
fn turned_jpeg() -> Vec<u8> {
    let exif = b"\xFF\xE1\0\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let jpeg = jpeg(64, 32);
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

#[test]
fn each_fault_has_its_reason() {
    let size = |height, width| PixelSize { height, width };
    let turned = row(2, turned_jpeg());
    assert_eq!(turned.original_size, size(64, 32));
    let cut = |image: Vec<u8>| image[..image.len() * 2 / 3].to_vec();
    let converted = |record| ImageRow {
        hashsum_original: HashAlgorithm::Blake3.digest(b"received"),
        original_size: size(2000, 3000),
        ..row(record, jpeg(60, 40))
    };
    let mut flipped = row(9, jpeg(60, 40));
    flipped.image = {
        let mut bytes = flipped.image.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes.into()
    };
    let plain = encoded(&RgbImage::from_pixel(9, 9, Rgb([255; 3])), image::ImageFormat::Png);
    let rows = vec![
        row(0, jpeg(60, 40)),
        converted(1),
        turned,
        raw_row(3, 30, 20),
        row(4, png(7, 5)),
        flipped,
        row(10, cut(png(60, 40))),
        row(11, Bytes::from_static(b"gone")),
        row(12, Bytes::new()),
        ImageRow { image_format: ImageFormat::Png, ..row(13, jpeg(60, 40)) },
        ImageRow { resized_size: size(60, 40), ..row(14, jpeg(60, 40)) },
        ImageRow { original_size: size(41, 60), ..row(15, jpeg(60, 40)) },
        ImageRow { resized_size: size(20, 31), ..raw_row(16, 30, 20) },
        ImageRow { image_format: ImageFormat::Raw, ..converted(17) },
        row(20, plain),
    ];
    let expect: HashMap<i32, &str> = HashMap::from([
        (9, "hash_mismatch"),
        (10, "undecodable"),
        (11, "undecodable"),
        (12, "undecodable"),
        (13, "wrong_format"),
        (14, "wrong_size"),
        (15, "wrong_size"),
        (16, "undecodable"),
        (17, "undecodable"),
        (20, "blank"),
    ]);
    let partition = Partition::new(rows);
    for remove_blank in [true, false] {
        let options = ToolOptions { remove_blank, ..ToolOptions::default() };
        let found = partition.reasons(&Verify::new(&options));
        let expect: HashMap<i32, &str> =
            expect.iter().map(|(&k, &v)| (k, v)).filter(|(_, v)| remove_blank || *v != "blank").collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (record, reason) in found {
            assert_eq!(expect.get(&record), Some(&reason.as_str()), "{record}");
        }
    }
    let small = ImagingOptions { max_image_pixels: 40, ..ImagingOptions::default() };
    let found = partition.reasons(&Verify::new(&ToolOptions { imaging: small, ..ToolOptions::default() }));
    assert!(found.contains(&(0, "too_many_pixels".into())) && !found.iter().any(|(record, _)| *record == 4));
}

/// The tool's filter table has no images: looking for their columns was a panic.
#[test]
fn a_tool_that_chooses_partitions_needs_a_run_of_its_own() {
    let partition = Partition::new(vec![row(0, png(9, 9))]);
    let schema = Arc::new(Schema::new(vec![Field::new("partition_id", DataType::Int32, true)]));
    let rows: ArrayRef = Arc::new(Int32Array::from(vec![0]));
    let mut table =
        TableWriter::plain(&partition.input.layout.filter_table("test"), schema.clone(), "test").unwrap();
    table.write(&RecordBatch::try_new(schema, vec![rows]).unwrap()).unwrap();
    table.seal().unwrap();
    let error = partition.input.selected().unwrap_err();
    assert!(error.to_string().contains("needs a `run` of its own"), "{error}");
}

/// The records that `placeholder` chooses, as their uuids.
async fn placeholders(fixture: &Fixture, min_urls: u64) -> Vec<String> {
    let tool = Placeholder::new(&ToolOptions { placeholder_min_urls: min_urls, ..ToolOptions::default() });
    let session = fixture.session();
    let input = FilterInput::new(&session).unwrap();
    let path = fixture.layout.filter_table(tool.name());
    let mut table = FilterTable::create(&path, Selects::Images).unwrap();
    tool.filter(&input, &mut table).await.unwrap();
    let (file, _) = table.finish().unwrap();
    if file.num_rows == 0 {
        return Vec::new();
    }
    let rows = all(&path);
    assert_eq!(rows.num_rows() as u64, file.num_rows);
    assert!(rows["reason"].as_string::<i32>().iter().all(|reason| reason == Some("placeholder")));
    rows["uuid"].as_string::<i32>().iter().map(|uuid| uuid.unwrap().to_owned()).collect()
}

#[tokio::test]
async fn one_picture_behind_many_urls_of_one_server_is_a_placeholder() {
    // Images of no bytes: all six are the same, on three servers.
    let fixture = Fixture::full(0);
    let a = ["uuid-a.example-0", "uuid-a.example-2", "uuid-a.example-3"];
    let b = ["uuid-b.example:8080-0", "uuid-b.example:8080-1"];
    assert_eq!(placeholders(&fixture, 2).await, [&a[..], &b[..]].concat());
    assert_eq!(placeholders(&fixture, 3).await, a);
    // The same picture at other servers does not count.
    let empty: [&str; 0] = [];
    let fixture = Fixture::full(100);
    assert_eq!(placeholders(&fixture, 2).await, empty);
}
