//! The ledger: every request that left, so that manners can be proved afterwards.
//!
//! One file per run and rank, `logs/requests/run-000007-rank-0003.arrows`: an Arrow IPC stream, batches compressed with
//! zstd, appended about once a second. A stream needs no footer, so what a kill leaves is whole up to its last
//! batch. Some 20 bytes a request, and some 700 more for each batch: most of it where few are sent.
//!
//! So that it can be proved that robots.txt was heeded, too, each file that was received is in the row of its request,
//! and how the run treats them is in the metadata of the schema.
//!
//! The ledger is evidence, not truth: when it cannot be written, the download goes on, says so once, and the
//! requests that are missing are counted.

mod reader;
mod writer;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

pub use reader::{LedgerEnd, LedgerReader};
pub use writer::LedgerWriter;

use super::StorageError;
use crate::model::{Rank, RunId};

fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
        Arc::new(Schema::new(vec![
            field("server_name", DataType::Utf8),
            field("address", DataType::Utf8),
            field("purpose", DataType::Utf8),
            field("target", DataType::Utf8),
            field("sent_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            field("took_us", DataType::Int64),
            field("received_bytes", DataType::Int64),
            field("http_status", DataType::Int32),
            field("retry_after_us", DataType::Int64),
            field("max_rate", DataType::Float64),
            field("max_connections", DataType::Int32),
            // Requests before this one that the ledger could not take.
            field("num_lost", DataType::Int64),
            field("is_https", DataType::Boolean),
            // Of requests for robots.txt: whose rules they are, as an origin, and the file.
            field("robots_of", DataType::Utf8),
            field("robots_txt", DataType::Binary),
        ]))
    });
    SCHEMA.clone()
}

/// Key of the metadata that says how the run treats robots.txt, as JSON.
const ROBOTS_POLICY_KEY: &str = "ddl.robots_policy";

fn file_name(run: RunId, rank: Rank) -> String {
    format!("run-{run:06}-rank-{rank:04}.arrows")
}

/// Where the requests of a rank of a run stand.
#[must_use]
pub fn ledger_file(folder: &Path, run: RunId, rank: Rank) -> PathBuf {
    folder.join(file_name(run, rank))
}

fn parse_file_name(name: &str) -> Option<(RunId, Rank)> {
    let (run, rank) = name.strip_prefix("run-")?.strip_suffix(".arrows")?.split_once("-rank-")?;
    Some((run.parse().ok()?, rank.parse().ok()?))
}

