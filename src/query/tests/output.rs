//! How answers look.

use super::*;

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
