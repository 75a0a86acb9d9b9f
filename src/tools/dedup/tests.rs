//! Against brute force, over datasets as a download makes them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;

use arrow::array::{ArrayRef, Int32Array};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::catalog::{
    Catalog, CatalogOptions, ManifestFile, NewPartition, PartReport, RecordOutcome, Report,
};
use crate::model::{
    ContentDigest, Epoch, PartId, PartRow, PartitionKey, PixelSize, RecordState, ServerName, UrlKey,
};
use crate::query::QueryOptions;
use crate::storage::{DatasetLayout, ImageRow, LayoutOptions, ManifestRecord, PartWriter, StorageOptions};
use crate::tools::{Stage, prepare};

/// An image, and where it is.
#[derive(Clone, Debug)]
struct Image {
    folder: &'static str,
    /// In a folder that several servers share.
    member: Option<&'static str>,
    partition_id: u32,
    record: u32,
    uuid: String,
    hash: u8,
    near: Option<[u8; 32]>,
    side: u32,
    fetched_at: i64,
    license: Option<&'static str>,
}

impl Image {
    fn server(&self) -> &'static str {
        self.member.unwrap_or(self.folder)
    }

    /// Distributed-downloader's order.
    fn place(&self) -> (u32, &'static str, &str) {
        (self.partition_id, self.server(), &self.uuid)
    }
}

const FOLDERS: [(&str, [Option<&str>; 2]); 4] = [
    ("b.example", [None, None]),
    ("a.example:8080", [None, None]),
    ("SHARED-0001", [Some("aa.example"), Some("z.example")]),
    ("z-own.example", [None, None]),
];

/// Some images in four folders of two partitions each, with few hashes.
fn images(seed: u64, num_hashes: u8) -> Vec<Image> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut images = Vec::new();
    for (folder, members) in FOLDERS {
        for partition_id in [0, 1] {
            for record in 0..random.u32(1..12) {
                let mut near = [0x5a; 32];
                near[0] = random.u8(0..3) << 5;
                near[1] = random.u8(..4);
                images.push(Image {
                    folder,
                    member: members[random.usize(..2)],
                    partition_id,
                    record,
                    uuid: format!("{:016x}", random.u64(..)),
                    hash: random.u8(..num_hashes),
                    near: (random.u8(..5) > 0).then_some(near),
                    side: random.u32(1..4),
                    fetched_at: random.i64(0..3),
                    license: [None, Some("CC0"), Some("CC BY"), Some("CC-BY-SA"), Some("CC BY-NC")]
                        [random.usize(..5)],
                });
            }
        }
    }
    images
}

struct Dataset {
    _folder: tempfile::TempDir,
    layout: DatasetLayout,
    catalog: Catalog,
}

