//! A small dataset with everything that may occur: made with the catalog and storage as a download does it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;

use crate::catalog::{
    Catalog, CatalogOptions, CompactionReport, IngestRow, ManifestFile, NewPartition, PartReport,
    RecordOutcome, Report, RunRow, ToolPartition, ToolPiece, ToolReport, ToolRow, ToolStage,
};
use crate::model::{
    Epoch, FailureCause, ImageFormat, PartId, PartRow, PartitionKey, PixelSize, RecordState, ServerName,
    SkipReason, UrlKey,
};
use crate::query::{QueryOptions, QuerySession};
use crate::storage::{
    CompactionInput, DatasetLayout, ErrorRow, ImageRow, LayoutOptions, ManifestRecord, PartWriter,
    StorageOptions, TableWriter, compact_partition, finish_partition, verdicts_schema, write_error_part,
};

pub(crate) struct Fixture {
    folder: tempfile::TempDir,
    pub layout: DatasetLayout,
    pub catalog: Catalog,
    /// Bytes of each image.
    image_bytes: usize,
}

/// 2001-09-09T01:46:40Z and a record's number in milliseconds.
const FETCHED_AT: i64 = 1_000_000_000_000;

impl Fixture {
    /// A dataset into which nothing was ingested.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A folder name that every layer of paths must leave alone.
        let layout = DatasetLayout::new(folder.path().join("my data%3A"), LayoutOptions::default());
        std::fs::create_dir_all(layout.root()).unwrap();
        let catalog = Catalog::create(&layout.catalog(), &CatalogOptions::default()).unwrap();
        Self { folder, layout, catalog, image_bytes: 1000 }
    }

    /// ```text
    /// a.example       0 finished: 0, 2, 3 success, 1 failed (404). Its manifest is of an older ingest.
    /// b.example:8080  0 open: part of 0, 1 success and 2 failed (dns); 3, 4 pending; an orphan beside
    /// SHARED-0001     0 open: c.example 0 success, d.example 1 failed (403), 2 pending
    /// (no server)     0 open: 0 skipped (empty URL)
    /// ```
    pub fn full(image_bytes: usize) -> Self {
        let mut fixture = Self { image_bytes, ..Self::empty() };
        fixture.catalog.set_manifest_schema(&manifest_schema(DataType::Int64, true)).unwrap();
        let old = manifest_schema(DataType::Int32, false);
        let new = manifest_schema(DataType::Int64, true);
        let pending = RecordState::Pending;
        let skipped = RecordState::Skipped(SkipReason::EmptyUrl);

        let a = fixture.add_partition("a.example", &[None; 4], pending, &old);
        let b = fixture.add_partition("b.example:8080", &[None; 5], pending, &new);
        let members = [Some("c.example"), Some("d.example"), Some("d.example")];
        let shared = fixture.add_partition("SHARED-0001", &members, pending, &new);
        fixture.add_partition(ServerName::NULL, &[None], skipped, &new);

        // Downloaded in another order than the manifest's.
        fixture.add_part(a, "a.example", 0, &[3, 0], &[]);
        fixture.add_part(a, "a.example", 1, &[2], &[(1, FailureCause::HttpStatus, 404)]);
        fixture.finish(a, "a.example", &[1]);
        fixture.add_part(b, "b.example:8080", 0, &[0, 1], &[(2, FailureCause::Dns, 0)]);
        fixture.add_part(shared, "SHARED-0001", 0, &[0], &[(1, FailureCause::HttpStatus, 403)]);

        let server = ServerName::from_catalog("b.example:8080");
        let orphan = PartId { epoch: Epoch::new(9, 9), sequence: 7 };
        std::fs::copy(
            fixture.layout.success_part(&server, 0, part_id(0)),
            fixture.layout.success_part(&server, 0, orphan),
        )
        .unwrap();
        let run = RunRow {
            kind: "download".into(),
            started_at: 1_000_000_000_000,
            ddl_version: "0.1.0".into(),
            num_ranks: 2,
            node: "n1".into(),
            success: 6,
            ..RunRow::default()
        };
        fixture.catalog.start_run(run).unwrap();
        let ingest = IngestRow { inputs: vec!["list.csv".into()], rows: 13, new: 13, ..IngestRow::default() };
        fixture.catalog.record_ingest(ingest).unwrap();
        fixture
    }

    pub fn session(&self) -> QuerySession {
        let options = QueryOptions { threads: 2, ..QueryOptions::default() };
        QuerySession::open(&self.layout, self.catalog.view().unwrap(), &options).unwrap()
    }

    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn key(&self, folder: &str) -> PartitionKey {
        let servers = self.catalog.view().unwrap().servers().unwrap();
        let server = servers.iter().find(|server| server.folder.as_str() == folder).unwrap();
        PartitionKey { server_id: server.id, partition_id: 0 }
    }

    pub fn add_pending(&mut self, folder: &str, num_records: usize) -> PartitionKey {
        let schema = manifest_schema(DataType::Int64, true);
        self.catalog.set_manifest_schema(&schema).unwrap();
        self.add_partition(folder, &vec![None; num_records], RecordState::Pending, &schema)
    }

    fn add_partition(
        &mut self,
        folder: &str,
        members: &[Option<&str>],
        state: RecordState,
        schema: &Schema,
    ) -> PartitionKey {
        let name = ServerName::from_catalog(folder);
        let records: Vec<_> = members.iter().enumerate().map(|(r, m)| record(folder, r as u32, *m)).collect();
        let path = self.layout.manifest_folder(&name, 0).join("part-0.parquet");
        let bytes = write_manifest(&path, &records, schema);
        let mut shared: Vec<_> = members.iter().flatten().map(|m| ServerName::from_catalog(m)).collect();
        shared.dedup();
        self.catalog
            .add_partitions(&[NewPartition {
                folder: name,
                members: shared,
                partition_id: 0,
                manifest_files: vec![ManifestFile {
                    name: "part-0.parquet".into(),
                    num_records: records.len() as u32,
                    bytes,
                    crc32: 0,
                }],
                states: vec![state; records.len()],
                url_keys: records.iter().map(|r| UrlKey::of_bytes(r.identifier.as_bytes())).collect(),
            }])
            .unwrap();
        self.key(folder)
    }

    pub fn add_part(
        &self,
        key: PartitionKey,
        folder: &str,
        sequence: u32,
        images: &[u32],
        errors: &[(u32, FailureCause, u16)],
    ) {
        self.add_part_with_stale(key, folder, sequence, images, errors, &[]);
    }

    /// `stale` errors are in the file, but no longer the state of their records, as after a retry.
    pub fn add_part_with_stale(
        &self,
        key: PartitionKey,
        folder: &str,
        sequence: u32,
        images: &[u32],
        errors: &[(u32, FailureCause, u16)],
        stale: &[(u32, FailureCause, u16)],
    ) {
        let server = ServerName::from_catalog(folder);
        let part = part_id(sequence);
        let member = |r: u32| match (folder, r) {
            ("SHARED-0001", 0) => Some("c.example"),
            ("SHARED-0001", _) => Some("d.example"),
            _ => None,
        };
        let mut rows: Vec<_> =
            images.iter().map(|&r| image_row(record(folder, r, member(r)), self.image_bytes)).collect();
        let mut writer =
            PartWriter::create(&self.layout.success_part(&server, 0, part), StorageOptions::default())
                .unwrap();
        writer.write_row_group(&mut rows).unwrap();
        let successes = writer.seal().unwrap();
        let error_rows: Vec<_> = errors
            .iter()
            .chain(stale)
            .map(|&(r, cause, status)| ErrorRow {
                record: Arc::new(record(folder, r, member(r))),
                retry_count: 2,
                error_code: if status > 0 { i32::from(status) } else { cause.error_code() },
                error_msg: cause.meaning().into(),
                cause: cause.as_str(),
                http_status: (status > 0).then_some(status),
                fetched_at: FETCHED_AT + i64::from(r),
                rendition_url: None,
            })
            .collect();
        let errors_file = if error_rows.is_empty() {
            Default::default()
        } else {
            write_error_part(
                &self.layout.error_part(&server, 0, part),
                &error_rows,
                StorageOptions::default(),
            )
            .unwrap()
        };
        let succeeded = rows.iter().map(|row| RecordOutcome {
            record: row.record.record,
            state: RecordState::Success.to_byte(),
            http_status: 200,
            retry_count: 0,
        });
        let failed = errors.iter().map(|&(record, cause, http_status)| RecordOutcome {
            record,
            state: RecordState::Failed(cause).to_byte(),
            http_status,
            retry_count: 2,
        });
        let report = PartReport {
            partition: key,
            part: PartRow { part, successes, errors: errors_file },
            outcomes: succeeded.chain(failed).collect(),
            digests: rows.iter().flat_map(|row| row.hashsum_original.as_bytes().to_vec()).collect(),
            digest_bytes: 32,
            image_bytes: rows.iter().map(|row| row.image.len() as u64).sum(),
        };
        self.commit(Report::Part(report));
    }

    /// A tool that has gone through these partitions and removes these records of them.
    pub fn add_tool(&self, tool: &str, verdicts: &[(PartitionKey, &str, &[u32])]) {
        let input = self.session().images_fingerprint();
        let row = ToolRow { stage: ToolStage::Completed, input, ..ToolRow::default() };
        let partition = ToolPartition {
            rank: 0,
            num_images: 3,
            image_bytes: 9,
            first_row: 0,
            num_rows: 1,
            input: 0,
            done: None,
        };
        let partitions: Vec<_> = verdicts.iter().map(|(key, ..)| (*key, partition.clone())).collect();
        self.catalog.schedule_tool(tool, &row, &partitions).unwrap();
        for (counter, &(key, folder, records)) in verdicts.iter().enumerate() {
            let path = self.layout.tool_verdicts(tool, &ServerName::from_catalog(folder), 0);
            let file = write_verdicts(&path, folder, records);
            let epoch = Epoch::new(7, counter as u32);
            let num_removed = records.len() as u64;
            let images = crate::model::DataFile::default();
            let piece = ToolPiece { epoch, rank: 0, num_images: 3, num_removed, verdicts: file, images };
            self.commit(Report::Tool(ToolReport { tool: tool.to_owned(), partition: key, piece }));
        }
    }

    fn commit(&self, report: Report) {
        for answer in self.catalog.commit_reports(&[report]).unwrap() {
            answer.unwrap();
        }
    }

    pub fn finish(&self, key: PartitionKey, folder: &str, failed: &[u32]) {
        let server = ServerName::from_catalog(folder);
        let parts = self.catalog.view().unwrap().partition(key).unwrap().unwrap().parts;
        let output = compact_partition(&CompactionInput {
            layout: &self.layout,
            folder: &server,
            partition_id: 0,
            parts: &parts,
            failed: &failed.iter().copied().collect::<HashSet<_>>(),
            epoch: Epoch::new(1, 1),
            options: StorageOptions::default(),
        })
        .unwrap();
        self.commit(Report::Compacted(CompactionReport {
            partition: key,
            epoch: Epoch::new(1, 1),
            parts: parts.iter().map(|part| part.part).collect(),
            successes: output.successes,
            errors: output.errors,
        }));
        finish_partition(&self.layout, &server, 0).unwrap();
        self.commit(Report::Finished(key));
    }
}

