//! One table for all kinds of lists: rows in, what becomes of each.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;

use super::super::delimited::text_schema;
use super::super::error::IngestError;
use super::super::normalize::{BoundInput, NormalBatch, Normalizer};
use super::super::options::{ColumnsOptions, IngestOptions};
use super::super::raw_batch::RawBatch;
use super::super::source::{SOURCES, find_source};

/// Rows of cells; `-` is null.
fn table(rows: &[&[&str]]) -> RawBatch {
    let schema: SchemaRef = text_schema(rows[0].iter().map(|&name| name.to_owned()).collect());
    let columns = (0..rows[0].len()).map(|column| {
        let cells = rows[1..].iter().map(|row| Some(row[column]).filter(|cell| *cell != "-"));
        Arc::new(cells.collect::<StringArray>()) as Arc<dyn Array>
    });
    let rows_batch = RecordBatch::try_new(schema, columns.collect()).unwrap();
    RawBatch { positions: (1..rows.len() as u64).collect(), rows: rows_batch, invalid_text: Vec::new() }
}

fn options(source: &str) -> IngestOptions {
    IngestOptions { initializer_type: source.to_owned(), ..IngestOptions::default() }
}

fn bind(options: &IngestOptions, raw: &RawBatch) -> Result<BoundInput, IngestError> {
    let source = find_source(&options.initializer_type)?;
    Ok(BoundInput::new(0, Path::new("list"), raw.rows.schema(), false, source, options)?.0)
}

fn normalize(options: &IngestOptions, rows: &[&[&str]]) -> Result<NormalBatch, IngestError> {
    let raw = table(rows);
    let input = bind(options, &raw)?;
    let normalizer = Normalizer {
        max_url_bytes: 100,
        ignored_servers: Default::default(),
        excluded_servers: Default::default(),
    };
    normalizer.normalize(&raw, &input, |_| 0)
}

/// `column` of the rows that are kept, and the reasons for which the others are not.
fn check(options: &IngestOptions, rows: &[&[&str]], column: &str, expect: &[&str], filtered: &[(&str, u64)]) {
    let batch = normalize(options, rows).unwrap();
    let found: Vec<String> = match batch.buckets.first() {
        Some((_, rows)) => {
            let column = rows.rows.column_by_name(column).unwrap().as_string::<i32>().clone();
            column.iter().map(|value| value.unwrap_or("-").to_owned()).collect()
        }
        None => Vec::new(),
    };
    assert_eq!(found, expect);
    assert_eq!(batch.filtered.into_iter().collect::<Vec<_>>(), filtered);
}

const UUID: &str = "11111111-1111-4111-8111-111111111111";

#[test]
fn generic_takes_what_it_finds() {
    let rows: &[&[&str]] = &[
        &["Photo_URL", "uuid", "label", "record", "x"],
        &[" http://a/1 ", UUID, "cat", "r", "y"],
        &["http://a/2", "-", "-", "-", "-"],
        &["-", "-", "-", "-", "-"],
    ];
    let generic = options("");
    check(&generic, rows, "identifier", &["http://a/1", "http://a/2", "-"], &[]);
    check(&generic, rows, "record_input", &["r", "-", "-"], &[]);
    check(&generic, rows, "label", &["cat", "-", "-"], &[]);
    let of_url = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, b"http://a/2").to_string();
    let batch = normalize(&generic, rows).unwrap();
    let uuids = batch.buckets[0].1.rows.column(0).as_string::<i32>();
    assert_eq!((uuids.value(0), uuids.value(1)), (UUID, of_url.as_str()));
    let names: Vec<_> = batch.buckets[0].1.rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names[7..], ["record_input", "x"]);
}

