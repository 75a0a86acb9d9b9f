//! Partitions from a manifest to reports, against servers on the loopback interface.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{DownloadExecutor, DownloadOptions, DownloadSettings, Renditions};
use crate::catalog::PartReport;
use crate::dispatch::protocol::{Claim, ToCoordinator};
use crate::dispatch::{ClaimEnding, ClaimHandle, Executor, ExecutorError, Reports};
use crate::fetch::rate::RateControl;
use crate::fetch::{FetchOptions, Landlord, ServerRules};
use crate::imaging::ImagingOptions;
use crate::model::{
    Epoch, Loan, PartitionKey, RecordIndex, RecordState, ServerId, ServerName, ServerNews, SkipReason,
};
use crate::runtime::StopReason;
use crate::storage::{DatasetLayout, LayoutOptions, ManifestRecord};

/// Longer than any of this takes on the slowest machine: what would hang, fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers by host and path: status line, headers and body. Without a status the server says nothing at all.
type Script = fn(&str, &str) -> (&'static str, Vec<u8>);

/// Servers of all names behind one address. Gone with the test's runtime.
struct Servers {
    port: u16,
    /// Host and path of each request.
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Servers {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script, log.clone()));
            }
        });
        Self { port, seen }
    }

    fn num_requests(&self, host: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|(seen, _)| seen == host).count()
    }
}

async fn serve(mut stream: TcpStream, script: Script, log: Arc<Mutex<Vec<(String, String)>>>) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let path = text.split(' ').nth(1).unwrap().to_owned();
        let header = |line: &str| line.strip_prefix("host: ").map(str::to_owned);
        let host = text.lines().find_map(|line| header(&line.to_ascii_lowercase())).unwrap();
        let (status, body) = script(&host, &path);
        log.lock().unwrap().push((host, path));
        if status.is_empty() {
            std::future::pending::<()>().await;
        }
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
        if stream.write_all(&[answer.into_bytes(), body].concat()).await.is_err() {
            return;
        }
    }
}

/// A good image of at least so many bytes: what stands after its end is tolerated.
fn image_of(bytes: usize) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(8, 8).write_to(&mut file, image::ImageFormat::Png).unwrap();
    let mut file = file.into_inner();
    file.resize(bytes.max(file.len()), 0);
    file
}

pub(super) fn record(record: RecordIndex, url: &str) -> ManifestRecord {
    ManifestRecord {
        record,
        uuid: format!("uuid-{record}"),
        source_id: None,
        identifier: url.to_owned(),
        license: None,
        source: None,
        title: None,
        label: None,
        shared_server_name: None,
    }
}

/// All names lead to a port of this machine, without limits of rate.
pub(super) fn settings(root: &Path, port: u16) -> DownloadSettings {
    DownloadSettings {
        layout: DatasetLayout::new(root, LayoutOptions::default()),
        fetch: FetchOptions {
            user_agent: "test (a@b.example)".into(),
            allow_private_networks: true,
            connect_to: vec![format!("::127.0.0.1:{port}").parse().unwrap()],
            default_rate_limit: 0.0,
            respect_robots_txt: false,
            ..FetchOptions::default()
        },
        imaging: ImagingOptions::default(),
        download: DownloadOptions::default(),
        max_open_partitions: 4,
        rules: ServerRules::default(),
        ignored: HashSet::new(),
        num_ranks: 1,
        renditions: Renditions::default(),
        landlord: None,
        request_log: None,
    }
}

/// A dataset of one partition, and the executor for it.
struct Bench {
    executor: Arc<DownloadExecutor>,
    claim: Claim,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(servers: &Servers, urls: &[String], shared: bool, download: DownloadOptions) -> Self {
        Self::with(servers, urls, shared, |settings| settings.download = download)
    }

    fn with(
        servers: &Servers,
        urls: &[String],
        shared: bool,
        change: impl FnOnce(&mut DownloadSettings),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path(), LayoutOptions::default());
        let name = ServerName::from_catalog("a.example");
        let manifest = layout.manifest_folder(&name, 0);
        std::fs::create_dir_all(&manifest).unwrap();
        let file = std::fs::File::create(manifest.join("0.parquet")).unwrap();
        let batch = manifest_of(urls);
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let mut settings = settings(folder.path(), servers.port);
        change(&mut settings);
        let executor = DownloadExecutor::new(settings).unwrap();
        let claim = Claim {
            partition: PartitionKey { server_id: ServerId(1), partition_id: 0 },
            folder: name,
            shared,
            epoch: Epoch::new(1, 1),
            manifest_files: vec!["0.parquet".into()],
            states: vec![(0, urls.len() as u32)],
            parts: Vec::new(),
            compacted: false,
            scheduled: None,
        };
        Self { executor, claim, _folder: folder }
    }

    fn start(&self) -> Running {
        let (handle, reports) = ClaimHandle::for_test(&self.claim);
        let work = self.executor.clone().run(self.claim.clone(), handle.clone());
        Running { handle, reports, work: tokio::spawn(work) }
    }
}

