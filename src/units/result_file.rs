//! What came of a unit, as one file: a zip that compresses nothing, for engines that name the files they bring back.
//!
//! | entry | what |
//! |---|---|
//! | `result.json` | [`ResultHeader`] |
//! | `server_name=S/partition_id=P/report` | the [`PartReport`] of the whole partition, as it would cross a transport |
//! | `server_name=S/partition_id=P/successes.parquet`, `errors.parquet` | its files, where they have rows |
//! | `requests/run-...arrows` | the ledger of requests |
//!
//! Unpacked, it is a folder that readers of Hive partitions can read.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::UnitError;
use super::unit_file::{FORMAT, UnitClaim, UnitFact, UnitHeader};
use super::unpack::NOT_OURS;
use crate::catalog::{
    CatalogError, CatalogView, PartReport, PartitionRow, PartitionStage, RecordOutcome, ServerFact,
};
use crate::cluster::wire;
use crate::model::{DataFile, PartId, PartRow, PartitionKey, Rank, RecordState, RunId, ServerId, ServerName};
use crate::storage::{AtomicFile, DatasetLayout, StorageError, escape_hive, ledger_file, ledger_files};

pub(super) const HEADER_ENTRY: &str = "result.json";

/// Whose result it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultHeader {
    pub format: u32,
    pub ddl_version: String,
    pub unit: String,
    pub number: u32,
    pub num_units: u32,
    pub run: RunId,
    /// Of all digests; `None` where nothing was downloaded.
    pub hash_algorithm: Option<String>,
    /// The partitions, with what became of their records.
    pub claims: Vec<UnitClaim>,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub image_bytes: u64,
    /// Ranks of the run under which its ledger's files are named.
    pub ledgers: Vec<Rank>,
    /// Pauses that servers have asked for.
    pub facts: Vec<UnitFact>,
}

/// Ranks under which a unit's ledgers stand: one for each time that it was started.
const LEDGERS_PER_UNIT: u32 = 1000;

/// Writes the result of a unit whose partitions are all finished in the dataset at `layout`. `now`: milliseconds since
/// 1970.
///
/// # Errors
/// `Unfinished` when one is not; or when something cannot be read or written: then there is no result.
pub fn pack(
    unit: &UnitHeader,
    layout: &DatasetLayout,
    view: &CatalogView,
    path: &Path,
    now: u64,
) -> Result<ResultHeader, UnitError> {
    let servers: std::collections::HashMap<ServerName, ServerId> =
        view.servers()?.into_iter().map(|server| (server.folder, server.id)).collect();
    let ledgers = ledger_files(&layout.ledger())?;
    let rank_of = |run: RunId| unit.number * LEDGERS_PER_UNIT + run.min(LEDGERS_PER_UNIT - 1);
    let mut header = ResultHeader {
        format: FORMAT,
        ddl_version: env!("CARGO_PKG_VERSION").into(),
        unit: unit.unit.clone(),
        number: unit.number,
        num_units: unit.num_units,
        run: unit.run,
        hash_algorithm: view.hash_algorithm()?.map(|algorithm| algorithm.as_str().to_owned()),
        claims: unit.claims.clone(),
        success: 0,
        failed: 0,
        skipped: 0,
        image_bytes: 0,
        ledgers: ledgers.iter().map(|(run, _, _)| rank_of(*run)).collect(),
        facts: pauses(unit, view, now)?,
    };
    let file = AtomicFile::create(path, &std::process::id().to_string())?;
    let mut zip = Zip { writer: ZipWriter::new(file.handle()?), path: file.temporary().to_owned() };
    for claim in &unit.claims {
        let unfinished = || UnitError::Unfinished {
            server_name: claim.server_name.clone(),
            partition_id: claim.partition_id,
        };
        let server_id = *servers.get(&claim.folder()).ok_or_else(unfinished)?;
        let key = PartitionKey { server_id, partition_id: claim.partition_id };
        let row = view.partition(key)?.ok_or_else(unfinished)?;
        if row.stage == PartitionStage::Open || row.counts.pending > 0 {
            return Err(unfinished());
        }
        let report = report_on(claim, key, &row, view)?;
        for outcome in &report.outcomes {
            match RecordState::from_byte(outcome.state) {
                Some(RecordState::Success) => header.success += 1,
                Some(RecordState::Failed(_)) => header.failed += 1,
                _ => header.skipped += 1,
            }
        }
        header.image_bytes += report.image_bytes;
        let bytes = wire::encode(&report).map_err(|error| CatalogError::Inconsistent(error.to_string()))?;
        zip.add(&entry_name(claim, "report"), &bytes)?;
        for (stated, name, source) in [
            (
                report.part.successes,
                "successes.parquet",
                layout.successes(&claim.folder(), claim.partition_id),
            ),
            (report.part.errors, "errors.parquet", layout.errors(&claim.folder(), claim.partition_id)),
        ] {
            if stated.num_rows > 0 {
                zip.copy(&entry_name(claim, name), &source)?;
            }
        }
    }
    for (run, _, source) in &ledgers {
        zip.copy(&ledger_entry(unit.run, rank_of(*run)), source)?;
    }
    zip.add(HEADER_ENTRY, &serde_json::to_vec(&header).expect("headers are plain data"))?;
    zip.writer.finish().map_err(|error| zip_error(&zip.path, error))?;
    file.commit()?;
    Ok(header)
}