#[test]
fn named_columns_must_exist() {
    let columns = ColumnsOptions { url: Some("picture".into()), ..ColumnsOptions::default() };
    let named = IngestOptions { columns, ..IngestOptions::default() };
    let error = normalize(&named, &[&["Pictures", "url"], &["a", "b"]]).unwrap_err().to_string();
    assert!(error.contains("`columns.url` names") && error.contains("nearest: `Pictures`"), "{error}");
    let error = normalize(&options(""), &[&["identifer", "x"], &["a", "b"]]).unwrap_err().to_string();
    assert!(error.contains("`identifer`, `x`") && error.contains("nearest: `identifer`"), "{error}");
    assert!(error.contains("`--url-column identifer`"), "{error}");
    // Names come from outside: they neither steer the terminal nor fill it.
    let long = "x".repeat(1000);
    let error = normalize(&options(""), &[&["\u{1b}[2J", &long], &["a", "b"]]).unwrap_err().to_string();
    assert!(error.contains("`\\u{1b}[2J`") && !error.contains('\u{1b}') && error.len() < 300, "{error}");
    let error = normalize(&options("gbiff"), &[&["url"], &["a"]]).unwrap_err().to_string();
    assert!(error.contains("nearest: `gbif`"), "{error}");
}

#[test]
fn gbif_takes_still_images_of_organisms() {
    let head: &[&str] = &["gbifID", "identifier", "type", "format", "basisOfRecord"];
    let rows: &[&[&str]] = &[
        head,
        &["1", "http://a/1", "StillImage", "-", "HUMAN_OBSERVATION"],
        &["2", "http://a/2", "-", "image/png", "X"],
        &["-", "http://a/3", "StillImage", "-", "X"],
        &["4", "-", "StillImage", "-", "X"],
        &["5", "http://a/5", "Sound", "image/png", "X"],
        &["6", "http://a/6", "-", "-", "X"],
        &["7", "http://a/7", "StillImage", "-", "MATERIAL_CITATION"],
        &["8", "http://a/8", "StillImage", "-", "-"],
    ];
    let filtered = [
        ("material_citation", 1),
        ("no_basis_of_record", 1),
        ("no_gbif_id", 1),
        ("no_identifier", 1),
        ("not_a_still_image", 2),
    ];
    check(&options("gbif"), rows, "source_id", &["1", "2"], &filtered);
    // In a table of media alone, nothing is known against the row.
    let rows: &[&[&str]] = &[&head[..4], &["1", "http://a/1", "StillImage", "-"]];
    check(&options("gbif"), rows, "source_id", &["1"], &[]);
    assert!(bind(&options("gbif"), &table(rows)).unwrap().warning().is_some());
    let rows: &[&[&str]] =
        &[&[head[..4].to_vec(), vec!["species"]].concat(), &["1", "http://a/1", "-", "-", "-"]];
    let error = normalize(&options("gbif"), rows).unwrap_err().to_string();
    assert!(error.contains("no column `basisOfRecord`"), "{error}");
}

#[test]
fn gbif_reads_types_and_urls_as_publishers_write_them() {
    let rows: &[&[&str]] = &[
        &["gbifID", "identifier", "accessURI", "type"],
        &["1", "urn:uuid:1", "http://a/1", "http://purl.org/dc/dcmitype/StillImage"],
        &["2", "urn:uuid:2", "http://a/2", "image"],
        &["3", "urn:uuid:3", "http://a/3", "dcmitype:stillimage"],
        &["4", "urn:uuid:4", "http://a/4", "http://purl.org/dc/dcmitype/MovingImage"],
        &["5", "urn:uuid:5", "http://a/5", "-"],
    ];
    let filtered = [("not_a_still_image", 2)];
    check(&options("gbif"), rows, "identifier", &["http://a/1", "http://a/2", "http://a/3"], &filtered);
    check(&options("gbif"), rows, "identifier_input", &["urn:uuid:1", "urn:uuid:2", "urn:uuid:3"], &filtered);
    let rows: &[&[&str]] = &[&["gbifID", "accessURI", "format"], &["1", "http://a/1", "image/jpeg"]];
    check(&options("gbif"), rows, "identifier", &["http://a/1"], &[]);
    let error =
        normalize(&options("gbif"), &[&["gbifID", "accessURI"], &["1", "x"]]).unwrap_err().to_string();
    assert!(error.contains("no column `type`"), "{error}");
}

