//! Answers of SQL, a row at a time.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use super::ReportError;
use crate::model::PixelSize;
use crate::query::QuerySession;

/// All rows of a small answer.
pub(super) struct Rows(Vec<RecordBatch>);

impl Rows {
    pub async fn of(session: &QuerySession, sql: &str) -> Result<Self, ReportError> {
        session.collect(sql).await?.iter().map(plain).collect::<Result<_, _>>().map(Self)
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.0.iter().flat_map(|batch| (0..batch.num_rows()).map(move |at| Row { batch, at }))
    }

    /// The first row; of an answer that has one.
    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }
}

/// Numbers as 64 bits, text as one kind of text.
pub(super) fn plain(batch: &RecordBatch) -> Result<RecordBatch, ReportError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let to = match column.data_type() {
            DataType::Utf8View | DataType::LargeUtf8 | DataType::Dictionary(..) | DataType::Null => {
                DataType::Utf8
            }
            DataType::Timestamp(..) => DataType::Int64,
            data_type if data_type.is_integer() => DataType::Int64,
            data_type if data_type.is_floating() || data_type.is_decimal() => DataType::Float64,
            DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
            DataType::List(_) => DataType::new_list(DataType::Int64, true),
            data_type => data_type.clone(),
        };
        Ok((field.name().clone(), cast(column, &to)?, true))
    });
    let columns = columns.collect::<Result<Vec<_>, ReportError>>()?;
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// One row. A column that is not there, or of another kind, is as one that is null.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub batch: &'a RecordBatch,
    pub at: usize,
}

impl<'a> Row<'a> {
    fn column(self, name: &str) -> Option<&'a arrow::array::ArrayRef> {
        self.batch.column_by_name(name).filter(|column| column.is_valid(self.at))
    }

    pub fn text(self, name: &str) -> Option<&'a str> {
        Some(self.column(name)?.as_string_opt::<i32>()?.value(self.at))
    }

    pub fn signed(self, name: &str) -> Option<i64> {
        Some(self.column(name)?.as_primitive_opt::<Int64Type>()?.value(self.at))
    }

    /// Counts and sums; null is 0.
    pub fn count(self, name: &str) -> u64 {
        let float = || Some(self.column(name)?.as_primitive_opt::<Float64Type>()?.value(self.at) as u64);
        self.signed(name).and_then(|number| u64::try_from(number).ok()).or_else(float).unwrap_or(0)
    }

    pub fn flag(self, name: &str) -> bool {
        self.column(name).and_then(|column| column.as_boolean_opt()).is_some_and(|flags| flags.value(self.at))
    }

    pub fn bytes(self, name: &str) -> Option<&'a [u8]> {
        Some(self.column(name)?.as_binary_opt::<i32>()?.value(self.at))
    }

    /// Height and width, as the columns of sizes have them.
    pub fn size(self, name: &str) -> Option<PixelSize> {
        let sides = self.column(name)?.as_list_opt::<i32>()?.value(self.at);
        match sides.as_primitive_opt::<Int64Type>()?.values()[..] {
            [height, width] => {
                Some(PixelSize { height: height.try_into().ok()?, width: width.try_into().ok()? })
            }
            _ => None,
        }
    }
}

/// A text as SQL writes it.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
