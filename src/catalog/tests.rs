//! The catalog against kills of its writer, and on filesystems without file locks.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::model::{
    DataFile, Epoch, HashAlgorithm, PartId, PartRow, PartitionKey, RecordState, ServerName, UrlKey,
};

const NUM_RECORDS: u32 = 5000;
/// Names the catalog that this test binary, started again by a test, writes to until it is killed.
const WRITER_CATALOG: &str = "DDL_TEST_WRITER_CATALOG";

fn new_partition(partition_id: u32) -> NewPartition {
    let key = |record| UrlKey(u128::from(partition_id) << 32 | u128::from(record));
    NewPartition {
        folder: ServerName::from_catalog("s"),
        members: Vec::new(),
        partition_id,
        manifest_files: vec![ManifestFile { name: "m".into(), num_records: NUM_RECORDS, bytes: 1, crc32: 0 }],
        states: vec![RecordState::Pending; NUM_RECORDS as usize],
        url_keys: (0..NUM_RECORDS).map(key).collect(),
    }
}

/// All records of a partition as one part of successes.
fn part_of(partition: PartitionKey) -> Report {
    let outcome = |record| RecordOutcome {
        record,
        state: RecordState::Success.to_byte(),
        http_status: 0,
        retry_count: 0,
    };
    let digest = HashAlgorithm::Blake3.digest(&partition.partition_id.to_le_bytes());
    Report::Part(PartReport {
        partition,
        part: PartRow {
            part: PartId { epoch: Epoch::new(1, 1), sequence: 0 },
            successes: DataFile { num_rows: u64::from(NUM_RECORDS), bytes: 1, crc32: 0 },
            errors: DataFile::default(),
        },
        outcomes: (0..NUM_RECORDS).map(outcome).collect(),
        digests: digest.as_bytes().repeat(NUM_RECORDS as usize),
        digest_bytes: 32,
        image_bytes: 1,
    })
}

/// Adds partitions and then their parts, two transactions each, and tells of every commit.
fn write_until_killed(path: &Path) -> ! {
    let catalog = Catalog::open(path, &CatalogOptions::default()).unwrap();
    let committed = |partition_id: u32, parts: u32| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\ncommitted {partition_id} {parts}").and_then(|()| out.flush()).unwrap();
    };
    for partition_id in partitions(&catalog.view().unwrap()).len() as u32.. {
        catalog.add_partitions(&[new_partition(partition_id)]).unwrap();
        committed(partition_id, 0);
        let server_id = catalog.view().unwrap().servers().unwrap()[0].id;
        let report = part_of(PartitionKey { server_id, partition_id });
        catalog.commit_reports(&[report]).unwrap()[0].clone().unwrap();
        committed(partition_id, 1);
    }
    unreachable!("it is killed long before")
}

