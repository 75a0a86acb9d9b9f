//! One consistent state of a dataset, open for SQL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt;

use super::dataset::{Dataset, FileKind};
use super::error::explain;
use super::spill::SpillFolder;
use super::statement::{MixedCase, check_condition, mixed_case, parse, reads_images, refuse_writes};
use super::{QueryError, QueryOptions, StoredImages, memory_tables, views};
use crate::catalog::{CatalogView, PartitionRow, ToolStage, images_fingerprint};
use crate::model::{PartitionKey, ServerName};
use crate::storage::DatasetLayout;

/// Rows that a query with image bytes works on at a time: at half a megabyte each, 16 MiB. The usual 8,192
/// would be gigabytes, and more than a column of binary can hold.
const ROWS_WITH_IMAGES: usize = 32;

/// Name and meaning of each table, in the order in which they are listed.
const TABLES: [(&str, &str); 9] = [
    ("urls", "every ingested record and what became of it"),
    ("images", "every downloaded image with its record; `file` and `row` say where it is stored"),
    ("errors", "the last word on every record that failed"),
    ("servers", "sums per server (or per folder that small servers share)"),
    ("partitions", "how far each partition is"),
    ("runs", "every run of `ddl download`, `ddl retry`, `ddl tool` and `ddl retract`"),
    ("ingests", "every run of `ddl ingest`"),
    ("tools", "how far each tool is, and how many images it removes"),
    ("verdicts", "what all tools say of single images; `tool_NAME` has those of one"),
];
const TOOL_DOC: &str = "what the tool says of single images";

/// SQL over one dataset, as one view of the catalog has it.
pub struct QuerySession {
    context: SessionContext,
    dataset: Arc<Dataset>,
    /// Names and meanings of the tables.
    tables: Vec<(String, &'static str)>,
    mixed_case: MixedCase,
    temp_folder: PathBuf,
    manifest: Schema,
}

/// How a tool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToolState {
    pub is_completed: bool,
    /// Whether it ran over the images that there are now.
    pub is_current: bool,
}

/// A table, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    pub name: String,
    pub columns: Vec<ColumnInfo>,
    /// One line.
    pub doc: &'static str,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    pub name: String,
    /// The Arrow type as text, such as `Utf8` or `Int32`.
    pub data_type: String,
}

impl QuerySession {
    /// Opens the dataset at `layout` as `view` has it. While the session lives, the catalog keeps the pages
    /// of that view: a long-lived prompt should open a fresh session now and then.
    ///
    /// # Errors
    /// When the catalog cannot be read, or the folder for spilling cannot be used.
    pub fn open(
        layout: &DatasetLayout,
        view: CatalogView,
        options: &QueryOptions,
    ) -> Result<Self, QueryError> {
        Self::open_from(layout, view, options, None)
    }

    /// As [`QuerySession::open`]; with a tool's name, `images` are the images that it has made.
    ///
    /// # Errors
    /// As [`QuerySession::open`], and `NoImages` when the tool has made none.
    pub fn open_from(
        layout: &DatasetLayout,
        view: CatalogView,
        options: &QueryOptions,
        from: Option<&str>,
    ) -> Result<Self, QueryError> {
        let manifest = view.manifest_schema()?.unwrap_or_else(empty_manifest);
        let (runs, ingests) = (view.runs()?, view.ingests()?);
        let dataset = Arc::new(Dataset::open(layout.clone(), view, from)?);
        if let Some(tool) = from.filter(|_| !dataset.has_images_of_tool()) {
            return Err(QueryError::NoImages { tool: tool.to_owned() });
        }
        let temp_folder = options.temp_folder.clone().unwrap_or_else(|| layout.tmp());
        let context = context(&temp_folder, options).map_err(|error| explain(&error, &[]))?;
        let register = || -> Result<MixedCase, DataFusionError> {
            let tables: [Arc<dyn TableProvider>; 9] = [
                Arc::new(views::urls(&dataset, &manifest)?),
                Arc::new(views::images(&dataset)?),
                Arc::new(views::errors(&dataset)?),
                Arc::new(memory_tables::servers(&dataset)?),
                Arc::new(memory_tables::partitions(&dataset)?),
                Arc::new(memory_tables::runs(&runs)?),
                Arc::new(memory_tables::ingests(&ingests)?),
                Arc::new(memory_tables::tools(&dataset)?),
                Arc::new(views::verdicts(&dataset)?),
            ];
            let mut columns = Vec::new();
            for ((name, _), table) in TABLES.into_iter().zip(tables) {
                columns.extend(table.schema().fields().iter().map(|field| field.name().clone()));
                context.register_table(name, table)?;
            }
            for (position, tool) in dataset.tools.iter().enumerate() {
                context.register_table(tool_table(&tool.name), Arc::new(views::tool(&dataset, position)?))?;
            }
            Ok(mixed_case(&columns))
        };
        let mixed_case = register().map_err(|error| explain(&error, &[]))?;
        let mut tables: Vec<_> = TABLES.iter().map(|&(name, doc)| (name.to_owned(), doc)).collect();
        tables.extend(dataset.tools.iter().map(|tool| (tool_table(&tool.name), TOOL_DOC)));
        Ok(Self { context, dataset, tables, mixed_case, manifest, temp_folder })
    }

