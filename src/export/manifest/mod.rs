//! The manifest: one row per image, with the file and row where its bytes are.
//!
//! Rows are in order of partition (by the name of its folder, then its number) and record, whatever the order
//! in which they were downloaded. What differs from run to run is left out (`fetched_at`; a query has it) or
//! stands last (`file`, `row`), so equal lists make equal manifests but for the last two columns.
//! The dataset is gone through in slices of whole partitions, each sorted by itself: memory and disk for a
//! sort of everything are never needed.

mod compare;
mod credits;
mod listed;

pub use self::compare::{DifferentImage, ListedImage, ManifestComparison, compare_manifest};
use super::select::{SLICE_IMAGES, Selection};
use super::target::{Target, format_of};
use super::{ExportError, ManifestOptions, ManifestReport, clean};
use crate::query::output::RowWriter;
use crate::query::{OutputOptions, QuerySession};

const COLUMNS: &str = "uuid, source_id, identifier, server_name, partition_id, record, original_size, \
    resized_size, resized_size[1] as height, resized_size[2] as width, hashsum_original, hashsum_resized, \
    image_format, image_bytes, perceptual_hash, is_license_full, license, source, title, label, content_type, \
    file, row";

/// Without what depends on the order of the list and of the downloads.
const PORTABLE_COLUMNS: &str = "uuid, source_id, identifier, server_name, original_size, resized_size, \
    resized_size[1] as height, resized_size[2] as width, hashsum_original, hashsum_resized, image_format, \
    image_bytes, perceptual_hash, is_license_full, license, source, title, label, content_type";

/// Writes the manifest. The file appears when it is whole.
///
/// # Errors
/// When the name tells no format, the condition does not hold as SQL, a tool has not been run, a file of the dataset
/// cannot be read, or the disk is full.
pub async fn export_manifest(
    session: &QuerySession,
    options: &ManifestOptions,
) -> Result<ManifestReport, ExportError> {
    export_in_slices(session, options, SLICE_IMAGES).await
}

