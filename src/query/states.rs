//! Columns of `urls` that the catalog knows: what became of each record.
//!
//! Each is a function of (partition, record), so that only those asked for are computed, and the manifest's
//! own columns are read only where a row needs them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::common::{DataFusionError, Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::dataset::{Dataset, PartitionCache, SharedDataset};
use crate::catalog::RecordStatus;
use crate::model::RecordState;

/// A column of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum StateColumn {
    Disposition,
    Cause,
    ErrorCode,
    /// Of failures only: that of a success is with its image, the catalog does not repeat it.
    HttpStatus,
    RetryCount,
}

impl StateColumn {
    pub const ALL: [Self; 5] =
        [Self::Disposition, Self::Cause, Self::ErrorCode, Self::HttpStatus, Self::RetryCount];

    pub fn name(self) -> &'static str {
        match self {
            Self::Disposition => "disposition",
            Self::Cause => "cause",
            Self::ErrorCode => "error_code",
            Self::HttpStatus => "http_status",
            Self::RetryCount => "retry_count",
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Disposition | Self::Cause => DataType::Utf8,
            Self::ErrorCode | Self::HttpStatus | Self::RetryCount => DataType::Int32,
        }
    }

    fn values(self, statuses: impl Iterator<Item = Option<RecordStatus>>) -> ArrayRef {
        match self {
            Self::Disposition => {
                Arc::new(StringArray::from_iter(statuses.map(|s| s.map(|s| s.state.disposition().as_str()))))
            }
            Self::Cause => {
                Arc::new(StringArray::from_iter(statuses.map(|s| s.and_then(|s| s.state.cause()))))
            }
            Self::ErrorCode => {
                Arc::new(Int32Array::from_iter(statuses.map(|s| s.and_then(|s| s.error_code()))))
            }
            Self::HttpStatus => Arc::new(Int32Array::from_iter(
                statuses.map(|s| s.filter(|s| s.http_status > 0).map(|s| i32::from(s.http_status))),
            )),
            Self::RetryCount => Arc::new(Int32Array::from_iter(statuses.map(|s| {
                s.filter(|s| matches!(s.state, RecordState::Failed(_))).map(|s| i32::from(s.retry_count))
            }))),
        }
    }
}

type StateCache = PartitionCache<Vec<RecordStatus>>;

/// The columns of state as expressions over a partition's position and a record.
pub(super) fn state_columns(dataset: &Arc<Dataset>, partition: &Expr, record: &Expr) -> Vec<Expr> {
    let cache = Arc::new(StateCache::new());
    StateColumn::ALL
        .into_iter()
        .map(|column| {
            ScalarUDF::new_from_impl(StateFunction {
                column,
                dataset: SharedDataset(dataset.clone()),
                cache: SharedCache(cache.clone()),
                signature: Signature::exact(vec![DataType::Int32, DataType::Int32], Volatility::Immutable),
            })
            .call(vec![partition.clone(), record.clone()])
            .alias(column.name())
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StateFunction {
    column: StateColumn,
    dataset: SharedDataset,
    cache: SharedCache,
    signature: Signature,
}

/// A cache says nothing about which function it is: all are equal.
#[derive(Debug)]
struct SharedCache(Arc<StateCache>);

impl PartialEq for SharedCache {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SharedCache {}

impl std::hash::Hash for SharedCache {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl ScalarUDFImpl for StateFunction {
    fn name(&self) -> &str {
        self.column.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.column.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [partitions, records] = int_columns(&args)?;
        let mut current: Option<(i32, Arc<Vec<RecordStatus>>)> = None;
        let mut statuses = Vec::with_capacity(args.number_rows);
        for (&partition, record) in partitions.values().iter().zip(records.iter()) {
            let states = match &current {
                Some((known, states)) if *known == partition => states,
                _ => &current.insert((partition, self.states(partition)?)).1,
            };
            let status = record.and_then(|record| states.get(usize::try_from(record).ok()?).copied());
            let Some(status) = status else {
                return exec_err!("the manifest holds record {record:?}, which the catalog does not have");
            };
            statuses.push(Some(status));
        }
        Ok(ColumnarValue::Array(self.column.values(statuses.into_iter())))
    }
}

impl StateFunction {
    fn states(&self, partition: i32) -> Result<Arc<Vec<RecordStatus>>> {
        let dataset = &self.dataset.0;
        let index = partition as usize;
        self.cache.0.get_or(index, || {
            let Some(partition) = dataset.partitions.get(index) else {
                return exec_err!("there is no partition {index}");
            };
            dataset.view.states(partition.key).map_err(|error| DataFusionError::External(Box::new(error)))
        })
    }
}

/// Arguments as columns of integers; nulls of the first never occur.
pub(super) fn int_columns<const N: usize>(args: &ScalarFunctionArgs) -> Result<[Int32Array; N]> {
    let mut columns = Vec::with_capacity(N);
    for arg in &args.args {
        let array = arg.to_array(args.number_rows)?;
        match array.as_primitive_opt::<Int32Type>() {
            Some(column) => columns.push(column.clone()),
            None => return exec_err!("expected integers, got {}", array.data_type()),
        }
    }
    columns.try_into().map_err(|_| DataFusionError::Execution("wrong number of arguments".into()))
}