impl Dataset {
    /// Partitions are made, and their images written, in an order that `seed` says.
    fn new(images: &[Image], seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path().join("my [data]%3A"), LayoutOptions::default());
        std::fs::create_dir_all(layout.root()).unwrap();
        let catalog = Catalog::create(&layout.catalog(), &CatalogOptions::default()).unwrap();
        let dataset = Self { _folder: folder, layout, catalog };
        let mut random = fastrand::Rng::with_seed(seed);
        let mut partitions: BTreeMap<(&str, u32), Vec<&Image>> = BTreeMap::new();
        for image in images {
            partitions.entry((image.folder, image.partition_id)).or_default().push(image);
        }
        let mut partitions: Vec<_> = partitions.into_iter().collect();
        random.shuffle(&mut partitions);
        // The partitions of a folder come in order of their numbers.
        partitions.sort_by_key(|((_, partition_id), _)| *partition_id);
        for ((folder, partition_id), mut images) in partitions {
            dataset.add_partition(folder, partition_id, &images);
            random.shuffle(&mut images);
            let (first, second) = images.split_at(random.usize(..=images.len()));
            for (sequence, images) in
                [first, second].into_iter().enumerate().filter(|(_, part)| !part.is_empty())
            {
                dataset.add_part(folder, partition_id, sequence as u32, images);
            }
        }
        dataset
    }

    fn add_partition(&self, folder: &str, partition_id: u32, images: &[&Image]) {
        let members: HashSet<_> = images.iter().filter_map(|image| image.member).collect();
        let known = self.catalog.view().unwrap().server_ids().unwrap();
        let is_new = |member: &&str| !known.contains_key(&ServerName::from_catalog(member));
        let mut members: Vec<_> = members.into_iter().filter(is_new).collect();
        members.sort_unstable();
        let num_records = images.len() as u32;
        let file = ManifestFile { name: "part-0.parquet".into(), num_records, bytes: 1, crc32: 0 };
        let partition = NewPartition {
            folder: ServerName::from_catalog(folder),
            members: members.into_iter().map(ServerName::from_catalog).collect(),
            partition_id,
            manifest_files: vec![file],
            states: vec![RecordState::Pending; images.len()],
            url_keys: images.iter().map(|image| UrlKey::of_bytes(image.uuid.as_bytes())).collect(),
        };
        self.catalog.add_partitions(&[partition]).unwrap();
    }

    fn add_part(&self, folder: &str, partition_id: u32, sequence: u32, images: &[&Image]) {
        let folder = ServerName::from_catalog(folder);
        let part = PartId { epoch: Epoch::new(1, 1), sequence };
        let path = self.layout.success_part(&folder, partition_id, part);
        let mut rows: Vec<_> = images.iter().map(|image| row(image)).collect();
        let mut writer = PartWriter::create(&path, StorageOptions::default()).unwrap();
        writer.write_row_group(&mut rows).unwrap();
        let outcome = |image: &&Image| RecordOutcome {
            record: image.record,
            state: RecordState::Success.to_byte(),
            http_status: 200,
            retry_count: 0,
        };
        let servers = self.catalog.view().unwrap().servers().unwrap();
        let server = servers.iter().find(|server| server.folder == folder).unwrap();
        let report = PartReport {
            partition: PartitionKey { server_id: server.id, partition_id },
            part: PartRow { part, successes: writer.seal().unwrap(), errors: Default::default() },
            outcomes: images.iter().map(outcome).collect(),
            digests: rows.iter().flat_map(|row| row.hashsum_original.as_bytes().to_vec()).collect(),
            digest_bytes: 32,
            image_bytes: 1,
        };
        self.catalog
            .commit_reports(&[Report::Part(report)])
            .unwrap()
            .into_iter()
            .for_each(|done| done.unwrap());
    }

    fn session(&self) -> QuerySession {
        let options = QueryOptions { threads: 2, ..QueryOptions::default() };
        QuerySession::open(&self.layout, self.catalog.view().unwrap(), &options).unwrap()
    }

    /// Runs the filter. Rows as `uuid server partition record reason uuid_main distance`, in order of the table.
    async fn choose(&self, tool: &Dedup, session: &QuerySession) -> Vec<String> {
        prepare(tool, &self.catalog, session, 1, Some(Stage::Filter), Some(Stage::Filter)).await.unwrap();
        let table = File::open(self.layout.filter_table(tool.name())).unwrap();
        let mut rows = Vec::new();
        for batch in ParquetRecordBatchReaderBuilder::try_new(table).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let columns =
                ["uuid", "server_name", "partition_id", "record", "reason", "uuid_main", "distance"];
            let columns = columns.map(|column| texts(&batch, column).unwrap());
            rows.extend(
                (0..batch.num_rows()).map(|row| columns.each_ref().map(|column| column.value(row)).join(" ")),
            );
        }
        let left: Vec<_> = std::fs::read_dir(self.layout.tmp()).into_iter().flatten().flatten().collect();
        assert!(left.iter().all(|entry| entry.metadata().unwrap().is_dir()), "{left:?}");
        rows
    }
}