/// The whole partition as one part of the claim, with the records that are the unit's.
fn report_on(
    claim: &UnitClaim,
    key: PartitionKey,
    row: &PartitionRow,
    view: &CatalogView,
) -> Result<PartReport, UnitError> {
    // Parts were committed in the order of their epochs, and became one file in that order.
    let digests: Vec<_> = view.digests(key)?.into_iter().flat_map(|(_, digests)| digests).collect();
    let success = |&(record, _): &(u32, _)| RecordOutcome {
        record,
        state: RecordState::Success.to_byte(),
        http_status: 0,
        retry_count: 0,
    };
    let mut outcomes: Vec<_> = digests.iter().map(success).collect();
    outcomes.extend((0..).zip(view.states(key)?).filter_map(|(record, status)| {
        let is_failure = status.state != RecordState::Success && status.state != NOT_OURS;
        is_failure.then(|| RecordOutcome {
            record,
            state: status.state.to_byte(),
            http_status: status.http_status,
            retry_count: status.retry_count,
        })
    }));
    let with_rows = |file: DataFile| if file.num_rows > 0 { file } else { DataFile::default() };
    Ok(PartReport {
        partition: claim.partition(),
        part: PartRow {
            part: PartId { epoch: claim.epoch, sequence: 0 },
            successes: with_rows(row.successes),
            errors: with_rows(row.errors),
        },
        outcomes,
        digest_bytes: digests.first().map_or(0, |(_, digest)| digest.as_bytes().len() as u8),
        digests: digests.iter().flat_map(|(_, digest)| digest.as_bytes().to_vec()).collect(),
        image_bytes: row.image_bytes,
    })
}

/// Pauses that the unit's servers have asked for, and that are not over.
fn pauses(unit: &UnitHeader, view: &CatalogView, now: u64) -> Result<Vec<UnitFact>, UnitError> {
    let mut facts = Vec::new();
    for name in unit.budgets.keys() {
        let server = ServerName::from_catalog(name);
        let known = view.server_facts(&server, now)?;
        let pauses = known.iter().filter(|fact| matches!(fact, ServerFact::Embargo { .. }));
        facts.extend(pauses.map(|fact| UnitFact::new(&server, fact)));
    }
    Ok(facts)
}

pub(super) fn entry_name(claim: &UnitClaim, name: &str) -> String {
    format!("server_name={}/partition_id={}/{name}", escape_hive(&claim.server_name), claim.partition_id)
}

pub(super) fn ledger_entry(run: RunId, rank: Rank) -> String {
    ledger_file(Path::new("requests"), run, rank).to_string_lossy().into_owned()
}

struct Zip {
    writer: ZipWriter<File>,
    path: PathBuf,
}

impl Zip {
    fn start(&mut self, name: &str) -> Result<(), UnitError> {
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        self.writer.start_file(name, options).map_err(|error| zip_error(&self.path, error))
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), UnitError> {
        self.start(name)?;
        self.writer.write_all(bytes).map_err(UnitError::io("write", &self.path))
    }

    fn copy(&mut self, name: &str, source: &Path) -> Result<(), UnitError> {
        let mut file = File::open(source).map_err(UnitError::io("open", source))?;
        self.start(name)?;
        io::copy(&mut file, &mut self.writer).map(drop).map_err(UnitError::io("write", &self.path))
    }
}

