//! The tables that users see, made from [`FileTable`]s: the true server, states, no hidden columns.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::dataset::{Dataset, FileKind};
use super::file_table::{FileTable, hidden};
use super::last_word::is_last_word;
use super::prune::SHARED_SERVER_NAME;
use super::states::{StateColumn, state_columns};

/// `urls`: the columns of the manifest, then where each record is and what became of it.
///
/// A carried column that has the name of one of ours is shown as `list_<name>`.
pub(super) fn urls(dataset: &Arc<Dataset>, manifest: &Schema) -> Result<ViewTable> {
    Ok(ViewTable::new(urls_plan(dataset, manifest, Vec::new())?, None))
}

/// `urls` with the position of its partition in the order of the dataset.
pub(super) fn ordered_urls(dataset: &Arc<Dataset>, manifest: &Schema) -> Result<ViewTable> {
    Ok(ViewTable::new(urls_plan(dataset, manifest, vec![ident(hidden::PARTITION)])?, None))
}

fn urls_plan(dataset: &Arc<Dataset>, manifest: &Schema, more: Vec<Expr>) -> Result<LogicalPlan> {
    let states = state_columns(dataset, &ident(hidden::PARTITION), &ident("record"));
    let ours: Vec<&str> = ["server_name", "partition_id"]
        .into_iter()
        .chain(StateColumn::ALL.into_iter().map(StateColumn::name))
        .collect();
    let table = FileTable::new(dataset.clone(), FileKind::Urls, manifest);
    let mut columns = Vec::new();
    for field in manifest.fields() {
        let name = field.name().as_str();
        if name == SHARED_SERVER_NAME || name.starts_with(hidden::PREFIX) {
            continue;
        }
        if ours.contains(&name) {
            let mut shown = format!("list_{name}");
            while manifest.field_with_name(&shown).is_ok() {
                shown.push('_');
            }
            columns.push(ident(name).alias(shown));
        } else {
            columns.push(ident(name));
        }
    }
    columns.extend(place(dataset, manifest.field_with_name(SHARED_SERVER_NAME).is_ok()));
    columns.extend(states);
    columns.extend(more);
    scan("urls", table)?.project(columns)?.build()
}

/// `images`: what is in the files of successes, and where.
pub(super) fn images(dataset: &Arc<Dataset>) -> Result<ViewTable> {
    Ok(ViewTable::new(images_plan(dataset, Vec::new())?, None))
}

/// `images` with the position of its partition in the order of the dataset, and of its file in the partition.
pub(super) fn ordered_images(dataset: &Arc<Dataset>) -> Result<ViewTable> {
    let place = vec![ident(hidden::PARTITION), ident(hidden::PART)];
    Ok(ViewTable::new(images_plan(dataset, place)?, None))
}

fn images_plan(dataset: &Arc<Dataset>, more: Vec<Expr>) -> Result<LogicalPlan> {
    let table = FileTable::new(dataset.clone(), FileKind::Images, &Schema::empty());
    let mut columns = shown_columns(&crate::storage::successes_schema());
    columns.extend(place(dataset, true));
    columns.push(ident(hidden::FILE).alias("file"));
    columns.push(ident(hidden::ROW).alias("row"));
    columns.extend(more);
    scan("images", table)?.project(columns)?.build()
}

/// `errors`: the last word on each failed or skipped record.
pub(super) fn errors(dataset: &Arc<Dataset>) -> Result<ViewTable> {
    let table = FileTable::new(dataset.clone(), FileKind::Errors, &Schema::empty());
    let mut columns = shown_columns(&crate::storage::errors_schema());
    columns.extend(place(dataset, true));
    let mut plan = scan("errors", table)?;
    if !dataset.unsettled.is_empty() {
        plan = plan.filter(is_last_word(
            dataset,
            ident(hidden::PARTITION),
            ident(hidden::PART),
            ident("record"),
        ))?;
    }
    Ok(ViewTable::new(plan.project(columns)?.build()?, None))
}

/// `tool_<name>`: what one tool says of single images.
pub(super) fn tool(dataset: &Arc<Dataset>, tool: usize) -> Result<ViewTable> {
    Ok(ViewTable::new(tool_plan(dataset, tool, Vec::new())?.build()?, None))
}

/// `verdicts`: what all tools say.
pub(super) fn verdicts(dataset: &Arc<Dataset>) -> Result<ViewTable> {
    verdicts_with(dataset, &[])
}

/// `verdicts` with the position of its partition in the order of the dataset.
pub(super) fn ordered_verdicts(dataset: &Arc<Dataset>) -> Result<ViewTable> {
    verdicts_with(dataset, &[ident(hidden::PARTITION)])
}

fn verdicts_with(dataset: &Arc<Dataset>, more: &[Expr]) -> Result<ViewTable> {
    // Without tools, a table without files.
    let mut plan = tool_plan(dataset, 0, more.to_vec())?;
    for tool in 1..dataset.tools.len() {
        plan = plan.union(tool_plan(dataset, tool, more.to_vec())?.build()?)?;
    }
    Ok(ViewTable::new(plan.build()?, None))
}

fn tool_plan(dataset: &Arc<Dataset>, tool: usize, more: Vec<Expr>) -> Result<LogicalPlanBuilder> {
    let name = dataset.tools.get(tool).map_or("", |tool| tool.name.as_str());
    let table = FileTable::new(dataset.clone(), FileKind::Verdicts(tool), &Schema::empty());
    let mut columns = vec![ident("uuid"), lit(name).alias("tool")];
    columns.extend(["verdict", "reason", "witness", "distance"].map(ident));
    columns.extend(place(dataset, true));
    columns.push(ident("record"));
    columns.extend(more);
    scan("verdicts", table)?.project(columns)
}

fn scan(name: &str, table: FileTable) -> Result<LogicalPlanBuilder> {
    LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(table)), None)
}

fn shown_columns(schema: &Schema) -> Vec<Expr> {
    schema.fields().iter().map(|f| f.name()).filter(|n| *n != SHARED_SERVER_NAME).map(ident).collect()
}

/// `server_name` and `partition_id`. Without shared folders the server is the folder, and no file need be
/// read for it.
fn place(dataset: &Dataset, has_member_column: bool) -> [Expr; 2] {
    let server_name = if has_member_column && dataset.has_shared() {
        coalesce(vec![ident(SHARED_SERVER_NAME), ident(hidden::FOLDER)])
    } else {
        ident(hidden::FOLDER)
    };
    [server_name.alias("server_name"), ident(hidden::PARTITION_ID).alias("partition_id")]
}
