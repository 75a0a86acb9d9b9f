//! From text to one statement that only reads.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Statement as SqlStatement, visit_expressions_mut};

use super::QueryError;
use super::error::explain;

/// Names of columns that are not in lower case, by their lower-case form.
pub(super) type MixedCase = HashMap<String, String>;

/// Parses exactly one statement and refuses what is not a query.
pub(super) fn parse(sql: &str, mixed_case: &MixedCase) -> Result<Statement, QueryError> {
    let mut statements = DFParser::parse_sql(sql).map_err(|error| explain(&error, &[]))?;
    let found = statements.len();
    let mut statement = match (statements.pop_front(), found) {
        (None, _) => return Err(QueryError::Empty),
        (Some(statement), 1) => statement,
        _ => return Err(QueryError::Several { found }),
    };
    refuse_commands(&statement)?;
    restore_case(&mut statement, mixed_case);
    Ok(statement)
}

fn refuse_commands(statement: &Statement) -> Result<(), QueryError> {
    let reads = match statement {
        Statement::Statement(statement) => matches!(
            statement.as_ref(),
            SqlStatement::Query(_)
                | SqlStatement::Explain { .. }
                | SqlStatement::ExplainTable { .. }
                | SqlStatement::ShowVariable { .. }
                | SqlStatement::ShowVariables { .. }
                | SqlStatement::ShowTables { .. }
                | SqlStatement::ShowColumns { .. }
                | SqlStatement::ShowFunctions { .. }
                | SqlStatement::ShowSchemas { .. }
                | SqlStatement::ShowDatabases { .. }
                | SqlStatement::ShowViews { .. }
                | SqlStatement::ShowCreate { .. }
        ),
        Statement::Explain(explained) => return refuse_commands(&explained.statement),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => false,
    };
    if reads {
        return Ok(());
    }
    let text = statement.to_string();
    Err(QueryError::ReadOnly { what: text.split_whitespace().next().unwrap_or_default().to_uppercase() })
}

/// SQL reads `taxonKey` as `taxonkey`; where the only column of that spelling is `taxonKey`, it is meant.
fn restore_case(statement: &mut Statement, mixed_case: &MixedCase) {
    let restore = |ident: &mut Ident| {
        if ident.quote_style.is_none()
            && let Some(name) = mixed_case.get(&ident.value.to_lowercase())
        {
            *ident = Ident { value: name.clone(), quote_style: Some('"'), span: ident.span };
        }
    };
    match statement {
        Statement::Statement(statement) => {
            let _: ControlFlow<()> = visit_expressions_mut(statement.as_mut(), |expression| {
                match expression {
                    Expr::Identifier(ident) => restore(ident),
                    Expr::CompoundIdentifier(idents) => {
                        if let Some(column) = idents.last_mut() {
                            restore(column);
                        }
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            });
        }
        Statement::Explain(explained) => restore_case(&mut explained.statement, mixed_case),
        _ => {}
    }
}

/// Looks for writes that hide in a query, such as `SELECT ... INTO`.
pub(super) fn refuse_writes(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut write = None;
    plan.apply_with_subqueries(|node| {
        write = match node {
            LogicalPlan::Ddl(ddl) => Some(ddl.name().to_owned()),
            LogicalPlan::Dml(dml) => Some(dml.op.to_string()),
            LogicalPlan::Copy(_) => Some("COPY".into()),
            LogicalPlan::Statement(statement) => Some(statement.name().to_owned()),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok::<_, DataFusionError>(TreeNodeRecursion::Stop)
    })
    .map_err(|error| explain(&error, &[]))?;
    write.map_or(Ok(()), |what| Err(QueryError::ReadOnly { what }))
}

/// Whether the (optimised) plan reads image bytes.
pub(super) fn reads_images(plan: &LogicalPlan) -> bool {
    plan.apply_with_subqueries(|node| {
        Ok::<_, DataFusionError>(match node {
            LogicalPlan::TableScan(scan)
                if scan.projected_schema.fields().iter().any(|field| field.name() == "image") =>
            {
                TreeNodeRecursion::Stop
            }
            _ => TreeNodeRecursion::Continue,
        })
    })
    .is_ok_and(|recursion| recursion == TreeNodeRecursion::Stop)
}