/// A full disk stays one.
fn zip_error(path: &Path, error: zip::result::ZipError) -> UnitError {
    match error {
        zip::result::ZipError::Io(source) => UnitError::io("write", path)(source),
        error => UnitError::NotAResult { path: path.to_owned(), detail: error.to_string() },
    }
}

/// A result that is read.
pub(super) struct ResultFile {
    pub path: PathBuf,
    pub archive: ZipArchive<BufReader<File>>,
    pub header: ResultHeader,
}

/// The largest header or report that is read: a report has some ten bytes for each record, and 32 for each digest.
const MAX_ENTRY_BYTES: u64 = 256 << 20;

impl ResultFile {
    pub fn open(path: &Path) -> Result<Self, UnitError> {
        let file = File::open(path).map_err(UnitError::io("open", path))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| zip_error(path, error))?;
        let bytes = read_entry(&mut archive, path, HEADER_ENTRY)?;
        let not_a_result = |detail: String| UnitError::NotAResult { path: path.to_owned(), detail };
        let header: ResultHeader = serde_json::from_slice(&bytes)
            .map_err(|error| not_a_result(format!("`{HEADER_ENTRY}` cannot be read: {error}")))?;
        if header.format != FORMAT {
            let found = header.format;
            return Err(not_a_result(format!("it has format {found}, this ddl reads {FORMAT}")));
        }
        Ok(Self { path: path.to_owned(), archive, header })
    }

    pub fn damaged(&self, detail: impl ToString) -> UnitError {
        UnitError::NotAResult { path: self.path.clone(), detail: detail.to_string() }
    }

    pub fn report(&mut self, claim: &UnitClaim) -> Result<PartReport, UnitError> {
        let name = entry_name(claim, "report");
        let bytes = read_entry(&mut self.archive, &self.path, &name)?;
        let report: PartReport =
            wire::decode(&bytes).map_err(|error| self.damaged(format!("`{name}`: {error}")))?;
        if report.partition != claim.partition() || report.part.part.epoch != claim.epoch {
            return Err(self.damaged(format!("`{name}` is about something else")));
        }
        Ok(report)
    }

    /// Hands the bytes of an entry to `take`.
    pub fn with_entry<T>(
        &mut self,
        name: &str,
        take: impl FnOnce(&mut dyn io::Read) -> Result<T, StorageError>,
    ) -> Result<T, UnitError> {
        let entry = self.archive.by_name(name).map_err(|error| zip_error(&self.path, error))?;
        let mut entry = Entry { bytes: entry, failure: None };
        let taken = take(&mut entry);
        let not_a_result = |detail: String| UnitError::NotAResult {
            path: self.path.clone(),
            detail: format!("`{name}`: {detail}"),
        };
        match (taken, entry.failure) {
            (Ok(taken), _) => Ok(taken),
            // What is wrong is the result, not a file of the dataset.
            (Err(_), Some(failure)) => Err(not_a_result(failure)),
            (Err(StorageError::Unexpected { detail, .. }), None) => Err(not_a_result(detail)),
            (Err(StorageError::Parquet { source, .. }), None) => Err(not_a_result(source.to_string())),
            (Err(error), None) => Err(error.into()),
        }
    }
}

/// An entry that remembers why it could not be read: who copies it cannot tell that from what goes wrong in writing.
struct Entry<R> {
    bytes: R,
    failure: Option<String>,
}

impl<R: io::Read> io::Read for Entry<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some(error.to_string());
            }
        })
    }
}

fn read_entry(
    archive: &mut ZipArchive<BufReader<File>>,
    path: &Path,
    name: &str,
) -> Result<Vec<u8>, UnitError> {
    let not_a_result = |detail: String| UnitError::NotAResult { path: path.to_owned(), detail };
    let entry = archive.by_name(name).map_err(|_| not_a_result(format!("it has no `{name}`")))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(entry, MAX_ENTRY_BYTES + 1), &mut bytes)
        .map_err(|error| not_a_result(format!("`{name}`: {error}")))?;
    if bytes.len() as u64 > MAX_ENTRY_BYTES {
        return Err(not_a_result(format!("`{name}` is too large")));
    }
    Ok(bytes)
}

/// Reads whose result a file is.
///
/// # Errors
/// `NotAResult` when it is something else.
pub fn read_result_header(path: &Path) -> Result<ResultHeader, UnitError> {
    Ok(ResultFile::open(path)?.header)
}
