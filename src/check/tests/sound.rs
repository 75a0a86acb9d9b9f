//! Datasets that hold what they promise.

use std::cell::RefCell;

use super::builder::{FAILED, PENDING, PartPlan, TestDataset};
use crate::catalog::{DispositionCounts, Report};
use crate::check::{CheckOptions, CheckProgress, StageCounts, check_dataset};
use crate::model::{RecordState, ServerName, SkipReason};

const IGNORED: RecordState = RecordState::Skipped(SkipReason::IgnoredServer);
const NO_URL: RecordState = RecordState::Skipped(SkipReason::EmptyUrl);

/// Every stage, a shared folder, partitions without successes, without errors, without either.
fn all_sorts() -> TestDataset {
    let mut dataset = TestDataset::new();

    let finished = dataset.partition("a.example", 0, &[PENDING, PENDING, PENDING, PENDING, IGNORED]);
    dataset.part(finished, &[1, 0], &[3]);
    dataset.part(finished, &[2], &[]);
    dataset.finish(finished, &[3, 4]);

    // Record 1 failed, was set back to pending, and came through; record 4 likewise, and is still pending.
    let open = dataset.partition("a.example", 1, &[PENDING; 6]);
    let outcomes = [(0, RecordState::Success), (2, FAILED)];
    let first = PartPlan { successes: &[0], errors: &[1, 2, 4], outcomes: &outcomes };
    let first = dataset.new_part(open, &first);
    dataset.commit(Report::Part(first));
    dataset.part(open, &[1], &[]);
    dataset.part(open, &[], &[3]);
    dataset.partition("a.example", 2, &[PENDING; 3]);

    let compacted = dataset.partition("b.example:8080", 0, &[PENDING; 2]);
    dataset.part(compacted, &[0, 1], &[]);
    dataset.compact(compacted, &[]);
    std::fs::remove_dir_all(dataset.images_folder(compacted).join("_parts")).unwrap();

    let shared = dataset.new_partition("SHARED-0000", &["c.example", "d.example"], 0, &[PENDING; 4]);
    let shared = dataset.add(&shared);
    // A record that is skipped during the download has a row among the errors.
    let outcomes = [(0, RecordState::Success), (1, IGNORED), (2, RecordState::Success), (3, FAILED)];
    let plan = PartPlan { successes: &[0, 2], errors: &[1, 3], outcomes: &outcomes };
    let part = dataset.new_part(shared, &plan);
    dataset.commit(Report::Part(part));
    dataset.finish(shared, &[1, 3]);

    let mut unusable = dataset.new_partition(ServerName::NULL, &[], 0, &[NO_URL; 2]);
    // Without a URL the key is made from the whole row.
    unusable.url_keys[0].0 += 1;
    let unusable = dataset.add(&unusable);
    dataset.finish(unusable, &[0, 1]);
    dataset
}

#[test]
fn a_sound_dataset_has_no_breach_light_or_deep() {
    let dataset = all_sorts();
    for deep in [false, true] {
        let report = dataset.check(CheckOptions { deep, ..CheckOptions::default() });
        assert_eq!(report.breaches, []);
        assert!(report.is_sound());
        assert_eq!(report.num_orphans, 0);
        assert_eq!(report.counts, DispositionCounts { pending: 5, success: 9, failed: 4, skipped: 4 });
        assert_eq!(report.num_records, 22);
        assert_eq!(report.partitions, StageCounts { open: 2, compacted: 1, finished: 3 });
        assert_eq!(report.num_images, 9);
        assert_eq!(report.hashed_bytes > 0, deep);
    }
}

#[test]
fn files_and_bytes_are_those_on_disk() {
    let dataset = all_sorts();
    let report = dataset.check_light();
    let files = |root| {
        let folders = walk(root);
        folders.into_iter().filter(|path| path.extension().is_some_and(|end| end == "parquet"))
    };
    let all: Vec<_> = files(dataset.layout.images()).chain(files(dataset.layout.urls())).collect();
    assert_eq!(report.num_files, all.len() as u64);
    let bytes: u64 = all.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(report.file_bytes, bytes);
}

fn walk(folder: std::path::PathBuf) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(path) } else { vec![path] }).collect()
}

#[test]
fn a_reader_and_any_number_of_threads_see_the_same() {
    let dataset = all_sorts();
    // Something to report, so that the order of the list counts.
    for key in [(0, 0), (2, 0)] {
        let server = ServerName::from_catalog(if key.0 == 0 { "a.example" } else { "SHARED-0000" });
        std::fs::remove_file(dataset.layout.completed_marker(&server, key.1)).unwrap();
        std::fs::write(dataset.layout.images_folder(&server, key.1).join("left over"), b"12").unwrap();
    }
    let one = dataset.check_light();
    assert_eq!((one.num_breaches, one.num_orphans, one.orphan_bytes), (2, 2, 4));
    for threads in [2, 7] {
        assert_eq!(dataset.check(CheckOptions { threads, ..CheckOptions::default() }), one);
    }
    assert_eq!(dataset.check_by_reader(), one);
}

#[test]
fn progress_counts_every_partition() {
    let dataset = all_sorts();
    let seen = RefCell::new(Vec::new());
    check_dataset(&dataset.layout, &|| dataset.catalog().view(), CheckOptions::default(), &|progress| {
        seen.borrow_mut().push(progress);
    })
    .unwrap();
    let expect: Vec<_> =
        (0..=6).map(|partitions_done| CheckProgress { partitions_done, num_partitions: 6 }).collect();
    assert_eq!(seen.into_inner(), expect);
}

#[test]
fn an_empty_catalog_is_sound() {
    let report = TestDataset::new().check_light();
    assert!(report.is_sound());
    assert_eq!(report.num_records, 0);
}

/// A download completes a partition between the check's look at the catalog and its look at the files: the parts
/// that the view names are gone, and nothing is wrong.
#[test]
fn a_partition_that_is_completed_meanwhile_is_looked_at_again() {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 4]);
    dataset.part(key, &[0, 1], &[2]);
    dataset.part(key, &[3], &[]);
    let old_views = [dataset.catalog().view().unwrap(), dataset.catalog().view().unwrap()];
    dataset.finish(key, &[2]);
    // One for the plan, one for the partition.
    let old_views = std::sync::Mutex::new(Vec::from(old_views));
    let views = || match old_views.lock().unwrap().pop() {
        Some(view) => Ok(view),
        None => dataset.catalog().view(),
    };
    let options = CheckOptions { threads: 1, ..CheckOptions::default() };
    let report = check_dataset(&dataset.layout, &views, options, &|_| {}).unwrap();
    assert_eq!(report.breaches, []);
    assert_eq!((report.partitions.finished, report.num_records, report.num_images), (1, 4, 3));
}
