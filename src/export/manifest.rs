//! The manifest: one row per image, with the file and row where its bytes are.
//!
//! Rows are in order of partition (by the name of its folder, then its number) and record, whatever the order
//! in which they were downloaded. What differs from run to run is left out (`fetched_at`; a query has it) or
//! stands last (`file`, `row`), so equal lists make equal manifests but for the last two columns.
//! The dataset is gone through in slices of whole partitions, each sorted by itself: memory and disk for a
//! sort of everything are never needed.

use super::target::{Target, format_of};
use super::{ExportError, ExportReport, ManifestOptions};
use crate::query::output::RowWriter;
use crate::query::{OutputOptions, QuerySession};

/// Images of a slice, unless one partition alone has more. A row is about 600 bytes, so this is half of what
/// queries may use by default.
const SLICE_IMAGES: u64 = 1_000_000;

const COLUMNS: &str = "uuid, source_id, identifier, server_name, partition_id, record, original_size, \
    resized_size, resized_size[1] as height, resized_size[2] as width, hashsum_original, hashsum_resized, \
    image_format, image_bytes, perceptual_hash, is_license_full, license, source, title, label, content_type, \
    file, row";

/// Writes the manifest. The file appears when it is whole.
///
/// A subquery in the condition is answered once per slice.
///
/// # Errors
/// When the name tells no format, the condition does not hold as SQL, a file of the dataset cannot be read, or
/// the disk is full.
pub async fn export_manifest(
    session: &QuerySession,
    options: &ManifestOptions,
) -> Result<ExportReport, ExportError> {
    export_in_slices(session, options, SLICE_IMAGES).await
}

