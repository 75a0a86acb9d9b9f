//! Records: their partitions, keys, states and duplicates.

use super::*;

#[test]
fn rows_become_records_with_a_server_a_key_and_a_state() {
    let dataset = Dataset::new();
    dataset.write("ignored_servers.csv", "ServerName\nbad.org\n");
    let mut list = b"identifier,license,extra\n".to_vec();
    list.extend(b"https://A.org:443/1,cc0,x\n https://a.org/2 ,,\nhttps://a.org/1,,\nhttp://a.org:81/3,,y\n");
    list.extend(b"http://bad.org/4,,\nftp://a.org/5,,\n,,z\nhttp://a.org/\xff,,\nmalformed\n");
    let report = dataset.ingest_text("list.csv", &list, &small(10));
    assert_eq!((report.rows_read, report.records_new, report.duplicates), (8, 8, 0));
    let skipped = [("bad_scheme", 1), ("bad_utf8", 1), ("empty_url", 1), ("ignored_server", 1)];
    assert_eq!(report.skipped, BTreeMap::from(skipped.map(|(reason, count)| (reason.to_owned(), count))));
    assert_eq!((report.malformed, report.malformed_examples[0].line), (1, 10));
    // Records without a usable URL have a partition, too, but no server.
    assert_eq!((report.servers, report.partitions, report.files), (3, 4, 4));

    let partitions = dataset.partitions();
    let folders: Vec<&str> = partitions.iter().map(|partition| partition.folder.as_str()).collect();
    assert_eq!(folders, [ServerName::NULL, "a.org", "a.org:81", "bad.org"]);
    assert!(dataset.layout().urls().join("server_name=a.org%3A81/partition_id=0/part-0000.parquet").exists());
    let rows = dataset.manifest(&partitions[1]);
    let some = |text: &str| Some(text.to_owned());
    let urls = ["https://A.org:443/1", "https://a.org/2", "https://a.org/1"];
    assert_eq!(texts(&rows, "identifier"), urls.map(some));
    assert_eq!(texts(&rows, "license"), [some("cc0"), None, None]);
    assert_eq!(texts(&rows, "extra"), [some("x"), None, None]);
    let uuids = urls.map(|url| some(&RecordUrl::parse(url, 100).unwrap().uuid().to_string()));
    assert_eq!(texts(&rows, "uuid"), uuids);
    assert_eq!(rows.column_by_name("record").unwrap().as_primitive::<Int32Type>().values(), &[0, 1, 2]);
    let names: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..7], LEADING_COLUMNS);
    assert_eq!(names[7..], ["extra", RECORD_COLUMN, SHARED_SERVER_COLUMN]);
    assert_eq!(
        Some(rows.schema().as_ref().clone()),
        dataset.catalog.view().unwrap().manifest_schema().unwrap()
    );
    for (key, url) in partitions[1].url_keys.iter().zip(urls) {
        assert_eq!(*key, RecordUrl::parse(url, 100).unwrap().key());
    }
    assert_eq!(partitions[3].states, [RecordState::Skipped(SkipReason::IgnoredServer)]);
    let nameless = dataset.manifest(&partitions[0]);
    assert_eq!(texts(&nameless, "identifier"), [some("ftp://a.org/5"), None, some("http://a.org/\u{fffd}")]);

    // The same list again, the other way round and in other columns: nothing is new but the column.
    let report = dataset.ingest_text("again.csv", &list, &small(10));
    assert_eq!((report.records_new, report.records_known, report.records_gone), (0, 8, 0));
    let report = dataset.ingest_text("urls.txt", "https://a.org/2\nhttps://a.org/9\n", &small(10));
    assert_eq!((report.records_new, report.records_known, report.records_gone), (1, 1, 7));
    assert!(!dataset.layout().urls().join("_ingest-tmp").exists());
}

#[test]
fn partitions_are_cut_in_input_order_and_go_on_behind_the_last() {
    let dataset = Dataset::new();
    let list = |numbers: std::ops::Range<u32>| {
        let rows = numbers.map(|n| format!("http://{}.org/{n}\n", if n % 3 == 0 { "a" } else { "b" }));
        format!("url\n{}", rows.collect::<String>())
    };
    dataset.ingest_text("1.csv", list(0..30), &small(8));
    let before = dataset.files();
    let report = dataset.ingest_text("2.csv", list(0..60), &small(8));
    assert_eq!((report.records_new, report.records_known), (30, 30));
    let after = dataset.files();
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)));
    let sizes: Vec<_> = dataset
        .partitions()
        .iter()
        .map(|partition| (partition.folder.to_string(), partition.partition_id, partition.states.len()))
        .collect();
    let expect = [("a.org", [8, 2, 8, 2].as_slice()), ("b.org", &[8, 8, 4, 8, 8, 4])];
    let expect = expect.iter().flat_map(|(name, sizes)| {
        sizes.iter().enumerate().map(|(id, size)| ((*name).to_owned(), id as u32, *size))
    });
    assert_eq!(sizes, expect.collect::<Vec<_>>());
    let urls: Vec<_> =
        dataset.partitions()[..2].iter().flat_map(|p| texts(&dataset.manifest(p), "identifier")).collect();
    assert_eq!(urls, (0..10).map(|n| Some(format!("http://a.org/{}", n * 3))).collect::<Vec<_>>());
}

