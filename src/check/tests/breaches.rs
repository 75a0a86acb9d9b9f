//! One thing is damaged, and exactly its kind is reported.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use proptest::prelude::*;
use redb::TableDefinition;

use super::builder::{FAILED, PENDING, PartPlan, TestDataset, write_manifest, write_parquet};
use super::kinds;
use crate::catalog::{IngestRow, PartitionStage, Report};
use crate::check::{BreachKind, CheckOptions};
use crate::model::{FailureCause, PartId, PartRow, PartitionKey, RecordState};

/// An open partition with a part of two successes and two failures, and one record pending.
fn open_partition() -> (TestDataset, PartitionKey) {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 5]);
    dataset.part(key, &[0, 1], &[2, 3]);
    (dataset, key)
}

fn finished_partition() -> (TestDataset, PartitionKey) {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 4]);
    dataset.part(key, &[0, 1], &[2, 3]);
    dataset.finish(key, &[2, 3]);
    (dataset, key)
}

/// Commits one part that `change` has a hand in, and checks.
fn with_part(plan: PartPlan<'_>, change: impl FnOnce(&mut crate::catalog::PartReport)) -> Vec<BreachKind> {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 5]);
    let mut part = dataset.new_part(key, &plan);
    change(&mut part);
    dataset.commit(Report::Part(part));
    kinds(&dataset.check_light())
}

#[test]
fn files_that_are_gone_short_or_something_else() {
    type Damage = fn(&Path);
    let damages: [(Damage, BreachKind); 4] = [
        (|path| fs::remove_file(path).unwrap(), BreachKind::MissingFile),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            BreachKind::MissingFile,
        ),
        (
            |path| fs::File::options().write(true).open(path).unwrap().set_len(40).unwrap(),
            BreachKind::WrongLength,
        ),
        (
            |path| fs::write(path, vec![0x55; fs::metadata(path).unwrap().len() as usize]).unwrap(),
            BreachKind::Unreadable,
        ),
    ];
    for (damage, kind) in damages {
        for which in 0..5 {
            let (dataset, key) = if which < 3 { open_partition() } else { finished_partition() };
            let images = dataset.images_folder(key);
            let path = match which {
                0 => dataset.manifest_file(key, 1),
                1 => dataset.success_part(key, 0),
                2 => dataset.error_part(key, 0),
                3 => images.join("successes.parquet"),
                _ => images.join("errors.parquet"),
            };
            damage(&path);
            let report = dataset.check_light();
            assert_eq!(kinds(&report), [kind], "{}", path.display());
            assert_eq!(report.num_breaches, 1);
            assert_eq!(report.breaches[0].file.as_deref(), Some(path.as_path()));
            // What cannot be read is no reason to call its name an orphan.
            assert_eq!(report.num_orphans, 0);
        }
    }
}

#[test]
fn another_number_of_rows() {
    let plan = PartPlan { successes: &[0], errors: &[1], outcomes: &[] };
    assert_eq!(with_part(plan, |part| part.part.errors.num_rows += 1), [BreachKind::WrongRowCount]);
}

#[test]
fn a_row_that_was_dropped() {
    let outcomes = [(0, RecordState::Success), (1, FAILED), (2, FAILED)];
    let plan = PartPlan { successes: &[0], errors: &[1], outcomes: &outcomes };
    assert_eq!(with_part(plan, |_| {}), [BreachKind::LostRecord]);
}

#[test]
fn a_success_in_place_of_another() {
    let outcomes = [(0, RecordState::Success), (2, RecordState::Success)];
    let plan = PartPlan { successes: &[0, 1], errors: &[], outcomes: &outcomes };
    assert_eq!(with_part(plan, |_| {}), [BreachKind::LostRecord, BreachKind::StrayRecord]);
}

#[test]
fn rows_that_stand_twice() {
    let outcomes = [(0, FAILED)];
    let plan = PartPlan { successes: &[], errors: &[0, 0], outcomes: &outcomes };
    assert_eq!(with_part(plan, |_| {}), [BreachKind::RepeatedRecord]);
    let outcomes = [(0, RecordState::Success), (1, RecordState::Success)];
    let plan = PartPlan { successes: &[0, 0], errors: &[], outcomes: &outcomes };
    assert_eq!(with_part(plan, |_| {}), [BreachKind::LostRecord, BreachKind::RepeatedRecord]);
}

