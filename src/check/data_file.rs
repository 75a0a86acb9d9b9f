//! Reading a Parquet file that the catalog names, without trusting it.
//!
//! The cheap questions come first (is it there, how long, how many rows), and a file that fails one is not read
//! further: what it holds would only repeat that it is not the file that was committed. The `parquet` crate may
//! panic on damaged pages, so all of its work happens inside [`guarded`].

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use super::report::BreachKind;
use crate::model::{DataFile, PixelSize, RecordIndex};
use crate::runtime::catch_panic;
use crate::storage::Checksum;

/// Why a file was not read to its end.
#[derive(Debug)]
pub(super) struct Flaw {
    pub kind: BreachKind,
    pub detail: String,
}

impl Flaw {
    pub(super) fn new(kind: BreachKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    pub(super) fn unreadable(error: impl ToString) -> Self {
        Self::new(BreachKind::Unreadable, error.to_string())
    }
}

/// Does work on a file's bytes and takes a panic for damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Flaw>) -> Result<T, Flaw> {
    // What a panic leaves half done belongs to a file that is reported as unreadable.
    catch_panic(work)
        .unwrap_or_else(|message| Err(Flaw::unreadable(format!("its reader panicked: {message}"))))
}

/// A file whose length and number of rows are as stated.
pub(super) struct StatedFile {
    file: File,
    metadata: ArrowReaderMetadata,
}

/// Opens a file that must be as long as stated.
pub(super) fn open(path: &Path, stated: DataFile) -> Result<File, Flaw> {
    let bytes = match fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(Flaw::new(BreachKind::MissingFile, "something else has its name")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Flaw::new(BreachKind::MissingFile, "the catalog names it"));
        }
        Err(error) => return Err(Flaw::unreadable(error)),
    };
    if bytes != stated.bytes {
        let detail = format!("{bytes} bytes instead of {}", stated.bytes);
        return Err(Flaw::new(BreachKind::WrongLength, detail));
    }
    File::open(path).map_err(Flaw::unreadable)
}

/// Deep: whether all bytes of a file, its footer too, are those that were written.
pub(super) fn check_bytes(file: &File, stated: DataFile) -> Result<(), Flaw> {
    let found = Checksum::of_rest(file).map_err(Flaw::unreadable)?;
    if found == Checksum::stated(stated) {
        return Ok(());
    }
    let detail = format!("their CRC-32 is {:08x}, the catalog has {:08x}", found.crc32, stated.crc32);
    Err(Flaw::new(BreachKind::Checksum, detail))
}

impl StatedFile {
    /// Reads the footer. Call it inside [`guarded`].
    pub(super) fn new(file: File, stated: DataFile) -> Result<Self, Flaw> {
        let metadata =
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(Flaw::unreadable)?;
        let footer = metadata.metadata();
        let rows = footer.file_metadata().num_rows();
        if u64::try_from(rows) != Ok(stated.num_rows) {
            let detail = format!("{rows} rows instead of {}", stated.num_rows);
            return Err(Flaw::new(BreachKind::WrongRowCount, detail));
        }
        let in_groups =
            footer.row_groups().iter().try_fold(0_i64, |sum, group| sum.checked_add(group.num_rows()));
        if in_groups != Some(rows) {
            return Err(Flaw::unreadable("its row groups do not add up to its rows"));
        }
        Ok(Self { file, metadata })
    }

    /// Whether its columns are these, in this order.
    pub(super) fn has_schema(&self, expected: &Schema) -> Result<(), Flaw> {
        let found = self.metadata.schema().fields();
        let differs = |place: usize| match (found.get(place), expected.fields().get(place)) {
            (Some(found), Some(expected)) => {
                found.name() != expected.name() || found.data_type() != expected.data_type()
            }
            _ => true,
        };
        match (0..found.len().max(expected.fields().len())).find(|&place| differs(place)) {
            None => Ok(()),
            Some(place) => {
                let name = |fields: &Fields| match fields.get(place) {
                    Some(field) => format!("`{}` ({})", field.name(), field.data_type()),
                    None => "nothing".into(),
                };
                let detail =
                    format!("column {place} is {} instead of {}", name(found), name(expected.fields()));
                Err(Flaw::new(BreachKind::WrongSchema, detail))
            }
        }
    }

