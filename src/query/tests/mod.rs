//! Queries over a small dataset with everything that may occur.

pub(crate) mod fixture;

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

async fn csv(session: &QuerySession, sql: &str) -> String {
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

#[tokio::test]
async fn every_record_has_its_state() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let sql = "select server_name, partition_id, record, disposition, cause, error_code, http_status,
                      retry_count from urls order by server_name, partition_id, record";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    server_name,partition_id,record,disposition,cause,error_code,http_status,retry_count
    a.example,0,0,success,,,,
    a.example,0,1,failed,http_status,404,404,2
    a.example,0,2,success,,,,
    a.example,0,3,success,,,,
    b.example:8080,0,0,success,,,,
    b.example:8080,0,1,success,,,,
    b.example:8080,0,2,failed,dns,-1,,2
    b.example:8080,0,3,pending,,,,
    b.example:8080,0,4,pending,,,,
    c.example,0,0,success,,,,
    d.example,0,1,failed,http_status,403,403,2
    d.example,0,2,pending,,,,
    ,0,0,skipped,empty_url,,,
    "#);
    let sql = "select disposition, count(*) as n from urls group by disposition order by n desc, disposition";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    disposition,n
    success,6
    failed,3
    pending,3
    skipped,1
    "#);
    // The same numbers as the catalog's own.
    let sql = "select sum(pending), sum(success), sum(failed), sum(skipped) from partitions";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    sum(partitions.pending),sum(partitions.success),sum(partitions.failed),sum(partitions.skipped)
    3,6,3,1
    "#);
}

#[tokio::test]
async fn columns_of_all_ingests_show() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    // Unquoted, as SQL would read it in lower case; narrower once; of the name of one of ours.
    let sql = "select uuid, year, taxonKey, list_cause from urls where record = 1 order by uuid";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    uuid,year,taxonKey,list_cause
    uuid-a.example-1,1901,,
    uuid-b.example:8080-1,1901,2877951,weather
    uuid-d.example-1,1901,2877951,weather
    "#);
    let sql = "select column_name, data_type from information_schema.columns where table_name = 'urls'
               order by ordinal_position";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    column_name,data_type
    uuid,Utf8
    source_id,Utf8
    identifier,Utf8
    license,Utf8
    source,Utf8
    title,Utf8
    label,Utf8
    year,Int64
    taxonKey,Utf8
    list_cause,Utf8
    record,Int32
    server_name,Utf8
    partition_id,Int32
    disposition,Utf8
    cause,Utf8
    error_code,Int32
    http_status,Int32
    retry_count,Int32
    "#);
}

#[tokio::test]
async fn images_are_those_of_named_files() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let sql = "select server_name, partition_id, record, original_size, image_bytes, fetched_at, file, row
               from images order by server_name, record";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    server_name,partition_id,record,original_size,image_bytes,fetched_at,file,row
    a.example,0,0,"[480, 640]",100,2001-09-09T01:46:40Z,downloaded_images/server_name=a.example/partition_id=0/successes.parquet,0
    a.example,0,2,"[480, 640]",100,2001-09-09T01:46:40.002Z,downloaded_images/server_name=a.example/partition_id=0/successes.parquet,2
    a.example,0,3,"[480, 640]",100,2001-09-09T01:46:40.003Z,downloaded_images/server_name=a.example/partition_id=0/successes.parquet,1
    b.example:8080,0,0,"[480, 640]",100,2001-09-09T01:46:40Z,downloaded_images/server_name=b.example%3A8080/partition_id=0/_parts/successes-1-1-0.parquet,0
    b.example:8080,0,1,"[480, 640]",100,2001-09-09T01:46:40.001Z,downloaded_images/server_name=b.example%3A8080/partition_id=0/_parts/successes-1-1-0.parquet,1
    c.example,0,0,"[480, 640]",100,2001-09-09T01:46:40Z,downloaded_images/server_name=SHARED-0001/partition_id=0/_parts/successes-1-1-0.parquet,0
    "#);
    insta::assert_snapshot!(csv(&session, "select count(*), count(distinct uuid) from images").await, @r#"
    count(*),count(DISTINCT images.uuid)
    6,6
    "#);
    let sql = "select server_name, record, error_code, cause, http_status from errors order by server_name";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    server_name,record,error_code,cause,http_status
    a.example,1,404,http_status,404
    b.example:8080,2,-1,dns,
    d.example,1,403,http_status,403
    "#);
    // A row's place holds the row.
    let sql = "select record, row from images where row = 1 and record > 1 and server_name = 'a.example'";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    record,row
    3,1
    "#);
}

