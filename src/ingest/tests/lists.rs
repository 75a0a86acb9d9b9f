//! Lists of many kinds, and what is wrong with them.

use super::*;

#[test]
fn a_truncated_list_changes_nothing() {
    let dataset = Dataset::new();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(wide_list().as_bytes()).unwrap();
    let whole = encoder.finish().unwrap();
    let path = dataset.write("list.csv.gz", &whole[..whole.len() / 2]);
    let error = dataset.ingest(std::slice::from_ref(&path), &small(10)).unwrap_err();
    assert!(error.to_string().contains("list.csv.gz"), "{error}");
    assert!(dataset.partitions().is_empty() && dataset.files().is_empty());
    dataset.write("list.csv.gz", &whole);
    assert_eq!(dataset.ingest(&[path], &small(100)).unwrap().rows_read, 6000);
}

#[test]
fn useless_inputs_are_told_apart() {
    let dataset = Dataset::new();
    let check = |name: &str, text: &[u8], expect: &str| {
        let error = dataset.ingest(&[dataset.write(name, text)], &small(10)).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains(name), "{name}: {error}");
    };
    check("empty.csv", b"", "is empty");
    check("header.csv", b"url\n", "has no rows");
    check("columns.csv", b"a,b\n1,2\n", "no URL column");
    check("columns.jsonl", b"{\"a\":1}\n{\"b\":2}\n", "no URL column");
    check("malformed.csv", b"url,x\n1\n2\n", "no row could be read of 2 lines; the first, line 2");
    check("malformed.jsonl", b"[1]\n", "a JSON array");
    check("malformed.json", b"u\n", "no JSON object");
    check("binary.bin", b"\x7fELF\0\0", "format");
    check("broken.parquet", b"PAR1", "Parquet");
    let strict = IngestOptions { strict: true, ..small(10) };
    let path = dataset.write("strict.csv", "url,x\nhttp://a/1,2\nhttp://a/2\n");
    let error = dataset.ingest(&[path], &strict).unwrap_err().to_string();
    assert!(error.contains("line 3"), "{error}");
    let error = dataset.ingest(&[], &small(10)).unwrap_err();
    assert!(matches!(error, IngestError::NoInput));
    let error = dataset.ingest(&[], &small(0)).unwrap_err();
    assert!(matches!(error, IngestError::BadOption { option: "batch_size", .. }));
}