    /// The tables there are.
    ///
    /// # Errors
    /// None that a user can cause.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, QueryError> {
        let mut tables = Vec::new();
        for (name, doc) in &self.tables {
            let table =
                self.context.table_provider(name.as_str()).await.map_err(|error| self.explain(&error))?;
            let columns = table
                .schema()
                .fields()
                .iter()
                .map(|field| ColumnInfo {
                    name: field.name().clone(),
                    data_type: field.data_type().to_string(),
                })
                .collect();
            tables.push(TableInfo { name: name.clone(), columns, doc });
        }
        Ok(tables)
    }

    /// Runs one statement and returns its rows as they come.
    ///
    /// # Errors
    /// When the text is not one statement that reads, or names what is not there.
    pub async fn stream(&self, sql: &str) -> Result<RowStream, QueryError> {
        self.run(self.sql(sql).await?).await
    }

    /// As [`QuerySession::stream`], for a sort that may be far larger than memory.
    ///
    /// Threads that each sort a share can fill the memory together and leave none to merge what they have sorted: the
    /// statement then fails, where one sort of all would have spilled.
    pub(crate) async fn stream_sorted(&self, sql: &str) -> Result<RowStream, QueryError> {
        let (mut state, plan) = self.sql(sql).await?.into_parts();
        state.config_mut().options_mut().optimizer.repartition_sorts = false;
        self.run(DataFrame::new(state, plan)).await
    }

    async fn run(&self, frame: DataFrame) -> Result<RowStream, QueryError> {
        self.dataset.take_fault();
        let is_plan = matches!(frame.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
        let stream = frame.execute_stream().await.map_err(|error| self.explain(&error))?;
        Ok(RowStream { stream, is_plan, dataset: self.dataset.clone() })
    }

    /// Runs one statement and returns all its rows: for results that are known to be small.
    ///
    /// # Errors
    /// As [`QuerySession::stream`] and [`RowStream::next`].
    pub async fn collect(&self, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
        let mut rows = self.stream(sql).await?;
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The statement as a plan that can be worked on further.
    ///
    /// # Errors
    /// As [`QuerySession::stream`].
    pub async fn sql(&self, sql: &str) -> Result<DataFrame, QueryError> {
        let statement = parse(sql, &self.mixed_case)?;
        let mut state = self.context.state();
        let plan = state.statement_to_plan(statement).await.map_err(|error| self.explain(&error))?;
        refuse_writes(&plan)?;
        if self.touches_images(&state, &plan)? {
            *state.config_mut() = state.config().clone().with_batch_size(ROWS_WITH_IMAGES);
        }
        Ok(DataFrame::new(state, plan))
    }

    /// How a tool stands; `None` when it never ran.
    pub(crate) fn tool_state(&self, name: &str) -> Option<ToolState> {
        let tool = self.dataset.tools.iter().find(|tool| tool.name == name)?;
        Some(ToolState {
            is_completed: tool.row.stage == ToolStage::Completed,
            is_current: tool.row.input == self.images_fingerprint(),
        })
    }

    /// The same as long as no file of downloaded images is another.
    pub(crate) fn images_fingerprint(&self) -> u64 {
        images_fingerprint(self.dataset.partitions.iter().map(|partition| (partition.key, &partition.row)))
    }

    /// Images in all.
    pub(crate) fn num_images(&self) -> u64 {
        self.dataset.partitions.iter().map(|partition| partition.row.counts.success).sum()
    }

    /// Partitions with their folders, in the order of the dataset: the position of each is its `ddl:partition` in what
    /// [`QuerySession::register_ordered`] registers.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (PartitionKey, &ServerName, &PartitionRow)> {
        self.dataset.partitions.iter().map(|partition| (partition.key, &partition.folder, &partition.row))
    }

    /// The files of a partition's images, with their rows.
    pub(crate) fn image_files(&self, partition: usize) -> Vec<(PathBuf, u64)> {
        let files = self.dataset.files(FileKind::Images, partition);
        files.into_iter().map(|file| (file.path, file.num_rows)).collect()
    }

    /// Reads single images.
    pub(crate) fn stored_images(&self) -> StoredImages {
        StoredImages::new(self.dataset.clone())
    }

    /// Where the dataset is.
    #[must_use]
    pub fn layout(&self) -> &DatasetLayout {
        &self.dataset.layout
    }

    /// Where what does not fit into memory is put.
    pub(crate) fn temp_folder(&self) -> &Path {
        &self.temp_folder
    }

    /// The engine, with all tables registered, for plans that SQL is not the best words for.
    #[must_use]
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// What an error of the engine means.
    #[must_use]
    pub fn explain(&self, error: &DataFusionError) -> QueryError {
        explain_with(&self.dataset, error)
    }

    /// Checks that a text is a condition and nothing else.
    ///
    /// # Errors
    /// When it is not one whole expression. Whether its columns exist, the query tells that has it.
    pub fn check_condition(&self, sql: &str) -> Result<(), QueryError> {
        check_condition(sql)
    }

    /// Registers `ordered_images`, `ordered_urls` and `ordered_verdicts`: the tables of these names with the hidden
    /// position of the partition, `ddl:partition`, for what goes through the dataset in order.
    pub(crate) fn register_ordered(&self) -> Result<(), QueryError> {
        let register = || {
            if self.context.table_exist("ordered_images")? {
                return Ok(());
            }
            let tables: [(&str, Arc<dyn TableProvider>); 3] = [
                ("ordered_images", Arc::new(views::ordered_images(&self.dataset)?)),
                ("ordered_urls", Arc::new(views::ordered_urls(&self.dataset, &self.manifest)?)),
                ("ordered_verdicts", Arc::new(views::ordered_verdicts(&self.dataset)?)),
            ];
            for (name, table) in tables {
                self.context.register_table(name, table)?;
            }
            Ok(())
        };
        register().map_err(|error| self.explain(&error))
    }

    /// The dataset in runs of whole partitions (first, last), each with no more images than that unless one
    /// partition alone has; at least one run, if only for the names of the columns.
    pub(crate) fn image_slices(&self, max_images: u64) -> Vec<(usize, usize)> {
        slices(self.dataset.partitions.iter().map(|partition| partition.row.counts.success), max_images)
    }

    /// The partition at this hidden position.
    pub(crate) fn partition_key(&self, position: usize) -> Option<PartitionKey> {
        self.dataset.partitions.get(position).map(|partition| partition.key)
    }

    /// Registers a table whose rows come from elsewhere; `rows` begins with the first each time that it is called.
    pub(crate) fn register_rows(
        &self,
        name: &str,
        schema: SchemaRef,
        rows: RowSource,
    ) -> Result<(), QueryError> {
        let register = || {
            let rows = ForeignRows { schema: schema.clone(), rows };
            let table = StreamingTable::try_new(schema, vec![Arc::new(rows)])?;
            self.context.register_table(name, Arc::new(table))?;
            Ok(())
        };
        register().map_err(|error| self.explain(&error))
    }

    fn touches_images(
        &self,
        state: &datafusion::execution::SessionState,
        plan: &LogicalPlan,
    ) -> Result<bool, QueryError> {
        // Which columns a scan reads is known only after optimising.
        let explained = match plan {
            LogicalPlan::Analyze(analyze) => analyze.input.as_ref(),
            LogicalPlan::Explain(explain) => explain.plan.as_ref(),
            plan => plan,
        };
        let optimized = state.optimize(explained).map_err(|error| self.explain(&error))?;
        Ok(reads_images(&optimized))
    }
}