async fn export_in_slices(
    session: &QuerySession,
    options: &ManifestOptions,
    slice_images: u64,
) -> Result<ExportReport, ExportError> {
    let (format, gzip) = format_of(&options.output)?;
    if let Some(sql) = &options.where_sql {
        session.check_condition(sql)?;
    }
    session.register_ordered_images("ordered_images")?;
    // A line of its own, so that a comment in the condition ends.
    let condition = options.where_sql.as_ref().map_or("true".into(), |sql| format!("(\n{sql}\n)"));
    let mut slices = session.image_slices(slice_images).into_iter();
    let mut next_slice = async || match slices.next() {
        Some((first, last)) => {
            let sql = format!(
                "select {COLUMNS} from ordered_images as images \
                 where \"ddl:partition\" between {first} and {last} and {condition} \
                 order by \"ddl:partition\", record"
            );
            session.stream(&sql).await.map(Some)
        }
        None => Ok(None),
    };
    let mut rows = next_slice().await?.expect("there is a slice");
    let target = Target::create(session.layout(), &options.output, gzip)?;
    let in_part = target.in_part();
    let mut batch = rows.next().await?;
    let written = async {
        let mut writer = RowWriter::new(target, &rows, OutputOptions { format, table_width: None })?;
        let mut num_rows = 0;
        loop {
            while let Some(rows_now) = batch {
                writer.write(&rows_now)?;
                num_rows += rows_now.num_rows() as u64;
                batch = rows.next().await?;
            }
            rows = match next_slice().await? {
                Some(rows) => rows,
                None => break writer.finish()?.finish(num_rows),
            };
            batch = rows.next().await?;
        }
    };
    written.await.map_err(in_part)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::path::PathBuf;

    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::query::tests::fixture::Fixture;

    fn options(output: PathBuf, where_sql: Option<&str>) -> ManifestOptions {
        ManifestOptions { output, where_sql: where_sql.map(str::to_owned) }
    }

    #[tokio::test]
    async fn every_image_has_a_row_in_order() {
        let fixture = Fixture::full(100);
        let session = fixture.session();
        let path = fixture.outside("exports/manifest.csv");
        let report = export_manifest(&session, &options(path.clone(), None)).await.unwrap();
        assert_eq!((report.num_rows, report.bytes), (6, fs::metadata(&path).unwrap().len()));
        let text = fs::read_to_string(&path).unwrap();
        let header = "uuid,source_id,identifier,server_name,partition_id,record,original_size,resized_size,\
            height,width,hashsum_original,hashsum_resized,image_format,image_bytes,perceptual_hash,\
            is_license_full,license,source,title,label,content_type,file,row";
        assert_eq!(text.lines().next(), Some(header));
        let order: Vec<_> =
            text.lines().filter(|l| l.starts_with("uuid-")).map(|l| l.split(',').next().unwrap()).collect();
        assert_eq!(
            order,
            [
                "uuid-c.example-0",
                "uuid-a.example-0",
                "uuid-a.example-2",
                "uuid-a.example-3",
                "uuid-b.example:8080-0",
                "uuid-b.example:8080-1"
            ]
        );
        // However it is sliced.
        let again = fixture.outside("again.csv");
        export_in_slices(&session, &options(again.clone(), None), 1).await.unwrap();
        assert_eq!(fs::read_to_string(&again).unwrap(), text);
    }

    #[tokio::test]
    async fn file_and_row_lead_to_the_image() {
        let fixture = Fixture::full(100);
        let path = fixture.outside("manifest.parquet");
        export_manifest(&fixture.session(), &options(path.clone(), None)).await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap();
        assert!(reader.schema().fields().iter().all(|field| field.metadata().is_empty()));
        let mut checked = 0;
        for batch in reader.build().unwrap().map(Result::unwrap) {
            let column = |name: &str| batch.column_by_name(name).unwrap().clone();
            let (file, row, record) = (column("file"), column("row"), column("record"));
            for at in 0..batch.num_rows() {
                let path = fixture.layout.root().join(file.as_string::<i32>().value(at));
                let stored = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
                let stored = stored.build().unwrap().next().unwrap().unwrap();
                let records = stored.column_by_name("record").unwrap().as_primitive::<Int32Type>().clone();
                let row = row.as_primitive::<Int64Type>().value(at) as usize;
                assert_eq!(records.value(row), record.as_primitive::<Int32Type>().value(at));
                checked += 1;
            }
        }
        assert_eq!(checked, 6);
    }

    #[tokio::test]
    async fn a_condition_chooses() {
        let fixture = Fixture::full(100);
        let session = fixture.session();
        let path = fixture.outside("some.jsonl.gz");
        let condition = "server_name like 'b.%' and images.uuid in \
            (select uuid from urls where record = 1) -- a comment";
        export_manifest(&session, &options(path.clone(), Some(condition))).await.unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(fs::File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
        let row: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(row["uuid"], "uuid-b.example:8080-1");
        assert_eq!(row["resized_size"], serde_json::json!([240, 321]));
        assert_eq!(row["perceptual_hash"], "01".repeat(32));
    }

    #[tokio::test]
    async fn a_failed_export_leaves_what_was_there() {
        let fixture = Fixture::full(100);
        let session = fixture.session();
        let path = fixture.outside("kept.csv");
        fs::write(&path, "old").unwrap();
        let error =
            export_manifest(&session, &options(path.clone(), Some("no_column > 1"))).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no column `no_column`");
        let escape = options(path.clone(), Some("false) or (true"));
        assert!(matches!(
            export_manifest(&session, &escape).await,
            Err(ExportError::Query(crate::query::QueryError::Syntax { .. }))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "a temporary file is left");
        let error = export_manifest(&session, &options(fixture.outside("x.xlsx"), None)).await.unwrap_err();
        assert!(error.hint().unwrap().contains(".parquet"));
    }

    #[tokio::test]
    async fn nothing_downloaded_is_an_empty_manifest() {
        let fixture = Fixture::empty();
        for name in ["m.csv", "m.parquet", "m.ndjson"] {
            let path = fixture.outside(name);
            let report = export_manifest(&fixture.session(), &options(path, None)).await.unwrap();
            assert_eq!(report.num_rows, 0);
        }
        assert!(fs::read_to_string(fixture.outside("m.csv")).unwrap().starts_with("uuid,source_id"));
    }
}
