//! The reading side: one consistent read of the catalog, beside a writer or without one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::Schema;
use redb::{ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable};

use super::encoding::{self, PackedStates, RecordStatus};
use super::rows::StoredServer;
use super::{
    CatalogError, CatalogOptions, DispositionCounts, FORMAT, IngestRow, PartitionRow, RunRow, ServerRow,
    store, tables, upgrade,
};
use crate::model::{
    ContentDigest, HashAlgorithm, PartId, PartitionKey, RecordIndex, ServerId, ServerName, UrlKey,
};
use crate::runtime::catch_panic;

/// The catalog, open for reading only. Follows a writer on this or another node.
pub struct CatalogReader {
    db: ReadOnlyDatabase,
    path: PathBuf,
    /// Set where no file locks protect what is read here from a writer.
    unprotected: Option<CatalogOptions>,
}

impl CatalogReader {
    /// # Errors
    /// `NotFound`, `Damaged`, `TooNew`; `NeedsRepair` after a kill, and `NeedsUpgrade` of an older format, until a
    /// writer has opened it; `NoFileLocks` beside a writer where the filesystem has none.
    pub fn open(path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() == 0 => {
                return Err(CatalogError::Damaged {
                    path: path.to_owned(),
                    detail: "it is an empty file".into(),
                });
            }
            Ok(_) => {}
            Err(_) => return Err(CatalogError::NotFound { path: path.to_owned() }),
        }
        let (db, protected) = store::open_reader(path, options)?;
        let unprotected = (!protected).then(|| options.clone());
        let reader = Self { db, path: path.to_owned(), unprotected };
        reader.view()?;
        Ok(reader)
    }

    /// What is committed now.
    ///
    /// # Errors
    /// As [`CatalogReader::open`], or when the storage fails.
    pub fn view(&self) -> Result<CatalogView, CatalogError> {
        if let Some(options) = &self.unprotected {
            store::refuse_beside_writer(&self.path, options)?;
        }
        let view = CatalogView::begin(&self.db)?;
        match view.format()? {
            FORMAT => Ok(view),
            found if found > FORMAT => {
                Err(CatalogError::TooNew { path: self.path.clone(), found, known: FORMAT })
            }
            _ => Err(CatalogError::NeedsUpgrade { path: self.path.clone() }),
        }
    }
}

/// Takes a panic of the storage for the damage that it comes from.
fn guarded<T>(read: impl FnOnce() -> Result<T, CatalogError>) -> Result<T, CatalogError> {
    catch_panic(read).unwrap_or_else(|panic| Err(CatalogError::Corrupted(panic)))
}

/// The digests of one part, in file order.
pub type PartDigests = (PartId, Vec<(RecordIndex, ContentDigest)>);

/// One consistent state of the catalog: later commits do not show.
pub struct CatalogView {
    txn: ReadTransaction,
}

impl CatalogView {
    /// Begins to read.
    pub(super) fn begin(db: &impl ReadableDatabase) -> Result<Self, CatalogError> {
        guarded(|| Ok(Self { txn: db.begin_read()? }))
    }

