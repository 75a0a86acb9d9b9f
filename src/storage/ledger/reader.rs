use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;

use super::super::StorageError;
use super::{ROBOTS_POLICY_KEY, schema};
use crate::model::{RequestEntry, RequestPurpose, RobotsPolicy, RobotsRequest, ServerName};

/// Reads one rank's ledger of one run, a batch at a time, in the order in which requests ended.
#[derive(Debug)]
pub struct LedgerReader {
    path: PathBuf,
    /// `None` after the last whole batch.
    stream: Option<StreamReader<BufReader<File>>>,
    end: LedgerEnd,
    robots_policy: Option<RobotsPolicy>,
}

/// What is missing in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerEnd {
    /// Requests that the writer could not take.
    pub num_lost: u64,
    /// Whether the file ends without an end: its writer was killed, or is still at work.
    pub is_cut_off: bool,
}

impl LedgerReader {
    /// # Errors
    /// When the file cannot be opened, or is no ledger.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path).map_err(StorageError::io("open", path))?;
        let mut reader =
            Self { path: path.to_owned(), stream: None, end: LedgerEnd::default(), robots_policy: None };
        match StreamReader::try_new(BufReader::new(file), None) {
            Ok(stream) if stream.schema().fields() == schema().fields() => {
                let policy = stream.schema().metadata().get(ROBOTS_POLICY_KEY).cloned();
                reader.robots_policy = policy.and_then(|policy| serde_json::from_str(&policy).ok());
                reader.stream = Some(stream);
            }
            Ok(_) => return Err(reader.unexpected("its columns are not those of a ledger")),
            // Not even the schema was written.
            Err(_) => reader.end.is_cut_off = true,
        }
        Ok(reader)
    }

    /// The next batch; `None` at the end, and where the file breaks off.
    ///
    /// # Errors
    /// When a batch holds what no ledger holds.
    pub fn next_batch(&mut self) -> Result<Option<Vec<RequestEntry>>, StorageError> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        // Some damage that is not found by reading panics in the Arrow crates.
        let batch = match catch_unwind(AssertUnwindSafe(|| stream.next())).unwrap_or_else(|_| Some(damaged()))
        {
            Some(Ok(batch)) => batch,
            Some(Err(_)) => {
                self.end.is_cut_off = true;
                self.stream = None;
                return Ok(None);
            }
            None => {
                // A stream that simply stops reads as one that ends.
                self.end.is_cut_off = !ends_well(&self.path);
                self.stream = None;
                return Ok(None);
            }
        };
        let entries = entries(&batch, &mut self.end.num_lost);
        entries
            .map(Some)
            .ok_or_else(|| self.unexpected("a request without a server, a time or a known purpose"))
    }

    /// How the run treats robots.txt; `None` where not even that was written.
    #[must_use]
    pub fn robots_policy(&self) -> Option<&RobotsPolicy> {
        self.robots_policy.as_ref()
    }

    /// What is missing, as far as has been read.
    #[must_use]
    pub fn end(&self) -> LedgerEnd {
        self.end
    }

    fn unexpected(&self, detail: &str) -> StorageError {
        StorageError::Unexpected { path: self.path.clone(), detail: detail.to_owned() }
    }
}

fn damaged() -> Result<RecordBatch, ArrowError> {
    Err(ArrowError::IpcError("damaged".into()))
}

/// Whether the file ends with the mark of the end of an IPC stream: a continuation and a length of zero.
fn ends_well(path: &Path) -> bool {
    const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut last = [0; END.len()];
    File::open(path)
        .and_then(|mut file| {
            file.seek(SeekFrom::End(-(END.len() as i64)))?;
            file.read_exact(&mut last)
        })
        .is_ok_and(|()| last == END)
}

/// The rows of a batch; `None` where a value that must be there is missing or has no meaning.
fn entries(batch: &RecordBatch, num_lost: &mut u64) -> Option<Vec<RequestEntry>> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let int64 = |column: usize| batch.column(column).as_primitive::<Int64Type>();
    let (server_name, address, purpose, target) = (text(0), text(1), text(2), text(3));
    let sent_at = batch.column(4).as_primitive::<TimestampMicrosecondType>();
    let (took_us, received_bytes) = (int64(5), int64(6));
    let http_status = batch.column(7).as_primitive::<Int32Type>();
    let retry_after_us = int64(8);
    let max_rate = batch.column(9).as_primitive::<Float64Type>();
    let max_connections = batch.column(10).as_primitive::<Int32Type>();
    let is_https = batch.column(12).as_boolean();
    let (robots_of, robots_txt) = (text(13), batch.column(14).as_binary::<i32>());
    let us = |value: i64| Duration::from_micros(value.max(0).cast_unsigned());
    let must_be_there: [&dyn Array; 4] = [server_name, sent_at, took_us, is_https];
    if must_be_there.iter().any(|array| array.null_count() > 0) {
        return None;
    }
    *num_lost += int64(11).iter().flatten().map(i64::cast_unsigned).sum::<u64>();
    (0..batch.num_rows())
        .map(|row| {
            Some(RequestEntry {
                server: ServerName::from_catalog(server_name.value(row)),
                address: address.is_valid(row).then(|| address.value(row).parse().ok()).flatten(),
                purpose: RequestPurpose::parse(purpose.value(row))?,
                is_https: is_https.value(row),
                target: target.value(row).to_owned(),
                sent_at: sent_at.value(row),
                took: us(took_us.value(row)),
                received_bytes: received_bytes.value(row).cast_unsigned(),
                http_status: http_status
                    .is_valid(row)
                    .then(|| u16::try_from(http_status.value(row)).ok())
                    .flatten(),
                retry_after: retry_after_us.is_valid(row).then(|| us(retry_after_us.value(row))),
                max_rate: max_rate.value(row),
                max_connections: u32::try_from(max_connections.value(row)).ok()?,
                robots: if robots_of.is_valid(row) {
                    let (scheme, server) = robots_of.value(row).split_once("://")?;
                    Some(RobotsRequest {
                        server: ServerName::from_catalog(server),
                        is_https: scheme == "https",
                        text: robots_txt.is_valid(row).then(|| robots_txt.value(row).to_vec()),
                    })
                } else {
                    None
                },
            })
        })
        .collect()
}