fn manifest_of(urls: &[String]) -> RecordBatch {
    let text = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let nulls = || new_null_array(&DataType::Utf8, urls.len());
    let uuids = (0..urls.len()).map(|record| format!("uuid-{record}")).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("uuid", text(uuids), true),
        ("source_id", nulls(), true),
        ("identifier", text(urls.to_vec()), true),
        ("license", nulls(), true),
        ("source", nulls(), true),
        ("title", nulls(), true),
        ("label", nulls(), true),
        ("record", Arc::new(Int32Array::from_iter_values(0..urls.len() as i32)), true),
        ("shared_server_name", nulls(), true),
    ])
    .unwrap()
}

/// A claim that is being worked on.
struct Running {
    handle: ClaimHandle,
    reports: Reports,
    work: JoinHandle<Result<ClaimEnding, ExecutorError>>,
}

impl Running {
    /// The next part, not answered yet.
    async fn part(&mut self) -> (PartReport, oneshot::Sender<Result<(), String>>) {
        match timeout(PATIENCE, self.reports.next()).await.expect("a report") {
            Some((ToCoordinator::Part(report), answer)) => (report, answer),
            other => panic!("no part: {other:?}"),
        }
    }

    /// Accepts all reports until the end; returns the parts.
    async fn finish(mut self) -> (Vec<PartReport>, ClaimEnding) {
        drop(self.handle);
        let mut parts = Vec::new();
        let ending = timeout(PATIENCE, async {
            while let Some((report, answer)) = self.reports.next().await {
                answer.send(Ok(())).unwrap();
                if let ToCoordinator::Part(report) = report {
                    parts.push(report);
                }
            }
            self.work.await.unwrap().unwrap()
        });
        let ending = ending.await.expect("an end");
        (parts, ending)
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never came to: {what}"));
}

fn num_successes(parts: &[PartReport]) -> u64 {
    parts.iter().map(|part| part.part.successes.num_rows).sum()
}

/// With a disk that stood still, images piled up behind it: `part_memory` was only a divisor.
#[tokio::test]
async fn a_disk_that_stands_still_stops_the_download_within_part_memory() {
    let servers = Servers::start(|_, _| ("200 OK", image_of(100_000))).await;
    let urls: Vec<String> = (0..60).map(|n| format!("http://a.example/{n}")).collect();
    let options = DownloadOptions { part_memory: 1 << 20, ..DownloadOptions::default() };
    let bench = Bench::new(&servers, &urls, false, options);
    let memory = bench.executor.part_memory.clone();
    let running = bench.start();
    // The partition's first turns (sweep, manifest) are over when a request comes.
    until("a request", || servers.num_requests("a.example") > 0).await;
    let disk = bench.executor.writers.clone().acquire_many_owned(4).await.unwrap();
    until("images that wait for memory", || memory.budget().wanted() > 0).await;
    // 10 images fit; the tasks of a window are on their way, and 4 requests more.
    until("all tasks at a stand", || bench.executor.progress().in_flight == 0).await;
    assert!(memory.budget().used() <= 1 << 20);
    assert!(servers.num_requests("a.example") <= 10 + 16, "{}", servers.num_requests("a.example"));
    drop(disk);
    let (parts, ending) = running.finish().await;
    assert_eq!((num_successes(&parts), ending), (60, ClaimEnding::Finished));
    assert_eq!((memory.budget().used(), memory.budget().wanted()), (0, 0));
}

/// Tasks of a paused server held all places of the window, so that the other servers of the folder waited with
/// it: here for an hour.
#[tokio::test]
async fn paused_servers_hold_up_no_others_and_the_partition_is_parked() {
    let servers = Servers::start(|host, _| match host {
        "busy.example" => ("429 Too Many\r\nRetry-After: 3600", Vec::new()),
        _ => ("200 OK", image_of(0)),
    })
    .await;
    let of = |host: &'static str, num: u32| (0..num).map(move |n| format!("http://{host}/{n}"));
    let urls: Vec<String> = of("busy.example", 100).chain(of("good.example", 20)).collect();
    let bench = Bench::new(&servers, &urls, true, DownloadOptions::default());
    let mut running = bench.start();
    let (part, answer) = running.part().await;
    assert_eq!((part.part.successes.num_rows, part.outcomes.len()), (20, 20));
    answer.send(Ok(())).unwrap();
    assert_eq!(bench.executor.num_parked(), 1);
    assert_eq!(servers.num_requests("busy.example"), 1, "one until it answers, and then it is paused");

    running.handle.stop.request(StopReason::Terminate);
    let (parts, ending) = running.finish().await;
    assert_eq!((parts.len(), ending), (0, ClaimEnding::Released));
    assert_eq!(bench.executor.num_parked(), 0);
    let progress = bench.executor.progress();
    assert_eq!(
        (progress.in_flight, progress.open_partitions),
        (0, 0),
        "tasks that were aborted count no more"
    );
}

/// Alone, a rank has all of every server, also of one that only redirects lead to: with less than a share it would
/// wait there for hours.
#[tokio::test]
async fn redirects_to_a_server_that_is_not_in_the_list_are_followed_at_its_rate() {
    let servers = Servers::start(|host, _| match host {
        "a.example" => ("302 Found\r\nLocation: http://elsewhere.example/x", Vec::new()),
        _ => ("200 OK", image_of(0)),
    })
    .await;
    let urls: Vec<String> = (0..20).map(|n| format!("http://a.example/{n}")).collect();
    let bench = Bench::with(&servers, &urls, false, |settings| settings.fetch.default_rate_limit = 100.0);
    let (parts, ending) = bench.start().finish().await;
    assert_eq!((num_successes(&parts), ending), (20, ClaimEnding::Finished));
}

/// A server that is mute is no paused one: it held all places for ten minutes.
#[tokio::test]
async fn a_mute_server_holds_up_no_others() {
    let servers = Servers::start(|host, _| match host {
        "mute.example" => ("", Vec::new()),
        _ => ("200 OK", image_of(0)),
    })
    .await;
    let of = |host: &'static str, num: u32| (0..num).map(move |n| format!("http://{host}/{n}"));
    let urls: Vec<String> = of("mute.example", 100).chain(of("good.example", 20)).collect();
    let options =
        DownloadOptions { part_images: 20, stop_grace: Duration::ZERO, ..DownloadOptions::default() };
    let bench = Bench::new(&servers, &urls, true, options);
    let mut running = bench.start();
    let (part, answer) = running.part().await;
    assert_eq!(part.part.successes.num_rows, 20);
    answer.send(Ok(())).unwrap();
    assert_eq!(servers.num_requests("mute.example"), 1);
    running.handle.stop.request(StopReason::Terminate);
    let (_, ending) = running.finish().await;
    assert_eq!(ending, ClaimEnding::Released);
}

#[tokio::test]
async fn a_partition_whose_only_server_is_paused_is_parked() {
    let servers = Servers::start(|_, path| match path {
        "/0" => ("429 Too Many\r\nRetry-After: 3600", Vec::new()),
        _ => ("200 OK", image_of(0)),
    })
    .await;
    let urls: Vec<String> = (0..30).map(|n| format!("http://a.example/{n}")).collect();
    let bench = Bench::new(&servers, &urls, false, DownloadOptions::default());
    let running = bench.start();
    until("parked", || bench.executor.num_parked() == 1).await;
    running.handle.stop.request(StopReason::Terminate);
    let (parts, ending) = running.finish().await;
    assert_eq!(ending, ClaimEnding::Released);
    assert_eq!(num_successes(&parts), 0, "one request until the server answers");
}

/// Lends nothing by itself.
#[derive(Debug)]
struct Silent;

impl Landlord for Silent {
    fn borrow(&self, _: &ServerName, _: u64) {}
    fn accept(&self, _: &ServerName, _: u64, _: Duration) {}
    fn give_back(&self, _: &ServerName, _: u64, _: Duration) {}
    fn tell(&self, _: &ServerName, _: ServerNews) {}
}

#[tokio::test]
async fn a_partition_whose_server_other_ranks_have_is_parked_until_it_is_lent() {
    let servers = Servers::start(|_, _| ("200 OK", image_of(0))).await;
    let urls: Vec<String> = (0..5).map(|n| format!("http://a.example/{n}")).collect();
    let bench = Bench::with(&servers, &urls, false, |settings| settings.landlord = Some(Arc::new(Silent)));
    let running = bench.start();
    until("parked", || bench.executor.num_parked() == 1).await;
    assert_eq!((servers.num_requests("a.example"), bench.executor.progress().in_flight), (0, 0));
    let loan = Loan { number: 1, rate: 0.0, max_connections: 8, bytes: None, rest: Duration::ZERO };
    bench.executor.lend(&ServerName::from_catalog("a.example"), loan, None);
    let (parts, ending) = running.finish().await;
    assert_eq!((num_successes(&parts), ending), (5, ClaimEnding::Finished));
    assert_eq!(bench.executor.num_parked(), 0);
}

/// Partitions of servers that hang held all places, and others waited for as long as their attempts took.
#[tokio::test]
async fn a_partition_whose_server_is_silent_is_parked() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("::{}", listener.local_addr().unwrap()).parse().unwrap();
    let servers = Servers::start(|_, _| ("200 OK", image_of(0))).await;
    let urls = ["http://a.example/0", "http://a.example/1"].map(str::to_owned);
    let bench = Bench::with(&servers, &urls, false, |settings| settings.fetch.connect_to = vec![route]);
    let running = bench.start();
    until("parked", || bench.executor.num_parked() == 1).await;
    drop(running);
}

