//! From text to one statement that only reads.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Statement as SqlStatement, visit_expressions_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::QueryError;
use super::error::explain;

/// Names of columns that are not in lower case, by their lower-case form.
pub(super) type MixedCase = HashMap<String, String>;

/// Of the columns of all tables, those that can be meant by their lower-case form: it is nobody's name, and
/// one spelling only has it.
pub(super) fn mixed_case(columns: &[String]) -> MixedCase {
    let names: HashSet<&str> = columns.iter().map(String::as_str).collect();
    let mut spellings: HashMap<String, Option<&str>> = HashMap::new();
    for &name in &names {
        let lower = name.to_lowercase();
        if !names.contains(lower.as_str()) {
            spellings.entry(lower).and_modify(|only| *only = None).or_insert(Some(name));
        }
    }
    spellings.into_iter().filter_map(|(lower, only)| Some((lower, only?.to_owned()))).collect()
}

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

/// Checks that a text is one whole expression: pasted into a statement, it stays one.
pub(super) fn check_condition(sql: &str) -> Result<(), QueryError> {
    let parsed = DFParserBuilder::new(sql).build().and_then(|mut parser| parser.parse_into_expr());
    match parsed.map_err(|error| explain(&error, &[]))?.alias {
        None => Ok(()),
        Some(alias) => {
            Err(QueryError::Syntax { message: format!("a condition has no name such as `{alias}`") })
        }
    }
}

/// Text of several statements, cut at its `;`. One within a text or a comment ends nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Whole statements, each with its `;`. Where nothing but comments stands before one, there is none.
    pub statements: Vec<&'a str>,
    /// What no `;` has ended; `None` if these are only comments and white space.
    pub rest: Option<&'a str>,
    /// Whether a text or a comment is open at the end.
    pub is_open: bool,
}

impl<'a> Script<'a> {
    #[must_use]
    pub fn cut(sql: &'a str) -> Self {
        // What stands before an error is there nevertheless.
        let mut tokens = Vec::new();
        let read = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
        let mut statements = Vec::new();
        let mut place = Place { sql, line: 1, column: 1, at: 0 };
        let (mut start, mut is_blank) = (0, true);
        for token in tokens {
            match token.token {
                Token::Whitespace(_) => {}
                Token::SemiColon => {
                    let end = place.offset(token.span.start) + 1;
                    if !is_blank {
                        statements.push(sql[start..end].trim());
                    }
                    (start, is_blank) = (end, true);
                }
                _ => is_blank = false,
            }
        }
        let is_open = read.is_err();
        let rest = (is_open || !is_blank).then(|| sql[start..].trim());
        Self { statements, rest, is_open }
    }
}

/// From lines and columns, which only grow, to bytes.
struct Place<'a> {
    sql: &'a str,
    line: u64,
    column: u64,
    at: usize,
}

impl Place<'_> {
    fn offset(&mut self, location: Location) -> usize {
        for c in self.sql[self.at..].chars() {
            if (self.line, self.column) >= (location.line, location.column) {
                break;
            }
            (self.line, self.column) =
                if c == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
            self.at += c.len_utf8();
        }
        self.at
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unambiguous_names_are_meant_in_lower_case() {
        let columns = ["taxonKey", "File", "file", "ID", "Id", "uuid", "Year", "Year"].map(str::to_owned);
        let mut meant: Vec<_> = mixed_case(&columns).into_iter().collect();
        meant.sort();
        let pair = |lower: &str, name: &str| (lower.to_owned(), name.to_owned());
        assert_eq!(meant, [pair("taxonkey", "taxonKey"), pair("year", "Year")]);
    }

    #[test]
    fn scripts_are_cut_at_their_semicolons() {
        let check = |sql: &str, statements: &[&str], rest: Option<&str>, is_open: bool| {
            assert_eq!(Script::cut(sql), Script { statements: statements.into(), rest, is_open }, "{sql}");
        };
        check("select 1; select 2;", &["select 1;", "select 2;"], None, false);
        check("select 'é;\n' ; -- one;\n select 2", &["select 'é;\n' ;"], Some("-- one;\n select 2"), false);
        check("\r\n/* none; */ ;; select\n\t\"ü;\";\n-- the end", &["select\n\t\"ü;\";"], None, false);
        check("select 1; select 'it''s", &["select 1;"], Some("select 'it''s"), true);
        check("select 1; /* two;", &["select 1;"], Some("/* two;"), true);
        check("", &[], None, false);
    }

    #[test]
    fn a_condition_is_one_expression() {
        for sql in ["true", "a = 1 or b in (select c from d)", "a like '%;)%' -- b", "(a)\n/* b */"] {
            check_condition(sql).unwrap();
        }
        for sql in ["", "false) or (true", "a = 1; select 1", "a as b", "a, b", "a order by b", "a /*", "(a"]
        {
            check_condition(sql).unwrap_err();
        }
    }
}
