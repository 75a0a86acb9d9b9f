//! What the catalog says about servers, partitions and runs.

use serde::{Deserialize, Serialize};

use crate::model::{
    DataFile, Disposition, Epoch, PartRow, PartitionKey, RecordState, RunId, ServerId, ServerName,
};

/// A folder of partitions: a server of its own, or `SHARED-nnnn`, in which small servers live together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    pub id: ServerId,
    /// Name in `server_name=...`.
    pub folder: ServerName,
    pub shared: bool,
    pub num_partitions: u32,
    pub num_records: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredServer {
    pub folder: String,
    pub shared: bool,
    pub num_partitions: u32,
    pub num_records: u64,
}

/// Records per disposition. Their sum is the number of records, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispositionCounts {
    pub pending: u64,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl DispositionCounts {
    #[must_use]
    pub fn of(states: impl IntoIterator<Item = RecordState>) -> Self {
        let mut counts = Self::default();
        for state in states {
            *counts.get_mut(state.disposition()) += 1;
        }
        counts
    }

    #[must_use]
    pub fn get(&self, disposition: Disposition) -> u64 {
        match disposition {
            Disposition::Pending => self.pending,
            Disposition::Success => self.success,
            Disposition::Failed => self.failed,
            Disposition::Skipped => self.skipped,
        }
    }

    pub fn get_mut(&mut self, disposition: Disposition) -> &mut u64 {
        match disposition {
            Disposition::Pending => &mut self.pending,
            Disposition::Success => &mut self.success,
            Disposition::Failed => &mut self.failed,
            Disposition::Skipped => &mut self.skipped,
        }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        // Read from a damaged catalog they may be anything.
        Disposition::ALL.iter().fold(0, |sum, &disposition| sum.saturating_add(self.get(disposition)))
    }
}

impl std::ops::AddAssign for DispositionCounts {
    fn add_assign(&mut self, other: Self) {
        for disposition in Disposition::ALL {
            let count = self.get_mut(disposition);
            *count = count.saturating_add(other.get(disposition));
        }
    }
}

/// A manifest file of a partition, by its name in the partition's folder under `servers_batched/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    pub name: String,
    pub num_records: u32,
    pub bytes: u64,
    /// CRC-32 of the whole file.
    pub crc32: u32,
}

impl ManifestFile {
    /// As any other file that the catalog names.
    #[must_use]
    pub fn data_file(&self) -> DataFile {
        DataFile { num_rows: u64::from(self.num_records), bytes: self.bytes, crc32: self.crc32 }
    }
}

/// How far a partition's files are.
///
/// ```text
/// Open --(nothing pending; successes.parquet and errors.parquet written)--> Compacted
///      --(`completed` marker written, parts removed)--> Finished
/// ```
/// A retry leads back, in two steps ([`Catalog::unfinish`](super::Catalog::unfinish), then
/// [`Catalog::set_back`](super::Catalog::set_back)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionStage {
    /// Data stands in `parts`.
    #[default]
    Open,
    /// Data stands in `successes.parquet` and `errors.parquet`; what is left of `_parts/` may go.
    Compacted,
    Finished,
}

/// The fingerprint of the images of many partitions, in an order of their own.
#[must_use]
pub fn images_fingerprint<'a>(partitions: impl Iterator<Item = (PartitionKey, &'a PartitionRow)>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for (key, row) in partitions.filter(|(_, row)| row.counts.success > 0) {
        hasher.update(&key.server_id.0.to_le_bytes());
        hasher.update(&key.partition_id.to_le_bytes());
        hasher.update(&row.images_fingerprint().to_le_bytes());
    }
    first_eight_bytes(&hasher)
}

fn first_eight_bytes(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRow {
    pub counts: DispositionCounts,
    pub manifest_files: Vec<ManifestFile>,
    pub stage: PartitionStage,
    /// Sealed parts, in the order of their commits. Empty unless `Open`.
    pub parts: Vec<PartRow>,
    /// `successes.parquet` and `errors.parquet`. Both exist unless the stage is `Open`.
    pub successes: DataFile,
    pub errors: DataFile,
    /// Sum of the stored images' bytes.
    pub image_bytes: u64,
    /// The claim whose report was committed last.
    pub epoch: Option<Epoch>,
}

impl PartitionRow {
    #[must_use]
    pub fn num_records(&self) -> u32 {
        // A partition holds at most a million records (`batch_size`).
        self.counts.total() as u32
    }

    /// The same as long as no file of images is another.
    #[must_use]
    pub fn images_fingerprint(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let parts = self.parts.iter().map(|part| part.successes);
        for file in parts.chain([self.successes]).filter(|file| file.num_rows > 0) {
            hasher.update(&file.crc32.to_le_bytes());
            hasher.update(&file.bytes.to_le_bytes());
            hasher.update(&file.num_rows.to_le_bytes());
        }
        first_eight_bytes(&hasher)
    }

    /// Whether a worker is still needed: to download, to compact or to finish.
    #[must_use]
    pub fn needs_work(&self) -> bool {
        self.stage != PartitionStage::Finished
    }
}

/// One `ddl download` run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRow {
    pub run_id: RunId,
    pub kind: String,
    /// Milliseconds since 1970.
    pub started_at: u64,
    /// `None` while it runs, and for ever if it was killed.
    pub ended_at: Option<u64>,
    /// `done`, `incomplete`, `stopped`, `failed`, or `None`.
    pub ending: Option<String>,
    pub ddl_version: String,
    pub num_ranks: u32,
    pub node: String,
    pub job: Option<String>,
    /// Outcomes committed in this run.
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub image_bytes: u64,
    /// The resolved configuration, as YAML.
    pub configuration: String,
}

/// One `ddl ingest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngestRow {
    pub ingest_id: u32,
    pub started_at: u64,
    pub ended_at: Option<u64>,
    pub inputs: Vec<String>,
    pub rows: u64,
    pub new: u64,
    pub known: u64,
    pub gone: u64,
    pub duplicates: u64,
    pub malformed: u64,
    /// The resolved configuration, as YAML; empty in catalogs of earlier versions.
    pub configuration: String,
}