#[tokio::test]
async fn every_request_after_the_first_counts_as_a_retry() {
    static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let servers = Servers::start(|_, path| {
        let mut asked = ASKED.lock().unwrap();
        asked.push(path.to_owned());
        let nth = asked.iter().filter(|seen| *seen == path).count();
        match (path, nth) {
            ("/busy", 1..=3) => ("429 Too Many\r\nRetry-After: 1", Vec::new()),
            ("/busy", _) => ("404 Not Found", Vec::new()),
            ("/sick", 1) => ("500 Oops", Vec::new()),
            _ => ("200 OK", b"<!doctype html><title>gone</title>".to_vec()),
        }
    })
    .await;
    // The last stands in line for a server that is then paused: it was not asked, and that is no retry.
    let urls =
        ["http://a.example/busy", "http://b.example/sick", "http://c.example/once", "http://a.example/line"]
            .map(str::to_owned);
    let mut bench = Bench::new(&servers, &urls, true, DownloadOptions::default());
    let mut settings = bench.executor.settings.clone();
    settings.fetch.max_retry_after = Duration::from_millis(5);
    settings.fetch.retry_backoff = Duration::from_millis(1);
    // Without a limit, a server that refuses at once is slowed down to one request in ten seconds.
    settings.fetch.default_rate_limit = 1000.0;
    settings.fetch.rate_control = RateControl::Fixed;
    bench.executor = DownloadExecutor::new(settings).unwrap();
    let executor = bench.executor.clone();
    let (parts, _) = bench.start().finish().await;
    let mut retries: Vec<(u32, u16, u8)> = parts
        .iter()
        .flat_map(|part| &part.outcomes)
        .map(|outcome| (outcome.record, outcome.http_status, outcome.retry_count))
        .collect();
    retries.sort_unstable();
    assert_eq!(retries, [(0, 404, 3), (1, 200, 1), (2, 200, 0), (3, 200, 0)]);
    assert_eq!(executor.progress().requests, ASKED.lock().unwrap().len() as u64);
}