#[test]
fn eol_lists_say_whose_the_pictures_are() {
    let head = ["EOL content ID", "EOL Full-Size Copy URL", "License Name", "Copyright Owner"];
    for absent in 2..4 {
        let left = |row: [&'static str; 4]| [&row[..absent], &row[absent + 1..]].concat();
        let rows: &[&[&str]] = &[&left(head), &left(["1", "http://a/1", "cc-by", "Ann"])];
        let error = normalize(&options("eol"), rows).unwrap_err().to_string();
        assert!(error.contains(head[absent]), "{error}");
    }
}

#[test]
fn eol_and_fathom_net_and_lila() {
    let rows: &[&[&str]] = &[
        &["EOL content ID", "EOL Full-Size Copy URL", "License Name", "Copyright Owner"],
        &["1", "http://a/1", "cc-by", "Ann"],
        &["-", "http://a/2", "-", "-"],
        &["3", "-", "-", "-"],
    ];
    check(&options("eol"), rows, "source", &["Ann"], &[("no_content_id", 1), ("no_url", 1)]);
    let rows: &[&[&str]] = &[
        &["uuid", "url", "valid"],
        &["u1", "http://a/1", "True"],
        &["u2", "http://a/2", "false"],
        &["u3", "http://a/3", "-"],
    ];
    check(&options("fathom_net"), rows, "source_id", &["u1"], &[("not_valid", 2)]);
    let license = "https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode";
    check(&options("fathom_net"), rows, "license", &[license], &[("not_valid", 2)]);
    let rows: &[&[&str]] = &[
        &["url_gcp", "url_aws", "url_azure", "original_label", "image_id"],
        &["-", "http://aws/1", "http://az/1", "cat", "1"],
        &["-", "-", "-", "cat", "2"],
        &["http://gcp/3", "-", "-", "empty", "3"],
        &["http://gcp/4", "-", "-", "-", "4"],
        &["http://gcp/5", "-", "-", "Empty", "5"],
    ];
    let filtered = [("empty_picture", 1), ("no_label", 1), ("no_url", 1)];
    check(&options("lila"), rows, "identifier", &["http://aws/1", "http://gcp/5"], &filtered);
    check(&options("lila"), rows, "url_azure", &["http://az/1", "-"], &filtered);
}

#[test]
fn tol200m_takes_the_named_data_sources() {
    let rows: &[&[&str]] = &[
        &["uuid", "source_url", "data_source", "source_id"],
        &[UUID, "http://a/1", "gbif", "s1"],
        &["u2", "http://a/1", "eol", "s2"],
        &["u3", "http://a/1", "-", "s3"],
    ];
    for (name, column, expect) in
        [("tol200m_general", "uuid", UUID), ("tol200m_fathomNet", "uuid_input", UUID)]
    {
        let error = normalize(&options(name), rows).unwrap_err().to_string();
        assert!(error.contains("included_sources"), "{error}");
        let options = IngestOptions { included_sources: vec!["gbif".into()], ..options(name) };
        check(&options, rows, column, &[expect], &[("other_data_source", 2)]);
        check(&options, rows, "source_id", &["s1"], &[("other_data_source", 2)]);
    }
}

#[test]
fn every_kind_of_list_says_what_it_lacks() {
    for source in SOURCES {
        let options = IngestOptions { included_sources: vec!["x".into()], ..options(source.name()) };
        let error = normalize(&options, &[&["nothing"], &["-"]]).unwrap_err().to_string();
        assert!(error.contains("`nothing`"), "{}: {error}", source.name());
    }
}
