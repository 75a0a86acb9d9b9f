//! The answer to a query as a file.

use super::target::{Target, format_of};
use super::{AnswerOptions, ExportError, ExportReport};
use crate::query::output::RowWriter;
use crate::query::{OutputFormat, OutputOptions, QuerySession};

/// Writes the answer. The file appears when it is whole.
///
/// # Errors
/// When the name tells no format and none is given, the query fails, or the disk is full.
pub async fn export_answer(
    session: &QuerySession,
    sql: &str,
    options: &AnswerOptions,
) -> Result<ExportReport, ExportError> {
    let path = &options.output;
    let (format, gzip) = match options.format {
        Some(format) => {
            let is_gz = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
            (format, is_gz && format != OutputFormat::Parquet)
        }
        None => format_of(path)?,
    };
    let mut rows = session.stream(sql).await?;
    let target = Target::create(session.layout(), path, gzip)?;
    let mut writer = RowWriter::new(target, &rows, OutputOptions { format, table_width: None })?;
    let mut num_rows = 0;
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
        num_rows += batch.num_rows() as u64;
    }
    writer.finish()?.finish(num_rows)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;

    use super::*;
    use crate::query::tests::fixture::Fixture;

    fn options(fixture: &Fixture, name: &str, format: Option<OutputFormat>) -> AnswerOptions {
        AnswerOptions { output: fixture.outside(name), format }
    }

    #[tokio::test]
    async fn names_decide_unless_a_format_is_given() {
        let fixture = Fixture::full(100);
        let session = fixture.session();
        let answer = async |name: &str, format| {
            let options = options(&fixture, name, format);
            export_answer(&session, "select 7 as n", &options)
                .await
                .map(|_| fs::read(&options.output).unwrap())
        };
        let unpacked = |bytes: Vec<u8>| {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(answer("a.csv", None).await.unwrap(), b"n\n7\n");
        assert_eq!(unpacked(answer("a.csv.gz", None).await.unwrap()), "n\n7\n");
        assert_eq!(answer("a.json", None).await.unwrap(), b"[{\"n\":7}]\n");
        assert_eq!(answer("a.txt", Some(OutputFormat::Tsv)).await.unwrap(), b"n\n7\n");
        assert_eq!(unpacked(answer("b.gz", Some(OutputFormat::Ndjson)).await.unwrap()), "{\"n\":7}\n");
        let error = answer("a.xlsx", None).await.unwrap_err();
        assert!(error.to_string().contains("a.xlsx") && error.hint().unwrap().contains("--format"));
        assert!(!fixture.outside("a.xlsx").exists());
    }

    #[tokio::test]
    async fn a_query_that_fails_late_leaves_what_was_there() {
        let fixture = Fixture::full(100);
        let options = options(&fixture, "kept.csv", None);
        fs::write(&options.output, "old").unwrap();
        let sql = "select 1 / (9999 - value) from generate_series(1, 20000)";
        let error = export_answer(&fixture.session(), sql, &options).await.unwrap_err();
        assert!(error.to_string().contains("Divide by zero"), "{error}");
        assert_eq!(fs::read_to_string(&options.output).unwrap(), "old");
        assert_eq!(fs::read_dir(options.output.parent().unwrap()).unwrap().count(), 2);
    }
}
