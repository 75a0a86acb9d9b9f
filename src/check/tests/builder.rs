//! Builds small datasets as ingest and download do: manifest, parts, reports, compaction, marker.
//!
//! What is to be damaged before its commit is built by the calls that return it (`new_partition`, `new_part`),
//! changed, and handed to `add` or `commit`; `tamper` changes the catalog's bytes behind its back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use redb::TableDefinition;

use crate::catalog::{
    Catalog, CatalogOptions, CatalogReader, CompactionReport, ManifestFile, NewPartition, PartReport,
    PartitionRow, RecordOutcome, Report, RunRow,
};
use crate::check::{CheckError, CheckOptions, CheckReport, RepairReport, check_dataset, repair_dataset};
use crate::model::{
    DataFile, Epoch, FailureCause, HashAlgorithm, PartId, PartRow, PartitionKey, RecordIndex, RecordState,
    RecordUrl, ServerId, ServerName, UrlKey,
};
use crate::storage::{
    Checksum, CompactionInput, DatasetLayout, ErrorRow, HASH_ALGORITHM_KEY, ImageRow, LayoutOptions,
    ManifestRecord, PartWriter, StorageOptions, compact_partition, finish_partition, write_error_part,
};

pub(super) const PENDING: RecordState = RecordState::Pending;
pub(super) const FAILED: RecordState = RecordState::Failed(FailureCause::HttpStatus);

const EPOCH: Epoch = Epoch(1 << 32 | 1);
const STORAGE: StorageOptions = StorageOptions { hash_algorithm: HashAlgorithm::Blake3, raw_pixels: false };

/// Which rows of the two files of a part, and what its report says became of records.
#[derive(Clone, Copy, Default)]
pub(super) struct PartPlan<'a> {
    pub successes: &'a [RecordIndex],
    pub errors: &'a [RecordIndex],
    /// Empty: the successes are successes, the errors failures.
    pub outcomes: &'a [(RecordIndex, RecordState)],
}

pub(super) struct TestDataset {
    pub layout: DatasetLayout,
    catalog: Option<Catalog>,
    folders: HashMap<PartitionKey, ServerName>,
    records: HashMap<PartitionKey, Vec<Arc<ManifestRecord>>>,
    parts: BTreeMap<PartitionKey, Vec<PartRow>>,
    _folder: tempfile::TempDir,
}

