//! Whole ingests: lists in, files and catalog out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;
use crate::catalog::{Catalog, CatalogOptions, NewPartition, ServerRow};
use crate::model::{RecordState, RecordUrl, ServerName, SkipReason};
use crate::runtime::{Shutdown, StopReason};
use crate::storage::{DatasetLayout, LayoutOptions};

/// A dataset in a folder of its own.
struct Dataset {
    folder: tempfile::TempDir,
    catalog: Catalog,
}

impl Dataset {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog =
            Catalog::create(&folder.path().join("catalog.redb"), &CatalogOptions::default()).unwrap();
        Self { folder, catalog }
    }

    fn layout(&self) -> DatasetLayout {
        DatasetLayout::new(self.folder.path(), LayoutOptions::default())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn ingest(&self, inputs: &[PathBuf], options: &IngestOptions) -> Result<IngestReport, IngestError> {
        ingest(inputs, options, &self.layout(), &self.catalog, &Shutdown::new(), &mut |_| {})
    }

    /// Asks the ingest to stop when its progress is as `at` says.
    fn ingest_stopped(
        &self,
        input: &Path,
        options: &IngestOptions,
        mut at: impl FnMut(IngestProgress) -> bool,
    ) -> Result<IngestReport, IngestError> {
        let shutdown = Shutdown::new();
        let mut progress = |now| {
            if at(now) {
                shutdown.request(StopReason::Terminate);
            }
        };
        ingest(&[input.to_owned()], options, &self.layout(), &self.catalog, &shutdown, &mut progress)
    }

    fn ingest_text(&self, name: &str, text: impl AsRef<[u8]>, options: &IngestOptions) -> IngestReport {
        self.ingest(&[self.write(name, text)], options).unwrap()
    }

    fn partitions(&self) -> Vec<NewPartition> {
        let view = self.catalog.view().unwrap();
        let servers: HashMap<_, _> = view.servers().unwrap().into_iter().map(|row| (row.id, row)).collect();
        let ids = view.server_ids().unwrap();
        let mut partitions = Vec::new();
        view.for_each_partition(|key, row| {
            let server = &servers[&key.server_id];
            let mut members: Vec<ServerName> = ids
                .iter()
                .filter(|&(name, &id)| server.shared && id == key.server_id && *name != server.folder)
                .map(|(name, _)| name.clone())
                .collect();
            members.sort();
            partitions.push(NewPartition {
                folder: server.folder.clone(),
                members,
                partition_id: key.partition_id,
                manifest_files: row.manifest_files,
                states: view.states(key).unwrap().iter().map(|status| status.state).collect(),
                url_keys: view.url_keys(key).unwrap(),
            });
        })
        .unwrap();
        partitions.sort_by(|a, b| (&a.folder, a.partition_id).cmp(&(&b.folder, b.partition_id)));
        partitions
    }

    /// All that the catalog knows, comparable.
    fn state(&self) -> (Vec<ServerRow>, Vec<NewPartition>, Option<arrow::datatypes::Schema>) {
        let view = self.catalog.view().unwrap();
        (view.servers().unwrap(), self.partitions(), view.manifest_schema().unwrap())
    }

    /// The manifest of a partition as its reader sees it.
    fn manifest(&self, partition: &NewPartition) -> RecordBatch {
        let folder = self.layout().manifest_folder(&partition.folder, partition.partition_id);
        let mut batches = Vec::new();
        for file in &partition.manifest_files {
            let file = File::open(folder.join(&file.name)).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            batches.extend(reader.map(Result::unwrap));
        }
        concat_batches(&batches[0].schema(), &batches).unwrap()
    }

    /// All files of the manifest with their bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.layout().urls()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    files.insert(path.strip_prefix(self.folder.path()).unwrap().to_owned(), bytes);
                }
            }
        }
        files
    }
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = rows.column_by_name(column).unwrap_or_else(|| panic!("no column `{column}`"));
    column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

fn small(batch_size: u64) -> IngestOptions {
    IngestOptions { batch_size, threads: 2, ..IngestOptions::default() }
}

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
fn a_stopped_ingest_leaves_no_trace_and_goes_on() {
    let options = small(40);
    let undisturbed = Dataset::new();
    let path = undisturbed.write("list.csv", wide_list());
    undisturbed.ingest(std::slice::from_ref(&path), &options).unwrap();
    for stage in [IngestStage::Reading, IngestStage::Writing] {
        let dataset = Dataset::new();
        let stopped = dataset.ingest_stopped(&path, &options, |now| now.stage == stage);
        assert!(matches!(stopped, Err(IngestError::Stopped)), "{stage:?}");
        assert!(dataset.partitions().len() < undisturbed.partitions().len(), "{stage:?}");
        assert!(!dataset.layout().urls().join("_ingest-tmp").exists(), "{stage:?}");
        assert_eq!(dataset.files().keys().filter(|path| path.to_string_lossy().contains(".tmp")).count(), 0);
        dataset.ingest(std::slice::from_ref(&path), &options).unwrap();
        assert!(dataset.state() == undisturbed.state(), "{stage:?}");
    }
}

