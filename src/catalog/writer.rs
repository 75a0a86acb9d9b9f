//! The writing side: opening, ingest and run records. One transaction per call, durable when it returns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::datatypes::Schema;
use redb::{Database, ReadableTable, WriteTransaction};

use super::encoding::{self, PackedStates, RecordStatus};
use super::lock::CatalogLock;
use super::rows::StoredServer;
use super::{
    CatalogError, CatalogView, DispositionCounts, FORMAT, IngestRow, ManifestFile, PartitionRow,
    PartitionStage, RunRow, store, tables, upgrade,
};
use crate::model::{Disposition, HashAlgorithm, RecordState, RunId, ServerName, UrlKey};

#[derive(Clone, Debug, PartialEq)]
pub struct CatalogOptions {
    /// After this long without a sign of life another node's lock may be taken over.
    pub lock_timeout: Duration,
    /// The batch job that this process runs in, for the lock file.
    pub job: Option<String>,
    /// Memory for cached pages. 64 MiB hold the partition table of 200 million records several times over.
    pub cache_bytes: usize,
    /// False: treat the filesystem as one without file locks.
    pub file_locks: bool,
}

impl Default for CatalogOptions {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(120), job: None, cache_bytes: 64 << 20, file_locks: true }
    }
}

/// The number that the next run has at least: of a restored copy, above those that it has forgotten.
pub(super) const FIRST_RUN: &str = "first_run";

/// A partition as ingest hands it over. Its manifest files are closed and synced by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartition {
    /// The server, or `SHARED-nnnn`.
    pub folder: ServerName,
    /// Servers that live in a shared folder from now on; empty for a folder of one server.
    pub members: Vec<ServerName>,
    pub partition_id: u32,
    pub manifest_files: Vec<ManifestFile>,
    /// State of every record, in order: pending or skipped.
    pub states: Vec<RecordState>,
    /// Key of every record, in the same order.
    pub url_keys: Vec<UrlKey>,
}

/// The catalog, open for writing. At most one process holds it.
pub struct Catalog {
    db: Database,
    path: PathBuf,
    lock: CatalogLock,
    /// Commits of partitions that still succeed.
    #[cfg(test)]
    commits_left: std::sync::Mutex<Option<u32>>,
    #[cfg(test)]
    panics: std::sync::atomic::AtomicBool,
}

impl Catalog {
    /// Opens the catalog at `path`, or makes an empty one.
    ///
    /// # Errors
    /// `InUse` when another process writes it, `Damaged` when it cannot be read, `TooNew` when a newer ddl
    /// wrote it.
    pub fn create(path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let lock = CatalogLock::acquire(path, options.job.clone(), options.lock_timeout)?;
        let db = store::open_writer(path, options)?;
        let catalog = Self {
            db,
            path: path.to_owned(),
            lock,
            #[cfg(test)]
            commits_left: std::sync::Mutex::new(None),
            #[cfg(test)]
            panics: false.into(),
        };
        let txn = catalog.begin()?;
        let found = upgrade::prepare(&txn)?;
        if found > FORMAT {
            return Err(CatalogError::TooNew { path: path.to_owned(), found, known: FORMAT });
        }
        catalog.commit(txn)?;
        Ok(catalog)
    }