fn slices(images: impl Iterator<Item = u64>, slice_images: u64) -> Vec<(usize, usize)> {
    let mut slices = vec![(0, 0)];
    let mut in_slice = 0;
    for (partition, images) in images.enumerate() {
        if images > 0 && in_slice > 0 && in_slice + images > slice_images {
            slices.push((partition, partition));
            in_slice = 0;
        }
        in_slice += images;
        if let Some((_, last)) = slices.last_mut() {
            *last = partition;
        }
    }
    slices
}

/// Rows from elsewhere, from the first on. An error's text says what could not be read.
pub(crate) type RowSource = Box<dyn Fn() -> ForeignBatches + Send + Sync>;

/// What a [`RowSource`] gives.
pub(crate) type ForeignBatches = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>;

struct ForeignRows {
    schema: SchemaRef,
    rows: RowSource,
}

impl fmt::Debug for ForeignRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForeignRows")
    }
}

impl PartitionStream for ForeignRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = (self.rows)().map(|batch| batch.map_err(DataFusionError::Execution));
        let schema = self.schema.clone();
        Box::pin(RecordBatchStreamAdapter::new(schema, futures_util::stream::iter(batches)))
    }
}

/// The rows of a query.
pub struct RowStream {
    stream: SendableRecordBatchStream,
    is_plan: bool,
    dataset: Arc<Dataset>,
}

