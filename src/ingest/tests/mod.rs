//! Whole ingests: lists in, files and catalog out.

mod archives;
mod interruption;
mod lists;
mod partitions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;
use crate::catalog::{Catalog, CatalogOptions, NewPartition, ServerRow};
use crate::model::{RecordState, RecordUrl, ServerName, SkipReason};
use crate::runtime::{Shutdown, StopReason};
use crate::storage::{DatasetLayout, LayoutOptions};

/// A dataset in a folder of its own.
struct Dataset {
    folder: tempfile::TempDir,
    catalog: Catalog,
}

impl Dataset {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog =
            Catalog::create(&folder.path().join("catalog.redb"), &CatalogOptions::default()).unwrap();
        Self { folder, catalog }
    }

    fn layout(&self) -> DatasetLayout {
        DatasetLayout::new(self.folder.path(), LayoutOptions::default())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn ingest(&self, inputs: &[PathBuf], options: &IngestOptions) -> Result<IngestReport, IngestError> {
        ingest(inputs, options, &self.layout(), &self.catalog, &Shutdown::new(), &mut |_| {})
    }

    /// Asks the ingest to stop when its progress is as `at` says.
    fn ingest_stopped(
        &self,
        input: &Path,
        options: &IngestOptions,
        mut at: impl FnMut(IngestProgress) -> bool,
    ) -> Result<IngestReport, IngestError> {
        let shutdown = Shutdown::new();
        let mut progress = |now| {
            if at(now) {
                shutdown.request(StopReason::Terminate);
            }
        };
        ingest(&[input.to_owned()], options, &self.layout(), &self.catalog, &shutdown, &mut progress)
    }

    fn ingest_text(&self, name: &str, text: impl AsRef<[u8]>, options: &IngestOptions) -> IngestReport {
        self.ingest(&[self.write(name, text)], options).unwrap()
    }

    fn partitions(&self) -> Vec<NewPartition> {
        let view = self.catalog.view().unwrap();
        let servers: HashMap<_, _> = view.servers().unwrap().into_iter().map(|row| (row.id, row)).collect();
        let ids = view.server_ids().unwrap();
        let mut partitions = Vec::new();
        view.for_each_partition(|key, row| {
            let server = &servers[&key.server_id];
            let mut members: Vec<ServerName> = ids
                .iter()
                .filter(|&(name, &id)| server.shared && id == key.server_id && *name != server.folder)
                .map(|(name, _)| name.clone())
                .collect();
            members.sort();
            partitions.push(NewPartition {
                folder: server.folder.clone(),
                members,
                partition_id: key.partition_id,
                manifest_files: row.manifest_files,
                states: view.states(key).unwrap().iter().map(|status| status.state).collect(),
                url_keys: view.url_keys(key).unwrap(),
            });
        })
        .unwrap();
        partitions.sort_by(|a, b| (&a.folder, a.partition_id).cmp(&(&b.folder, b.partition_id)));
        partitions
    }

    /// All that the catalog knows, comparable.
    fn state(&self) -> (Vec<ServerRow>, Vec<NewPartition>, Option<arrow::datatypes::Schema>) {
        let view = self.catalog.view().unwrap();
        (view.servers().unwrap(), self.partitions(), view.manifest_schema().unwrap())
    }

    /// The manifest of a partition as its reader sees it.
    fn manifest(&self, partition: &NewPartition) -> RecordBatch {
        let folder = self.layout().manifest_folder(&partition.folder, partition.partition_id);
        let mut batches = Vec::new();
        for file in &partition.manifest_files {
            let file = File::open(folder.join(&file.name)).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            batches.extend(reader.map(Result::unwrap));
        }
        concat_batches(&batches[0].schema(), &batches).unwrap()
    }

    /// All files of the manifest with their bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.layout().urls()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    files.insert(path.strip_prefix(self.folder.path()).unwrap().to_owned(), bytes);
                }
            }
        }
        files
    }
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = rows.column_by_name(column).unwrap_or_else(|| panic!("no column `{column}`"));
    column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

fn small(batch_size: u64) -> IngestOptions {
    IngestOptions { batch_size, threads: 2, ..IngestOptions::default() }
}

/// 6,000 rows of 40 servers, some repeated, with a wide column: more than small memory holds.
fn wide_list() -> String {
    let rows = (0..6000_u64).map(|n| {
        let n = if n % 50 == 0 { n / 2 } else { n };
        format!("http://s{}.org/{n},{}\n", n * n % 40, format!("{n} ").repeat(80))
    });
    format!("url,wide\n{}", rows.collect::<String>())
}

const CORE_META: &str = r#"<core fieldsTerminatedBy="\t" fieldsEnclosedBy="" ignoreHeaderLines="1">
    <files><location>occurrence.txt</location></files><id index="0"/>
    <field index="1" term="http://rs.tdwg.org/dwc/terms/basisOfRecord"/></core>"#;

const U1: &str = "11111111-1111-4111-8111-111111111111";

const U2: &str = "22222222-2222-4222-8222-222222222222";
