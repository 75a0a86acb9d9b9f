//! What only reading the images shows.

use std::fs;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::Int64Type;

use super::builder::{PENDING, PartPlan, TestDataset, read_parquet, write_parquet};
use super::kinds;
use crate::catalog::Report;
use crate::check::{BreachKind, CheckReport};
use crate::model::{HashAlgorithm, ImageFormat, PartitionKey, PixelSize};
use crate::storage::ImageRow;

fn new_dataset() -> (TestDataset, PartitionKey) {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 4]);
    (dataset, key)
}

/// Checks a dataset of two images, the second changed before it is stored. It must pass the light check.
fn with_image(change: impl FnOnce(&mut ImageRow)) -> CheckReport {
    let (mut dataset, key) = new_dataset();
    let mut rows = vec![dataset.image_row(key, 0), dataset.image_row(key, 1)];
    change(&mut rows[1]);
    let part = dataset.new_part_of(key, rows, &PartPlan { successes: &[0, 1], ..PartPlan::default() });
    dataset.commit(Report::Part(part));
    assert_eq!(dataset.check_light().breaches, []);
    dataset.check_deep()
}

#[test]
fn a_flipped_byte_of_an_image() {
    let (mut dataset, key) = new_dataset();
    dataset.part(key, &[0, 1], &[]);
    let path = dataset.success_part(key, 0);
    let image = dataset.image_row(key, 1).image;
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(image.len()).position(|window| window == image).unwrap();
    bytes[at + image.len() - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(dataset.check_light().breaches, []);
    let report = dataset.check_deep();
    assert_eq!(kinds(&report), [BreachKind::Checksum, BreachKind::ImageDigest]);
    assert!(report.breaches[1].detail.starts_with("record 1 gives"), "{}", report.breaches[1]);
}

#[test]
fn bytes_that_are_not_the_image_that_the_row_names() {
    let report = with_image(|row| row.image_format = ImageFormat::Jpeg);
    assert_eq!(kinds(&report), [BreachKind::BrokenImage]);
    assert_eq!(report.breaches[0].detail, "record 1: `image_format` is `jpeg`, the bytes are `png`");

    let report = with_image(|row| {
        row.image = "<html>".into();
        row.hashsum_resized = HashAlgorithm::Blake3.digest(&row.image);
    });
    assert_eq!(kinds(&report), [BreachKind::BrokenImage]);
}

#[test]
fn converted_images_and_raw_pixels_are_sound() {
    let report = with_image(|row| {
        row.image = vec![7; 18].into();
        row.image_format = ImageFormat::Raw;
        row.hashsum_resized = HashAlgorithm::Blake3.digest(&row.image);
    });
    assert_eq!(report.breaches, []);
    let kept = with_image(|_| {});
    assert!(kept.hashed_bytes > report.hashed_bytes);
}

/// A part whose file of successes is written anew, by another writer.
fn rewritten(
    change: impl FnOnce(arrow::array::RecordBatch) -> arrow::array::RecordBatch,
    keep_fact: bool,
) -> CheckReport {
    let (mut dataset, key) = new_dataset();
    let mut part = dataset.new_part(key, &PartPlan { successes: &[0, 1], ..PartPlan::default() });
    let path = dataset.success_part(key, 0);
    let batch = change(read_parquet(&path));
    part.part.successes = if keep_fact {
        super::builder::write_parquet_with_algorithm(&path, &batch)
    } else {
        write_parquet(&path, &batch)
    };
    dataset.commit(Report::Part(part));
    dataset.check_deep()
}

#[test]
fn a_length_that_is_not_the_images() {
    let report = rewritten(
        |batch| {
            let schema = batch.schema();
            let at = schema.index_of("image_bytes").unwrap();
            let mut columns = batch.columns().to_vec();
            let lengths = columns[at].as_primitive::<Int64Type>();
            columns[at] =
                Arc::new((0..lengths.len()).map(|row| Some(lengths.value(row) + 1)).collect::<Int64Array>());
            arrow::array::RecordBatch::try_new(schema, columns).unwrap()
        },
        true,
    );
    assert_eq!(kinds(&report), [BreachKind::ImageBytes, BreachKind::ImageLength]);
    assert!(report.breaches[0].detail.ends_with(", and 1 more"), "{}", report.breaches[0]);
}

#[test]
fn a_file_that_does_not_say_how_it_was_hashed() {
    assert_eq!(kinds(&rewritten(|batch| batch, false)), [BreachKind::WrongSchema]);
    assert_eq!(rewritten(|batch| batch, true).breaches, []);
}

/// Titles, licences, sizes, causes, and the statistics and offsets of the footer, by which queries pass over rows:
/// what no digest of an image covers.
#[test]
fn a_flipped_bit_anywhere() {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 4]);
    dataset.part(key, &[0, 1], &[2]);
    let open = dataset.partition("a.example", 1, &[PENDING; 2]);
    dataset.part(open, &[0], &[1]);
    dataset.part(key, &[3], &[]);
    dataset.finish(key, &[2]);
    let images = dataset.images_folder(key);
    let files = [
        images.join("successes.parquet"),
        images.join("errors.parquet"),
        dataset.success_part(open, 0),
        dataset.error_part(open, 0),
        dataset.manifest_file(key, 0),
    ];
    for path in files {
        let sound = fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(97) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let report = dataset.check_deep();
            let of_file = report.breaches.iter().find(|breach| breach.kind == BreachKind::Checksum);
            assert_eq!(of_file.and_then(|breach| breach.file.as_ref()), Some(&path), "byte {at}: {report:?}");
        }
        fs::write(&path, &sound).unwrap();
    }
    assert_eq!(dataset.check_deep().breaches, []);
}

#[test]
fn a_size_that_is_not_the_images() {
    let report = with_image(|row| row.resized_size = PixelSize { height: 2, width: 3 });
    assert_eq!(kinds(&report), [BreachKind::BrokenImage]);
    assert_eq!(report.breaches[0].detail, "record 1: `resized_size` is 2x3, the image is 3x2");

    let report = with_image(|row| {
        row.image = vec![7; 17].into();
        row.image_format = ImageFormat::Raw;
        row.hashsum_resized = HashAlgorithm::Blake3.digest(&row.image);
    });
    assert_eq!(kinds(&report), [BreachKind::BrokenImage]);
}
