//! What a tool adds to a session while it works: functions of its own, and rows from elsewhere as tables.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, AsArray, Int32Array, Int64Array, RecordBatch, RecordBatchReader as _,
};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures_util::stream;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{QueryError, QuerySession};

impl QuerySession {
    /// Makes a function of one text known to SQL. NULL is a value like any other.
    pub(crate) fn register_text_function(
        &self,
        name: &str,
        function: impl Fn(Option<&str>) -> i32 + Send + Sync + 'static,
    ) {
        let of_column = move |args: &[ColumnarValue]| match args {
            [ColumnarValue::Scalar(ScalarValue::Utf8(text))] => {
                Ok(ColumnarValue::Scalar(ScalarValue::Int32(Some(function(text.as_deref())))))
            }
            [ColumnarValue::Array(texts)] if texts.data_type() == &DataType::Utf8 => {
                let values = texts.as_string::<i32>().iter().map(&function);
                Ok(ColumnarValue::Array(Arc::new(Int32Array::from_iter_values(values))))
            }
            _ => exec_err!("expected one text"),
        };
        let texts = vec![DataType::Utf8];
        self.context().register_udf(create_udf(
            name,
            texts,
            DataType::Int32,
            Volatility::Immutable,
            Arc::new(of_column),
        ));
    }

    /// Makes a function of so many texts known to SQL. NULL is a value like any other.
    pub(crate) fn register_texts_function(
        &self,
        name: &str,
        num_texts: usize,
        function: impl Fn(&[Option<&str>]) -> i64 + Send + Sync + 'static,
    ) {
        let of_columns = move |args: &[ColumnarValue]| {
            let columns = ColumnarValue::values_to_arrays(args)?;
            let texts: Vec<_> = columns.iter().map(|column| column.as_string::<i32>()).collect();
            let num_rows = texts.first().map_or(0, |column| column.len());
            let mut row_texts = vec![None; texts.len()];
            let values = (0..num_rows).map(|row| {
                for (text, column) in row_texts.iter_mut().zip(&texts) {
                    *text = column.is_valid(row).then(|| column.value(row));
                }
                function(&row_texts)
            });
            Ok(ColumnarValue::Array(Arc::new(Int64Array::from_iter_values(values))))
        };
        let texts = vec![DataType::Utf8; num_texts];
        let udf = create_udf(name, texts, DataType::Int64, Volatility::Immutable, Arc::new(of_columns));
        self.context().register_udf(udf);
    }

    /// Rows in memory as a table.
    ///
    /// # Errors
    /// None that a user can cause.
    pub(crate) fn register_batch(&self, name: &str, batch: RecordBatch) -> Result<(), QueryError> {
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]);
        self.register(name, Arc::new(table.map_err(|error| self.explain(&error))?))
    }

    /// A Parquet file that is not the dataset's, as a table: those of the columns `wanted` that it has, which are
    /// returned.
    ///
    /// # Errors
    /// `Damaged` when the file cannot be read.
    pub(crate) fn register_file(
        &self,
        name: &str,
        path: &Path,
        wanted: &[&str],
    ) -> Result<Vec<String>, QueryError> {
        let file = FileRows::open(path, wanted)
            .map_err(|detail| QueryError::Damaged { path: path.to_owned(), detail })?;
        let columns = file.schema.fields().iter().map(|field| field.name().clone()).collect();
        let schema = file.schema.clone();
        let table = StreamingTable::try_new(schema, vec![Arc::new(file) as Arc<dyn PartitionStream>]);
        self.register(name, Arc::new(table.map_err(|error| self.explain(&error))?))?;
        Ok(columns)
    }

    /// A table of another session.
    ///
    /// # Errors
    /// When it has no such table.
    pub(crate) async fn register_table_of(
        &self,
        name: &str,
        other: &Self,
        table: &str,
    ) -> Result<(), QueryError> {
        let table = other.context().table_provider(table).await.map_err(|error| other.explain(&error))?;
        self.register(name, table)
    }

    /// A query under a name.
    ///
    /// # Errors
    /// As [`QuerySession::sql`].
    pub(crate) async fn register_view(&self, name: &str, sql: &str) -> Result<(), QueryError> {
        self.register(name, self.sql(sql).await?.into_view())
    }

    /// Takes the place of an older table of the name.
    fn register(&self, name: &str, table: Arc<dyn TableProvider>) -> Result<(), QueryError> {
        let context = self.context();
        let replaced = context.deregister_table(name).and_then(|_| context.register_table(name, table));
        replaced.map(drop).map_err(|error| self.explain(&error))
    }
}

#[derive(Debug)]
struct FileRows {
    path: PathBuf,
    /// Of the columns that are read.
    schema: SchemaRef,
}

impl FileRows {
    fn open(path: &Path, wanted: &[&str]) -> Result<Self, String> {
        let schema = read(path, wanted)?.schema();
        Ok(Self { path: path.to_owned(), schema })
    }
}

fn read(path: &Path, columns: &[&str]) -> Result<ParquetRecordBatchReader, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    builder.with_projection(mask).build().map_err(|error| error.to_string())
}

impl PartitionStream for FileRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let columns: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let path = self.path.clone();
        let failed =
            move |detail: String| exec_datafusion_err!("`{}` cannot be read: {detail}", path.display());
        let schema = self.schema.clone();
        match read(&self.path, &columns) {
            Err(detail) => {
                let error = failed(detail);
                Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(async { Err(error) })))
            }
            Ok(reader) => {
                let batches = reader.map(move |batch| batch.map_err(|error| failed(error.to_string())));
                Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches)))
            }
        }
    }
}
