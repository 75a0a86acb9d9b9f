//! What may be asked, what it may cost, and what is said of what may not.

use super::*;

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
