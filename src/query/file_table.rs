//! A table made of the Parquet files that the catalog names.
//!
//! Beside the files' own columns it has hidden ones, named `ddl:...`: constants of each file, from which
//! the views make what users see and pruning tells which files a query can do without.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result, ScalarValue, Statistics, project_schema};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::object_store::path::Path as ObjectPath;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use parquet::arrow::RowNumber;

use super::dataset::{Dataset, FileKind, NamedFile};
use super::prune;
use super::reader::{DatasetReaders, FileId};
use crate::storage::{errors_schema, successes_schema, verdicts_schema};

/// Hidden columns.
pub(super) mod hidden {
    /// What all their names begin with.
    pub const PREFIX: &str = "ddl:";
    /// Position of the partition in [`super::Dataset::partitions`].
    pub const PARTITION: &str = "ddl:partition";
    /// The value of the `server_name=` folder: the server, or the folder that small servers share.
    pub const FOLDER: &str = "ddl:folder";
    pub const PARTITION_ID: &str = "ddl:partition_id";
    /// Position of the file among its partition's.
    pub const PART: &str = "ddl:part";
    /// Path of the file, relative to the dataset.
    pub const FILE: &str = "ddl:file";
    /// Position of the row in its file, from 0.
    pub const ROW: &str = "ddl:row";
}

#[derive(Debug)]
pub(super) struct FileTable {
    dataset: Arc<Dataset>,
    kind: FileKind,
    schema: TableSchema,
}

impl FileTable {
    /// `manifest` are the columns of the manifest, which each dataset has its own of.
    pub fn new(dataset: Arc<Dataset>, kind: FileKind, manifest: &Schema) -> Self {
        let file_schema = match kind {
            FileKind::Urls => {
                let fields: Vec<_> = manifest
                    .fields()
                    .iter()
                    .filter(|f| !f.name().starts_with(hidden::PREFIX))
                    .cloned()
                    .collect();
                Arc::new(Schema::new(fields))
            }
            FileKind::Images => successes_schema(),
            FileKind::Errors => errors_schema(),
            FileKind::Verdicts(_) => verdicts_schema(),
        };
        let constants: Fields = [
            Field::new(hidden::PARTITION, DataType::Int32, false),
            Field::new(hidden::FOLDER, DataType::Utf8, true),
            Field::new(hidden::PARTITION_ID, DataType::Int32, false),
            Field::new(hidden::PART, DataType::Int32, false),
            Field::new(hidden::FILE, DataType::Utf8, false),
        ]
        .into_iter()
        .collect();
        let row = Field::new(hidden::ROW, DataType::Int64, false).with_extension_type(RowNumber);
        let schema = TableSchema::builder(file_schema)
            .with_table_partition_cols(constants)
            .with_virtual_columns(Fields::from(vec![row]))
            .build();
        Self { dataset, kind, schema }
    }

    fn partitioned_file(&self, partition: usize, file: &NamedFile) -> Result<PartitionedFile> {
        let place = &self.dataset.partitions[partition];
        let relative = file.path.strip_prefix(self.dataset.layout.root()).unwrap_or(&file.path);
        // The file may be gone already, so only what it lies in is resolved.
        let location = ObjectPath::from_absolute_path(self.dataset.real_root.join(relative))
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let id = FileId { kind: self.kind, partition, part: file.part };
        let mut scanned = PartitionedFile::new(String::new(), file.bytes).with_extension(id);
        scanned.object_meta.location = location;
        Ok(scanned.with_partition_values(vec![
            ScalarValue::Int32(Some(partition as i32)),
            ScalarValue::Utf8(place.folder_value().map(str::to_owned)),
            ScalarValue::Int32(Some(place.key.partition_id as i32)),
            ScalarValue::Int32(Some(file.part)),
            ScalarValue::Utf8(Some(relative.to_string_lossy().into_owned())),
        ]))
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        self.schema.table_schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| {
                if prune::is_settled_by_folder(filter) {
                    TableProviderFilterPushDown::Exact
                } else {
                    TableProviderFilterPushDown::Inexact
                }
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut files = Vec::new();
        let mut num_rows = 0;
        for partition in prune::partitions(&self.dataset, state, filters)? {
            for file in self.dataset.files(self.kind, partition) {
                num_rows += file.num_rows as usize;
                files.push(self.partitioned_file(partition, &file)?);
            }
        }
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema(), projection)?)));
        }
        let mut options = state.table_options().parquet.clone();
        // One image by uuid then reads 1.8 MB of a large file instead of 30 MB; for the narrow rows
        // of the manifest it only costs.
        options.global.pushdown_filters = self.kind != FileKind::Urls;
        // No file of ours has them, and looking for them costs a second reader.
        options.global.bloom_filter_on_read = false;
        let source = ParquetSource::new(self.schema.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(DatasetReaders(self.dataset.clone())));
        // The catalog knows the number of rows, so `count(*)` opens no file.
        let mut statistics = Statistics::new_unknown(&self.schema());
        statistics.num_rows = Precision::Exact(num_rows);
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(cut_by_bytes(files, state.config().target_partitions()))
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Cuts the files, in order, into at most `groups` runs of about equal bytes.
fn cut_by_bytes(files: Vec<PartitionedFile>, groups: usize) -> Vec<FileGroup> {
    let total: u64 = files.iter().map(|file| file.object_meta.size).sum();
    let share = total.div_ceil(groups.max(1) as u64).max(1);
    let mut runs: Vec<Vec<PartitionedFile>> = vec![Vec::new(); groups.max(1)];
    let mut before = 0;
    for file in files {
        let run = (before / share) as usize;
        before += file.object_meta.size;
        runs[run.min(groups.saturating_sub(1))].push(file);
    }
    runs.retain(|run| !run.is_empty());
    runs.into_iter().map(FileGroup::new).collect()
}