impl TestDataset {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path(), LayoutOptions::default());
        let catalog = Catalog::create(&layout.catalog(), &catalog_options()).unwrap();
        assert_eq!(catalog.start_run(RunRow::default()).unwrap(), EPOCH.run());
        Self {
            catalog: Some(catalog),
            layout,
            folders: HashMap::new(),
            records: HashMap::new(),
            parts: BTreeMap::new(),
            _folder: folder,
        }
    }

    /// Writes the manifest of a partition, two records to a file.
    pub(super) fn new_partition(
        &mut self,
        folder: &str,
        members: &[&str],
        partition_id: u32,
        states: &[RecordState],
    ) -> NewPartition {
        let name = ServerName::from_catalog(folder);
        let records: Vec<_> = (0..states.len() as RecordIndex)
            .map(|record| {
                let server =
                    if members.is_empty() { folder } else { members[record as usize % members.len()] };
                Arc::new(manifest_record(server, partition_id, record, !members.is_empty()))
            })
            .collect();
        let manifest_folder = self.layout.manifest_folder(&name, partition_id);
        let manifest_files = records
            .chunks(2)
            .enumerate()
            .map(|(number, records)| write_manifest(&manifest_folder, number, records))
            .collect();
        let url_keys = records.iter().map(|record| UrlKey::of_bytes(record.identifier.as_bytes())).collect();
        let new = NewPartition {
            folder: name,
            members: members.iter().map(|name| ServerName::from_catalog(name)).collect(),
            partition_id,
            manifest_files,
            states: states.to_vec(),
            url_keys,
        };
        // The catalog numbers its folders in order of their first partition.
        let key = PartitionKey { server_id: self.server_id(&new.folder), partition_id };
        self.folders.insert(key, new.folder.clone());
        self.records.insert(key, records);
        new
    }

    fn server_id(&self, folder: &ServerName) -> ServerId {
        let known = self.folders.iter().find(|(_, name)| *name == folder).map(|(key, _)| key.server_id);
        let next = self.folders.keys().map(|key| key.server_id.0 + 1).max().unwrap_or(0);
        known.unwrap_or(ServerId(next))
    }

    /// Commits a partition.
    pub(super) fn add(&mut self, new: &NewPartition) -> PartitionKey {
        self.catalog().add_partitions(std::slice::from_ref(new)).unwrap();
        PartitionKey { server_id: self.server_id(&new.folder), partition_id: new.partition_id }
    }

    /// Adds a partition of one server, as ingest does.
    pub(super) fn partition(
        &mut self,
        server: &str,
        partition_id: u32,
        states: &[RecordState],
    ) -> PartitionKey {
        let new = self.new_partition(server, &[], partition_id, states);
        self.add(&new)
    }

    /// Writes the files of a partition's next part.
    pub(super) fn new_part(&mut self, key: PartitionKey, plan: &PartPlan<'_>) -> PartReport {
        let rows: Vec<_> = plan.successes.iter().map(|&record| self.image_row(key, record)).collect();
        self.new_part_of(key, rows, plan)
    }

    /// The same with other images.
    pub(super) fn new_part_of(
        &mut self,
        key: PartitionKey,
        mut rows: Vec<ImageRow>,
        plan: &PartPlan<'_>,
    ) -> PartReport {
        let sequence = self.parts.get(&key).map_or(0, |parts| parts.len() as u32);
        let part = PartId { epoch: EPOCH, sequence };
        let folder = self.folders[&key].clone();
        let mut successes = DataFile::default();
        if !rows.is_empty() {
            let path = self.layout.success_part(&folder, key.partition_id, part);
            let mut writer = PartWriter::create(&path, STORAGE).unwrap();
            rows.chunks_mut(2).for_each(|group| writer.write_row_group(group).unwrap());
            successes = writer.seal().unwrap();
        }
        let mut errors = DataFile::default();
        if !plan.errors.is_empty() {
            let path = self.layout.error_part(&folder, key.partition_id, part);
            let state_of = |record| {
                let outcome = plan.outcomes.iter().find(|(known, _)| *known == record);
                outcome.map_or(FAILED, |(_, state)| *state)
            };
            let rows: Vec<_> =
                plan.errors.iter().map(|&record| self.error_row(key, record, state_of(record))).collect();
            errors = write_error_part(&path, &rows, STORAGE).unwrap();
        }
        let usual = plan.successes.iter().map(|&record| (record, RecordState::Success));
        let usual = usual.chain(plan.errors.iter().map(|&record| (record, FAILED)));
        let outcomes: Vec<_> =
            if plan.outcomes.is_empty() { usual.collect() } else { plan.outcomes.to_vec() };
        let is_success = |(_, state): &&(RecordIndex, RecordState)| *state == RecordState::Success;
        let digests = outcomes
            .iter()
            .filter(is_success)
            .flat_map(|&(record, _)| self.image_row(key, record).hashsum_original.as_bytes().to_vec())
            .collect();
        let row = PartRow { part, successes, errors };
        self.parts.entry(key).or_default().push(row);
        PartReport {
            partition: key,
            part: row,
            outcomes: outcomes
                .iter()
                .map(|&(record, state)| RecordOutcome {
                    record,
                    state: state.to_byte(),
                    http_status: 404,
                    retry_count: 0,
                })
                .collect(),
            digests,
            digest_bytes: 32,
            image_bytes: rows.iter().map(|row| row.image.len() as u64).sum(),
        }
    }

    /// Commits a report that the catalog must accept.
    pub(super) fn commit(&self, report: Report) {
        self.catalog().commit_reports(&[report]).unwrap()[0].clone().unwrap();
    }

    /// Writes and commits a part of these successes and failures.
    pub(super) fn part(&mut self, key: PartitionKey, successes: &[RecordIndex], errors: &[RecordIndex]) {
        let report = self.new_part(key, &PartPlan { successes, errors, outcomes: &[] });
        self.commit(Report::Part(report));
    }

    /// Compacts a partition; the parts stay. `failed` are the records whose errors are kept.
    pub(super) fn compact(&self, key: PartitionKey, failed: &[RecordIndex]) {
        let parts = self.parts.get(&key).cloned().unwrap_or_default();
        let failed: HashSet<_> = failed.iter().copied().collect();
        let output = compact_partition(&CompactionInput {
            layout: &self.layout,
            folder: &self.folders[&key],
            partition_id: key.partition_id,
            parts: &parts,
            failed: &failed,
            epoch: EPOCH,
            options: STORAGE,
        })
        .unwrap();
        self.commit(Report::Compacted(CompactionReport {
            partition: key,
            epoch: EPOCH,
            parts: parts.iter().map(|part| part.part).collect(),
            successes: output.successes,
            errors: output.errors,
        }));
    }

    /// Compacts and finishes a partition.
    pub(super) fn finish(&self, key: PartitionKey, failed: &[RecordIndex]) {
        self.compact(key, failed);
        finish_partition(&self.layout, &self.folders[&key], key.partition_id).unwrap();
        self.commit(Report::Finished(key));
    }

    pub(super) fn record(&self, key: PartitionKey, record: RecordIndex) -> Arc<ManifestRecord> {
        self.records[&key][record as usize].clone()
    }

    /// A picture that differs from record to record, not from partition to partition.
    pub(super) fn image_row(&self, key: PartitionKey, record: RecordIndex) -> ImageRow {
        ImageRow::for_test(self.record(key, record), png(record as u8))
    }

    fn error_row(&self, key: PartitionKey, record: RecordIndex, state: RecordState) -> ErrorRow {
        let http_status = (state == FAILED).then_some(404);
        ErrorRow {
            record: self.record(key, record),
            retry_count: 0,
            error_code: http_status.map_or(-2, i32::from),
            error_msg: "not found".into(),
            cause: state.cause().unwrap_or(FailureCause::HttpStatus.as_str()),
            http_status,
            fetched_at: 0,
            rendition_url: None,
        }
    }

    pub(super) fn images_folder(&self, key: PartitionKey) -> PathBuf {
        self.layout.images_folder(&self.folders[&key], key.partition_id)
    }

    pub(super) fn manifest_file(&self, key: PartitionKey, number: usize) -> PathBuf {
        let folder = self.layout.manifest_folder(&self.folders[&key], key.partition_id);
        folder.join(format!("part-{number:04}.parquet"))
    }

    pub(super) fn success_part(&self, key: PartitionKey, number: usize) -> PathBuf {
        let part = self.parts[&key][number].part;
        self.layout.success_part(&self.folders[&key], key.partition_id, part)
    }

    pub(super) fn error_part(&self, key: PartitionKey, number: usize) -> PathBuf {
        let part = self.parts[&key][number].part;
        self.layout.error_part(&self.folders[&key], key.partition_id, part)
    }

    pub(super) fn catalog(&self) -> &Catalog {
        self.catalog.as_ref().unwrap()
    }

    pub(super) fn check(&self, options: CheckOptions) -> CheckReport {
        check_dataset(&self.layout, &|| self.catalog().view(), options, &|_| {}).unwrap()
    }

    pub(super) fn check_light(&self) -> CheckReport {
        self.check(CheckOptions { threads: 1, ..CheckOptions::default() })
    }

    pub(super) fn check_deep(&self) -> CheckReport {
        self.check(CheckOptions { deep: true, threads: 1, ..CheckOptions::default() })
    }

    pub(super) fn repair(&self) -> Result<RepairReport, CheckError> {
        repair_dataset(&self.layout, self.catalog(), false)
    }

    /// Checks as a process does that only reads.
    pub(super) fn check_by_reader(mut self) -> CheckReport {
        self.catalog = None;
        let reader = CatalogReader::open(&self.layout.catalog(), &catalog_options()).unwrap();
        check_dataset(&self.layout, &|| reader.view(), CheckOptions::default(), &|_| {}).unwrap()
    }

    /// Changes the catalog's tables behind its back.
    pub(super) fn tamper(&mut self, change: impl FnOnce(&redb::WriteTransaction)) {
        self.catalog = None;
        {
            let db = redb::Builder::new()
                .set_concurrency_mode(redb::ConcurrencyMode::SingleWriter)
                .create(self.layout.catalog())
                .unwrap();
            let txn = db.begin_write().unwrap();
            change(&txn);
            txn.commit().unwrap();
        }
        self.catalog = Some(Catalog::open(&self.layout.catalog(), &catalog_options()).unwrap());
    }

    /// Changes a partition's row.
    pub(super) fn tamper_row(&mut self, key: PartitionKey, change: impl FnOnce(&mut PartitionRow)) {
        let mut row = self.catalog().view().unwrap().partition(key).unwrap().unwrap();
        change(&mut row);
        let value = postcard::to_extend(&row, vec![1]).unwrap();
        self.tamper(|txn| {
            let table: TableDefinition<(u32, u32), &[u8]> = TableDefinition::new("partitions-1");
            let key = (key.server_id.0, key.partition_id);
            txn.open_table(table).unwrap().insert(key, value.as_slice()).unwrap();
        });
    }
}