/// All files of a ledger with their runs and ranks, sorted; none where there is no ledger.
///
/// # Errors
/// When the folder cannot be listed.
pub fn ledger_files(folder: &Path) -> Result<Vec<(RunId, Rank, PathBuf)>, StorageError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::io("list", folder)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(StorageError::io("list", folder))?.path();
        let named = path.file_name().and_then(|name| parse_file_name(name.to_str()?));
        files.extend(named.map(|(run, rank)| (run, rank, path)));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::model::{RequestEntry, RequestPurpose, RobotsPolicy, RobotsRequest, ServerName};

    fn entry(n: i64) -> RequestEntry {
        RequestEntry {
            server: ServerName::from_catalog("a.example"),
            address: (n % 2 == 0).then(|| "192.0.2.7".parse().unwrap()),
            purpose: RequestPurpose::Image,
            is_https: n % 3 == 0,
            target: format!("/{n}.jpg?x=1"),
            sent_at: 1_700_000_000_000_000 + n,
            took: Duration::from_micros(1500),
            received_bytes: 4711,
            http_status: (n % 2 == 0).then_some(200),
            retry_after: (n % 3 == 0).then_some(Duration::from_secs(2)),
            max_rate: 2.5,
            max_connections: 4,
            robots: None,
        }
    }

    fn policy() -> RobotsPolicy {
        let agents = vec!["ddl".to_owned(), "me".to_owned()];
        RobotsPolicy { is_respected: true, agents, max_crawl_delay: Duration::from_millis(30_500) }
    }

    fn robots_entry(n: i64, text: &[u8]) -> RequestEntry {
        let server = ServerName::from_catalog("a.example:8080");
        let robots = RobotsRequest { server, is_https: n % 2 == 0, text: Some(text.to_vec()) };
        RequestEntry { purpose: RequestPurpose::Robots, robots: Some(robots), ..entry(n) }
    }

    #[test]
    fn robots_txt_is_kept_as_received_and_so_is_the_policy() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = RobotsRequest { text: None, ..robots_entry(1, b"").robots.unwrap() };
        let entries = [
            robots_entry(1, b"User-agent: *\r\n\xff\0"),
            robots_entry(2, b""),
            RequestEntry { robots: Some(nothing), ..robots_entry(3, b"") },
        ];
        let path = write(folder.path(), &entries);
        assert_eq!(read(&path).0, entries);
        assert_eq!(LedgerReader::open(&path).unwrap().robots_policy(), Some(&policy()));
    }

    #[test]
    fn files_that_are_too_much_at_once_are_left_out_but_not_their_requests() {
        let folder = tempfile::tempdir().unwrap();
        let text = vec![b'#'; 500 << 10];
        let entries: Vec<_> = (0..100).map(|n| robots_entry(n, &text)).collect();
        let (found, end) = read(&write(folder.path(), &entries));
        let kept = found.iter().filter(|entry| entry.robots.as_ref().unwrap().text.is_some()).count();
        assert_eq!((found.len(), end.num_lost), (100, 0));
        assert!((1..100).contains(&kept), "{kept}");
    }

    fn write(folder: &Path, entries: &[RequestEntry]) -> PathBuf {
        let path = {
            let writer = LedgerWriter::start(folder, 7, 3, &policy()).unwrap();
            entries.iter().for_each(|entry| writer.record(entry.clone()));
            folder.join(file_name(7, 3))
        };
        assert_eq!(ledger_files(folder).unwrap(), [(7, 3, path.clone())]);
        path
    }

    fn read(path: &Path) -> (Vec<RequestEntry>, LedgerEnd) {
        let mut reader = LedgerReader::open(path).unwrap();
        let mut entries = Vec::new();
        while let Some(batch) = reader.next_batch().unwrap() {
            entries.extend(batch);
        }
        (entries, reader.end())
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let entries: Vec<_> = (0..4000).map(entry).collect();
        let path = write(folder.path(), &entries);
        let (found, end) = read(&path);
        assert!(found == entries);
        assert_eq!(end, LedgerEnd { num_lost: 0, is_cut_off: false });
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(bytes < 40 * 4000, "{bytes} bytes");
    }

    #[test]
    fn what_comes_too_fast_is_counted_as_lost() {
        let folder = tempfile::tempdir().unwrap();
        let entries: Vec<_> = (0..100_000).map(entry).collect();
        let (found, end) = read(&write(folder.path(), &entries));
        // What is lost behind the last one that was taken, is in the log only.
        let last = found.iter().map(|entry| entry.sent_at).max().unwrap() - entry(0).sent_at;
        assert_eq!(found.len() as i64 + end.num_lost as i64, last + 1);
        assert!(end.num_lost > 0, "or this shows nothing");
    }

    /// Some of it made the Arrow crates panic.
    #[test]
    fn damage_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), &(0..40).map(entry).collect::<Vec<_>>());
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len() - 40).step_by(8) {
            let mut damaged = whole.clone();
            damaged[at..at + 40].fill(0xff);
            fs::write(&path, damaged).unwrap();
            // Or an error: what matters is that it comes to an end.
            if let Ok(mut reader) = LedgerReader::open(&path) {
                while let Ok(Some(_)) = reader.next_batch() {}
            }
        }
    }

    #[test]
    fn a_kill_costs_the_last_batch_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), &(0..10_000).map(entry).collect::<Vec<_>>());
        let whole = fs::read(&path).unwrap();
        let (all, _) = read(&path);
        for length in [0, 3, 100, whole.len() / 2, whole.len() - 20] {
            fs::File::create(&path).unwrap().write_all(&whole[..length]).unwrap();
            let (found, end) = read(&path);
            assert!(end.is_cut_off, "{length}");
            assert!(all.starts_with(&found), "{length}");
        }
        assert_eq!(ledger_files(&folder.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_second_start_under_the_same_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[entry(1)]);
        assert!(LedgerWriter::start(folder.path(), 7, 3, &policy()).is_err());
    }
}
