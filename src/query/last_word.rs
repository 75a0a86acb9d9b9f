//! Which errors still hold: an open partition keeps the error of a record that was tried again.
//!
//! An error is the last word on its record if the record is failed or skipped now, and no later part has
//! another. Compaction drops the others; until then they are filtered out here, in the few partitions where
//! the counts say that there may be some.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::dataset::{Dataset, FileFault, FileKind, PartitionCache, SharedDataset, open_file};
use super::states::int_columns;
use crate::model::Disposition;

/// True where the error of `record` in `part` is the last word on it.
pub(super) fn is_last_word(dataset: &Arc<Dataset>, partition: Expr, part: Expr, record: Expr) -> Expr {
    ScalarUDF::new_from_impl(LastWord {
        dataset: SharedDataset(dataset.clone()),
        cache: Cache(PartitionCache::new()),
        signature: Signature::exact(vec![DataType::Int32; 3], Volatility::Immutable),
    })
    .call(vec![partition, part, record])
}

/// Of each record the part that has the last word on it, or -1.
type LastParts = Vec<i32>;

#[derive(Debug, PartialEq, Eq, Hash)]
struct LastWord {
    dataset: SharedDataset,
    cache: Cache,
    signature: Signature,
}

#[derive(Debug)]
struct Cache(PartitionCache<LastParts>);

impl PartialEq for Cache {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Cache {}

impl std::hash::Hash for Cache {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl ScalarUDFImpl for LastWord {
    fn name(&self) -> &'static str {
        "is_last_word"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [partitions, parts, records] = int_columns(&args)?;
        let mut current: Option<(i32, Option<Arc<LastParts>>)> = None;
        let mut keep = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let partition = partitions.value(row);
            let last = match &current {
                Some((known, last)) if *known == partition => last,
                _ => &current.insert((partition, self.last_parts(partition as usize)?)).1,
            };
            keep.push(match last {
                None => true,
                Some(last) => {
                    records.is_valid(row) && last.get(records.value(row) as usize) == Some(&parts.value(row))
                }
            });
        }
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(keep))))
    }
}

impl LastWord {
    fn last_parts(&self, partition: usize) -> Result<Option<Arc<LastParts>>> {
        if !self.dataset.0.unsettled.contains(&partition) {
            return Ok(None);
        }
        self.cache.0.get_or(partition, || read_last_parts(&self.dataset.0, partition)).map(Some)
    }
}

fn read_last_parts(dataset: &Dataset, partition: usize) -> Result<LastParts> {
    let key = dataset.partitions[partition].key;
    let states = dataset.view.states(key).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let mut last = vec![-1; states.len()];
    for file in dataset.files(FileKind::Errors, partition) {
        let records = read_records(&file.path).inspect_err(|error| {
            dataset.note_fault(FileFault { path: file.path.clone(), detail: error.to_string() });
        })?;
        for record in records {
            let failed = states.get(record as usize).is_some_and(|status| {
                matches!(status.state.disposition(), Disposition::Failed | Disposition::Skipped)
            });
            if failed {
                last[record as usize] = file.part;
            }
        }
    }
    Ok(last)
}

fn read_records(path: &std::path::Path) -> Result<Vec<i32>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(open_file(path)?)?;
    let column = ProjectionMask::columns(builder.parquet_schema(), ["record"]);
    let mut records = Vec::new();
    for batch in builder.with_projection(column).build()? {
        if let Some(column) = batch?.columns().first().and_then(|c| c.as_primitive_opt::<Int32Type>()) {
            records.extend_from_slice(column.values());
        }
    }
    Ok(records)
}