impl RowStream {
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// Whether the rows are what `EXPLAIN` says: names and texts of plans.
    #[must_use]
    pub fn is_plan(&self) -> bool {
        self.is_plan
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// `Moved` when a file has gone since the view was taken; else when a file is damaged, a value does not
    /// convert, or memory or disk do not suffice.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        match self.stream.next().await {
            None => Ok(None),
            Some(Ok(batch)) => Ok(Some(batch)),
            Some(Err(error)) => Err(explain_with(&self.dataset, &error)),
        }
    }
}

/// The table of one tool.
fn tool_table(name: &str) -> String {
    format!("tool_{name}")
}

fn explain_with(dataset: &Dataset, error: &DataFusionError) -> QueryError {
    match dataset.take_fault() {
        Some(fault) if matches!(fault.path.try_exists(), Ok(false)) => QueryError::Moved { path: fault.path },
        Some(fault) => QueryError::Damaged { path: fault.path, detail: fault.detail },
        None => {
            let tools: Vec<_> = dataset.tools.iter().map(|tool| tool_table(&tool.name)).collect();
            let known: Vec<&str> =
                TABLES.iter().map(|&(name, _)| name).chain(tools.iter().map(String::as_str)).collect();
            explain(error, &known)
        }
    }
}

fn context(temp_folder: &Path, options: &QueryOptions) -> Result<SessionContext, DataFusionError> {
    let spill = SpillFolder::new(temp_folder.to_owned(), options.max_temp_bytes);
    let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(spill));
    let memory_bytes = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let mut config =
        SessionConfig::new().with_default_catalog_and_schema("ddl", "public").with_information_schema(true);
    if options.threads > 0 {
        config = config.with_target_partitions(options.threads);
    }
    // Users see the plain types of the files.
    config.options_mut().execution.parquet.schema_force_view_types = false;
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// Columns of `urls` before anything is ingested.
fn empty_manifest() -> Schema {
    use datafusion::arrow::datatypes::{DataType, Field};

    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut fields: Vec<_> = crate::storage::manifest_core_columns().into_iter().map(text).collect();
    fields.push(Field::new("record", DataType::Int32, true));
    Schema::new(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_all_partitions() {
        let check = |images: &[u64], expect: &[(usize, usize)]| {
            assert_eq!(slices(images.iter().copied(), 10), expect, "{images:?}");
        };
        check(&[], &[(0, 0)]);
        check(&[0, 0], &[(0, 1)]);
        check(&[4, 6, 1], &[(0, 1), (2, 2)]);
        check(&[25, 1, 30, 0], &[(0, 0), (1, 1), (2, 3)]);
    }
}
