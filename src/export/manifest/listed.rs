//! Reading a manifest that was exported: the columns by which images are compared.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::csv::ReaderBuilder as CsvReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder as JsonReaderBuilder;
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::export::ExportError;
use crate::export::target::format_of;
use crate::query::{ForeignBatches, OutputFormat};

/// What is read of a manifest; what it does not have is null.
pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let number = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        text("uuid"),
        text("identifier"),
        text("hashsum_original"),
        number("image_bytes"),
        number("height"),
        number("width"),
    ]))
});

/// Without these a file is no manifest.
const REQUIRED: [&str; 2] = ["uuid", "hashsum_original"];

/// Opens a manifest: Parquet, CSV, TSV or JSON lines by its name, text also compressed (`.gz`).
///
/// # Errors
/// When the name tells none of these, or the file cannot be read or lacks a column without which it is no manifest.
pub(super) fn open(path: &Path) -> Result<ForeignBatches, ExportError> {
    Ok(open_with_names(path)?.0)
}

/// The columns of [`SCHEMA`] that a manifest does not have.
///
/// # Errors
/// As [`open`].
pub(super) fn missing_columns(path: &Path) -> Result<Vec<&'static str>, ExportError> {
    let Some(names) = open_with_names(path)?.1 else { return Ok(Vec::new()) };
    let columns = SCHEMA.fields().iter().map(|field| field.name().as_str());
    Ok(columns.filter(|column| !names.iter().any(|name| name == column)).collect())
}

/// `None` for names where each row has its own.
fn open_with_names(path: &Path) -> Result<(ForeignBatches, Option<Vec<String>>), ExportError> {
    let unreadable = |detail: String| ExportError::Unreadable { path: path.to_owned(), detail };
    let (format, gzip) = format_of(path)?;
    let rows: Rows = match format {
        OutputFormat::Parquet => parquet(path),
        OutputFormat::Csv => delimited(path, gzip, b',', b'"'),
        // Tabs are escaped, nothing is quoted.
        OutputFormat::Tsv => delimited(path, gzip, b'\t', 0),
        OutputFormat::Ndjson => json_lines(path, gzip),
        OutputFormat::Json | OutputFormat::Table => {
            return Err(unreadable("a JSON array is not read; JSON lines (.jsonl) are".into()));
        }
    }
    .map_err(|error| unreadable(error.to_string()))?;
    if let Some(names) = &rows.names
        && let Some(column) = REQUIRED.into_iter().find(|column| !names.iter().any(|name| name == column))
    {
        return Err(ExportError::NoManifest { path: path.to_owned(), column });
    }
    let shown = path.display().to_string();
    let batches = rows.batches.map(move |batch| {
        batch.and_then(|batch| adapt(&batch)).map_err(|error| format!("cannot read `{shown}`: {error}"))
    });
    Ok((Box::new(batches), rows.names))
}

struct Rows {
    /// `None` where each row has its own.
    names: Option<Vec<String>>,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
}

fn parquet(path: &Path) -> Result<Rows, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let names = names_of(builder.schema());
    let wanted = SCHEMA.fields().iter().map(|field| field.name().as_str());
    let columns = ProjectionMask::columns(builder.parquet_schema(), wanted);
    Ok(Rows { names: Some(names), batches: Box::new(builder.with_projection(columns).build()?) })
}

fn delimited(path: &Path, gzip: bool, delimiter: u8, quote: u8) -> Result<Rows, ArrowError> {
    let format = Format::default().with_header(true).with_delimiter(delimiter).with_quote(quote);
    let (header, _) = format.infer_schema(bytes(path, gzip)?, Some(0))?;
    let names = names_of(&header);
    let text = names.iter().map(|name| Field::new(name, DataType::Utf8, true));
    let schema = Arc::new(Schema::new(text.collect::<Vec<_>>()));
    let wanted = (0..names.len()).filter(|&column| SCHEMA.field_with_name(&names[column]).is_ok());
    let reader = CsvReaderBuilder::new(schema)
        .with_format(format)
        .with_projection(wanted.collect())
        .build(bytes(path, gzip)?)?;
    Ok(Rows { names: Some(names), batches: Box::new(reader) })
}

fn json_lines(path: &Path, gzip: bool) -> Result<Rows, ArrowError> {
    let reader = BufReader::with_capacity(256 << 10, bytes(path, gzip)?);
    let reader = JsonReaderBuilder::new(SCHEMA.clone()).with_coerce_primitive(true).build(reader)?;
    Ok(Rows { names: None, batches: Box::new(reader) })
}

fn names_of(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

fn bytes(path: &Path, gzip: bool) -> Result<Box<dyn Read + Send>, ArrowError> {
    let file = File::open(path)?;
    Ok(if gzip { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) })
}

/// The rows with exactly the columns of [`SCHEMA`].
fn adapt(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = SCHEMA.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    RecordBatch::try_new(SCHEMA.clone(), columns.collect::<Result<_, _>>()?)
}