fn row(image: &Image) -> ImageRow {
    let record = ManifestRecord {
        record: image.record,
        uuid: image.uuid.clone(),
        source_id: Some(format!("source of {}", image.uuid)),
        identifier: format!("http://{}/{}", image.server(), image.uuid),
        license: image.license.map(str::to_owned),
        source: None,
        title: None,
        label: None,
        shared_server_name: image.member.map(str::to_owned),
    };
    ImageRow {
        hashsum_original: ContentDigest::from_bytes(blake3::hash(&[image.hash]).as_bytes()),
        perceptual_hash: image.near,
        original_size: PixelSize { height: image.side, width: image.side },
        fetched_at: image.fetched_at,
        ..ImageRow::for_test(record, vec![0; 3])
    }
}

fn tool(keep: Keep, near_distance: u32) -> Dedup {
    Dedup::new(&ToolOptions { keep, near_distance, ..ToolOptions::default() })
}

/// By partition as the dataset has them, then record.
fn expected(mut gone: Vec<(&Image, &str, &str, u32)>) -> Vec<String> {
    gone.sort_by_key(|(image, ..)| (image.folder, image.partition_id, image.record));
    let line = |(image, reason, main, distance): (&Image, &str, &str, u32)| {
        let Image { uuid, partition_id, record, .. } = image;
        format!("{uuid} {} {partition_id} {record} {reason} {main} {distance}", image.server())
    };
    gone.into_iter().map(line).collect()
}

