//! Files that move, are missing or damaged under a query.

use super::*;
use crate::catalog::{RetractedFiles, Retraction};
use crate::model::Epoch;

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

/// A part's rows are found by counting: where some before it were retracted, another's would be taken for them, also when
/// as many have come since.
#[tokio::test]
async fn parts_that_a_retraction_has_moved_are_not_guessed_at() {
    let mut fixture = Fixture::empty();
    let key = fixture.add_pending("r.example", 7);
    let failed = |record| (record, FailureCause::HttpStatus, 404);
    fixture.add_part(key, "r.example", 0, &[0], &[failed(3)]);
    fixture.add_part(key, "r.example", 1, &[1], &[failed(4)]);
    fixture.add_part(key, "r.example", 2, &[2], &[]);
    // One thread: the first part is read first.
    let options = QueryOptions { threads: 1, ..QueryOptions::default() };
    let view = fixture.catalog.view().unwrap();
    let session = QuerySession::open(&fixture.layout, view, &options).unwrap();
    let row = fixture.catalog.view().unwrap().partition(key).unwrap().unwrap();
    let files = RetractedFiles { parts: row.parts[1..].to_vec(), image_bytes: 2000, epoch: Epoch::new(2, 0) };
    let retraction = Retraction { partition: key, records: vec![0, 3], files: Some(files) };
    fixture.catalog.retract(&retraction).unwrap();
    fixture.add_part(key, "r.example", 3, &[5], &[failed(6)]);
    fixture.finish(key, "r.example", &[4, 6]);
    for sql in ["select record from images", "select record from errors"] {
        let mut rows = session.stream(sql).await.unwrap();
        let moved = rows.next().await.unwrap_err();
        assert!(moved.is_moved(), "{sql}: {moved:?}");
    }
    let fresh = fixture.session();
    assert_eq!(csv(&fresh, "select record from images order by 1").await, "record\n1\n2\n5\n");
    assert_eq!(csv(&fresh, "select record from errors order by 1").await, "record\n4\n6\n");
    let retracted = csv(&fresh, "select record from urls where cause = 'retracted' order by 1").await;
    assert_eq!(retracted, "record\n0\n3\n");
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

/// Opening a pipe waits for who writes to it: such a query never ended.
#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_is_refused() {
    let fixture = Fixture::full(100);
    let server = crate::model::ServerName::from_catalog("a.example");
    let path = fixture.layout.successes(&server, 0);
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let text = error(&fixture.session(), "select uuid from images").await;
    assert!(text.contains("server_name=a.example") && text.contains("it is no regular file"), "{text}");
}