    /// A value of the footer's key-value metadata.
    pub(super) fn fact(&self, key: &str) -> Option<&str> {
        let facts = self.metadata.metadata().file_metadata().key_value_metadata()?;
        facts.iter().find(|fact| fact.key == key)?.value.as_deref()
    }

    /// Calls `each` with these columns, `batch_rows` rows at a time; inside [`guarded`].
    ///
    /// Binary columns come as views into their pages: not copied, and not bound to 2 GiB a batch.
    pub(super) fn for_each_batch(
        self,
        columns: &[&str],
        batch_rows: usize,
        each: &mut dyn FnMut(&RecordBatch) -> Result<(), Flaw>,
    ) -> Result<(), Flaw> {
        let schema = self.metadata.schema();
        if let Some(missing) = columns.iter().find(|name| schema.field_with_name(name).is_err()) {
            return Err(Flaw::new(BreachKind::WrongSchema, format!("column `{missing}` is missing")));
        }
        let metadata = match with_views(schema, columns) {
            Some(schema) => ArrowReaderMetadata::try_new(
                Arc::clone(self.metadata.metadata()),
                ArrowReaderOptions::new().with_schema(Arc::new(schema)),
            )
            .map_err(Flaw::unreadable)?,
            None => self.metadata.clone(),
        };
        let projection = ProjectionMask::columns(metadata.parquet_schema(), columns.iter().copied());
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file, metadata)
            .with_projection(projection)
            .with_batch_size(batch_rows)
            .build()
            .map_err(Flaw::unreadable)?;
        for batch in batches {
            each(&batch.map_err(Flaw::unreadable)?)?;
        }
        Ok(())
    }
}

/// The schema with those of `columns` that are binary as views; `None` when none is.
fn with_views(schema: &Schema, columns: &[&str]) -> Option<Schema> {
    let is_view =
        |field: &Field| *field.data_type() == DataType::Binary && columns.contains(&field.name().as_str());
    schema.fields().iter().any(|field| is_view(field)).then(|| {
        let fields = schema.fields().iter().map(|field| {
            let field = field.as_ref().clone();
            if is_view(&field) { field.with_data_type(DataType::BinaryView) } else { field }
        });
        Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
    })
}

/// A column of text.
pub(super) fn text(batch: &RecordBatch, name: &str) -> Result<StringArray, Flaw> {
    Ok(column(batch, name, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A column of whole numbers.
pub(super) fn number(batch: &RecordBatch, name: &str) -> Result<Int64Array, Flaw> {
    Ok(column(batch, name, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// A column of `[height, width]`; `None` for what is no such pair.
pub(super) fn pixel_sizes(batch: &RecordBatch, name: &str) -> Result<Vec<Option<PixelSize>>, Flaw> {
    let column = batch.column_by_name(name);
    let lists = column.and_then(|column| column.as_list_opt::<i32>()).ok_or_else(|| wrong_type(name))?;
    let size = |list: ArrayRef| {
        let sides: Vec<u32> = list
            .as_primitive_opt::<Int64Type>()?
            .iter()
            .filter_map(|side| u32::try_from(side?).ok())
            .collect();
        match sides[..] {
            [height, width] => Some(PixelSize { height, width }),
            _ => None,
        }
    };
    Ok(lists.iter().map(|list| list.and_then(size)).collect())
}

/// A column of bytes.
pub(super) fn binary<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow::array::BinaryViewArray, Flaw> {
    let column = batch.column_by_name(name);
    column.and_then(|column| column.as_binary_view_opt()).ok_or_else(|| wrong_type(name))
}

fn column(batch: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef, Flaw> {
    let column = batch.column_by_name(name).ok_or_else(|| wrong_type(name))?;
    cast(column, data_type).map_err(|_| wrong_type(name))
}

fn wrong_type(name: &str) -> Flaw {
    Flaw::new(BreachKind::WrongSchema, format!("column `{name}` is of another type"))
}

/// The value of a row; null is the empty text, as when a record is downloaded.
pub(super) fn text_at(column: &StringArray, row: usize) -> &str {
    if column.is_valid(row) { column.value(row) } else { "" }
}

/// The record that a row says it is of; `None` where it says nothing of the kind.
pub(super) fn record_at(column: &Int64Array, row: usize) -> Option<RecordIndex> {
    column.is_valid(row).then(|| column.value(row)).and_then(|record| RecordIndex::try_from(record).ok())
}