#[test]
fn an_error_after_the_success() {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 3]);
    dataset.part(key, &[0], &[]);
    let outcomes = [(1, FAILED)];
    let part = dataset.new_part(key, &PartPlan { successes: &[], errors: &[0, 1], outcomes: &outcomes });
    dataset.commit(Report::Part(part));
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::StrayRecord]);
    assert_eq!(report.breaches[0].detail, "record 0 failed, but it was a success already");
}

#[test]
fn an_undone_error_that_compaction_kept() {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 2]);
    let outcomes = [(0, FAILED)];
    let part = dataset.new_part(key, &PartPlan { successes: &[], errors: &[0, 1], outcomes: &outcomes });
    dataset.commit(Report::Part(part));
    dataset.part(key, &[1], &[]);
    assert_eq!(dataset.check_light().breaches, []);
    dataset.finish(key, &[0, 1]);
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::StrayRecord]);
}

#[test]
fn another_digest_than_the_catalogs() {
    let plan = PartPlan { successes: &[0, 1], errors: &[], outcomes: &[] };
    assert_eq!(with_part(plan, |part| part.digests[40] ^= 1), [BreachKind::Digest]);
}

/// The catalog knows why a record failed, and so does the file of errors.
#[test]
fn an_error_that_the_catalog_tells_otherwise() {
    let plan = PartPlan { successes: &[], errors: &[0, 1], outcomes: &[] };
    type Change = fn(&mut crate::catalog::RecordOutcome);
    let changes: [Change; 3] = [
        |outcome| outcome.state = RecordState::Failed(FailureCause::Dns).to_byte(),
        |outcome| outcome.http_status = 410,
        |outcome| outcome.retry_count = 2,
    ];
    for change in changes {
        assert_eq!(with_part(plan, |part| change(&mut part.outcomes[1])), [BreachKind::WrongError]);
    }
    let ignored = RecordState::Skipped(crate::model::SkipReason::IgnoredServer);
    assert_eq!(with_part(plan, |part| part.outcomes[0].state = ignored.to_byte()), [BreachKind::WrongError]);
}

#[test]
fn other_bytes_of_images_than_the_catalogs() {
    let (mut dataset, key) = finished_partition();
    dataset.tamper_row(key, |row| row.image_bytes += 1);
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::ImageBytes]);
}

#[test]
fn fewer_records_than_were_ingested() {
    let (dataset, _) = open_partition();
    let ingest = |new| IngestRow { new, ..IngestRow::default() };
    dataset.catalog().record_ingest(ingest(5)).unwrap();
    assert_eq!(dataset.check_light().breaches, []);
    dataset.catalog().record_ingest(ingest(1)).unwrap();
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::IngestTotals]);
    let expected = "dataset: records are missing: 5 records, but the ingests have added 6";
    assert_eq!(report.breaches[0].to_string(), expected);
}

#[test]
fn files_of_two_partitions_exchanged() {
    let mut dataset = TestDataset::new();
    let keys = [0, 1].map(|id| dataset.partition("a.example", id, &[PENDING; 2]));
    let mut parts =
        keys.map(|key| dataset.new_part(key, &PartPlan { successes: &[0, 1], ..PartPlan::default() }));
    let [a, b] = keys.map(|key| dataset.success_part(key, 0));
    let aside = a.with_extension("aside");
    fs::rename(&a, &aside).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(&aside, &b).unwrap();
    let [first, second] = &mut parts;
    std::mem::swap(&mut first.part.successes, &mut second.part.successes);
    parts.into_iter().for_each(|part| dataset.commit(Report::Part(part)));
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::WrongRecord]);
    assert_eq!(report.num_breaches, 2);
    assert!(report.breaches[0].detail.ends_with(", and 1 more"), "{}", report.breaches[0].detail);
}