fn start_writer(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["catalog::tests::a_kill_in_a_transaction_loses_nothing_committed", "--exact", "--nocapture"])
        .env(WRITER_CATALOG, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn partitions(view: &CatalogView) -> Vec<(PartitionKey, PartitionRow)> {
    let mut all = Vec::new();
    view.for_each_partition(|key, row| all.push((key, row))).unwrap();
    all
}

/// Every (partition, number of parts) that the view holds, after a look whether each is whole.
fn whole_commits(view: &CatalogView) -> BTreeSet<(u32, u32)> {
    let mut commits = BTreeSet::new();
    for (key, row) in partitions(view) {
        let parts = row.parts.len() as u32;
        let digests: usize = view.digests(key).unwrap().iter().map(|(_, rows)| rows.len()).sum();
        let states = view.states(key).unwrap();
        assert_eq!(states.len(), NUM_RECORDS as usize);
        assert_eq!(DispositionCounts::of(states.iter().map(|status| status.state)), row.counts);
        assert_eq!(row.counts.success, u64::from(parts * NUM_RECORDS));
        assert_eq!(digests as u64, row.counts.success);
        assert_eq!(view.url_keys(key).unwrap(), new_partition(key.partition_id).url_keys);
        commits.extend((0..=parts).map(|parts| (key.partition_id, parts)));
    }
    commits
}

#[test]
fn a_kill_in_a_transaction_loses_nothing_committed() {
    if let Some(path) = std::env::var_os(WRITER_CATALOG) {
        write_until_killed(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let options = CatalogOptions::default();
    drop(Catalog::create(&path, &options).unwrap());
    let mut told: BTreeSet<(u32, u32)> = BTreeSet::new();
    for round in 0..12_usize {
        let mut writer = start_writer(&path);
        let mut lines =
            BufReader::new(writer.stdout.take().unwrap()).lines().map(Result::unwrap).filter_map(|line| {
                let (partition_id, parts) = line.strip_prefix("committed ")?.split_once(' ')?;
                Some((partition_id.parse().unwrap(), parts.parse().unwrap()))
            });
        told.extend(lines.by_ref().take(1 + round % 4));
        // A reader follows, and finds nothing half while the writer goes on.
        let reader = CatalogReader::open(&path, &options).unwrap();
        assert!(whole_commits(&reader.view().unwrap()).is_superset(&told));
        writer.kill().unwrap();
        told.extend(lines);
        writer.wait().unwrap();

        let seen = whole_commits(&reader.view().unwrap());
        assert!(seen.is_superset(&told));
        drop(reader);
        match CatalogReader::open(&path, &options) {
            Ok(reader) => assert_eq!(whole_commits(&reader.view().unwrap()), seen),
            Err(error) => assert!(matches!(error, CatalogError::NeedsRepair { .. }), "{error}"),
        }
        let catalog = Catalog::open(&path, &options).unwrap();
        let kept = whole_commits(&catalog.view().unwrap());
        // Readers wait for a commit to be durable. Killed before that, it may stand all the same.
        assert!(kept.is_superset(&seen));
        assert!(kept.len() <= told.len() + 1, "one commit at most was not told of");
        told = kept;
    }
}

#[test]
fn without_file_locks_readers_stay_away_from_a_live_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let options =
        CatalogOptions { file_locks: false, job: Some("81234".into()), ..CatalogOptions::default() };
    let catalog = Catalog::create(&path, &options).unwrap();
    catalog.add_partitions(&[new_partition(0)]).unwrap();
    assert_eq!(whole_commits(&catalog.view().unwrap()).len(), 1);

    assert!(matches!(Catalog::open(&path, &options), Err(CatalogError::InUse { .. })));
    let error = CatalogReader::open(&path, &options).err().unwrap();
    assert!(error.to_string().contains("cannot be read while job 81234, process"), "{error}");
    assert!(error.hint().unwrap().contains("ddl status"));

    drop(catalog);
    let reader = CatalogReader::open(&path, &options).unwrap();
    assert_eq!(whole_commits(&reader.view().unwrap()).len(), 1);
    let catalog = Catalog::open(&path, &options).unwrap();
    assert!(matches!(reader.view(), Err(CatalogError::NoFileLocks { .. })), "a writer has come since");
    drop((reader, catalog));

    // The same file where there are locks.
    let catalog = Catalog::open(&path, &CatalogOptions::default()).unwrap();
    catalog.add_partitions(&[new_partition(1)]).unwrap();
    let reader = CatalogReader::open(&path, &CatalogOptions::default()).unwrap();
    assert_eq!(whole_commits(&reader.view().unwrap()).len(), 2);
}

#[test]
fn a_writer_whose_lock_was_taken_over_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let catalog = Catalog::create(&path, &CatalogOptions::default()).unwrap();
    catalog.add_partitions(&[new_partition(0)]).unwrap();
    let successor = LockHolder { node: "elsewhere".into(), ..LockHolder::this_process(None) };
    std::fs::write(folder.path().join("catalog.redb.lock"), serde_json::to_vec(&successor).unwrap()).unwrap();
    let error = catalog.add_partitions(&[new_partition(1)]).unwrap_err();
    assert!(matches!(&error, CatalogError::LockLost { holder: Some(_), .. }), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(whole_commits(&catalog.view().unwrap()).len(), 1);
}

#[test]
fn a_writer_whose_lock_was_taken_over_in_a_transaction_commits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let catalog = Catalog::create(&path, &CatalogOptions::default()).unwrap();
    let txn = catalog.begin().unwrap();
    txn.open_table(tables::META).unwrap().insert("batch_size", [0; 8].as_slice()).unwrap();
    let successor = LockHolder { node: "elsewhere".into(), ..LockHolder::this_process(None) };
    std::fs::write(folder.path().join("catalog.redb.lock"), serde_json::to_vec(&successor).unwrap()).unwrap();
    let error = catalog.commit(txn).unwrap_err();
    assert!(matches!(error, CatalogError::LockLost { holder: Some(_), .. }), "{error}");
    drop(catalog);
    std::fs::remove_file(folder.path().join("catalog.redb.lock")).unwrap();
    let catalog = Catalog::open(&path, &CatalogOptions::default()).unwrap();
    assert_eq!(catalog.settle_batch_size(7).unwrap(), 7, "it is not settled yet");
}

fn filled(path: &Path) -> Catalog {
    let catalog = Catalog::create(path, &CatalogOptions::default()).unwrap();
    for partition_id in 0..3 {
        catalog.add_partitions(&[new_partition(partition_id)]).unwrap();
        let server_id = catalog.view().unwrap().servers().unwrap()[0].id;
        let report = part_of(PartitionKey { server_id, partition_id });
        catalog.commit_reports(&[report]).unwrap()[0].clone().unwrap();
    }
    catalog
}

#[test]
fn a_copy_has_what_the_view_has_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = (folder.path().join("catalog.redb"), folder.path().join("copy.redb"));
    let options = CatalogOptions::default();
    let catalog = filled(&path);
    let view = catalog.view().unwrap();
    catalog.add_partitions(&[new_partition(3)]).unwrap();
    copy_view(&view, &to, 0, &options).unwrap();
    let copy = CatalogCopy::open(&to, &options).unwrap();
    assert_eq!(whole_commits(&copy.view().unwrap()), whole_commits(&view));
    let summary = copy.summary();
    assert_eq!((summary.format, summary.num_partitions), (FORMAT, 3));
    assert_eq!(summary.counts.success, u64::from(3 * NUM_RECORDS));
    assert!(summary.file_bytes <= std::fs::metadata(&path).unwrap().len());
    drop(copy);
    // It is a catalog as any other.
    let catalog = Catalog::open(&to, &options).unwrap();
    catalog.add_partitions(&[new_partition(3)]).unwrap();
    assert_eq!(partitions(&catalog.view().unwrap()).len(), 4);
}