#[test]
fn duplicates_are_counted_and_listed() {
    let dataset = Dataset::new();
    dataset.ingest_text("0.csv", "url,source_id\nhttp://a/known,0\n", &small(10));
    let list =
        "url,source_id\nhttp://a/1,1\nhttp://a/known,2\nhttp://a/1,3\nhttp://a/known,4\nhttp://b/1,5\n";
    let report = dataset.ingest_text("1.csv", list, &small(10));
    assert_eq!((report.records_new, report.records_known, report.duplicates), (2, 1, 2));
    let path = report.duplicates_file.unwrap();
    assert!(path.ends_with("_duplicates/ingest-0000.parquet"));
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let rows: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(texts(&rows[0], "source_id"), [some("3"), some("4")]);
    assert_eq!(texts(&rows[0], "server_name"), [some("a"), some("a")]);
    assert!(texts(&rows[0], "input")[0].as_ref().unwrap().ends_with("1.csv"));
    let lines = rows[0].column_by_name("row").unwrap();
    assert_eq!(lines.as_primitive::<arrow::datatypes::UInt64Type>().values(), &[4, 5]);

    // The same list again changes nothing; one that repeats other rows has a file of its own.
    let before = dataset.files();
    let again = dataset.ingest_text("1.csv", list, &small(10));
    assert_eq!((again.records_new, again.duplicates), (0, 2));
    assert!(again.duplicates_file.unwrap().ends_with("_duplicates/ingest-0000.parquet"));
    assert!(dataset.files() == before);
    let other = dataset.ingest_text("2.csv", "url\nhttp://b/1\nhttp://b/1\n", &small(10));
    assert!(other.duplicates_file.unwrap().ends_with("_duplicates/ingest-0001.parquet"));
}

#[test]
fn the_first_ingest_settles_the_size_of_partitions() {
    let dataset = Dataset::new();
    let urls = |numbers: std::ops::Range<u32>| numbers.map(|n| format!("http://a/{n}\n")).collect::<String>();
    let unreadable = dataset.write("0.csv", "no,column\n1,2\n");
    dataset.ingest(&[unreadable], &small(2)).unwrap_err();
    dataset.ingest_text("1.txt", urls(0..8), &small(4));
    dataset.ingest_text("2.txt", urls(8..14), &small(5));
    let sizes: Vec<usize> = dataset.partitions().iter().map(|partition| partition.states.len()).collect();
    assert_eq!(sizes, [4, 4, 4, 2]);
}

#[test]
fn a_uuid_that_is_none_is_replaced() {
    let dataset = Dataset::new();
    let given = "8A7F3B52-0000-4000-8000-00000000000a";
    let list = format!("url,uuid\nhttp://a/1,N/A\nhttp://a/2,N/A\nhttp://a/3,{given}\nhttp://a/4,\n");
    let report = dataset.ingest_text("list.csv", list, &small(10));
    assert_eq!((report.records_new, report.bad_uuids), (4, 2));
    let made = |n| Some(RecordUrl::parse(&format!("http://a/{n}"), 100).unwrap().uuid().to_string());
    let uuids = texts(&dataset.manifest(&dataset.partitions()[0]), "uuid");
    assert_eq!(uuids, [made(1), made(2), Some(given.to_owned()), made(4)]);
}

#[test]
fn neither_threads_nor_memory_change_the_result() {
    let list = wide_list();
    let run = |threads, memory_bytes| {
        let dataset = Dataset::new();
        let options = IngestOptions { threads, memory_bytes, ..small(50) };
        let report = dataset.ingest_text("list.csv", &list, &options);
        assert_eq!(report.records_new + report.duplicates, 6000);
        let state = dataset.state();
        let mut files = dataset.files();
        // It names the input, which lies in another folder each time.
        files.retain(|path, _| !path.to_string_lossy().contains("_duplicates"));
        (state, files)
    };
    let (state, files) = run(1, 512 << 20);
    for (threads, memory_bytes) in [(4, 512 << 20), (2, 16 << 20)] {
        let (other_state, other_files) = run(threads, memory_bytes);
        assert!(state == other_state && files == other_files, "{threads} threads, {memory_bytes} bytes");
    }
}