#[test]
fn several_lists_make_one_schema() {
    let dataset = Dataset::new();
    let parquet = dataset.folder.path().join("1.parquet");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("URL", Arc::new(StringArray::from(vec!["http://a/1"]))),
        ("height", Arc::new(Int64Array::from(vec![10]))),
        ("width", Arc::new(Int64Array::from(vec![20]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&parquet).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let json = dataset.write(
        "2.jsonl",
        "{\"url\":\"http://a/2\",\"height\":\"tall\"}\n{\"url\":\"http://a/3\",\"late\":1}\n",
    );
    let csv = dataset.write("3", "url|title\nhttp://a/4|Four\n");
    dataset.ingest(&[parquet, json, csv], &small(10)).unwrap();
    let rows = dataset.manifest(&dataset.partitions()[0]);
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(texts(&rows, "height"), [some("10"), some("tall"), None, None]);
    assert_eq!(texts(&rows, "late"), [None, None, some("1"), None]);
    assert_eq!(texts(&rows, "title"), [None, None, None, some("Four")]);
    assert_eq!(rows.column_by_name("width").unwrap().data_type(), &DataType::Int64);
    // What is stored is honoured: columns stay in their order and new ones go behind.
    dataset.ingest_text("4.csv", "new,width,url\nn,wide,http://a/5\n", &small(10));
    let schema = dataset.catalog.view().unwrap().manifest_schema().unwrap().unwrap();
    let names: Vec<_> = schema.fields()[7..].iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["height", "width", "late", "new", "record", "shared_server_name"]);
    assert_eq!(schema.field_with_name("width").unwrap().data_type(), &DataType::Utf8);
}

/// Rows between a title that begins with a quote and the next title with one were lost without a word.
#[test]
fn quotes_in_a_tab_separated_list_cost_nothing() {
    let dataset = Dataset::new();
    let title = |n| match n {
        10 => "\"Leaf of oak".to_owned(),
        900 => "5\" pot".to_owned(),
        n => format!("title {n}"),
    };
    let rows: String = (0..1000).map(|n| format!("{n}\t{}\thttp://a.org/{n}\n", title(n))).collect();
    let report = dataset.ingest_text("multimedia.tsv", format!("id\ttitle\turl\n{rows}"), &small(2000));
    assert_eq!((report.records_new, report.malformed), (1000, 0));
    let titles = texts(&dataset.manifest(&dataset.partitions()[0]), "title");
    assert_eq!(titles, (0..1000).map(|n| Some(title(n))).collect::<Vec<_>>());
}

/// Columns of such names were taken for the ones of rows that wait.
#[test]
fn a_column_may_have_any_name() {
    let names = ["ingest:server", "ingest:input", "ingest:position", "ingest:state", "ingest:invalid"];
    let rows =
        (0..3000).map(|n| format!("http://s{}.org/{n},a,b,c,d,{}\n", n % 7, format!("{n} ").repeat(80)));
    let list = format!("url,{}\n{}", names.join(","), rows.collect::<String>());
    for memory_bytes in [512 << 20, 16 << 20] {
        let dataset = Dataset::new();
        // With a second list, rows of the first are brought to more columns than they had.
        let lists = [
            dataset.write("1.csv", &list),
            dataset.write("2.csv", "url,more,ingest:server,ingest:state\nhttp://s0.org/x,m,a,d\n"),
        ];
        let report = dataset.ingest(&lists, &IngestOptions { memory_bytes, ..small(1000) }).unwrap();
        assert_eq!(report.records_new, 3001);
        for partition in dataset.partitions() {
            let rows = dataset.manifest(&partition);
            assert!(texts(&rows, "ingest:server").iter().all(|value| value.as_deref() == Some("a")));
            assert!(texts(&rows, "ingest:state").iter().all(|value| value.as_deref() == Some("d")));
        }
    }
}

/// The folder of a server must have a name that a filesystem takes, or nothing at all is ingested.
#[test]
fn a_host_that_makes_no_folder_is_no_server() {
    let dataset = Dataset::new();
    let hosts = ["a".repeat(243), "a".repeat(244), "*".repeat(81), "*".repeat(82), "a".repeat(238) + ":81"];
    let list: String = hosts.iter().map(|host| format!("http://{host}/\n")).collect();
    let report = dataset.ingest_text("list.txt", list, &small(10));
    assert_eq!((report.records_new, report.servers), (5, 3));
    assert_eq!(report.skipped, BTreeMap::from([("bad_url".to_owned(), 2)]));
}

#[test]
fn fields_that_come_late_are_bound_like_others() {
    let dataset = Dataset::new();
    let early = |n: u32| format!("{{\"x\":{n},\"title\":\"t\"}}\n");
    let late = |n: u32| {
        format!("{{\"url\":\"http://a/{n}\",\"license\":\"cc0\",\"Title\":\"no\",\"LABEL\":\"l\"}}\n")
    };
    let list: String = (0..9000).map(early).chain((0..9000).map(late)).collect();
    let report = dataset.ingest_text("list.jsonl", list, &small(20_000));
    assert_eq!(report.records_new, 18_000);
    assert_eq!(report.skipped, BTreeMap::from([("empty_url".to_owned(), 9000)]));
    let rows = dataset.manifest(&dataset.partitions()[1]);
    let all = |column: &str, expect: Option<&str>| {
        assert!(texts(&rows, column).iter().all(|value| value.as_deref() == expect), "{column}");
    };
    all("license", Some("cc0"));
    all("label", Some("l"));
    // What was found once stays where it was found.
    all("title", None);
    let schema = dataset.catalog.view().unwrap().manifest_schema().unwrap().unwrap();
    let names: Vec<_> = schema.fields()[7..].iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["x", "Title_input", "record", "shared_server_name"]);
}

/// What makes a record of a row without a usable URL: not all that the list happens to say of it.
#[test]
fn rows_without_a_url_are_told_apart_by_what_stands_in_its_place() {
    let dataset = Dataset::new();
    let mut list =
        b"source_id,url,title\n1,ftp://a/1,\n,http://a/\xff,\n,http://a/\xfe,\n,,x\n,,y\n2,,\n3,,\n".to_vec();
    let report = dataset.ingest_text("1.csv", &list, &small(10));
    assert_eq!((report.records_new, report.duplicates), (7, 0));
    // A newer list knows more of the first.
    list.splice(32..32, *b"a title");
    let report = dataset.ingest_text("2.csv", &list, &small(10));
    assert_eq!((report.records_new, report.records_known, report.records_gone), (0, 7, 0));
}
