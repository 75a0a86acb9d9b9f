//! Which partitions a query can do without, by what its filters say about server and partition.
//!
//! A filter that names nothing but constants of a partition is evaluated for each. In a folder of its own a
//! server's rows all have the same name; a shared folder may hold any of its members, and is read if one of
//! them passes.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::PhysicalExpr;

use super::dataset::{Dataset, Partition};
use super::file_table::hidden;

/// The column of a file that tells whose record a row of a shared folder is.
pub(super) const SHARED_SERVER_NAME: &str = "shared_server_name";

const OF_A_FOLDER: [&str; 3] = [hidden::PARTITION, hidden::FOLDER, hidden::PARTITION_ID];

fn names_only(filter: &Expr, known: impl Fn(&str) -> bool) -> bool {
    !filter.is_volatile() && filter.column_refs().iter().all(|column| known(column.name()))
}

/// Whether pruning alone answers the filter, so that no row need be looked at.
pub(super) fn is_settled_by_folder(filter: &Expr) -> bool {
    names_only(filter, |name| OF_A_FOLDER.contains(&name))
}

/// The partitions that may hold rows which pass all filters, in order.
pub(super) fn partitions(dataset: &Dataset, state: &dyn Session, filters: &[Expr]) -> Result<Vec<usize>> {
    let schema = Arc::new(Schema::new(vec![
        Field::new(SHARED_SERVER_NAME, DataType::Utf8, true),
        Field::new(hidden::FOLDER, DataType::Utf8, true),
        Field::new(hidden::PARTITION_ID, DataType::Int32, false),
        Field::new(hidden::PARTITION, DataType::Int32, false),
    ]));
    let df_schema = DFSchema::try_from(schema.as_ref().clone())?;
    let mut kept: Vec<usize> = (0..dataset.partitions.len()).collect();
    for filter in filters {
        if !names_only(filter, |name| schema.field_with_name(name).is_ok()) {
            continue;
        }
        let physical = state.create_physical_expr(filter.clone(), &df_schema)?;
        let of_members = !is_settled_by_folder(filter) && dataset.has_shared();
        let passes = passing(dataset, &kept, &schema, physical.as_ref(), of_members)?;
        let mut passes = passes.into_iter();
        kept.retain(|_| passes.next().unwrap_or(true));
    }
    Ok(kept)
}

/// For each of these partitions, whether any row in it can pass.
fn passing(
    dataset: &Dataset,
    partitions: &[usize],
    schema: &Arc<Schema>,
    filter: &dyn PhysicalExpr,
    of_members: bool,
) -> Result<Vec<bool>> {
    let rows: Vec<(usize, Option<&str>)> = partitions.iter().map(|&p| (p, None)).collect();
    let mut passes = evaluate(dataset, &rows, schema, filter)?;
    if of_members {
        for (at, &index) in partitions.iter().enumerate() {
            let partition = &dataset.partitions[index];
            if !partition.shared {
                continue;
            }
            let members = dataset
                .members(partition.key.server_id)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            let rows: Vec<_> = members.iter().map(|name| (index, Some(name.as_str()))).collect();
            passes[at] = evaluate(dataset, &rows, schema, filter)?.contains(&true);
        }
    }
    Ok(passes)
}

/// The filter over rows of (partition, name of a server in a shared folder). Null does not pass.
fn evaluate(
    dataset: &Dataset,
    rows: &[(usize, Option<&str>)],
    schema: &Arc<Schema>,
    filter: &dyn PhysicalExpr,
) -> Result<Vec<bool>> {
    let place = |&(partition, _): &(usize, Option<&str>)| -> &Partition { &dataset.partitions[partition] };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|&(_, name)| name).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| place(row).folder_value()).collect::<StringArray>()),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| place(row).key.partition_id as i32))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|&(partition, _)| partition as i32))),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    let value = filter.evaluate(&batch)?.into_array(rows.len())?;
    Ok(match value.as_boolean_opt() {
        Some(value) => (0..value.len()).map(|row| value.is_valid(row) && value.value(row)).collect(),
        // Not a filter then: nothing can be said.
        None => vec![true; rows.len()],
    })
}