    /// Opens an existing catalog.
    ///
    /// # Errors
    /// As [`Catalog::create`], and `NotFound`.
    pub fn open(path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() == 0 => {
                Err(CatalogError::Damaged { path: path.to_owned(), detail: "it is an empty file".into() })
            }
            Ok(_) => Self::create(path, options),
            Err(_) => Err(CatalogError::NotFound { path: path.to_owned() }),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One consistent read of what is committed.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn view(&self) -> Result<CatalogView, CatalogError> {
        CatalogView::begin(&self.db)
    }

    /// Moves pages together and gives the rest of the file back. Killed half-way, the catalog is as it was; it is
    /// repaired when it is opened next, which reads all of it.
    ///
    /// # Errors
    /// `BeingRead` while another process reads it; when the storage fails.
    pub fn compact(&mut self) -> Result<(), CatalogError> {
        self.lock.confirm(&self.path)?;
        match self.db.compact() {
            Err(redb::CompactionError::TransactionInProgress) => {
                Err(CatalogError::BeingRead { path: self.path.clone() })
            }
            compacted => Ok(compacted.map(drop)?),
        }
    }

    pub(super) fn begin(&self) -> Result<WriteTransaction, CatalogError> {
        self.lock.confirm(&self.path)?;
        let mut txn = self.db.begin_write()?;
        // Costs 3 ms a commit and saves a scan of the whole file after a kill: a minute at 200 million records.
        txn.set_quick_repair(true);
        Ok(txn)
    }

    /// Commits, unless the lock was lost since the transaction began.
    pub(super) fn commit(&self, txn: WriteTransaction) -> Result<(), CatalogError> {
        self.lock.confirm(&self.path)?;
        Ok(txn.commit()?)
    }

    /// Adds whole partitions in one transaction, and their servers where they are new.
    ///
    /// # Errors
    /// `Inconsistent` when a partition exists already or its lists disagree; nothing is added then.
    pub fn add_partitions(&self, partitions: &[NewPartition]) -> Result<(), CatalogError> {
        #[cfg(test)]
        if let Some(left) = self.commits_left.lock().unwrap().as_mut() {
            if *left == 0 {
                return Err(CatalogError::inconsistent("told to fail"));
            }
            *left -= 1;
        }
        let txn = self.begin()?;
        for partition in partitions {
            add_partition(&txn, partition)?;
        }
        self.commit(txn)
    }

    /// Makes `add_partitions` fail after so many commits, as a kill would.
    #[cfg(test)]
    pub(crate) fn fail_after_commits(&self, commits: Option<u32>) {
        *self.commits_left.lock().unwrap() = commits;
    }

    /// Makes reports panic in the middle of their transaction, as the storage may.
    #[cfg(test)]
    pub(crate) fn panic_at_reports(&self) {
        self.panics.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn panic_if_told_to(&self) {
        assert!(!self.panics.load(std::sync::atomic::Ordering::Relaxed), "told to panic");
    }

    /// Columns of the manifest, as the last ingest left them.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn set_manifest_schema(&self, schema: &Schema) -> Result<(), CatalogError> {
        self.set_meta("manifest_schema", &super::view::schema_to_bytes(schema))
    }

    /// Holds a dataset to one hash algorithm: the first download settles it.
    ///
    /// # Errors
    /// `HashAlgorithm` when another is settled: digests of two kinds could not be compared.
    pub fn pin_hash_algorithm(&self, asked: HashAlgorithm) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        {
            let mut meta = txn.open_table(tables::META)?;
            let settled = meta.get("hash_algorithm")?.map(|value| value.value().to_owned());
            match settled {
                Some(settled) if settled == asked.as_str().as_bytes() => return Ok(()),
                Some(settled) => {
                    let settled = String::from_utf8_lossy(&settled).into_owned();
                    return Err(CatalogError::HashAlgorithm { settled, asked: asked.as_str() });
                }
                None => drop(meta.insert("hash_algorithm", asked.as_str().as_bytes())?),
            }
        }
        self.commit(txn)
    }