async fn export_in_slices(
    session: &QuerySession,
    options: &ManifestOptions,
    slice_images: u64,
) -> Result<ManifestReport, ExportError> {
    let (format, gzip) = format_of(&options.output)?;
    let selection = Selection::new(session, &options.selection, slice_images).await?;
    let (columns, order) =
        if options.portable { (PORTABLE_COLUMNS, "server_name, uuid") } else { (COLUMNS, "record") };
    let mut slices = selection.slices.iter();
    let mut next_slice = async || match slices.next() {
        Some(&slice) => {
            let sql = format!("{} order by \"ddl:partition\", {order}", selection.sql(columns, slice));
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
    let file = written.await.map_err(in_part)?;
    let removals = clean::removals(session, &options.selection.clean.tools, &selection.slices).await?;
    if let Some(path) = &options.attribution {
        credits::attribution(session, &selection, path).await?;
    }
    if let Some(path) = &options.derived_dataset {
        credits::derived_dataset(session, &selection, path).await?;
    }
    Ok(ManifestReport { file, removals })
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
    use crate::export::{CleanOptions, SelectionOptions};
    use crate::query::tests::fixture::Fixture;

    fn options(output: PathBuf, where_sql: Option<&str>) -> ManifestOptions {
        let where_sql = where_sql.map(str::to_owned);
        let selection = SelectionOptions { where_sql, ..SelectionOptions::default() };
        ManifestOptions { output, selection, ..ManifestOptions::default() }
    }

    #[tokio::test]
    async fn every_image_has_a_row_in_order() {
        let fixture = Fixture::full(100);
        let session = fixture.session();
        let path = fixture.outside("exports/manifest.csv");
        let report = export_manifest(&session, &options(path.clone(), None)).await.unwrap();
        let file = report.file;
        assert_eq!((file.num_rows, file.bytes), (6, fs::metadata(&path).unwrap().len()));
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
    async fn what_tools_remove_is_left_out_and_counted() {
        let fixture = Fixture::full(100);
        let (a, b) = (fixture.key("a.example"), fixture.key("b.example:8080"));
        let shared = fixture.key("SHARED-0001");
        fixture.add_tool("size", &[(a, "a.example", &[0, 3]), (shared, "SHARED-0001", &[0])]);
        fixture.add_tool("dedup", &[(a, "a.example", &[3]), (b, "b.example:8080", &[1])]);
        let session = fixture.session();
        let verdicts = crate::query::tests::csv(
            &session,
            "select tool, server_name, record, reason, distance from verdicts order by 1, 2, 3",
        );
        insta::assert_snapshot!(verdicts.await, @r"
        tool,server_name,record,reason,distance
        dedup,a.example,3,reason-3,7
        dedup,b.example:8080,1,reason-1,
        size,a.example,0,reason-0,
        size,a.example,3,reason-3,7
        size,c.example,0,reason-0,
        ");
        let path = fixture.outside("clean.csv");
        let mut options = options(path.clone(), Some("server_name <> 'b.example:8080' or record = 1"));
        let clean = |tools: &[&str]| CleanOptions {
            tools: tools.iter().map(|&tool| tool.to_owned()).collect(),
            allow_stale: false,
        };
        let left = async |options: &ManifestOptions, slice_images| {
            let report = export_in_slices(&session, options, slice_images).await.unwrap();
            let text = fs::read_to_string(&options.output).unwrap();
            let uuids: Vec<_> =
                text.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect();
            let uuids: Vec<_> = uuids.into_iter().filter(|uuid| uuid.starts_with("uuid-")).collect();
            (uuids, report.removals)
        };
        options.selection.clean = clean(&["size"]);
        assert_eq!(left(&options, 1).await.0, ["uuid-a.example-2", "uuid-b.example:8080-1"]);
        options.selection.clean = clean(&["size", "dedup"]);
        options.attribution = Some(fixture.outside("attribution.csv"));
        let (uuids, removals) = left(&options, 1).await;
        assert_eq!(uuids, ["uuid-a.example-2"]);
        assert_eq!((removals.images, removals.removed), (6, 4));
        assert_eq!((removals.of("size"), removals.of("dedup")), (3, 2));
        let both = removals.by_tools.iter().find(|by| by.tools.len() == 2).unwrap();
        assert_eq!((both.tools.join("+"), both.images), ("size+dedup".to_owned(), 1));
        // However it is sliced.
        assert_eq!(left(&options, 1000).await, (uuids, removals));
        let attribution = fs::read_to_string(fixture.outside("attribution.csv")).unwrap();
        assert_eq!(attribution, "license,source,is_license_full,images\nNot provided,Not provided,false,1\n");

        options.selection.clean = clean(&["verify"]);
        let error = export_manifest(&session, &options).await.unwrap_err();
        assert_eq!(error.to_string(), "the tool `verify` has not been run");
        options.selection.clean = clean(&["size"]);
        options.derived_dataset = Some(fixture.outside("derived.csv"));
        let error = export_manifest(&session, &options).await.unwrap_err();
        assert_eq!(error.to_string(), "the lists have no column `datasetKey`");
        options.derived_dataset = None;

        // More images have come since.
        fixture.add_part(b, "b.example:8080", 1, &[3], &[]);
        let session = fixture.session();
        let error = export_manifest(&session, &options).await.unwrap_err();
        assert!(
            matches!(&error, ExportError::ToolStale { .. })
                && error.hint().unwrap().contains("--allow-stale")
        );
        options.selection.clean.allow_stale = true;
        assert_eq!(export_manifest(&session, &options).await.unwrap().file.num_rows, 2);
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
            assert_eq!(report.file.num_rows, 0);
        }
        assert!(fs::read_to_string(fixture.outside("m.csv")).unwrap().starts_with("uuid,source_id"));
    }
}
