//! What the tables hold, and what is read for it.

use super::*;

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