#[test]
fn a_manifest_with_other_urls_or_another_order() {
    let mut dataset = TestDataset::new();
    let mut new = dataset.new_partition("a.example", &[], 0, &[PENDING; 4]);
    new.url_keys.swap(0, 3);
    dataset.add(&new);
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::UrlKey]);

    let mut dataset = TestDataset::new();
    let mut new = dataset.new_partition("a.example", &[], 0, &[PENDING; 2]);
    let key = PartitionKey { server_id: crate::model::ServerId(0), partition_id: 0 };
    let folder = dataset.layout.manifest_folder(&new.folder, 0);
    let mut late = dataset.record(key, 1).as_ref().clone();
    late.record = 7;
    new.manifest_files[0] = write_manifest(&folder, 0, &[dataset.record(key, 0), Arc::new(late)]);
    dataset.add(&new);
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::RecordOrder]);
    assert_eq!(report.breaches[0].detail, "record 7 where record 1 belongs");
}

#[test]
fn a_file_of_other_columns() {
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 2]);
    let mut part = dataset.new_part(key, &PartPlan { successes: &[], errors: &[0], outcomes: &[] });
    let column = Arc::new(StringArray::from(vec!["x"])) as _;
    let batch = RecordBatch::try_from_iter([("uuid", column)]).unwrap();
    part.part.errors = write_parquet(&dataset.error_part(key, 0), &batch);
    dataset.commit(Report::Part(part));
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::WrongSchema]);
    assert_eq!(report.breaches[0].detail, "column 1 is nothing instead of `identifier` (Utf8)");
}

#[test]
fn markers_that_lie() {
    let (dataset, key) = finished_partition();
    fs::remove_file(dataset.images_folder(key).join("completed")).unwrap();
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::MissingMarker]);

    let (dataset, key) = open_partition();
    fs::write(dataset.images_folder(key).join("completed"), b"").unwrap();
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::StrayMarker]);

    // Between marker and commit.
    let mut dataset = TestDataset::new();
    let key = dataset.partition("a.example", 0, &[PENDING; 1]);
    dataset.part(key, &[0], &[]);
    dataset.compact(key, &[]);
    fs::write(dataset.images_folder(key).join("completed"), b"").unwrap();
    assert_eq!(dataset.check_light().breaches, []);
}

#[test]
fn the_same_url_twice() {
    let mut dataset = TestDataset::new();
    let first = dataset.new_partition("a.example", &[], 0, &[PENDING; 3]);
    dataset.add(&first);
    let mut second = dataset.new_partition("a.example", &[], 1, &[PENDING; 3]);
    second.states = vec![RecordState::Skipped(crate::model::SkipReason::BadUrl); 3];
    second.url_keys[2] = first.url_keys[1];
    dataset.add(&second);
    let report = dataset.check_light();
    assert_eq!(kinds(&report), [BreachKind::DuplicateUrl]);
    assert_eq!(report.breaches[0].detail, "record 1 of partition 0 and record 2 of partition 1");
    assert_eq!(report.breaches[0].partition_id, None);
}

#[test]
fn duplicates_are_found_in_any_number_of_passes() {
    let mut dataset = TestDataset::new();
    let mut new = dataset.new_partition("a.example", &[], 0, &[PENDING; 60]);
    let copies: Vec<_> = new.url_keys[..20].to_vec();
    new.url_keys[40..].copy_from_slice(&copies);
    let key = dataset.add(&new);
    let view = dataset.catalog().view().unwrap();
    for num_passes in [1, 2, 3, 64] {
        let mut findings = crate::check::report::Findings::new(
            new.folder.clone(),
            None,
            CheckOptions::default().max_breaches,
        );
        let mut offences = crate::check::report::Offences::default();
        crate::check::url_keys::find_duplicates(&view, &[key], num_passes, &mut offences).unwrap();
        findings.offences(None, offences);
        assert!(findings.report.breaches[0].detail.ends_with(", and 19 more"), "{num_passes} passes");
    }
}

/// The number of passes over the URL keys came from a damaged count: they would have taken years.
#[test]
fn counts_beyond_all_reason() {
    let (mut dataset, key) = open_partition();
    dataset.partition("a.example", 1, &[PENDING]);
    dataset.tamper_row(key, |row| {
        row.counts.pending = u64::MAX;
        row.counts.skipped = u64::MAX;
    });
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::RecordCount, BreachKind::ServerTotals]);
}