fn catalog_options() -> CatalogOptions {
    CatalogOptions { cache_bytes: 1 << 20, ..CatalogOptions::default() }
}

fn manifest_record(server: &str, partition_id: u32, record: RecordIndex, is_shared: bool) -> ManifestRecord {
    let identifier = format!("https://{server}/{partition_id}/{record}.png");
    let uuid = RecordUrl::parse(&identifier, 8192).unwrap().uuid().to_string();
    ManifestRecord {
        record,
        uuid,
        source_id: None,
        identifier,
        license: None,
        source: None,
        title: None,
        label: None,
        shared_server_name: is_shared.then(|| server.to_owned()),
    }
}

pub(super) fn write_manifest(folder: &Path, number: usize, records: &[Arc<ManifestRecord>]) -> ManifestFile {
    let text = |value: fn(&ManifestRecord) -> Option<&str>| -> ArrayRef {
        Arc::new(records.iter().map(|record| value(record)).collect::<StringArray>())
    };
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("uuid", text(|record| Some(&record.uuid)), true),
        ("source_id", text(|record| record.source_id.as_deref()), true),
        ("identifier", text(|record| Some(&record.identifier)), true),
        ("license", text(|record| record.license.as_deref()), true),
        ("source", text(|record| record.source.as_deref()), true),
        ("title", text(|record| record.title.as_deref()), true),
        ("label", text(|record| record.label.as_deref()), true),
        ("record", Arc::new(records.iter().map(|record| record.record as i32).collect::<Int32Array>()), true),
        ("shared_server_name", text(|record| record.shared_server_name.as_deref()), true),
    ])
    .unwrap();
    let name = format!("part-{number:04}.parquet");
    let DataFile { bytes, crc32, .. } = write_parquet(&folder.join(&name), &batch);
    ManifestFile { name, num_records: records.len() as u32, bytes, crc32 }
}

/// Writes a file as no part of ddl does: in place, and without its hash algorithm.
pub(super) fn write_parquet(path: &Path, batch: &RecordBatch) -> DataFile {
    write_with(path, batch, None)
}

/// The same, but naming the hash algorithm.
pub(super) fn write_parquet_with_algorithm(path: &Path, batch: &RecordBatch) -> DataFile {
    let fact = KeyValue::new(HASH_ALGORITHM_KEY.into(), STORAGE.hash_algorithm.as_str().to_owned());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![fact])).build();
    write_with(path, batch, Some(properties))
}

fn write_with(path: &Path, batch: &RecordBatch, properties: Option<WriterProperties>) -> DataFile {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), properties).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    Checksum::of(&fs::read(path).unwrap()).file_of(batch.num_rows() as u64)
}

pub(super) fn read_parquet(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

fn png(seed: u8) -> Bytes {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(2, 3, |x, y| image::Rgb([seed, x as u8, y as u8]));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner().into()
}