    /// Every read goes through here: on a damaged page redb may panic.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        guarded(|| read(&self.txn))
    }

    /// The format number of the file.
    pub(super) fn format(&self) -> Result<u32, CatalogError> {
        let stored = self.read(|txn| upgrade::stored_format(&txn.open_table(tables::META)?))?;
        Ok(stored.unwrap_or(FORMAT))
    }

    /// All folders of partitions, by id.
    ///
    /// # Errors
    /// When the storage fails or a value does not decode; so for every reader here.
    pub fn servers(&self) -> Result<Vec<ServerRow>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::SERVERS)?;
            table
                .iter()?
                .map(|entry| {
                    let (id, value) = entry?;
                    let row: StoredServer = encoding::decode(value.value(), "server")?;
                    Ok(ServerRow {
                        id: ServerId(id.value()),
                        folder: ServerName::from_catalog(&row.folder),
                        shared: row.shared,
                        num_partitions: row.num_partitions,
                        num_records: row.num_records,
                    })
                })
                .collect()
        })
    }

    /// Every server, and every shared folder, with the id of the folder that its records are in.
    pub fn server_ids(&self) -> Result<HashMap<ServerName, ServerId>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::SERVER_IDS)?;
            table
                .iter()?
                .map(|entry| {
                    let (name, id) = entry?;
                    Ok((ServerName::from_catalog(name.value()), ServerId(id.value())))
                })
                .collect()
        })
    }

    /// Calls `each` with every partition, in order of server and partition id.
    pub fn for_each_partition(
        &self,
        mut each: impl FnMut(PartitionKey, PartitionRow),
    ) -> Result<(), CatalogError> {
        self.read(|txn| {
            for entry in txn.open_table(tables::PARTITIONS)?.iter()? {
                let (key, value) = entry?;
                let (server_id, partition_id) = key.value();
                each(
                    PartitionKey { server_id: ServerId(server_id), partition_id },
                    encoding::decode(value.value(), "partition")?,
                );
            }
            Ok(())
        })
    }

    pub fn partition(&self, key: PartitionKey) -> Result<Option<PartitionRow>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::PARTITIONS)?;
            let value = table.get((key.server_id.0, key.partition_id))?;
            value.map(|value| encoding::decode(value.value(), "partition")).transpose()
        })
    }

    /// Records per disposition, over everything.
    pub fn counts(&self) -> Result<DispositionCounts, CatalogError> {
        let mut counts = DispositionCounts::default();
        self.for_each_partition(|_, row| counts += row.counts)?;
        Ok(counts)
    }

    /// State of every record of a partition, in record order.
    pub fn states(&self, key: PartitionKey) -> Result<Vec<RecordStatus>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::STATES)?;
            match table.get((key.server_id.0, key.partition_id))? {
                Some(value) => encoding::decode::<PackedStates>(value.value(), "states")?.unpack(),
                None => Err(CatalogError::inconsistent(format!("{key:?} has no states"))),
            }
        })
    }

    /// Key of every record of a server, partition by partition in record order.
    pub fn for_each_url_key(
        &self,
        server_id: ServerId,
        each: &mut dyn FnMut(UrlKey),
    ) -> Result<(), CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::URL_KEYS)?;
            for entry in table.range((server_id.0, 0, 0)..=(server_id.0, u32::MAX, u32::MAX))? {
                encoding::decode_url_keys(entry?.1.value())?.for_each(&mut *each);
            }
            Ok(())
        })
    }

    /// Key of every record of a partition, in record order.
    pub fn url_keys(&self, key: PartitionKey) -> Result<Vec<UrlKey>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::URL_KEYS)?;
            let (server, partition) = (key.server_id.0, key.partition_id);
            let mut keys = Vec::new();
            for entry in table.range((server, partition, 0)..=(server, partition, u32::MAX))? {
                keys.extend(encoding::decode_url_keys(entry?.1.value())?);
            }
            Ok(keys)
        })
    }

    /// Digests of `image` as downloaded (`hashsum_original`), by part, in file order.
    pub fn digests(&self, key: PartitionKey) -> Result<Vec<PartDigests>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::DIGESTS)?;
            let (server, partition) = (key.server_id.0, key.partition_id);
            let mut parts: Vec<PartDigests> = Vec::new();
            for entry in table
                .range((server, partition, 0, 0, 0)..=(server, partition, u64::MAX, u32::MAX, u32::MAX))?
            {
                let (key, value) = entry?;
                let (_, _, epoch, sequence, _) = key.value();
                let part = PartId { epoch: crate::model::Epoch(epoch), sequence };
                let rows = encoding::decode_digests(value.value())?;
                match parts.last_mut() {
                    Some((last, known)) if *last == part => known.extend(rows),
                    _ => parts.push((part, rows)),
                }
            }
            Ok(parts)
        })
    }

    /// Columns of the manifest; `None` before the first ingest.
    pub fn manifest_schema(&self) -> Result<Option<Schema>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::META)?;
            table.get("manifest_schema")?.map(|value| schema_from_bytes(value.value())).transpose()
        })
    }

    /// The algorithm of all digests; `None` before the first download.
    pub fn hash_algorithm(&self) -> Result<Option<HashAlgorithm>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(tables::META)?;
            let Some(value) = table.get("hash_algorithm")? else { return Ok(None) };
            let name = String::from_utf8_lossy(value.value());
            let known = HashAlgorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
            known.map(Some).ok_or_else(|| CatalogError::inconsistent(format!("the hash algorithm `{name}`")))
        })
    }

    /// All runs, oldest first.
    pub fn runs(&self) -> Result<Vec<RunRow>, CatalogError> {
        self.json_rows(tables::RUNS)
    }

    /// All ingests, oldest first.
    pub fn ingests(&self) -> Result<Vec<IngestRow>, CatalogError> {
        self.json_rows(tables::INGESTS)
    }

    fn json_rows<T: serde::de::DeserializeOwned>(
        &self,
        definition: redb::TableDefinition<u32, &[u8]>,
    ) -> Result<Vec<T>, CatalogError> {
        self.read(|txn| {
            let table = txn.open_table(definition)?;
            table
                .iter()?
                .map(|entry| {
                    serde_json::from_slice(entry?.1.value())
                        .map_err(|error| CatalogError::inconsistent(error.to_string()))
                })
                .collect()
        })
    }
}

/// A schema as the header of an Arrow IPC stream: the one encoding that every Arrow release reads.
pub(super) fn schema_to_bytes(schema: &Schema) -> Vec<u8> {
    arrow::ipc::writer::StreamWriter::try_new(Vec::new(), schema)
        .and_then(|mut writer| writer.finish().and_then(|()| writer.into_inner()))
        .expect("writing a schema into memory cannot fail")
}

fn schema_from_bytes(bytes: &[u8]) -> Result<Schema, CatalogError> {
    arrow::ipc::reader::StreamReader::try_new(bytes, None)
        .map(|reader| reader.schema().as_ref().clone())
        .map_err(|error| CatalogError::inconsistent(format!("manifest schema: {error}")))
}
