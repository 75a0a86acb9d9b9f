use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use super::super::{StorageError, create_folder};
use super::{ROBOTS_POLICY_KEY, file_name, schema};
use crate::model::{Rank, RequestEntry, RobotsPolicy, RunId};

/// Requests of one batch at most, and entries that may wait for the thread: together some 2 MB.
const BATCH: usize = 4096;
/// Bytes of robots.txt files that may wait for the thread; what is beyond is left out of its row.
const MAX_WAITING_TEXT: usize = 16 << 20;
/// A batch is written after so long, whatever it holds: what a kill may cost.
const WRITE_AFTER: Duration = Duration::from_secs(1);

/// Writes one rank's ledger of one run, on a thread of its own. Dropped or finished, it writes what it has and ends
/// the file.
#[derive(Debug)]
pub struct LedgerWriter {
    /// `None` is the end.
    entries: SyncSender<Option<(RequestEntry, u64)>>,
    num_lost: AtomicU64,
    /// Bytes of robots.txt files that wait.
    waiting_text: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LedgerWriter {
    /// Starts the file of a run and rank in the ledger's folder, which is made if it is missing. `robots` is how the run
    /// treats robots.txt.
    ///
    /// # Errors
    /// When the file exists already, or cannot be made.
    pub fn start(folder: &Path, run: RunId, rank: Rank, robots: &RobotsPolicy) -> Result<Self, StorageError> {
        create_folder(folder)?;
        let path = folder.join(file_name(run, rank));
        let file = File::create_new(&path).map_err(StorageError::io("create", &path))?;
        let (send, entries) = mpsc::sync_channel(BATCH);
        let waiting_text = Arc::<AtomicUsize>::default();
        let thread = {
            let path = path.clone();
            let (robots, waiting_text) = (robots.clone(), waiting_text.clone());
            let write = move || write_all(&path, file, &robots, &entries, &waiting_text);
            thread::Builder::new().name("ledger".into()).spawn(write)
        };
        let thread = thread.map_err(StorageError::io("start a thread for", &path))?;
        Ok(Self {
            entries: send,
            num_lost: AtomicU64::new(0),
            waiting_text,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes an entry. Never waits: what the thread cannot take is counted in the next entry that it can.
    pub fn record(&self, mut entry: RequestEntry) {
        let text = text_bytes(&entry);
        if self.waiting_text.fetch_add(text, Ordering::Relaxed) + text > MAX_WAITING_TEXT
            && let Some(robots) = &mut entry.robots
        {
            robots.text = None;
        }
        let kept = text_bytes(&entry);
        self.waiting_text.fetch_sub(text - kept, Ordering::Relaxed);
        let lost = self.num_lost.swap(0, Ordering::Relaxed);
        if self.entries.try_send(Some((entry, lost))).is_err() {
            self.num_lost.fetch_add(lost + 1, Ordering::Relaxed);
            self.waiting_text.fetch_sub(kept, Ordering::Relaxed);
        }
    }
}

impl LedgerWriter {
    /// Writes what has been recorded, ends the file and waits for that. What is recorded later is not written.
    pub fn finish(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let num_lost = self.num_lost.load(Ordering::Relaxed);
        if num_lost > 0 {
            tracing::warn!(num_lost, "the last requests are missing in the ledger");
        }
        // It takes everything out of its channel, whatever happens; a panic of it is not worth another.
        let _ = self.entries.send(None);
        let _ = thread.join();
    }
}

impl Drop for LedgerWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

fn text_bytes(entry: &RequestEntry) -> usize {
    entry.robots.as_ref().and_then(|robots| robots.text.as_ref()).map_or(0, Vec::len)
}

/// The life of the thread. After a failure it only drains: half a batch may stand at the end of the file.
fn write_all(
    path: &Path,
    file: File,
    robots: &RobotsPolicy,
    entries: &Receiver<Option<(RequestEntry, u64)>>,
    waiting_text: &AtomicUsize,
) {
    let mut is_over = false;
    if let Err(error) = try_write_all(file, robots, entries, waiting_text, &mut is_over) {
        tracing::error!(
            path = %path.display(), %error,
            "the ledger of requests cannot be written; this rank's requests are missing in it from now on"
        );
        // After the end nothing comes any more, and nobody hangs up.
        while !is_over && matches!(entries.recv(), Ok(Some(_))) {}
    }
}

fn try_write_all(
    file: File,
    robots: &RobotsPolicy,
    entries: &Receiver<Option<(RequestEntry, u64)>>,
    waiting_text: &AtomicUsize,
    is_over: &mut bool,
) -> Result<(), ArrowError> {
    let robots = serde_json::to_string(robots).map_err(|error| ArrowError::ExternalError(error.into()))?;
    let metadata = HashMap::from([(ROBOTS_POLICY_KEY.to_owned(), robots)]);
    let schema = Arc::new(schema().as_ref().clone().with_metadata(metadata));
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
    let mut writer = StreamWriter::try_new_with_options(BufWriter::new(file), &schema, options)?;
    loop {
        let batch;
        (batch, *is_over) = next_batch(entries);
        if !batch.is_empty() {
            writer.write(&to_arrow(&batch, &schema)?)?;
            writer.flush()?;
            let text = batch.iter().map(|(entry, _)| text_bytes(entry)).sum();
            waiting_text.fetch_sub(text, Ordering::Relaxed);
        }
        if *is_over {
            return writer.finish();
        }
    }
}

/// What comes within [`WRITE_AFTER`] of the first entry; whether it is the last.
fn next_batch(entries: &Receiver<Option<(RequestEntry, u64)>>) -> (Vec<(RequestEntry, u64)>, bool) {
    let Ok(Some(first)) = entries.recv() else { return (Vec::new(), true) };
    let until = Instant::now() + WRITE_AFTER;
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match entries.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Some(entry)) => batch.push(entry),
            Err(RecvTimeoutError::Timeout) => break,
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
        }
    }
    (batch, false)
}

fn to_arrow(batch: &[(RequestEntry, u64)], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut server_name = StringBuilder::new();
    let mut address = StringBuilder::new();
    let mut purpose = StringBuilder::new();
    let mut target = StringBuilder::new();
    let mut sent_at = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let mut took_us = Int64Builder::new();
    let mut received_bytes = Int64Builder::new();
    let mut http_status = Int32Builder::new();
    let mut retry_after_us = Int64Builder::new();
    let mut max_rate = Float64Builder::new();
    let mut max_connections = Int32Builder::new();
    let mut num_lost = Int64Builder::new();
    let mut is_https = BooleanBuilder::new();
    let mut robots_of = StringBuilder::new();
    let mut robots_txt = BinaryBuilder::new();
    let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    for (entry, lost) in batch {
        server_name.append_value(entry.server.as_str());
        address.append_option(entry.address.map(|address| address.to_string()));
        purpose.append_value(entry.purpose.as_str());
        target.append_value(&entry.target);
        sent_at.append_value(entry.sent_at);
        took_us.append_value(us(entry.took));
        received_bytes.append_value(entry.received_bytes.cast_signed());
        http_status.append_option(entry.http_status.map(i32::from));
        retry_after_us.append_option(entry.retry_after.map(us));
        max_rate.append_value(entry.max_rate);
        max_connections.append_value(entry.max_connections.cast_signed());
        num_lost.append_value(lost.cast_signed());
        is_https.append_value(entry.is_https);
        let robots = entry.robots.as_ref();
        robots_of.append_option(robots.map(|robots| {
            let scheme = if robots.is_https { "https" } else { "http" };
            format!("{scheme}://{}", robots.server)
        }));
        robots_txt.append_option(robots.and_then(|robots| robots.text.as_deref()));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(server_name.finish()),
        Arc::new(address.finish()),
        Arc::new(purpose.finish()),
        Arc::new(target.finish()),
        Arc::new(sent_at.finish()),
        Arc::new(took_us.finish()),
        Arc::new(received_bytes.finish()),
        Arc::new(http_status.finish()),
        Arc::new(retry_after_us.finish()),
        Arc::new(max_rate.finish()),
        Arc::new(max_connections.finish()),
        Arc::new(num_lost.finish()),
        Arc::new(is_https.finish()),
        Arc::new(robots_of.finish()),
        Arc::new(robots_txt.finish()),
    ];
    RecordBatch::try_new(schema.clone(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The download had ended on a full disk, and its process never did.
    #[test]
    fn a_full_disk_at_the_very_end_is_an_end() {
        let (send, entries) = mpsc::sync_channel(4);
        send.send(None).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (ended, ends) = mpsc::channel();
        thread::spawn(move || {
            let policy = RobotsPolicy::default();
            write_all(Path::new("full"), full, &policy, &entries, &AtomicUsize::new(0));
            ended.send(()).unwrap();
        });
        ends.recv_timeout(Duration::from_secs(30)).expect("it ends");
        drop(send);
    }
}
