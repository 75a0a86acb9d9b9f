//! Orphans, and what a repair does about them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::builder::{PENDING, TestDataset};
use super::kinds;
use crate::catalog::{Catalog, CatalogOptions, DispositionCounts};
use crate::check::{BreachKind, CheckError, RepairReport, repair_dataset};
use crate::dispatch::PublishedStatus;
use crate::model::PartitionKey;

/// A finished, a compacted and an open partition of one server.
fn dataset() -> (TestDataset, [PartitionKey; 3]) {
    let mut dataset = TestDataset::new();
    let keys = [0, 1, 2].map(|id| dataset.partition("a.example", id, &[PENDING; 3]));
    let [finished, compacted, _] = keys;
    dataset.part(finished, &[0, 1], &[2]);
    dataset.finish(finished, &[2]);
    dataset.part(compacted, &[0, 1, 2], &[]);
    dataset.compact(compacted, &[]);
    dataset.part(keys[2], &[0], &[]);
    (dataset, keys)
}

fn put(path: PathBuf) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"four").unwrap();
    path
}

/// Files that no commit names, in every place that is ddl's.
fn litter(dataset: &TestDataset, [finished, compacted, open]: [PartitionKey; 3]) -> Vec<PathBuf> {
    let mut orphans = vec![
        // A compaction that was not committed, and its temporary file.
        put(dataset.images_folder(open).join("successes.parquet")),
        put(dataset.images_folder(open).join("errors.parquet.tmp-1-9")),
        put(dataset.images_folder(open).join("_parts/successes-1-7-0.parquet")),
        put(dataset.images_folder(open).join("_parts/errors-1-1-0.parquet")),
        put(dataset.images_folder(finished).join("completed.tmp-12")),
        put(dataset.images_folder(finished).join("deep/er/file")),
        put(dataset.manifest_file(finished, 9)),
        put(dataset.layout.images().join("server_name=a.example/beside")),
        put(dataset.layout.images().join("server_name=a.example/partition_id=7/successes.parquet")),
        put(dataset.layout.images().join("server_name=a.example/partition_id=00/successes.parquet")),
        put(dataset.layout.images().join("server_name=gone.example/partition_id=0/_parts/x.parquet")),
        put(dataset.layout.urls().join("server_name=gone.example/partition_id=0/part-0000.parquet")),
    ];
    // Parts that a compaction has made superfluous.
    orphans.push(dataset.success_part(compacted, 0));
    orphans.sort();
    orphans
}

/// Files that are others'.
fn foreign(dataset: &TestDataset, key: PartitionKey) -> Vec<PathBuf> {
    vec![
        put(dataset.layout.urls().join("_duplicates/ingest-0000.parquet")),
        put(dataset.layout.urls().join("README.md")),
        put(dataset.layout.images().join("_SUCCESS")),
        put(dataset.layout.images_folder(&"x.example".into_name(), 0).join(".nfs0001")),
        put(dataset.manifest_file(key, 0).with_file_name(".part-0001.parquet.tmp")),
        put(dataset.layout.root().join("exports/a.csv")),
    ]
}

trait IntoName {
    fn into_name(self) -> crate::model::ServerName;
}

impl IntoName for &str {
    fn into_name(self) -> crate::model::ServerName {
        crate::model::ServerName::from_catalog(self)
    }
}

#[test]
fn orphans_are_listed_and_swept_and_nothing_else() {
    let (dataset, keys) = dataset();
    let orphans = litter(&dataset, keys);
    let foreign = foreign(&dataset, keys[0]);
    let report = dataset.check_light();
    assert_eq!(report.breaches, []);
    let mut listed = report.orphans.clone();
    listed.sort();
    assert_eq!(listed, orphans);
    assert_eq!(report.num_orphans, orphans.len() as u64);

    let repaired = dataset.repair().unwrap();
    assert_eq!(repaired.orphans_removed, orphans.len() as u64);
    assert_eq!(repaired.orphan_bytes, report.orphan_bytes);
    assert_eq!(repaired.num_failed, 0);
    assert!(orphans.iter().all(|path| !path.exists()));
    assert!(foreign.iter().all(|path| path.exists()));
    assert!(!dataset.layout.urls().join("server_name=gone.example").exists());
    assert!(!dataset.images_folder(keys[0]).join("deep").exists());

    let report = dataset.check_deep();
    assert_eq!((report.breaches, report.num_orphans), (vec![], 0));
    assert_eq!(dataset.repair().unwrap(), RepairReport::default());
}