#[test]
fn a_catalog_that_contradicts_itself() {
    const URL_KEYS: TableDefinition<(u32, u32, u32), &[u8]> = TableDefinition::new("url_keys-1");
    const STATES: TableDefinition<(u32, u32), &[u8]> = TableDefinition::new("states-1");
    const SERVERS: TableDefinition<u32, &[u8]> = TableDefinition::new("servers-1");
    let check = |tamper: &dyn Fn(&mut TestDataset, PartitionKey), expect: BreachKind| {
        let (mut dataset, key) = open_partition();
        tamper(&mut dataset, key);
        assert_eq!(kinds(&dataset.check_light()), [expect]);
    };
    check(
        &|dataset, _| {
            dataset.tamper(|txn| drop(txn.open_table(URL_KEYS).unwrap().remove((0, 0, 0)).unwrap()))
        },
        BreachKind::RecordCount,
    );
    check(
        &|dataset, _| dataset.tamper(|txn| drop(txn.open_table(STATES).unwrap().remove((0, 0)).unwrap())),
        BreachKind::CatalogEntry,
    );
    check(
        &|dataset, _| {
            let row = postcard::to_extend(&("a.example", false, 1_u32, 6_u64), vec![1]).unwrap();
            dataset.tamper(|txn| drop(txn.open_table(SERVERS).unwrap().insert(0, row.as_slice()).unwrap()));
        },
        BreachKind::ServerTotals,
    );
    check(
        &|dataset, key| {
            dataset.tamper_row(key, |row| {
                row.counts.success += 1;
                row.counts.pending -= 1;
            });
        },
        BreachKind::StateCount,
    );

    let (mut dataset, key) = finished_partition();
    dataset.tamper_row(key, |row| {
        assert_eq!(row.stage, PartitionStage::Finished);
        let part = PartId { epoch: crate::model::Epoch(1), sequence: 0 };
        row.parts.push(PartRow { part, successes: row.successes, errors: row.errors });
    });
    assert_eq!(kinds(&dataset.check_light()), [BreachKind::Stage]);
}

#[test]
fn all_are_counted_and_the_first_are_listed() {
    let mut dataset = TestDataset::new();
    for partition_id in 0..6 {
        let key = dataset.partition("a.example", partition_id, &[PENDING; 2]);
        fs::remove_file(dataset.manifest_file(key, 0)).unwrap();
    }
    let report = dataset.check(CheckOptions { max_breaches: 2, threads: 3, deep: false });
    assert_eq!(report.num_breaches, 6);
    let listed: Vec<_> = report.breaches.iter().map(|breach| breach.partition_id).collect();
    assert_eq!(listed, [Some(0), Some(1)]);
}

#[test]
fn a_breach_reads_well_and_serialises() {
    let (dataset, key) = finished_partition();
    let marker = dataset.images_folder(key).join("completed");
    fs::remove_file(&marker).unwrap();
    let report = dataset.check_light();
    assert_eq!(
        report.breaches[0].to_string(),
        format!(
            "`a.example` partition 0: `completed` marker is missing: `ddl check --repair` writes it (`{}`)",
            marker.display()
        )
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["breaches"][0]["kind"], BreachKind::MissingMarker.as_str());
    assert_eq!(json["breaches"][0]["file"], marker.to_str().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Whatever stands in a file, the check comes to its end, and blames no other file.
    #[test]
    fn damaged_bytes_are_a_finding_not_a_failure(
        places in proptest::collection::vec((0.0..1.0_f64, any::<u8>()), 1..12),
        in_errors in any::<bool>(),
    ) {
        let (dataset, key) = finished_partition();
        let name = if in_errors { "errors.parquet" } else { "successes.parquet" };
        let path = dataset.images_folder(key).join(name);
        let mut bytes = fs::read(&path).unwrap();
        for (place, byte) in places {
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] = byte;
        }
        fs::write(&path, &bytes).unwrap();
        let report = dataset.check_deep();
        for breach in &report.breaches {
            let is_general = breach.file.is_none();
            prop_assert!(is_general || breach.file.as_deref() == Some(&*path), "{}", breach);
        }
        prop_assert_eq!(report.num_records, 4);
    }
}