fn write_verdicts(path: &Path, folder: &str, records: &[u32]) -> crate::model::DataFile {
    let text = |value: &dyn Fn(u32) -> Option<String>| -> ArrayRef {
        Arc::new(records.iter().map(|&r| value(r)).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|r| Some(format!("uuid-{folder}-{r}"))),
        Arc::new(records.iter().map(|&r| r as i32).collect::<Int32Array>()),
        text(&|_| Some("remove".into())),
        text(&|r| Some(format!("reason-{r}"))),
        text(&|_| None),
        Arc::new(records.iter().map(|&r| (r == 3).then_some(7)).collect::<Int32Array>()),
        text(&|r| {
            folder.starts_with("SHARED").then(|| (if r == 0 { "c.example" } else { "d.example" }).into())
        }),
    ];
    let mut writer = TableWriter::plain(path, verdicts_schema(), "tool").unwrap();
    writer.write(&RecordBatch::try_new(verdicts_schema(), columns).unwrap()).unwrap();
    writer.seal().unwrap()
}

fn part_id(sequence: u32) -> PartId {
    PartId { epoch: Epoch::new(1, 1), sequence }
}

fn record(folder: &str, record: u32, member: Option<&str>) -> ManifestRecord {
    let server = member.unwrap_or(folder);
    ManifestRecord {
        record,
        uuid: format!("uuid-{server}-{record}"),
        source_id: Some(format!("{}", 100 + record)),
        identifier: format!("http://{server}/{record}.jpg"),
        license: (record == 0).then(|| "CC0".to_owned()),
        source: None,
        title: (record == 1).then(|| "a \"quoted\",\ntitle\u{1b}[31m".to_owned()),
        label: Some("Quercus".into()),
        shared_server_name: member.map(str::to_owned),
    }
}