#[tokio::test]
async fn what_owners_do_not_want_is_skipped_with_their_words() {
    let servers = Servers::start(|_, path| match path {
        "/robots.txt" => ("200 OK", b"User-agent: ddl\nDisallow: /private/\n".to_vec()),
        "/opted-out" => ("200 OK\r\nX-Robots-Tag: noai", image_of(0)),
        _ => ("200 OK", image_of(0)),
    })
    .await;
    let urls = ["private/0", "opted-out", "open"].map(|path| format!("http://a.example/{path}"));
    let mut bench = Bench::new(&servers, &urls, false, DownloadOptions::default());
    let mut settings = bench.executor.settings.clone();
    settings.fetch.respect_robots_txt = true;
    bench.executor = DownloadExecutor::new(settings).unwrap();
    let (parts, ending) = bench.start().finish().await;
    assert_eq!(ending, ClaimEnding::Finished);
    let mut outcomes: Vec<_> = parts
        .iter()
        .flat_map(|part| &part.outcomes)
        .map(|outcome| (outcome.record, RecordState::from_byte(outcome.state).unwrap(), outcome.http_status))
        .collect();
    outcomes.sort_unstable_by_key(|(record, ..)| *record);
    let skipped = RecordState::Skipped;
    assert_eq!(
        outcomes,
        [
            (0, skipped(SkipReason::Robots), 0),
            (1, skipped(SkipReason::OptOut), 200),
            (2, RecordState::Success, 0)
        ]
    );
    let progress = bench.executor.progress();
    assert_eq!((progress.success, progress.skipped, progress.failed), (1, 2, 0));
    assert_eq!(servers.num_requests("a.example"), 3, "robots.txt and two images");
}

/// Four compactions of some GB had all turns on the disk, and nothing was sealed meanwhile.
#[tokio::test]
async fn compaction_has_turns_of_its_own() {
    let servers = Servers::start(|_, _| ("200 OK", image_of(0))).await;
    let urls: Vec<String> = (0..3).map(|n| format!("http://a.example/{n}")).collect();
    let bench = Bench::new(&servers, &urls, false, DownloadOptions::default());
    let mut running = bench.start();
    let (_, answer) = running.part().await;
    let _all = bench.executor.writers.clone().acquire_many_owned(4).await.unwrap();
    answer.send(Ok(())).unwrap();
    assert_eq!(running.finish().await.1, ClaimEnding::Finished);
}
