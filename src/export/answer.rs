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
    let in_part = target.in_part();
    // Most of what can fail does before the first rows come: then nothing is written.
    let mut batch = rows.next().await?;
    let written = async {
        let mut writer = RowWriter::new(target, &rows, OutputOptions { format, table_width: None })?;
        let mut num_rows = 0;
        while let Some(rows_now) = batch {
            writer.write(&rows_now)?;
            num_rows += rows_now.num_rows() as u64;
            batch = rows.next().await?;
        }
        writer.finish()?.finish(num_rows)
    };
    written.await.map_err(in_part)
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

    /// A query that is tried again over a fresh view wrote its first rows twice.
    #[tokio::test]
    async fn what_a_pipe_has_got_is_not_written_again() {
        let mut fixture = Fixture::empty();
        for server in ["a.example", "b.example"] {
            let key = fixture.add_pending(server, 3);
            fixture.add_part(key, server, 0, &[0, 1, 2], &[]);
        }
        let fifo = fixture.outside("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let lose = |server: &str| {
            let server = crate::model::ServerName::from_catalog(server);
            fs::remove_dir_all(fixture.layout.parts_folder(&server, 0)).unwrap();
        };
        let query = crate::query::QueryOptions { threads: 1, ..Default::default() };
        let session =
            || QuerySession::open(&fixture.layout, fixture.catalog.view().unwrap(), &query).unwrap();
        let options = options(&fixture, "fifo", Some(OutputFormat::Csv));
        let sql = "select identifier from images";

        lose("b.example");
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).unwrap()
        });
        let error = export_answer(&session(), sql, &options).await.unwrap_err();
        assert!(matches!(error, ExportError::InPart { .. }) && !error.is_moved(), "{error}");
        assert_eq!(reader.join().unwrap().lines().count(), 4, "the rows of the first file, and names");

        // Nothing was written: nobody reads here, so opening the pipe would wait for ever.
        lose("a.example");
        let error = export_answer(&session(), sql, &options).await.unwrap_err();
        assert!(error.is_moved(), "{error}");
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
