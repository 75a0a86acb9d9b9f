//! The columns of the manifest: seven that every list is brought to, then what the lists carry.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

/// The columns that every manifest begins with; text, nullable.
pub const LEADING_COLUMNS: [&str; 7] =
    ["uuid", "source_id", "identifier", "license", "source", "title", "label"];

/// Position of a record in its partition (Int32), behind the carried columns.
pub const RECORD_COLUMN: &str = "record";

/// The true server of a record that stands in a shared folder; null in all others. The last column.
pub const SHARED_SERVER_COLUMN: &str = "shared_server_name";

/// Names that a carried column must not have: ours, and the two that folder names stand for.
const PARTITION_COLUMNS: [&str; 2] = ["server_name", "partition_id"];

/// The columns of an input that are carried along, each with its name in the manifest.
///
/// A name that collides with one of ours, in whatever case (SQL engines do not tell cases apart),
/// gets the suffix `_input`.
pub(super) fn carried_columns(schema: &Schema, is_used: impl Fn(usize) -> bool) -> Vec<(usize, String)> {
    let mut carried: Vec<(usize, String)> = Vec::new();
    for (index, field) in schema.fields().iter().enumerate().filter(|&(index, _)| !is_used(index)) {
        let mut name = field.name().clone();
        let ours =
            LEADING_COLUMNS.iter().chain(&PARTITION_COLUMNS).chain([&RECORD_COLUMN, &SHARED_SERVER_COLUMN]);
        if ours.into_iter().any(|our| our.eq_ignore_ascii_case(&name)) {
            name.push_str("_input");
            while schema.fields().iter().any(|other| *other.name() == name) {
                name.push_str("_input");
            }
        }
        carried.push((index, name));
    }
    carried
}

/// The schema of normalised rows: the leading columns and these.
pub(super) fn rows_schema(carried: impl IntoIterator<Item = Field>) -> SchemaRef {
    let leading = LEADING_COLUMNS.iter().map(|&name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(leading.chain(carried).collect::<Vec<_>>()))
}

/// The union of the schemas of all rows so far. It only ever grows: a new column goes behind the
/// others, and one that comes with two types becomes text.
#[derive(Clone, Debug)]
pub(super) struct UnionSchema {
    schema: SchemaRef,
    by_name: HashMap<String, usize>,
    last_seen: Option<SchemaRef>,
}

impl UnionSchema {
    /// Starts from the manifest that exists, if one does.
    pub(super) fn new(manifest: Option<&Schema>) -> Self {
        let fields = manifest.map(|manifest| manifest.fields().to_vec()).unwrap_or_default();
        let is_carried = |name: &str| {
            !LEADING_COLUMNS.contains(&name) && name != RECORD_COLUMN && name != SHARED_SERVER_COLUMN
        };
        let carried =
            fields.iter().filter(|field| is_carried(field.name())).map(|field| field.as_ref().clone());
        let mut union = Self { schema: rows_schema(carried), by_name: HashMap::new(), last_seen: None };
        union.index();
        union
    }

    /// Of rows: leading and carried columns.
    pub(super) fn rows(&self) -> &SchemaRef {
        &self.schema
    }

    /// Of manifest files: the same, then `record` and `shared_server_name`.
    pub(super) fn manifest(&self) -> SchemaRef {
        let mut fields = self.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(RECORD_COLUMN, DataType::Int32, false)));
        fields.push(Arc::new(Field::new(SHARED_SERVER_COLUMN, DataType::Utf8, true)));
        Arc::new(Schema::new(fields))
    }

    /// Takes up a batch's columns. Returns whether the union changed.
    pub(super) fn widen(&mut self, schema: &SchemaRef) -> bool {
        if self.last_seen.as_ref().is_some_and(|last| Arc::ptr_eq(last, schema)) {
            return false;
        }
        self.last_seen = Some(Arc::clone(schema));
        let mut fields = self.schema.fields().to_vec();
        let mut changed = false;
        for field in schema.fields() {
            match self.by_name.get(field.name()).copied() {
                None => {
                    // At once, for a batch may have a name twice, and a manifest must not.
                    self.by_name.insert(field.name().clone(), fields.len());
                    fields.push(Arc::clone(field));
                    changed = true;
                }
                Some(index)
                    if fields[index].data_type() != field.data_type()
                        && fields[index].data_type() != &DataType::Utf8 =>
                {
                    fields[index] = Arc::new(Field::new(field.name(), DataType::Utf8, true));
                    changed = true;
                }
                Some(_) => {}
            }
        }
        if changed {
            self.schema = Arc::new(Schema::new(fields));
            self.index();
        }
        changed
    }

    fn index(&mut self) {
        let names = self.schema.fields().iter().enumerate();
        self.by_name = names.map(|(index, field)| (field.name().clone(), index)).collect();
    }
}

/// Brings rows to a schema that their own was taken up into.
pub(super) fn adapt(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if rows.schema_ref() == schema {
        return Ok(rows.clone());
    }
    let by_name: HashMap<&str, &ArrayRef> =
        rows.schema_ref().fields().iter().map(|field| field.name().as_str()).zip(rows.columns()).collect();
    let columns = schema.fields().iter().map(|field| match by_name.get(field.name().as_str()) {
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_, _>>()?, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Float64Array, Int64Array, StringArray};

    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        rows_schema(fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)))
    }

    #[test]
    fn the_union_grows_and_conflicts_become_text() {
        let mut union = UnionSchema::new(None);
        assert!(union.widen(&schema(&[("a", DataType::Int64), ("b", DataType::Utf8)])));
        assert!(!union.widen(&schema(&[("b", DataType::Utf8)])));
        assert!(union.widen(&schema(&[("c", DataType::Boolean), ("a", DataType::Float64)])));
        assert!(!union.widen(&schema(&[("b", DataType::Int64)])));
        let expect = schema(&[("a", DataType::Utf8), ("b", DataType::Utf8), ("c", DataType::Boolean)]);
        assert_eq!(union.rows(), &expect);
        let twice = schema(&[("d", DataType::Utf8), ("d", DataType::Utf8)]);
        assert!(union.widen(&twice));
        assert_eq!(union.rows().fields().len(), expect.fields().len() + 1);
        // What is stored is taken up again unchanged.
        let manifest = union.manifest();
        assert_eq!(manifest.field(manifest.fields().len() - 1).name(), SHARED_SERVER_COLUMN);
        assert_eq!(UnionSchema::new(Some(&manifest)).manifest(), manifest);
    }

    #[test]
    fn rows_are_brought_to_the_union() {
        let text = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
        let mut columns = vec![text(); 7];
        columns.push(Arc::new(Int64Array::from(vec![5])));
        columns.push(Arc::new(Float64Array::from(vec![0.5])));
        let from = schema(&[("n", DataType::Int64), ("f", DataType::Float64)]);
        let rows = RecordBatch::try_new(from, columns).unwrap();
        let to = schema(&[("new", DataType::Boolean), ("f", DataType::Float64), ("n", DataType::Utf8)]);
        let rows = adapt(&rows, &to).unwrap();
        assert!(rows.column(7).is_null(0));
        assert_eq!(rows.column(9).as_string::<i32>().value(0), "5");
    }

    #[test]
    fn colliding_names_get_a_suffix() {
        let names = ["url", "Record", "server_name", "record_input", "other"];
        let fields: Vec<_> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let carried = carried_columns(&Schema::new(fields), |index| index == 0);
        let carried: Vec<&str> = carried.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(carried, ["Record_input", "server_name_input", "record_input", "other"]);
    }
}
