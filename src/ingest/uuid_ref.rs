//! `uuid_ref`: which rows of the TreeOfLife catalogue stand behind one FathomNet picture.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::IngestError;
use super::manifest_file::NumberedOutput;
use super::parquet_rows::ParquetReader;
use super::source::Header;

/// The table of bounding boxes, joined by `uuid` with each row read: `image_uuid` (the record's),
/// `uuid` (the row's), `source_id`, and the columns of the box. Rows without a box are left out.
///
/// Boxes are held in memory: FathomNet has a few hundred thousand.
pub(super) struct UuidRef {
    boxes: RecordBatch,
    by_uuid: HashMap<String, Vec<u32>>,
    schema: SchemaRef,
    output: NumberedOutput,
}

impl UuidRef {
    pub(super) fn open(boxes: &Path, folder: &Path) -> Result<Self, IngestError> {
        let mut reader = ParquetReader::open(boxes, &Arc::default())?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next_batch()? {
            batches.push(batch.rows);
        }
        let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let rows = concat_batches(&schema, &batches)?;
        let uuid = Header::new(boxes, &schema).require("uuid", "joins bounding boxes with rows")?;
        let mut by_uuid: HashMap<String, Vec<u32>> = HashMap::new();
        let uuids = cast(rows.column(uuid), &DataType::Utf8)?;
        for (row, uuid) in uuids.as_string::<i32>().iter().enumerate() {
            if let Some(uuid) = uuid {
                by_uuid.entry(uuid.to_owned()).or_default().push(row as u32);
            }
        }
        let leading = ["image_uuid", "uuid", "source_id"];
        let others: Vec<usize> = (0..rows.num_columns())
            .filter(|&column| column != uuid && !leading.contains(&schema.field(column).name().as_str()))
            .collect();
        let boxes = rows.project(&others)?;
        let fields = leading.map(|name| Arc::new(Field::new(name, DataType::Utf8, true))).into_iter();
        let schema =
            Schema::new(fields.chain(boxes.schema_ref().fields().iter().cloned()).collect::<Vec<_>>());
        let schema = Arc::new(schema);
        let output = NumberedOutput::new(folder.to_owned(), "part", Arc::clone(&schema));
        Ok(Self { boxes, by_uuid, schema, output })
    }

    /// Takes normalised rows: their own `uuid` is carried as `uuid_input`, unless it is the record's.
    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<(), IngestError> {
        let uuids = rows.column_by_name("uuid_input").unwrap_or_else(|| rows.column(0));
        let uuids = cast(uuids, &DataType::Utf8)?;
        let uuids = uuids.as_string::<i32>();
        let (mut from_rows, mut from_boxes) = (Vec::new(), Vec::new());
        for row in (0..uuids.len()).filter(|&row| uuids.is_valid(row)) {
            for &found in self.by_uuid.get(uuids.value(row)).into_iter().flatten() {
                from_rows.push(row as u32);
                from_boxes.push(found);
            }
        }
        let (from_rows, from_boxes) = (UInt32Array::from(from_rows), UInt32Array::from(from_boxes));
        let mut columns: Vec<ArrayRef> = vec![
            take(rows.column(0), &from_rows, None)?,
            take(uuids, &from_rows, None)?,
            take(rows.column(1), &from_rows, None)?,
        ];
        for column in self.boxes.columns() {
            columns.push(take(column, &from_boxes, None)?);
        }
        self.output.push(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// Call it when all records are committed: the file says of which records they are.
    pub(super) fn finish(self) -> Result<(), IngestError> {
        self.output.finish().map(|_| ())
    }
}