fn image_row(record: ManifestRecord, bytes: usize) -> ImageRow {
    let seed = u64::from(record.record) + 7;
    let image: Bytes = fastrand::Rng::with_seed(seed).u8(..).to_le_bytes().repeat(bytes).into();
    let number = record.record;
    ImageRow {
        image_format: ImageFormat::Jpeg,
        original_size: PixelSize { height: 480, width: 640 },
        resized_size: PixelSize { height: 240, width: 320 + number },
        perceptual_hash: Some([number as u8; 32]),
        content_type: Some("image/jpeg".into()),
        fetched_at: FETCHED_AT + i64::from(number),
        ..ImageRow::for_test(record, image)
    }
}

/// `year` was narrower once, and `taxonKey` was not carried.
fn manifest_schema(year: DataType, taxon_key: bool) -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut fields: Vec<_> = crate::storage::manifest_core_columns().into_iter().map(text).collect();
    fields.push(Field::new("year", year, true));
    if taxon_key {
        fields.push(text("taxonKey"));
        // A name of ours.
        fields.push(text("cause"));
    }
    fields.push(Field::new("record", DataType::Int32, true));
    fields.push(text("shared_server_name"));
    Schema::new(fields)
}

fn write_manifest(path: &Path, records: &[ManifestRecord], schema: &Schema) -> u64 {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = |value: fn(&ManifestRecord) -> Option<&str>| -> ArrayRef {
        Arc::new(records.iter().map(value).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match (field.name().as_str(), field.data_type()) {
            ("uuid", _) => text(|r| Some(&r.uuid)),
            ("source_id", _) => text(|r| r.source_id.as_deref()),
            ("identifier", _) => text(|r| Some(&r.identifier)),
            ("license", _) => text(|r| r.license.as_deref()),
            ("title", _) => text(|r| r.title.as_deref()),
            ("label", _) => text(|r| r.label.as_deref()),
            ("shared_server_name", _) => text(|r| r.shared_server_name.as_deref()),
            ("taxonKey", _) => text(|_| Some("2877951")),
            ("cause", _) => text(|_| Some("weather")),
            ("year", DataType::Int32) => {
                Arc::new(Int32Array::from_iter_values(records.iter().map(|r| 1900 + r.record as i32)))
            }
            ("year", _) => {
                Arc::new(Int64Array::from_iter_values(records.iter().map(|r| 1900 + i64::from(r.record))))
            }
            ("record", _) => Arc::new(Int32Array::from_iter_values(records.iter().map(|r| r.record as i32))),
            _ => text(|_| None),
        })
        .collect();
    let schema = Arc::new(schema.clone());
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    std::fs::metadata(path).unwrap().len()
}