#[tokio::test]
async fn sums_are_the_catalogs() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    insta::assert_snapshot!(csv(&session, "select * from servers").await, @r#"
    server_name,shared,num_partitions,num_records,pending,success,failed,skipped,image_bytes
    SHARED-0001,true,1,3,1,1,1,0,100
    ,false,1,1,0,0,0,1,0
    a.example,false,1,4,0,3,1,0,300
    b.example:8080,false,1,5,2,2,1,0,200
    "#);
    let sql = "select server_name, partition_id, stage, num_records, num_parts, image_bytes,
                      successes_bytes > 0 as s, errors_bytes > 0 as e from partitions";
    insta::assert_snapshot!(csv(&session, sql).await, @r#"
    server_name,partition_id,stage,num_records,num_parts,image_bytes,s,e
    SHARED-0001,0,open,3,1,100,false,false
    ,0,open,1,0,0,false,false
    a.example,0,finished,4,0,300,true,true
    b.example:8080,0,open,5,1,200,false,false
    "#);
    insta::assert_snapshot!(csv(&session, "select run_id, kind, started_at, ended_at, success from runs").await, @r#"
    run_id,kind,started_at,ended_at,success
    1,download,2001-09-09T01:46:40Z,,6
    "#);
    insta::assert_snapshot!(csv(&session, "select ingest_id, inputs, rows, new from ingests").await, @r#"
    ingest_id,inputs,rows,new
    1,[list.csv],13,13
    "#);
}

#[tokio::test]
async fn an_error_that_a_retry_undid_does_not_show() {
    let mut fixture = Fixture::empty();
    let key = fixture.add_pending("e.example", 5);
    let dns = |record| (record, FailureCause::Dns, 0);
    fixture.add_part_with_stale(key, "e.example", 0, &[0], &[dns(1)], &[dns(2), dns(3), dns(4)]);
    fixture.add_part(key, "e.example", 1, &[3], &[(2, FailureCause::HttpStatus, 500)]);
    let session = fixture.session();
    let sql = "select record, cause from errors order by record";
    assert_eq!(csv(&session, sql).await, "record,cause\n1,dns\n2,http_status\n");
    assert_eq!(csv(&session, "select count(*) as n from errors").await, "n\n2\n");
    let sql = "select record from errors where server_name = 'e.example' and cause = 'dns'";
    assert_eq!(csv(&session, sql).await, "record\n1\n");
}

/// The whole of a plan, as text.
async fn explain(session: &QuerySession, sql: &str) -> String {
    pretty_format_batches(&session.collect(sql).await.unwrap()).unwrap().to_string()
}

/// Sum of a metric such as `bytes_scanned=1.2 K` over a plan.
fn metric(plan: &str, name: &str) -> f64 {
    plan.match_indices(&format!("{name}="))
        .map(|(at, text)| {
            let value = plan[at + text.len()..].split([',', ']']).next().unwrap().trim();
            let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
            let scale = match unit.trim() {
                "" | "B" => 1.0,
                "K" | "KB" => 1e3,
                "M" | "MB" => 1e6,
                unit => panic!("unit {unit} in {value}"),
            };
            number.parse::<f64>().unwrap() * scale
        })
        .sum()
}

#[tokio::test]
async fn counting_and_grouping_leave_the_images_alone() {
    // 6 images of 400 KB.
    let fixture = Fixture::full(400_000);
    let session = fixture.session();
    let sql = "explain analyze select server_name, image_format, count(*), sum(image_bytes)
               from images where http_status = 200 group by server_name, image_format";
    let plan = explain(&session, sql).await;
    let scanned = metric(&plan, "bytes_scanned");
    assert!(scanned > 0.0 && scanned < 60_000.0, "{scanned} bytes in\n{plan}");
    // No file is opened to count rows.
    let plan = explain(&session, "explain select count(*) from images").await;
    assert!(!plan.contains("DataSourceExec: file_groups"), "{plan}");
    // Of the images, only the one asked for is read.
    let sql = "explain analyze select image from images where uuid = 'uuid-a.example-2'";
    let plan = explain(&session, sql).await;
    let scanned = metric(&plan, "bytes_scanned");
    assert!(scanned > 400_000.0 && scanned < 600_000.0, "{scanned} bytes in\n{plan}");
}

#[tokio::test]
async fn only_folders_that_can_match_are_read() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let check = async |filter: &str, folders: &[&str]| {
        let plan = explain(&session, &format!("explain select uuid from urls where {filter}")).await;
        for folder in ["a.example", "b.example", "SHARED-0001", "__HIVE"] {
            let reads = plan.contains(&format!("server_name={folder}"));
            assert_eq!(reads, folders.contains(&folder), "{folder} for {filter}:\n{plan}");
        }
    };
    check("server_name = 'a.example'", &["a.example"]).await;
    check("server_name in ('b.example:8080', 'nobody')", &["b.example"]).await;
    check("server_name = 'd.example'", &["SHARED-0001"]).await;
    check("server_name like '%.example' and partition_id = 0", &["a.example", "SHARED-0001"]).await;
    check("server_name is null", &["__HIVE"]).await;
    check("partition_id > 0", &[]).await;
    check("server_name = 'a.example' or record = 7", &["a.example", "b.example", "SHARED-0001", "__HIVE"])
        .await;
    insta::assert_snapshot!(
        csv(&session, "select server_name, uuid from urls where server_name = 'd.example'").await, @r#"
    server_name,uuid
    d.example,uuid-d.example-1
    d.example,uuid-d.example-2
    "#);
}

#[tokio::test]
async fn image_bytes_come_a_few_at_a_time() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let frame = session.sql("select image from images where record < 9").await.unwrap();
    assert_eq!(frame.task_ctx().session_config().batch_size(), 32);
    let frame = session.sql("select uuid from images where record < 9").await.unwrap();
    assert_eq!(frame.task_ctx().session_config().batch_size(), 8192);
}

#[tokio::test]
async fn formats() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let sql = "select uuid, title, license, resized_size, perceptual_hash, fetched_at, image
               from images where server_name = 'b.example:8080' order by record";
    let format = |format| OutputOptions { format, table_width: Some(100) };
    insta::assert_snapshot!(written(&session, sql, format(OutputFormat::Table)).await, @r#"
    +--------------+-------------+-------------+-------------+-------------+-------------+-------------+
    | uuid         | title       | license     | resized_si… | perceptual… | fetched_at  | image       |
    +--------------+-------------+-------------+-------------+-------------+-------------+-------------+
    | uuid-b.exam… | Not provid… | CC0         | [240, 320]  | 0000000000… | 2001-09-09… | <100 bytes> |
    | uuid-b.exam… | a "quoted", | Not provid… | [240, 321]  | 0101010101… | 2001-09-09… | <100 bytes> |
    |              | title\u{1b… |             |             |             |             |             |
    +--------------+-------------+-------------+-------------+-------------+-------------+-------------+
    (2 rows)
    "#);
    let narrow = OutputOptions { format: OutputFormat::Table, table_width: Some(40) };
    insta::assert_snapshot!(written(&session, sql, narrow).await, @r#"
    +----------+----------+----------+
    | uuid     | title    | license  |
    +----------+----------+----------+
    | uuid-b.… | Not pro… | CC0      |
    | uuid-b.… | a "quot… | Not pro… |
    |          | title\u… |          |
    +----------+----------+----------+
    (2 rows; 3 of 7 columns have room)
    "#);
    let sql =
        "select uuid, title, license, resized_size, substr(uuid, 1, 0) as empty, is_license_full, fetched_at
               from images where server_name = 'b.example:8080' order by record";
    insta::assert_snapshot!(written(&session, sql, format(OutputFormat::Csv)).await, @r#"
    uuid,title,license,resized_size,empty,is_license_full,fetched_at
    uuid-b.example:8080-0,Not provided,CC0,"[240, 320]","",false,2001-09-09T01:46:40Z
    uuid-b.example:8080-1,"a ""quoted"",
    title^[[31m",Not provided,"[240, 321]","",false,2001-09-09T01:46:40.001Z
    "#);
    insta::assert_snapshot!(written(&session, sql, format(OutputFormat::Tsv)).await, @r#"
    uuid	title	license	resized_size	empty	is_license_full	fetched_at
    uuid-b.example:8080-0	Not provided	CC0	[240, 320]		false	2001-09-09T01:46:40Z
    uuid-b.example:8080-1	a "quoted",\ntitle^[[31m	Not provided	[240, 321]		false	2001-09-09T01:46:40.001Z
    "#);
    insta::assert_snapshot!(written(&session, sql, format(OutputFormat::Json)).await, @r#"
    [{"uuid":"uuid-b.example:8080-0","title":"Not provided","license":"CC0","resized_size":[240,320],"empty":"","is_license_full":false,"fetched_at":"2001-09-09T01:46:40Z"},{"uuid":"uuid-b.example:8080-1","title":"a \"quoted\",\ntitle\u001b[31m","license":"Not provided","resized_size":[240,321],"empty":"","is_license_full":false,"fetched_at":"2001-09-09T01:46:40.001Z"}]
    "#);
    insta::assert_snapshot!(written(&session, sql, format(OutputFormat::Ndjson)).await, @r#"
    {"uuid":"uuid-b.example:8080-0","title":"Not provided","license":"CC0","resized_size":[240,320],"empty":"","is_license_full":false,"fetched_at":"2001-09-09T01:46:40Z"}
    {"uuid":"uuid-b.example:8080-1","title":"a \"quoted\",\ntitle\u001b[31m","license":"Not provided","resized_size":[240,321],"empty":"","is_license_full":false,"fetched_at":"2001-09-09T01:46:40.001Z"}
    "#);
    let sql = "select record, perceptual_hash from images where server_name = 'c.example'";
    insta::assert_snapshot!(written(&session, sql, format(OutputFormat::Csv)).await, @r#"
    record,perceptual_hash
    0,0000000000000000000000000000000000000000000000000000000000000000
    "#);
    insta::assert_snapshot!(written(&session, "select 1 as one", format(OutputFormat::Table)).await, @r#"
    +-----+
    | one |
    +-----+
    |   1 |
    +-----+
    (1 row)
    "#);
}

#[tokio::test]
async fn cells_have_lines_and_room() {
    let fixture = Fixture::empty();
    let session = fixture.session();
    let sql = "select '' as \"\", 'first' || chr(10) || 'second' as lines, 7 as n, repeat('x', 90) as long";
    let table = |table_width| OutputOptions { format: OutputFormat::Table, table_width };
    insta::assert_snapshot!(written(&session, sql, table(Some(60))).await, @r"
    +---+--------+---+-----------------------------------------+
    |   | lines  | n | long                                    |
    +---+--------+---+-----------------------------------------+
    |   | first  | 7 | xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… |
    |   | second |   |                                         |
    +---+--------+---+-----------------------------------------+
    (1 row)
    ");
    let whole = written(&session, sql, table(None)).await;
    assert!(whole.contains(&"x".repeat(90)), "nothing is cut where there is no width to keep: {whole}");
    // Rows after those that decided on the widths.
    let sql =
        "select case when value = 1500 then repeat('y', 200) else 'a' end as y from generate_series(1, 1501)";
    let whole = written(&session, sql, table(None)).await;
    assert!(whole.contains(&"y".repeat(200)));
}

#[tokio::test]
async fn a_plan_is_text() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let options = OutputOptions { format: OutputFormat::Table, table_width: Some(60) };
    let plan =
        written(&session, "explain select uuid from images where record = 1 order by title", options).await;
    let lines: Vec<_> = plan.lines().collect();
    assert_eq!(lines[0], "logical_plan");
    assert!(lines.contains(&"physical_plan") && lines.iter().any(|line| line.len() > 80), "{plan}");
    assert!(lines.iter().all(|line| !line.contains("\\n") && !line.contains('…')), "{plan}");
}

#[tokio::test]
async fn a_parquet_result_reads_back() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let sql = "select * from images order by server_name, record";
    let path = fixture.outside("result.parquet");
    let options = OutputOptions { format: OutputFormat::Parquet, table_width: None };
    let file = std::fs::File::create(&path).unwrap();
    let rows = write_results(session.stream(sql).await.unwrap(), options, file).await.unwrap();
    assert_eq!(rows, 6);
    let file = std::fs::File::open(&path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let read: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    let expect = session.collect(sql).await.unwrap();
    let expect = arrow::compute::concat_batches(&expect[0].schema(), &expect).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].columns(), expect.columns());
}

/// A pipe whose reader goes away after some bytes.
struct BrokenPipe(usize);

impl Write for BrokenPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = bytes.len().min(self.0);
        self.0 -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_may_go_away() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    for format in OutputFormat::ALL {
        let rows = session.stream("select * from urls").await.unwrap();
        let options = OutputOptions { format, table_width: None };
        write_results(rows, options, BrokenPipe(10)).await.unwrap();
    }
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let target = fixture.outside("t.csv");
    for sql in [
        "create table t (a int)",
        "create table t as select * from urls",
        "create view v as select 1",
        "create external table t stored as parquet location '/etc'",
        "select * into t from urls",
        "drop table urls",
        "insert into urls select * from urls",
        "update urls set uuid = 'x'",
        "delete from urls",
        "truncate table urls",
        &format!("copy urls to '{}' stored as csv", target.display()),
        &format!("explain analyze copy (select 1) to '{}' stored as csv", target.display()),
        "explain insert into urls select * from urls",
        "set datafusion.execution.batch_size = 1",
        "reset datafusion.execution.batch_size",
        "begin",
        "prepare p as select 1",
        "use other",
    ] {
        let text = error(&session, sql).await;
        assert!(text.starts_with("queries only read, they cannot "), "{sql}: {text}");
    }
    assert!(!target.exists());
    for sql in [
        "select * from urls limit 1",
        "with x as (select 1 as a) select a from x;",
        "values (1), (2)",
        "show tables",
        "show columns from urls",
        "describe images",
        "explain select 1",
        "-- a comment\nselect 1",
    ] {
        session.collect(sql).await.unwrap();
    }
}

#[tokio::test]
async fn files_outside_the_dataset_are_no_tables() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let path = fixture.outside("x.csv");
    std::fs::write(&path, "a\n1\n").unwrap();
    let text = error(&session, &format!("select * from '{}'", path.display())).await;
    assert!(text.starts_with("there is no table"), "{text}");
}

#[tokio::test]
async fn errors_say_what_was_meant() {
    let fixture = Fixture::full(100);
    let session = fixture.session();
    let mut all = String::new();
    for sql in [
        "select uid from urls",
        "select urls.idnetifier from urls",
        "select \"TaxonKey\" from urls",
        "select nothing_like_it from images",
        "select * from url",
        "select * from pictures",
        "select from urls where",
        "select 'abc from urls",
        "select * from urls; select 1",
        "",
        "select lengthh(uuid) from urls",
        "select sum(uuid) from urls",
        "select record + 'abc' from urls",
        "select 1/0 from urls",
        "select uuid, count(*) from urls",
    ] {
        all.push_str(&format!("> {sql}\n{}\n", error(&session, sql).await));
    }
    insta::assert_snapshot!(all, @r#"
    > select uid from urls
    there is no column `uid`
    hint: did you mean `uuid`?
    > select urls.idnetifier from urls
    there is no column `idnetifier`
    hint: did you mean `identifier`?
    > select "TaxonKey" from urls
    there is no column `TaxonKey`
    hint: did you mean `"taxonKey"`?
    > select nothing_like_it from images
    there is no column `nothing_like_it`
    hint: `DESCRIBE urls` lists the columns of a table
    > select * from url
    there is no table `url`
    hint: did you mean `urls`?
    > select * from pictures
    there is no table `pictures`
    hint: `SHOW TABLES` lists them
    > select from urls where
    cannot read the SQL: Expected: an expression, found: EOF
    hint: texts stand in 'single' quotes, names with capitals in "double" quotes
    > select 'abc from urls
    cannot read the SQL: Unterminated string literal at Line: 1, Column: 8
    hint: texts stand in 'single' quotes, names with capitals in "double" quotes
    > select * from urls; select 1
    one statement at a time, found 2
    hint: separate them into queries of their own
    > 
    there is no statement to run
    hint: for instance `SELECT disposition, count(*) FROM urls GROUP BY 1`
    > select lengthh(uuid) from urls
    this query cannot be run: Invalid function 'lengthh', did you mean 'length'?
    hint: `DESCRIBE urls` lists the columns of a table and their types
    > select sum(uuid) from urls
    this query cannot be run: Function 'sum' failed to match any signature
    hint: `DESCRIBE urls` lists the columns of a table and their types
    > select record + 'abc' from urls
    this query cannot be run: Cannot coerce arithmetic expression Int32 + Utf8 to valid types
    hint: `DESCRIBE urls` lists the columns of a table and their types
    > select 1/0 from urls
    the query failed: Divide by zero error
    > select uuid, count(*) from urls
    this query cannot be run: Column in SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column "urls.uuid" must appear in the GROUP BY clause or must be part of an aggregate function, currently only "count(Int64(1))" appears in the SELECT clause satisfies this requirement
    hint: `DESCRIBE urls` lists the columns of a table and their types
    "#);
}

#[tokio::test]
async fn an_empty_dataset_answers_with_no_rows() {
    let fixture = Fixture::empty();
    let session = fixture.session();
    for table in session.tables().await.unwrap() {
        let batches = session.collect(&format!("select * from {}", table.name)).await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0, "{}", table.name);
        assert!(!table.columns.is_empty());
        assert_eq!(csv(&session, &format!("select count(*) as n from {}", table.name)).await, "n\n0\n");
    }
    let sql = "select disposition, count(*) from urls where server_name = 'a' group by disposition";
    assert_eq!(csv(&session, sql).await, "disposition,count(*)\n");
}

#[tokio::test]
async fn files_that_move_under_a_query_are_found_again() {
    let mut fixture = Fixture::empty();
    let key = fixture.add_pending("m.example", 9);
    let failed = |record| (record, FailureCause::HttpStatus, 404);
    fixture.add_part(key, "m.example", 0, &[1, 0], &[failed(2)]);
    fixture.add_part(key, "m.example", 1, &[], &[failed(4), failed(3)]);
    fixture.add_part(key, "m.example", 2, &[6], &[failed(5)]);
    let queries = [
        "select uuid, record, row, image, perceptual_hash from images order by record",
        "select record, row from images where row = 1 or record = 6 order by record",
        "select record, error_code, cause from errors order by record",
        "select count(*) as n, count(image_bytes), sum(record) from images",
    ];
    let session = fixture.session();
    let mut before = Vec::new();
    for sql in queries {
        before.push(csv(&session, sql).await);
    }
    assert!(before[0].contains("uuid-m.example-6,6,0,"), "{}", before[0]);
    assert_eq!(
        before[2],
        "record,error_code,cause\n2,404,http_status\n3,404,http_status\n4,404,http_status\n5,404,http_status\n"
    );
    // A stream that has begun, too.
    let mut begun = session.stream("select image from images").await.unwrap();
    let mut num_rows = begun.next().await.unwrap().unwrap().num_rows();

    fixture.add_part(key, "m.example", 3, &[8], &[failed(7)]);
    fixture.finish(key, "m.example", &[2, 3, 4, 5, 7]);
    for (sql, before) in queries.into_iter().zip(before) {
        assert_eq!(csv(&session, sql).await, before);
    }
    while let Some(batch) = begun.next().await.unwrap() {
        num_rows += batch.num_rows();
    }
    assert_eq!(num_rows, 3);
    assert_eq!(csv(&fixture.session(), "select count(uuid) as n from images").await, "n\n4\n");
}

#[tokio::test]
async fn a_file_that_cannot_be_found_again_is_recognised() {
    let mut fixture = Fixture::empty();
    let key = fixture.add_pending("e.example", 3);
    let dns = |record| (record, FailureCause::Dns, 0);
    fixture.add_part_with_stale(key, "e.example", 0, &[0], &[dns(1)], &[dns(2)]);
    let session = fixture.session();
    fixture.add_part(key, "e.example", 1, &[2], &[]);
    fixture.finish(key, "e.example", &[1]);
    // Which of the errors were the part's, the final file does not tell.
    let mut rows = session.stream("select uuid from errors").await.unwrap();
    let moved = rows.next().await.unwrap_err();
    assert!(moved.is_moved() && moved.to_string().contains("e.example"), "{moved:?}");
    assert!(moved.hint().unwrap().contains("ddl check"));
    assert_eq!(csv(&session, "select record from images").await, "record\n0\n");
    // The catalog knows where the rows are now.
    assert_eq!(csv(&fixture.session(), "select record from errors").await, "record\n1\n");

    // A file that is lost is not taken from anywhere.
    let fixture = Fixture::full(100);
    let server = crate::model::ServerName::from_catalog("b.example:8080");
    std::fs::remove_dir_all(fixture.layout.parts_folder(&server, 0)).unwrap();
    let text = error(&fixture.session(), "select uuid from images").await;
    assert!(text.contains("is missing, although the catalog names it"), "{text}");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let fixture = Fixture::full(100);
    let server = crate::model::ServerName::from_catalog("a.example");
    let path = fixture.layout.successes(&server, 0);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let session = fixture.session();
    let text = error(&session, "select uuid from images").await;
    assert!(text.contains("server_name=a.example") && text.contains("cannot be read"), "{text}");
}

#[tokio::test]
async fn a_sort_beyond_its_memory_spills() {
    let fixture = Fixture::full(100);
    let options = QueryOptions { memory_bytes: 24 << 20, threads: 1, ..QueryOptions::default() };
    let session = QuerySession::open(&fixture.layout, fixture.catalog.view().unwrap(), &options).unwrap();
    let sql = "select a.value * 7919 % 1000003 as k, repeat('x', 100) as t
               from generate_series(1, 400000) a order by k";
    let mut rows = session.stream(sql).await.unwrap();
    let mut num_rows = 0;
    while let Some(batch) = rows.next().await.unwrap() {
        num_rows += batch.num_rows();
    }
    assert_eq!(num_rows, 400_000);
}

#[tokio::test]
async fn too_little_memory_is_an_error_with_a_hint() {
    let fixture = Fixture::full(100);
    let options = QueryOptions { memory_bytes: 1 << 20, threads: 1, ..QueryOptions::default() };
    let session = QuerySession::open(&fixture.layout, fixture.catalog.view().unwrap(), &options).unwrap();
    let sql = "select count(*) from generate_series(1, 300000) a join generate_series(1, 300000) b
               on a.value = b.value";
    let mut rows = session.stream(sql).await.unwrap();
    let error = loop {
        match rows.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ran in a megabyte"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, QueryError::OutOfMemory { .. }), "{error:?}");
}
