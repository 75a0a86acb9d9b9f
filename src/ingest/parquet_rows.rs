//! Parquet tables, every column brought to text, Int64, Float64 or Boolean.
//!
//! Integers become Int64 (unsigned 64-bit ones text, they need not fit), floats Float64. Bytes become
//! text where they are UTF-8 (old writers do not mark text as such), 16-byte values UUIDs. Lists and
//! structs become JSON text; all else its usual text.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::writer::{EncoderOptions, make_encoder};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use uuid::Uuid;

use super::delimited::unique_names;
use super::error::IngestError;
use super::raw_batch::{
    BATCH_BYTES, BATCH_ROWS, CELL_BYTES, InvalidCell, RawBatch, ReadMeter, check_num_columns,
};
use super::text_columns::TextColumn;
use crate::model::UrlKey;

pub(super) struct ParquetReader {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    rows_read: u64,
    rows_total: u64,
    file_bytes: u64,
    meter: Arc<ReadMeter>,
}

impl ParquetReader {
    pub(super) fn open(path: &Path, meter: &Arc<ReadMeter>) -> Result<Self, IngestError> {
        let file = File::open(path).map_err(IngestError::read(path))?;
        let file_bytes = file.metadata().map_err(IngestError::read(path))?.len();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(IngestError::parquet(path))?;
        let groups = builder.metadata().row_groups();
        let rows_total: u64 = groups.iter().map(|group| group.num_rows().unsigned_abs()).sum();
        let bytes: u64 = groups.iter().map(|group| group.total_byte_size().unsigned_abs()).sum();
        let num_columns = builder.schema().fields().len();
        check_num_columns(path, num_columns)?;
        let row_bytes = (bytes / rows_total.max(1) + (num_columns * CELL_BYTES) as u64).max(1);
        let batch_rows = (BATCH_BYTES as u64 / row_bytes).clamp(1, BATCH_ROWS as u64);
        let fields = builder.schema().fields();
        let names = unique_names(fields.iter().map(|field| field.name()));
        let fields = names
            .into_iter()
            .zip(fields)
            .map(|(name, field)| Field::new(name, canonical_type(field.data_type()), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let reader =
            builder.with_batch_size(batch_rows as usize).build().map_err(IngestError::parquet(path))?;
        let meter = Arc::clone(meter);
        Ok(Self { path: path.to_owned(), reader, schema, rows_read: 0, rows_total, file_bytes, meter })
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<RawBatch>, IngestError> {
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let batch = batch.map_err(|error| IngestError::parquet(&self.path)(error.into()))?;
        let num_rows = batch.num_rows() as u64;
        let positions: Vec<u64> = (self.rows_read + 1..=self.rows_read + num_rows).collect();
        self.count_bytes(num_rows);
        let mut invalid_text = Vec::new();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (index, column) in batch.columns().iter().enumerate() {
            let (column, invalid) = canonical_array(column)?;
            let at = index as u32;
            invalid_text.extend(invalid.into_iter().map(|(row, key)| InvalidCell { row, column: at, key }));
            columns.push(column);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Some(RawBatch { rows, positions, invalid_text }))
    }

    /// The file's bytes are counted in proportion to its rows.
    fn count_bytes(&mut self, num_rows: u64) {
        let share = |rows: u64| {
            let bytes = u128::from(self.file_bytes) * u128::from(rows) / u128::from(self.rows_total.max(1));
            bytes as u64
        };
        let more = share(self.rows_read + num_rows) - share(self.rows_read);
        self.meter.add(more);
        self.rows_read += num_rows;
    }
}

fn canonical_type(from: &DataType) -> DataType {
    match from {
        from if from.is_integer() && *from != DataType::UInt64 => DataType::Int64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Boolean => DataType::Boolean,
        DataType::Dictionary(_, value) => canonical_type(value),
        _ => DataType::Utf8,
    }
}

/// The array in its canonical type, and the rows whose bytes were not UTF-8, with their keys.
fn canonical_array(array: &ArrayRef) -> Result<(ArrayRef, Vec<(u32, UrlKey)>), IngestError> {
    let array = match array.data_type() {
        DataType::Dictionary(_, value) => &cast(array, value)?,
        _ => array,
    };
    let to = canonical_type(array.data_type());
    Ok(match array.data_type() {
        DataType::FixedSizeBinary(16) => {
            let values = array.as_fixed_size_binary().iter();
            let text = values.map(|value| Uuid::from_slice(value?).ok().map(|uuid| uuid.to_string()));
            (Arc::new(text.collect::<StringArray>()) as ArrayRef, Vec::new())
        }
        // Hashes: hex, as our own CSV and JSON have them.
        DataType::FixedSizeBinary(_) => {
            let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let text = array.as_fixed_size_binary().iter().map(|value| value.map(hex));
            (Arc::new(text.collect::<StringArray>()) as ArrayRef, Vec::new())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let binary = cast(array, &DataType::Binary)?;
            let mut column = TextColumn::default();
            for value in binary.as_binary::<i32>() {
                column.push(value.unwrap_or_default());
            }
            column.finish()
        }
        nested if nested.is_nested() => (json_text(array)?, Vec::new()),
        from if *from == to => (Arc::clone(array), Vec::new()),
        _ => (cast(array, &to)?, Vec::new()),
    })
}

fn json_text(array: &ArrayRef) -> Result<ArrayRef, IngestError> {
    let field = Arc::new(Field::new("value", array.data_type().clone(), true));
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(&field, array.as_ref(), &options)?;
    let mut column = TextColumn::default();
    let mut text = Vec::new();
    for row in 0..array.len() {
        text.clear();
        if !encoder.is_null(row) {
            encoder.encode(row, &mut text);
        }
        column.push(&text);
    }
    Ok(column.finish().0)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Float32Array, Int16Array,
        ListArray, TimestampMillisecondArray, UInt64Array,
    };
    use arrow::datatypes::{Int32Type, Int64Type};
    use arrow::util::display::array_value_to_string;
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn every_column_has_a_plain_type() {
        let columns: Vec<(&str, ArrayRef, DataType, &str)> = vec![
            ("int", Arc::new(Int16Array::from(vec![7])), DataType::Int64, "7"),
            ("large", Arc::new(UInt64Array::from(vec![u64::MAX])), DataType::Utf8, "18446744073709551615"),
            ("float", Arc::new(Float32Array::from(vec![0.5])), DataType::Float64, "0.5"),
            ("bool", Arc::new(BooleanArray::from(vec![true])), DataType::Boolean, "true"),
            ("bytes", Arc::new(BinaryArray::from(vec![&b"http://a/"[..]])), DataType::Utf8, "http://a/"),
            ("bad", Arc::new(BinaryArray::from(vec![&b"\xff"[..]])), DataType::Utf8, "\u{fffd}"),
            (
                "uuid",
                Arc::new(FixedSizeBinaryArray::try_from_iter([[1u8; 16]].iter()).unwrap()),
                DataType::Utf8,
                "01010101-0101-0101-0101-010101010101",
            ),
            (
                "hash",
                Arc::new(FixedSizeBinaryArray::try_from_iter([[0xfeu8; 3]].iter()).unwrap()),
                DataType::Utf8,
                "fefefe",
            ),
            (
                "time",
                Arc::new(TimestampMillisecondArray::from(vec![0])),
                DataType::Utf8,
                "1970-01-01T00:00:00",
            ),
            (
                "dictionary",
                Arc::new(DictionaryArray::<Int32Type>::from_iter(["word"])),
                DataType::Utf8,
                "word",
            ),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None])])),
                DataType::Utf8,
                "[1,null]",
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.parquet");
        let batch = RecordBatch::try_from_iter(columns.iter().map(|c| (c.0, Arc::clone(&c.1)))).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();

        let meter: Arc<ReadMeter> = Arc::default();
        let mut reader = ParquetReader::open(&path, &meter).unwrap();
        let found = reader.next_batch().unwrap().unwrap();
        for (index, (name, _, data_type, value)) in columns.iter().enumerate() {
            let column = found.rows.column(index);
            assert_eq!(column.data_type(), data_type, "{name}");
            assert_eq!(array_value_to_string(column, 0).unwrap(), *value, "{name}");
        }
        let invalid = InvalidCell { row: 0, column: 5, key: UrlKey::of_bytes(b"\xff") };
        assert_eq!(found.invalid_text, [invalid]);
        assert_eq!(found.positions, [1]);
        assert!(reader.next_batch().unwrap().is_none());
        assert_eq!(meter.bytes_read(), path.metadata().unwrap().len());
    }

    #[test]
    fn what_is_not_parquet_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = ParquetReader::open(file.path(), &Arc::default()).err().unwrap();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