    /// Records of one partition at most: the first ingest settles it. Returns what is settled.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn settle_batch_size(&self, asked: u64) -> Result<u64, CatalogError> {
        let txn = self.begin()?;
        let settled = match txn.open_table(tables::META)?.get("batch_size")? {
            Some(value) => Some(u64::from_le_bytes(
                value
                    .value()
                    .try_into()
                    .map_err(|_| CatalogError::inconsistent("the batch size is not eight bytes"))?,
            )),
            None => None,
        };
        if let Some(settled) = settled {
            return Ok(settled);
        }
        txn.open_table(tables::META)?.insert("batch_size", asked.to_le_bytes().as_slice())?;
        self.commit(txn)?;
        Ok(asked)
    }

    pub(super) fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        txn.open_table(tables::META)?.insert(key, value)?;
        self.commit(txn)
    }

    /// Records a new run and gives it the next number.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn start_run(&self, mut run: RunRow) -> Result<RunId, CatalogError> {
        let txn = self.begin()?;
        {
            let mut runs = txn.open_table(tables::RUNS)?;
            let meta = txn.open_table(tables::META)?;
            let first = meta.get(FIRST_RUN)?.and_then(|row| row.value().try_into().ok());
            let first = first.map_or(1, u32::from_le_bytes);
            run.run_id = runs.last()?.map_or(first, |(id, _)| first.max(id.value() + 1));
            runs.insert(run.run_id, json(&run).as_slice())?;
        }
        self.commit(txn)?;
        Ok(run.run_id)
    }

    /// Replaces the record of a run, at its end.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn end_run(&self, run: &RunRow) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        txn.open_table(tables::RUNS)?.insert(run.run_id, json(run).as_slice())?;
        self.commit(txn)
    }

    /// Records an ingest: a new number when `ingest_id` is 0, else in place of the old record.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn record_ingest(&self, mut ingest: IngestRow) -> Result<u32, CatalogError> {
        let txn = self.begin()?;
        {
            let mut ingests = txn.open_table(tables::INGESTS)?;
            if ingest.ingest_id == 0 {
                ingest.ingest_id = ingests.last()?.map_or(1, |(id, _)| id.value() + 1);
            }
            ingests.insert(ingest.ingest_id, json(&ingest).as_slice())?;
        }
        self.commit(txn)?;
        Ok(ingest.ingest_id)
    }
}

fn json<T: serde::Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are plain data")
}

fn add_partition(txn: &WriteTransaction, new: &NewPartition) -> Result<(), CatalogError> {
    let num_records: u64 = new.manifest_files.iter().map(|file| u64::from(file.num_records)).sum();
    if new.states.len() as u64 != num_records || new.url_keys.len() != new.states.len() {
        return Err(CatalogError::inconsistent(format!(
            "partition {} of `{}` has {num_records} records, {} states and {} keys",
            new.partition_id,
            new.folder,
            new.states.len(),
            new.url_keys.len()
        )));
    }
    let shared = !new.members.is_empty();
    let server_id = {
        let mut ids = txn.open_table(tables::SERVER_IDS)?;
        let mut servers = txn.open_table(tables::SERVERS)?;
        // A shared folder has an entry of its own, so that it is found again; no server can have its name.
        let known = ids.get(new.folder.as_str())?.map(|id| id.value());
        let id = match known {
            Some(id) => id,
            None => servers.last()?.map_or(0, |(id, _)| id.value() + 1),
        };
        let mut row = match servers.get(id)? {
            Some(value) => encoding::decode::<StoredServer>(value.value(), "server")?,
            None => StoredServer {
                folder: new.folder.as_str().to_owned(),
                shared,
                num_partitions: 0,
                num_records: 0,
            },
        };
        row.num_partitions = row.num_partitions.max(new.partition_id + 1);
        row.num_records += num_records;
        servers.insert(id, encoding::encode(&row).as_slice())?;
        ids.insert(new.folder.as_str(), id)?;
        for member in &new.members {
            ids.insert(member.as_str(), id)?;
        }
        id
    };
    let key = (server_id, new.partition_id);
    let counts = DispositionCounts::of(new.states.iter().copied());
    let row = PartitionRow {
        counts,
        manifest_files: new.manifest_files.clone(),
        // With nothing to download there is still a pair of empty files to write.
        stage: PartitionStage::Open,
        ..PartitionRow::default()
    };
    debug_assert_eq!(counts.get(Disposition::Success), 0);
    if txn.open_table(tables::PARTITIONS)?.insert(key, encoding::encode(&row).as_slice())?.is_some() {
        return Err(CatalogError::inconsistent(format!(
            "partition {} of `{}` exists already",
            new.partition_id, new.folder
        )));
    }
    let states: Vec<_> = new.states.iter().map(|&state| RecordStatus::new(state)).collect();
    let packed = encoding::encode(&PackedStates::pack(&states));
    txn.open_table(tables::STATES)?.insert(key, packed.as_slice())?;
    let mut url_keys = txn.open_table(tables::URL_KEYS)?;
    for (chunk, keys) in new.url_keys.chunks(encoding::URL_KEYS_PER_CHUNK).enumerate() {
        url_keys.insert((key.0, key.1, chunk as u32), encoding::encode_url_keys(keys).as_slice())?;
    }
    Ok(())
}