fn distance(one: &[u8; 32], other: &[u8; 32]) -> u32 {
    one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// In order of preference: the first of each hash stays; of those that stay, whatever is near to an earlier one that
/// stays goes for the nearest.
fn by_brute_force<'a>(
    images: &'a [Image],
    near_distance: u32,
    preference: impl Fn(&Image) -> i64,
) -> Vec<String> {
    let mut ordered: Vec<&Image> = images.iter().collect();
    ordered.sort_by(|a, b| (preference(a), a.place()).cmp(&(preference(b), b.place())));
    let mut first_of: HashMap<u8, &Image> = HashMap::new();
    let mut kept: Vec<&Image> = Vec::new();
    let mut gone: Vec<(&'a Image, &str, &str, u32)> = Vec::new();
    for &image in &ordered {
        match first_of.get(&image.hash) {
            Some(main) => gone.push((image, "exact_duplicate", &main.uuid, 0)),
            None => {
                first_of.insert(image.hash, image);
                let Some(hash) = image.near.filter(|_| near_distance > 0) else { continue };
                let near = kept.iter().map(|main| (distance(&main.near.unwrap(), &hash), main));
                match near.filter(|(bits, _)| *bits <= near_distance).min_by_key(|(bits, _)| *bits) {
                    Some((bits, main)) => gone.push((image, "near_duplicate", &main.uuid, bits)),
                    None => kept.push(image),
                }
            }
        }
    }
    expected(gone)
}

#[tokio::test]
async fn the_first_of_each_hash_stays_in_whatever_order_they_came() {
    let mut num_gone = 0;
    for seed in 0..6 {
        let images = images(seed, if seed % 2 == 0 { 8 } else { 200 });
        let expected = by_brute_force(&images, 0, |_| 0);
        for order in [1, 2] {
            let dataset = Dataset::new(&images, order);
            // All at once, and in some ten passes.
            for images_at_once in [100, 5] {
                let tool = Dedup { images_at_once, ..tool(Keep::First, 0) };
                assert_eq!(dataset.choose(&tool, &dataset.session()).await, expected, "{seed}");
            }
        }
        num_gone += expected.len();
    }
    assert!(num_gone > 50, "{num_gone}");
}

#[tokio::test]
async fn what_stays_can_be_chosen() {
    let images = images(7, 9);
    let dataset = Dataset::new(&images, 1);
    let openness = |image: &Image| match image.license {
        Some("CC0") => 0,
        Some("CC BY") => 1,
        Some("CC-BY-SA") => 2,
        Some(_) => 3,
        None => 4,
    };
    let largest = |image: &Image| -i64::from(image.side);
    let oldest = |image: &Image| image.fetched_at;
    let session = dataset.session();
    let found = dataset.choose(&tool(Keep::Largest, 0), &session).await;
    assert_eq!(found, by_brute_force(&images, 0, largest));
    let found = dataset.choose(&tool(Keep::Oldest, 0), &session).await;
    assert_eq!(found, by_brute_force(&images, 0, oldest));
    let found = dataset.choose(&tool(Keep::LicenceOpen, 0), &session).await;
    assert_eq!(found, by_brute_force(&images, 0, openness));
}

#[tokio::test]
async fn near_images_go_for_one_that_stays() {
    let mut num_near = 0;
    for seed in 0..6 {
        let images = images(seed, 40);
        let expected = by_brute_force(&images, 1, |_| 0);
        for order in [1, 2] {
            let dataset = Dataset::new(&images, order);
            let tool = tool(Keep::First, 1);
            assert_eq!(dataset.choose(&tool, &dataset.session()).await, expected, "{seed}");
            let report = std::fs::read(dataset.layout.tool("dedup").join("near_report.json")).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            let without = images.iter().filter(|image| image.near.is_none()).count();
            assert_eq!(report["without_hash"], without);
            assert_eq!(report["left_out"]["buckets"], 0);
        }
        num_near += expected.iter().filter(|row| row.contains("near_duplicate")).count();
    }
    assert!(num_near > 30, "{num_near}");
    // The report is of the last run.
    let dataset = Dataset::new(&images(1, 40), 1);
    dataset.choose(&tool(Keep::First, 1), &dataset.session()).await;
    dataset.choose(&tool(Keep::First, 0), &dataset.session()).await;
    assert!(!dataset.layout.tool("dedup").join("near_report.json").exists());
}

fn against(near_distance: u32) -> Dedup {
    let options = ToolOptions {
        against: Some("other".into()),
        against_fingerprint: 1,
        near_distance,
        ..ToolOptions::default()
    };
    Dedup::against(&options)
}

#[tokio::test]
async fn what_another_dataset_has_goes() {
    let mut reasons = [0; 2];
    for seed in 0..4 {
        let (ours, mut theirs) = (images(seed, 120), images(seed + 100, 120));
        theirs.truncate(12);
        let mut expect = Vec::new();
        for image in &ours {
            let equal = theirs.iter().filter(|other| other.hash == image.hash).map(|other| &other.uuid).min();
            let near = image.near.and_then(|hash| {
                let others =
                    theirs.iter().filter_map(|other| Some((distance(&other.near?, &hash), &other.uuid)));
                others.filter(|(bits, _)| *bits <= 1).min()
            });
            match (equal, near) {
                (Some(uuid), _) => expect.push((image, "exact_in_other", uuid.as_str(), 0)),
                (None, Some((bits, uuid))) => expect.push((image, "near_in_other", uuid.as_str(), bits)),
                (None, None) => {}
            }
        }
        for (reason, number) in ["exact_in_other", "near_in_other"].iter().zip(&mut reasons) {
            *number += expect.iter().filter(|(_, of, ..)| of == reason).count();
        }
        let expect = expected(expect);
        let (ours, theirs) = (Dataset::new(&ours, 1), Dataset::new(&theirs, 2));
        // As a dataset, and as a file.
        let session = ours.session();
        let other = theirs.session();
        session.register_table_of("other", &other, "images").await.unwrap();
        register_other(&session, &OTHER_COLUMNS.map(str::to_owned)).await.unwrap();
        assert_eq!(ours.choose(&against(1), &session).await, expect, "{seed}");
        let manifest = theirs.layout.root().join("exported.parquet");
        let options = crate::export::ManifestOptions { output: manifest.clone(), ..Default::default() };
        crate::export::export_manifest(&other, &options).await.unwrap();
        let session = ours.session();
        let columns = session
            .register_file("other", File::open(&manifest).unwrap(), &manifest, &OTHER_COLUMNS)
            .unwrap();
        assert_eq!(columns.len(), OTHER_COLUMNS.len());
        register_other(&session, &columns).await.unwrap();
        assert_eq!(ours.choose(&against(1), &session).await, expect, "{seed}");
    }
    assert!(reasons.iter().all(|&number| number > 5), "{reasons:?}");
}

#[tokio::test]
async fn a_list_of_hashes_is_enough_to_compare_with() {
    let dataset = Dataset::new(&images(1, 10), 1);
    let session = dataset.session();
    for (missing, columns) in [("uuid", &["hashsum_original"][..]), ("hashsum_original", &["uuid"])] {
        let columns: Vec<_> = columns.iter().map(|&column| column.to_owned()).collect();
        let error = register_other(&session, &columns).await.unwrap_err().to_string();
        assert!(error.contains(&format!("no column `{missing}`")), "{error}");
    }
    let hash = blake3::hash(&[3]).to_string();
    let sql = format!("select 'theirs' as uuid, '{hash}' as hashsum_original");
    session.register_view("other", &sql).await.unwrap();
    register_other(&session, &["uuid".to_owned(), "hashsum_original".to_owned()]).await.unwrap();
    let found = dataset.choose(&against(1), &session).await;
    assert!(
        !found.is_empty() && found.iter().all(|row| row.ends_with("exact_in_other theirs 0")),
        "{found:?}"
    );
    // Hashes of another algorithm are equal to nothing, which would pass for a clean dataset.
    let sql = "select 'theirs' as uuid, 'd41d8cd98f00b204e9800998ecf8427e' as hashsum_original";
    session.register_view("other", sql).await.unwrap();
    register_other(&session, &["uuid".to_owned(), "hashsum_original".to_owned()]).await.unwrap();
    let error =
        prepare(&against(0), &dataset.catalog, &session, 1, Some(Stage::Filter), None).await.unwrap_err();
    assert!(error.to_string().contains("another algorithm"), "{error}");
    let unnamed = Dedup::against(&ToolOptions::default());
    let error =
        prepare(&unnamed, &dataset.catalog, &session, 1, Some(Stage::Filter), None).await.unwrap_err();
    assert!(error.to_string().contains("--against PATH"), "{error}");
}

/// Tables lay under names of their process: two datasets in containers, where processes have the same numbers, replaced
/// each other's, and a kill left them for ever.
#[tokio::test]
async fn what_is_put_aside_has_no_name() {
    let dataset = Dataset::new(&images(1, 10), 1);
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]));
    let rows = |numbers: Vec<i32>| {
        let numbers: ArrayRef = Arc::new(Int32Array::from(numbers));
        RecordBatch::try_new(schema.clone(), vec![numbers]).unwrap()
    };
    let sessions = [dataset.session(), dataset.session()];
    let mut tables =
        sessions.each_ref().map(|session| TempTable::create(session, "aside", schema.clone()).unwrap());
    tables[0].write(&rows(vec![1, 2])).unwrap();
    tables[1].write(&rows(vec![7])).unwrap();
    assert_eq!(std::fs::read_dir(sessions[0].temp_folder()).unwrap().count(), 0);
    for ((table, session), sum) in tables.into_iter().zip(&sessions).zip([3, 7]) {
        table.register(session).unwrap();
        let sql = "select cast(sum(n) as int) as sum from aside";
        let found = session.collect(sql).await.unwrap();
        assert_eq!(found[0]["sum"].as_primitive::<Int32Type>().value(0), sum);
    }
    // Two readers at once, as in a join with itself.
    let sql = "select count(*) as n from aside a join aside b on a.n = b.n";
    let found = sessions[0].collect(sql).await.unwrap();
    assert_eq!(found[0]["n"].as_primitive::<arrow::datatypes::Int64Type>().value(0), 2);
}