#[test]
fn no_input_is_read_any_further_after_a_stop() {
    let dataset = Dataset::new();
    let path = dataset.write("list.csv", "url\nhttp://a/1\n");
    let shutdown = Shutdown::new();
    let meter = Arc::new(raw_batch::ReadMeter::new(shutdown.clone()));
    let input = input::Input { path, format: None };
    let mut opened = input::open_bytes(&input, &meter).unwrap();
    shutdown.request(StopReason::Interrupt);
    assert!(input::open_bytes(&input, &meter).is_err());
    assert!(std::io::copy(&mut opened.stream, &mut std::io::sink()).is_err());
}

/// 6,000 rows of 40 servers, some repeated, with a wide column: more than small memory holds.
fn wide_list() -> String {
    let rows = (0..6000_u64).map(|n| {
        let n = if n % 50 == 0 { n / 2 } else { n };
        format!("http://s{}.org/{n},{}\n", n * n % 40, format!("{n} ").repeat(80))
    });
    format!("url,wide\n{}", rows.collect::<String>())
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
fn killed_and_run_again_equals_undisturbed() {
    let list = wide_list();
    let options = IngestOptions { max_server_folders: 30, share_servers_below: 150, ..small(40) };
    let undisturbed = Dataset::new();
    let path = undisturbed.write("list.csv", &list);
    undisturbed.ingest(std::slice::from_ref(&path), &options).unwrap();
    let num_commits = undisturbed.partitions().len().div_ceil(32) as u32;
    assert!(num_commits > 3);
    for killed_at in 0..num_commits {
        let dataset = Dataset::new();
        dataset.catalog.fail_after_commits(Some(killed_at));
        let error = dataset.ingest(std::slice::from_ref(&path), &options).unwrap_err();
        assert!(matches!(error, IngestError::Catalog(_)), "{error}");
        dataset.catalog.fail_after_commits(None);
        let report = dataset.ingest(std::slice::from_ref(&path), &options).unwrap();
        assert_eq!(report.records_gone, 0);
        assert!(dataset.state() == undisturbed.state(), "killed at commit {killed_at}");
        let manifest = |dataset: &Dataset| {
            let files = dataset.files().into_iter();
            files.filter(|(path, _)| !path.to_string_lossy().contains("_duplicates")).collect::<Vec<_>>()
        };
        assert!(manifest(&dataset) == manifest(&undisturbed), "killed at commit {killed_at}");
    }
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

/// `files` of an archive, `meta.xml` among them.
fn archive(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

const CORE_META: &str = r#"<core fieldsTerminatedBy="\t" fieldsEnclosedBy="" ignoreHeaderLines="1">
    <files><location>occurrence.txt</location></files><id index="0"/>
    <field index="1" term="http://rs.tdwg.org/dwc/terms/basisOfRecord"/></core>"#;

/// A constant of the media table and a column of the core made two columns of one name, and no query
/// of the dataset worked any more.
#[test]
fn a_constant_hides_the_column_of_the_core() {
    let meta = format!(
        r#"<archive>{CORE_META}<extension fieldsTerminatedBy="\t" fieldsEnclosedBy="" ignoreHeaderLines="1"
        rowType="http://rs.gbif.org/terms/1.0/Multimedia"><files><location>m.txt</location></files>
        <coreid index="0"/><field index="1" term="http://purl.org/dc/terms/identifier"/>
        <field default="Photo" term="http://rs.tdwg.org/dwc/terms/basisOfRecord"/></extension></archive>"#
    );
    let folder = archive(&[
        ("meta.xml", meta.as_bytes()),
        ("occurrence.txt", b"id\tbasis\n1\tX\n"),
        ("m.txt", b"id\turl\n1\thttp://a/1\n"),
    ]);
    let dataset = Dataset::new();
    dataset.ingest(&[folder.path().to_owned()], &small(10)).unwrap();
    let rows = dataset.manifest(&dataset.partitions()[0]);
    assert_eq!(texts(&rows, "basisOfRecord"), [Some("Photo".to_owned())]);
    let names: BTreeSet<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names.len(), rows.num_columns());
}

/// The first row decided how many fields the others have, and files behind the first were not read.
#[test]
fn archives_of_odd_rows_and_several_files() {
    let meta = |header_lines: u32| {
        format!(
            r#"<archive>{CORE_META}<extension fieldsTerminatedBy="\t" fieldsEnclosedBy=""
            ignoreHeaderLines="{header_lines}" rowType="http://rs.gbif.org/terms/1.0/Multimedia">
            <files><location>1.txt</location><location>2.txt</location></files><coreid index="0"/>
            <field index="1" term="http://purl.org/dc/terms/identifier"/></extension></archive>"#
        )
    };
    let core = ("occurrence.txt", &b"id\tbasis\n1\tX\n"[..]);
    let second = ("2.txt", &b"\xef\xbb\xbfid\turl\tmore\n1\thttp://a/4\t\n"[..]);
    let check = |meta: &str, first: &[u8], urls: &[u32], malformed: &[(u64, &str)]| {
        let folder = archive(&[("meta.xml", meta.as_bytes()), core, ("1.txt", first), second]);
        let dataset = Dataset::new();
        let report = dataset.ingest(&[folder.path().to_owned()], &small(10)).unwrap();
        let found = texts(&dataset.manifest(&dataset.partitions()[0]), "identifier");
        assert_eq!(found, urls.iter().map(|n| Some(format!("http://a/{n}"))).collect::<Vec<_>>());
        for (example, (line, reason)) in report.malformed_examples.iter().zip(malformed) {
            assert_eq!(example.path, folder.path().join("1.txt"));
            assert!(example.line == *line && example.reason.contains(reason), "{example:?}");
        }
        assert_eq!(report.malformed, malformed.len() as u64);
    };
    let rows = b"id\turl\tmore\n1\thttp://a/1\n1\thttp://a/2\t\n1\thttp://a/3\t\t\n";
    check(&meta(1), rows, &[2, 4], &[(2, "2 fields where 3"), (4, "4 fields where 3")]);
    // A header that lacks declared columns says nothing of the rows.
    check(&meta(1), b"id\n1\thttp://a/1\n1\n1\thttp://a/3\t\t\n", &[1, 3, 4], &[(3, "at least 2")]);
    let without_header = b"\xef\xbb\xbf1\thttp://a/1\n1\n1\thttp://a/3\t\t\n";
    let folder =
        archive(&[("meta.xml", meta(0).as_bytes()), core, ("1.txt", without_header), ("2.txt", b"")]);
    let dataset = Dataset::new();
    let report = dataset.ingest(&[folder.path().to_owned()], &small(10)).unwrap();
    assert_eq!((report.records_new, report.malformed), (2, 1));
    let rows = dataset.manifest(&dataset.partitions()[0]);
    assert_eq!(texts(&rows, "basisOfRecord"), [Some("X".to_owned()), Some("X".to_owned())]);
    fs::remove_file(folder.path().join("2.txt")).unwrap();
    let error = Dataset::new().ingest(&[folder.path().to_owned()], &small(10)).unwrap_err();
    assert!(error.to_string().contains("`2.txt` is missing"), "{error}");
}

/// Archive with `rows` media of `rows / 2` occurrences; `padding` makes the core larger.
fn write_archive(folder: &Path, rows: usize, padding: usize) {
    let mut media = "gbifID\ttype\tformat\tidentifier\ttitle\n".to_owned();
    let mut core = "gbifID\tpad\tbasisOfRecord\tscientificName\n".to_owned();
    for row in 0..rows {
        media += &format!("{}\tStillImage\t\thttp://s{}.org/{row}\t\"a title\n", row / 2, row % 5);
        if row % 2 == 0 {
            let basis = if row % 10 == 0 { "MATERIAL_CITATION" } else { "HUMAN_OBSERVATION" };
            core += &format!("{}\t{}\t{basis}\tSpecies {}\n", row / 2, "x".repeat(padding), row / 2);
        }
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("multimedia.txt"), media).unwrap();
    fs::write(folder.join("occurrence.txt"), core).unwrap();
}

#[test]
fn archives_are_joined_with_their_occurrences() {
    let gbif = |memory_bytes| IngestOptions {
        initializer_type: "gbif".into(),
        columns: ColumnsOptions { label: Some("scientificName".into()), ..ColumnsOptions::default() },
        memory_bytes,
        ..small(100_000)
    };
    // Nine megabytes of core: at 512 MiB held in memory, at 16 MiB spread over files.
    let source = tempfile::tempdir().unwrap();
    let folder = source.path().join("archive");
    write_archive(&folder, 2000, 9000);
    let zip = source.path().join("archive.zip");
    let mut writer = zip::ZipWriter::new(File::create(&zip).unwrap());
    for name in ["multimedia.txt", "occurrence.txt"] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&fs::read(folder.join(name)).unwrap()).unwrap();
    }
    writer.finish().unwrap();

    let mut found = Vec::new();
    for (path, memory_bytes) in
        [(&folder, 512 << 20), (&folder, 16 << 20), (&zip, 512 << 20), (&zip, 16 << 20)]
    {
        let dataset = Dataset::new();
        let report = dataset.ingest(std::slice::from_ref(path), &gbif(memory_bytes)).unwrap();
        assert_eq!(report.filtered, BTreeMap::from([("material_citation".to_owned(), 400)]));
        assert_eq!((report.rows_read, report.records_new), (2000, 1600));
        let mut records = BTreeSet::new();
        for partition in dataset.partitions() {
            let rows = dataset.manifest(&partition);
            for ((url, label), id) in texts(&rows, "identifier")
                .into_iter()
                .zip(texts(&rows, "label"))
                .zip(texts(&rows, "source_id"))
            {
                assert_eq!(label, id.as_ref().map(|id| format!("Species {id}")));
                records.insert((url, id));
            }
        }
        found.push(records);
    }
    assert!(found.iter().all(|records| *records == found[0]));

    // A damaged zip is found out, wherever the damage lies.
    let mut bytes = fs::read(&zip).unwrap();
    bytes[200] ^= 0x55;
    let dataset = Dataset::new();
    let error = dataset.ingest(&[dataset.write("damaged.zip", bytes)], &gbif(512 << 20)).unwrap_err();
    assert!(matches!(error, IngestError::Damaged { .. } | IngestError::Truncated { .. }), "{error}");
    assert!(dataset.partitions().is_empty());
}

