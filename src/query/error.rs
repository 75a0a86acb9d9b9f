//! What can go wrong with a query, in words for the person who typed it.

use std::io;
use std::path::PathBuf;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::catalog::CatalogError;
use crate::model;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("there is no statement to run")]
    Empty,
    #[error("one statement at a time, found {found}")]
    Several { found: usize },
    /// The message says where.
    #[error("cannot read the SQL: {message}")]
    Syntax { message: String },
    #[error("queries only read, they cannot {what}")]
    ReadOnly { what: String },
    #[error("there is no table `{name}`")]
    UnknownTable { name: String, nearest: Option<String> },
    #[error("there is no column `{name}`")]
    UnknownColumn { name: String, nearest: Option<String> },
    #[error("the tool `{tool}` has made no images")]
    NoImages { tool: String },
    #[error("this query cannot be run: {message}")]
    Plan { message: String },
    /// A file that the catalog names is not there: it moved since the view was taken and could not be found
    /// again, or is lost. A session over a fresh view tells which.
    #[error("`{}` is missing, although the catalog names it", path.display())]
    Moved { path: PathBuf },
    #[error("`{}` cannot be read: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the query needs more memory than it may have: {detail}")]
    OutOfMemory { detail: String },
    #[error("the query would write more to disk than it may")]
    OutOfDisk,
    #[error("the query failed: {message}")]
    Execution { message: String },
    #[error("cannot write the result")]
    Output(#[source] io::Error),
}

impl QueryError {
    /// Whether the same query over a fresh view of the catalog may do.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        matches!(self, Self::Moved { .. })
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let quoted = |name: &str| {
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if plain { name.to_owned() } else { format!("\"{name}\"") }
        };
        match self {
            Self::Catalog(error) => error.hint(),
            Self::UnknownTable { nearest: Some(name), .. }
            | Self::UnknownColumn { nearest: Some(name), .. } => {
                Some(format!("did you mean `{}`?", quoted(name)))
            }
            Self::NoImages { .. } => Some("`ddl tool resize` makes some; `SELECT * FROM tools` lists what ran".into()),
            Self::UnknownTable { .. } => Some("`SHOW TABLES` lists them".into()),
            Self::UnknownColumn { .. } => Some("`DESCRIBE urls` lists the columns of a table".into()),
            Self::ReadOnly { .. } => Some("write a result to a file with `--format` and `-o FILE`".into()),
            Self::Several { .. } => Some("separate them into queries of their own".into()),
            Self::Moved { .. } | Self::Damaged { .. } => {
                Some("`ddl check` compares the catalog with the files".into())
            }
            Self::OutOfMemory { .. } => {
                Some("raise `query_parameters.memory_bytes`, or name a `query_parameters.temp_folder` that can be written to".into())
            }
            Self::OutOfDisk => {
                Some("raise `query_parameters.max_temp_bytes`, or select fewer columns or rows".into())
            }
            Self::Empty => Some("for instance `SELECT disposition, count(*) FROM urls GROUP BY 1`".into()),
            Self::Syntax { .. } => {
                Some("texts stand in 'single' quotes, names with capitals in \"double\" quotes".into())
            }
            Self::Plan { .. } => Some("`DESCRIBE urls` lists the columns of a table and their types".into()),
            Self::Execution { .. } | Self::Output(_) => None,
        }
    }
}

/// Turns what DataFusion says into what a person needs to know. `tables` are the names there are.
pub(super) fn explain(error: &DataFusionError, tables: &[&str]) -> QueryError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => explain(inner, tables),
        DataFusionError::Shared(inner) => explain(inner, tables),
        DataFusionError::Collection(errors) if !errors.is_empty() => explain(&errors[0], tables),
        DataFusionError::SQL(error, _) => QueryError::Syntax {
            message: match error.as_ref() {
                ParserError::ParserError(message) | ParserError::TokenizerError(message) => message.clone(),
                ParserError::RecursionLimitExceeded => "it is nested too deeply".into(),
            },
        },
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => QueryError::UnknownColumn {
                name: field.name().to_owned(),
                nearest: nearest(field.name(), valid_fields.iter().map(|field| field.name())),
            },
            other => QueryError::Plan { message: first_line(&other.to_string()) },
        },
        DataFusionError::Plan(message) | DataFusionError::NotImplemented(message) => {
            match missing_table(message) {
                Some(name) => QueryError::UnknownTable {
                    name: name.to_owned(),
                    nearest: nearest(name, tables.iter().copied()),
                },
                None => QueryError::Plan { message: first_line(message) },
            }
        }
        // The engine names an option of its own.
        DataFusionError::ResourcesExhausted(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ArrowError(..)
            if error.to_string().contains("max_temp_directory_size") =>
        {
            QueryError::OutOfDisk
        }
        DataFusionError::ResourcesExhausted(message) => {
            QueryError::OutOfMemory { detail: first_line(message) }
        }
        DataFusionError::Internal(message) | DataFusionError::Execution(message) => {
            QueryError::Execution { message: first_line(message) }
        }
        DataFusionError::ArrowError(error, _) => {
            QueryError::Execution { message: first_line(&error.to_string()) }
        }
        other => QueryError::Execution { message: first_line(&other.strip_backtrace()) },
    }
}

/// `table 'catalog.schema.name' not found`: DataFusion has no variant for it.
fn missing_table(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("table '")?;
    let (name, _) = rest.split_once("' not found")?;
    Some(name.rsplit('.').next().unwrap_or(name))
}

/// The first line, and a second one that says what may have been meant, without the engine's nested prefixes.
fn first_line(message: &str) -> String {
    let mut lines = message.lines();
    let first = lines.next().unwrap_or_default();
    let first = first.trim_start_matches("Error during planning: ").trim_start_matches("Internal error: ");
    // The reasons of every variant of a function follow.
    let first = first.split(", errors: ").next().unwrap_or(first).trim_end_matches('.');
    match lines.next() {
        Some(meant) if meant.starts_with("Did you mean") => {
            format!("{first}, did{}", meant.trim_start_matches("Did"))
        }
        _ => first.to_owned(),
    }
}

/// The known name that was most likely meant; hidden columns are nobody's to name.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    model::nearest(name, known.filter(|known| !known.contains(':'))).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["uuid", "identifier", "taxonKey", "ddl:file"];
        let check = |name: &str, expect: Option<&str>| {
            assert_eq!(nearest(name, known.into_iter()).as_deref(), expect, "{name}");
        };
        check("uid", Some("uuid"));
        check("taxonkey", Some("taxonKey"));
        check("idnetifier", Some("identifier"));
        check("ddl:fil", None);
        check("width", None);
    }
}
