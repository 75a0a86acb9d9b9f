//! Queries over a small dataset with everything that may occur.

mod files;
pub(crate) mod fixture;
mod output;
mod statements;
mod tables;

use std::io::{self, Write};

use arrow::util::pretty::pretty_format_batches;

use self::fixture::Fixture;
use crate::model::FailureCause;

use super::{OutputFormat, OutputOptions, QueryError, QueryOptions, QuerySession, write_results};

async fn written(session: &QuerySession, sql: &str, options: OutputOptions) -> String {
    let mut text = Vec::new();
    write_results(session.stream(sql).await.unwrap(), options, &mut text).await.unwrap();
    // Escape characters would not stay visible in the snapshots.
    String::from_utf8(text).unwrap().replace('\u{1b}', "^[")
}

pub(crate) async fn csv(session: &QuerySession, sql: &str) -> String {
    written(session, sql, OutputOptions { format: OutputFormat::Csv, table_width: None }).await
}

async fn error(session: &QuerySession, sql: &str) -> String {
    let error = match session.stream(sql).await {
        Err(error) => error,
        Ok(mut rows) => loop {
            match rows.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("`{sql}` ran"),
                Err(error) => break error,
            }
        },
    };
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}