#[test]
fn a_partition_too_large_for_memory_has_several_files() {
    let dataset = Dataset::new();
    let rows = (0..4000).map(|n| format!("http://a.org/{n},{}\n", format!("{n:04}").repeat(500)));
    let list = format!("url,wide\n{}", rows.collect::<String>());
    let options = IngestOptions { memory_bytes: 16 << 20, ..small(3500) };
    let report = dataset.ingest_text("list.csv", list, &options);
    assert_eq!(report.partitions, 2);
    let partitions = dataset.partitions();
    assert!(partitions[0].manifest_files.len() > 1, "{}", partitions[0].manifest_files.len());
    let rows = dataset.manifest(&partitions[0]);
    let records = rows.column_by_name("record").unwrap().as_primitive::<Int32Type>();
    assert_eq!(records.values(), &(0..3500).collect::<Vec<i32>>()[..]);
    assert_eq!(texts(&rows, "identifier")[3499], Some("http://a.org/3499".into()));
}

#[test]
fn many_small_servers_share_folders() {
    let dataset = Dataset::new();
    let rows = (0..3000).map(|n| format!("http://s{}.org/{n}\n", n % 1000));
    let large = (0..200).map(|n| format!("http://large.org/{n}\n"));
    let list = format!("url\n{}", rows.chain(large).collect::<String>());
    let options = IngestOptions { max_server_folders: 20, ..small(1000) };
    let report = dataset.ingest_text("list.csv", &list, &options);
    assert_eq!((report.records_new, report.servers), (3200, 1001));
    assert!(report.files <= 65, "{}", report.files);
    let mut urls = 0;
    for partition in dataset.partitions() {
        let rows = dataset.manifest(&partition);
        let servers = texts(&rows, SHARED_SERVER_COLUMN);
        for (url, server) in texts(&rows, "identifier").iter().zip(&servers) {
            let expect = RecordUrl::parse(url.as_ref().unwrap(), 100).unwrap().server;
            match server {
                Some(server) => assert_eq!(*server, expect.as_str()),
                None => assert_eq!(partition.folder, expect),
            }
        }
        urls += servers.len();
    }
    assert_eq!(urls, 3200);
    // Known servers stay where they are, though they are large now; new ones share new folders.
    let more = (0..300).map(|n| format!("http://s7.org/more{n}\n")).collect::<String>() + "http://new.org/\n";
    let report = dataset.ingest_text("more.csv", format!("url\n{more}"), &options);
    assert_eq!((report.records_new, report.partitions), (301, 2));
    let ids = dataset.catalog.view().unwrap().server_ids().unwrap();
    let folders: HashMap<_, _> =
        dataset.catalog.view().unwrap().servers().unwrap().into_iter().map(|row| (row.id, row)).collect();
    let row = &folders[&ids[&ServerName::from_catalog("s7.org")]];
    assert!(row.shared && row.num_partitions == 2, "{row:?}");
    assert!(folders[&ids[&ServerName::from_catalog("new.org")]].folder.as_str() > row.folder.as_str());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Lists in turn, against a set of URLs.
    #[test]
    fn every_url_is_one_record_of_its_server(
        lists in proptest::collection::vec(proptest::collection::vec((0..6_u32, 0..30_u32), 0..80), 1..4),
        batch_size in 1..20_u64,
        sharing in any::<bool>(),
    ) {
        let options = IngestOptions { max_server_folders: if sharing { 2 } else { 100 }, ..small(batch_size) };
        let dataset = Dataset::new();
        let mut expect: BTreeSet<String> = BTreeSet::new();
        for (number, list) in lists.iter().filter(|list| !list.is_empty()).enumerate() {
            let urls: Vec<String> = list.iter().map(|(server, path)| format!("http://s{server}.org/{path}")).collect();
            let before = expect.len() as u64;
            let distinct: BTreeSet<String> = urls.iter().cloned().collect();
            let known = distinct.intersection(&expect).count() as u64;
            expect.extend(distinct.iter().cloned());
            let report = dataset.ingest_text(&format!("{number}.txt"), urls.join("\n"), &options);
            prop_assert_eq!(report.records_new, expect.len() as u64 - before);
            prop_assert_eq!(report.records_known, known);
            prop_assert_eq!(report.records_gone, before - known);
            prop_assert_eq!(report.duplicates, (urls.len() - distinct.len()) as u64);
        }
        let mut found = Vec::new();
        for partition in dataset.partitions() {
            prop_assert!(partition.states.len() as u64 <= batch_size);
            let rows = dataset.manifest(&partition);
            prop_assert_eq!(rows.num_rows(), partition.url_keys.len());
            for (url, key) in texts(&rows, "identifier").into_iter().flatten().zip(&partition.url_keys) {
                prop_assert_eq!(RecordUrl::parse(&url, 100).unwrap().key(), *key);
                found.push(url);
            }
        }
        found.sort();
        prop_assert_eq!(found, expect.into_iter().collect::<Vec<_>>());
    }
}