#[test]
fn markers_are_put_right() {
    let (dataset, [finished, _, open]) = dataset();
    fs::remove_file(dataset.images_folder(finished).join("completed")).unwrap();
    put(dataset.images_folder(open).join("completed"));
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::MissingMarker, BreachKind::StrayMarker]);
    assert_eq!(dataset.repair().unwrap().markers_written, 1);
    assert_eq!(dataset.check_light().breaches, []);
}

#[test]
fn no_marker_without_the_data() {
    let (dataset, [finished, ..]) = dataset();
    let folder = dataset.images_folder(finished);
    fs::remove_file(folder.join("completed")).unwrap();
    fs::remove_file(folder.join("errors.parquet")).unwrap();
    assert_eq!(dataset.repair().unwrap().markers_written, 0);
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::MissingFile, BreachKind::MissingMarker]);
}

#[test]
fn links_are_neither_followed_nor_removed() {
    let (dataset, [finished, _, open]) = dataset();
    dataset.repair().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let precious = put(elsewhere.path().join("partition_id=0/precious.parquet"));
    let links = [
        dataset.layout.images().join("server_name=linked.example"),
        dataset.images_folder(finished).join("linked"),
        dataset.images_folder(open).join("_parts/linked.parquet"),
    ];
    links.iter().for_each(|link| symlink(elsewhere.path(), link).unwrap());

    // A known partition whose folder was moved elsewhere and linked: its data is found, its litter is not.
    let moved = dataset.images_folder(finished);
    let home = elsewhere.path().join("moved");
    fs::rename(&moved, &home).unwrap();
    symlink(&home, &moved).unwrap();
    let litter = put(home.join("litter"));

    let report = dataset.check_light();
    assert_eq!((report.breaches, report.num_orphans), (vec![], 0));
    assert_eq!(dataset.repair().unwrap(), RepairReport::default());
    assert!(precious.exists() && litter.exists());
    assert!(links.iter().all(|link| link.symlink_metadata().is_ok()));
}

/// By an older copy of the catalog the images that came since were orphans, and a repair removed them.
#[test]
fn what_is_newer_than_the_catalog_is_removed_only_if_told_so() {
    type Newer = fn(&TestDataset, PartitionKey) -> Vec<PathBuf>;
    let of_a_later_run: Newer =
        |dataset, open| vec![put(dataset.images_folder(open).join("_parts/successes-2-1-0.parquet"))];
    let unfinished_of_a_later_run: Newer =
        |dataset, open| vec![put(dataset.images_folder(open).join("successes.parquet.tmp-2-1"))];
    let complete: Newer = |dataset, open| {
        ["successes.parquet", "errors.parquet", "completed"]
            .map(|name| put(dataset.images_folder(open).join(name)))
            .to_vec()
    };
    let of_the_same_run: Newer = |dataset, open| {
        let counts = DispositionCounts { success: 1000, ..DispositionCounts::default() };
        let status = PublishedStatus { counts, ..PublishedStatus::default() };
        fs::create_dir_all(dataset.layout.status()).unwrap();
        let path = dataset.layout.status().join("status.json");
        fs::write(path, serde_json::to_vec(&status).unwrap()).unwrap();
        vec![put(dataset.images_folder(open).join("_parts/successes-1-9-0.parquet"))]
    };
    for newer in [of_a_later_run, unfinished_of_a_later_run, complete, of_the_same_run] {
        let (dataset, [.., open]) = dataset();
        let files = newer(&dataset, open);
        let before = dataset.check_light();
        let error = dataset.repair().unwrap_err();
        assert!(matches!(error, CheckError::OlderCatalog { .. }), "{error}");
        assert_eq!(dataset.check_light(), before, "nothing is removed");
        let repaired = repair_dataset(&dataset.layout, dataset.catalog(), true).unwrap();
        assert_eq!(repaired.orphans_removed, before.num_orphans);
        assert!(!files.iter().any(|path| path.exists()));
    }
}

#[test]
fn another_datasets_catalog_is_refused() {
    let (dataset, _) = dataset();
    let folder = tempfile::tempdir().unwrap();
    let other = Catalog::create(&folder.path().join("catalog.redb"), &CatalogOptions::default()).unwrap();
    let before = dataset.check_light();
    let error = repair_dataset(&dataset.layout, &other, true).unwrap_err();
    assert!(matches!(error, CheckError::OtherDataset { .. }), "{error}");
    assert_eq!(dataset.check_light(), before);
}