const U1: &str = "11111111-1111-4111-8111-111111111111";
const U2: &str = "22222222-2222-4222-8222-222222222222";

#[test]
fn one_picture_of_several_boxes_is_one_record() {
    let dataset = Dataset::new();
    let write = |name: &str, columns: Vec<(&str, Vec<&str>)>| {
        let columns =
            columns.into_iter().map(|(name, values)| (name, Arc::new(StringArray::from(values)) as ArrayRef));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = dataset.folder.path().join(name);
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    };
    let list = write(
        "list.parquet",
        vec![
            ("uuid", vec![U1, U2, "u3"]),
            ("source_url", vec!["http://a/1", "http://a/1", "http://a/2"]),
            ("data_source", vec!["fathom", "fathom", "other"]),
            ("source_id", vec!["s1", "s2", "s3"]),
        ],
    );
    let boxes = write("boxes.parquet", vec![("uuid", vec![U2, U1, "u9"]), ("x", vec!["20", "10", "90"])]);
    let options = IngestOptions {
        initializer_type: "tol200m_fathomNet".into(),
        included_sources: vec!["fathom".into()],
        bounding_box_information_path: Some(boxes),
        ..small(10)
    };
    // It says of which records the rows are, so it comes when these are committed.
    let uuid_ref = dataset.layout().tools().join("uuid_ref");
    dataset.catalog.fail_after_commits(Some(0));
    dataset.ingest(std::slice::from_ref(&list), &options).unwrap_err();
    assert_eq!(fs::read_dir(&uuid_ref).unwrap().count(), 0);
    dataset.catalog.fail_after_commits(None);
    let report = dataset.ingest(std::slice::from_ref(&list), &options).unwrap();
    assert_eq!((report.records_new, report.duplicates), (1, 1));
    let read = |number: u32| {
        let file = File::open(uuid_ref.join(format!("part-{number:04}.parquet"))).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap()
    };
    let rows = read(0);
    let image = RecordUrl::parse("http://a/1", 100).unwrap().uuid().to_string();
    assert_eq!(texts(&rows, "image_uuid"), [Some(image.clone()), Some(image)]);
    assert_eq!(texts(&rows, "uuid"), [Some(U1.into()), Some(U2.into())]);
    assert_eq!(texts(&rows, "x"), [Some("10".into()), Some("20".into())]);

    // Another list adds a file, the same one does not; and `uuid` may be the record's own as well.
    dataset.ingest(std::slice::from_ref(&list), &options).unwrap();
    let columns = ColumnsOptions { uuid: Some("uuid".into()), ..ColumnsOptions::default() };
    dataset.ingest(&[list], &IngestOptions { columns, ..options }).unwrap();
    assert_eq!(fs::read_dir(&uuid_ref).unwrap().count(), 2);
    assert_eq!(texts(&read(1), "uuid"), [Some(U1.into()), Some(U2.into())]);
    assert_eq!(texts(&read(1), "image_uuid"), texts(&read(1), "uuid"));
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
