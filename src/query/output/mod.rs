//! Results as text or Parquet, row by row as they come.
//!
//! | format | null | binary |
//! |---|---|---|
//! | `table` | `NULL` | `<N bytes>`; hex if the length is fixed, as with digests |
//! | `csv` | empty; an empty text is `""` | hex |
//! | `tsv` | empty; tab, line ends and backslash are escaped with a backslash | hex |
//! | `json`, `ndjson` | `null` | hex |
//! | `parquet` | as it is | as it is |
//!
//! What `EXPLAIN` says is no table: as `table`, its plans are written line by line.
//!
//! Memory: a batch, for `table` its first thousand rows, for `parquet` one row group.

mod delimited;
mod table;

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{JsonArray, LineDelimited, WriterBuilder};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use self::delimited::{Delimited, Quoting};
use self::table::{Table, write_plan};
use super::{QueryError, RowStream};

/// What rows are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people, with a frame and a count.
    #[default]
    Table,
    Csv,
    Tsv,
    /// One array of objects.
    Json,
    /// One object per line.
    Ndjson,
    /// Bytes that no terminal should see.
    Parquet,
}

impl OutputFormat {
    pub const ALL: [Self; 6] = [Self::Table, Self::Csv, Self::Tsv, Self::Json, Self::Ndjson, Self::Parquet];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }
}

impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("`{text}` is none of {known}")
        })
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputOptions {
    pub format: OutputFormat,
    /// Characters in a line of a table; `None` cuts nothing.
    pub table_width: Option<usize>,
}

/// Writes all rows and returns how many there were. A reader that goes away (`| head`) ends it quietly.
///
/// # Errors
/// When the query fails in mid-stream, or the writer does.
pub async fn write_results(
    mut rows: RowStream,
    options: OutputOptions,
    target: impl Write + Send,
) -> Result<u64, QueryError> {
    let mut num_rows = 0;
    let gone = Arc::new(AtomicBool::new(false));
    let target = Pipe { target, gone: gone.clone() };
    let written = async {
        // Most of what can fail does before the first rows come: then nothing is written.
        let mut batch = rows.next().await?;
        let mut writer = RowWriter::new(target, &rows, options)?;
        while let Some(rows_now) = batch {
            writer.write(&rows_now)?;
            num_rows += rows_now.num_rows() as u64;
            batch = rows.next().await?;
        }
        writer.finish().map(drop)
    };
    match written.await {
        Err(_) if gone.load(Ordering::Relaxed) => {}
        result => result?,
    }
    Ok(num_rows)
}

/// Notes that the reader has gone: some writers turn the error into text.
struct Pipe<W> {
    target: W,
    gone: Arc<AtomicBool>,
}

impl<W> Pipe<W> {
    fn watch<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.gone.store(true, Ordering::Relaxed);
            }
        })
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.target.write(bytes);
        self.watch(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.target.flush();
        self.watch(result)
    }
}

/// Bytes of a row group of a Parquet result, as far as they are in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// A writer of batches in one of the formats.
pub(crate) enum RowWriter<W: Write + Send> {
    Table(Table<W>),
    Plan(W),
    Delimited(Delimited<W>),
    Json(datafusion::arrow::json::Writer<W, JsonArray>),
    Ndjson(datafusion::arrow::json::Writer<W, LineDelimited>),
    Parquet(Box<ArrowWriter<W>>, SchemaRef),
}

impl<W: Write + Send> RowWriter<W> {
    pub fn new(target: W, rows: &RowStream, options: OutputOptions) -> Result<Self, QueryError> {
        if options.format == OutputFormat::Table && rows.is_plan() {
            return Ok(Self::Plan(target));
        }
        Self::of_schema(target, rows.schema(), options)
    }

    /// For rows that do not come from a query.
    pub fn of_schema(target: W, schema: SchemaRef, options: OutputOptions) -> Result<Self, QueryError> {
        let json = WriterBuilder::new().with_explicit_nulls(true);
        Ok(match options.format {
            OutputFormat::Table => Self::Table(Table::new(target, &schema, options.table_width)),
            OutputFormat::Csv => Self::Delimited(Delimited::new(target, &schema, Quoting::Csv)?),
            OutputFormat::Tsv => Self::Delimited(Delimited::new(target, &schema, Quoting::Tsv)?),
            OutputFormat::Json => Self::Json(json.build::<_, JsonArray>(target)),
            OutputFormat::Ndjson => Self::Ndjson(json.build::<_, LineDelimited>(target)),
            OutputFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
                    .set_created_by(concat!("ddl ", env!("CARGO_PKG_VERSION")).into())
                    .build();
                // What the engine notes on its columns is no matter of the result.
                let plain = |field: &Arc<Field>| field.as_ref().clone().with_metadata(Default::default());
                let schema = Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()));
                let writer =
                    ArrowWriter::try_new(target, schema.clone(), Some(properties)).map_err(of_parquet)?;
                Self::Parquet(Box::new(writer), schema)
            }
        })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        match self {
            Self::Table(writer) => writer.write(batch),
            Self::Plan(target) => write_plan(target, batch),
            Self::Delimited(writer) => writer.write(batch),
            Self::Json(writer) => writer.write(batch).map_err(of_arrow),
            Self::Ndjson(writer) => writer.write(batch).map_err(of_arrow),
            Self::Parquet(writer, schema) => {
                let batch =
                    RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).map_err(of_arrow)?;
                writer.write(&batch).map_err(of_parquet)
            }
        }
    }

    /// Writes what is due at the end and gives the target back, flushed.
    pub fn finish(self) -> Result<W, QueryError> {
        let mut target = match self {
            Self::Table(writer) => writer.finish()?,
            Self::Plan(target) => target,
            Self::Delimited(writer) => writer.into_inner(),
            Self::Json(mut writer) => {
                writer.finish().map_err(of_arrow)?;
                let mut target = writer.into_inner();
                target.write_all(b"\n").map_err(QueryError::Output)?;
                target
            }
            Self::Ndjson(mut writer) => {
                writer.finish().map_err(of_arrow)?;
                writer.into_inner()
            }
            Self::Parquet(writer, _) => writer.into_inner().map_err(of_parquet)?,
        };
        target.flush().map_err(QueryError::Output)?;
        Ok(target)
    }
}

/// One formatter for each column of a batch.
fn formatters_of<'a>(
    batch: &'a RecordBatch,
    options: &'a FormatOptions<'a>,
) -> Result<Vec<ArrayFormatter<'a>>, QueryError> {
    let formatters = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, options));
    formatters.collect::<Result<_, _>>().map_err(of_arrow)
}

pub(super) fn of_arrow(error: ArrowError) -> QueryError {
    match error {
        ArrowError::IoError(_, error) => QueryError::Output(error),
        error => QueryError::Execution { message: error.to_string() },
    }
}

fn of_parquet(error: ParquetError) -> QueryError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => QueryError::Output(*error),
            Err(inner) => QueryError::Execution { message: inner.to_string() },
        },
        error => QueryError::Execution { message: error.to_string() },
    }
}