#[test]
fn a_copy_would_not_lose_what_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = filled(&folder.path().join("catalog.redb"));
    let txn = catalog.begin().unwrap();
    txn.open_table(redb::TableDefinition::<u32, u32>::new("moods-1")).unwrap();
    catalog.commit(txn).unwrap();
    let to = folder.path().join("copy.redb");
    let error = copy_view(&catalog.view().unwrap(), &to, 0, &CatalogOptions::default()).unwrap_err();
    assert!(error.to_string().contains("a table `moods-1`"), "{error}");
}

#[test]
fn a_look_through_a_catalog_changes_nothing_and_sees_each_damaged_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let options = CatalogOptions::default();
    drop(filled(&path));
    let whole = std::fs::read(&path).unwrap();
    CatalogCopy::open(&path, &options).unwrap();
    assert!(std::fs::read(&path).unwrap() == whole);
    // Whatever is hit, it is told, or it was of no use: never believed.
    let sound = whole_commits(&CatalogCopy::open(&path, &options).unwrap().view().unwrap());
    let mut num_told = 0;
    for page in (0..whole.len()).step_by(4096 * 7) {
        let mut damaged = whole.clone();
        damaged[page..page + 64].iter_mut().for_each(|byte| *byte ^= 0xff);
        std::fs::write(&path, &damaged).unwrap();
        match CatalogCopy::open(&path, &options) {
            Ok(copy) => assert_eq!(whole_commits(&copy.view().unwrap()), sound, "page at {page}"),
            Err(_) => num_told += 1,
        }
    }
    assert!(num_told > 5, "{num_told}");
}

#[test]
fn compaction_waits_for_readers_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let mut catalog = filled(&path);
    let before = whole_commits(&catalog.view().unwrap());
    let reader = CatalogReader::open(&path, &CatalogOptions::default()).unwrap();
    let view = reader.view().unwrap();
    let error = catalog.compact().unwrap_err();
    assert!(matches!(error, CatalogError::BeingRead { .. }), "{error}");
    drop((view, reader));
    catalog.compact().unwrap();
    assert_eq!(whole_commits(&catalog.view().unwrap()), before);
    drop(catalog);
    CatalogCopy::open(&path, &CatalogOptions::default()).unwrap();
}
