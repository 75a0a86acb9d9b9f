//! A unit as a file: `partition_NNN.parquet`, named and numbered as FLOW-DC's partitions.
//!
//! Its rows are the pending records of its partitions, in the order of its claims; all else that a worker needs stands as
//! JSON in the key-value metadata, under [`HEADER_KEY`]. FLOW-DC can read it: `url` is the column `identifier`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Serialize};

use super::UnitError;
use super::deal::Method;
use crate::catalog::ServerFact;
use crate::model::{Epoch, PartitionKey, RunId, ServerBudget, ServerId, ServerName};
use crate::storage::{DatasetLayout, ManifestRecord};

/// Key of the Parquet metadata under which the header stands.
pub const HEADER_KEY: &str = "ddl.unit";
/// Raised with every change of what a unit or a result means.
pub(super) const FORMAT: u32 = 1;
/// Rows read or written at a time.
pub(super) const BATCH_ROWS: usize = 8192;

/// What a worker needs besides the records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitHeader {
    pub format: u32,
    pub ddl_version: String,
    /// Drawn at random, as 32 hexadecimal digits: see [`crate::catalog::Lease`].
    pub unit: String,
    /// From 1 ...
    pub number: u32,
    /// ... to this.
    pub num_units: u32,
    pub run: RunId,
    pub method: Method,
    /// Milliseconds since 1970.
    pub expires_at: u64,
    pub claims: Vec<UnitClaim>,
    /// What this unit may use of each of its servers. Of all others (redirects may lead there) it may use one of
    /// `num_units` even parts.
    pub budgets: BTreeMap<String, ServerBudget>,
    /// What is known of its servers: pauses that they asked for, limits that were found, bytes that count.
    pub facts: Vec<UnitFact>,
    pub settings: UnitSettings,
}

/// How to download.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSettings {
    /// The configuration, as YAML; without what may be secret, and without what is of one site.
    pub yaml: String,
    /// Keys that were set, and left out because they may hold a secret: the worker must set them.
    pub needs: Vec<String>,
    /// `servers_profiles.csv` and `ignored_servers.csv`, where there are any.
    pub profiles: Option<String>,
    pub ignored: Option<String>,
}

/// A leased partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitClaim {
    pub server_id: u32,
    pub partition_id: u32,
    /// The folder: a server, or one that small servers share.
    pub server_name: String,
    pub shared: bool,
    pub epoch: Epoch,
    /// Of the whole partition.
    pub num_records: u32,
    /// Those in the unit.
    pub num_pending: u32,
}

/// One thing that is known of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFact {
    pub server_name: String,
    kind: u8,
    bytes: Vec<u8>,
}

impl UnitClaim {
    #[must_use]
    pub fn partition(&self) -> PartitionKey {
        PartitionKey { server_id: ServerId(self.server_id), partition_id: self.partition_id }
    }

    #[must_use]
    pub fn folder(&self) -> ServerName {
        ServerName::from_catalog(&self.server_name)
    }
}

impl UnitFact {
    pub(super) fn new(server: &ServerName, fact: &ServerFact) -> Self {
        Self { server_name: server.to_string(), kind: fact.kind(), bytes: fact.encode() }
    }

    /// `None` for what this ddl cannot read: the server will tell again.
    pub(super) fn read(&self) -> Option<(ServerName, ServerFact)> {
        let fact = ServerFact::decode(self.kind, &self.bytes).inspect_err(
            |error| tracing::warn!(server = self.server_name, %error, "left out of what is known"),
        );
        Some((ServerName::from_catalog(&self.server_name), fact.ok()?))
    }
}

impl UnitHeader {
    #[must_use]
    pub fn num_pending(&self) -> u64 {
        self.claims.iter().map(|claim| u64::from(claim.num_pending)).sum()
    }

    #[must_use]
    pub fn num_servers(&self) -> usize {
        self.budgets.len()
    }
}

/// A unit that is read.
pub struct UnitFile {
    path: PathBuf,
    pub header: UnitHeader,
}

impl UnitFile {
    /// Reads the header.
    ///
    /// # Errors
    /// `NotAUnit` when the file is something else, or of a ddl that writes them otherwise.
    pub fn open(path: &Path) -> Result<Self, UnitError> {
        let not_a_unit = |detail: String| UnitError::NotAUnit { path: path.to_owned(), detail };
        let file = File::open(path).map_err(UnitError::io("open", path))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| not_a_unit(format!("it cannot be read as Parquet: {error}")))?;
        let metadata = builder.metadata().file_metadata();
        let pairs = metadata.key_value_metadata().map(Vec::as_slice).unwrap_or_default();
        let text = pairs.iter().find(|pair| pair.key == HEADER_KEY).and_then(|pair| pair.value.as_deref());
        let text = text.ok_or_else(|| not_a_unit(format!("its metadata have no `{HEADER_KEY}`")))?;
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let damaged = |error: serde_json::Error| not_a_unit(format!("its header cannot be read: {error}"));
        let Versioned { format } = serde_json::from_str(text).map_err(damaged)?;
        if format != FORMAT {
            return Err(not_a_unit(format!("it has format {format}, this ddl reads {FORMAT}")));
        }
        let header: UnitHeader = serde_json::from_str(text).map_err(damaged)?;
        if header.num_pending() != metadata.num_rows().unsigned_abs() {
            return Err(not_a_unit("it has other rows than its header says".into()));
        }
        Ok(Self { path: path.to_owned(), header })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn records(&self) -> Result<ParquetRecordBatchReader, UnitError> {
        let file = File::open(&self.path).map_err(UnitError::io("open", &self.path))?;
        ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
            .map_err(|error| self.damaged(error.to_string()))
    }

    pub(super) fn damaged(&self, detail: String) -> UnitError {
        UnitError::NotAUnit { path: self.path.clone(), detail }
    }
}

/// Where the nth unit of an export goes.
pub(super) fn unit_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("partition_{number:03}.parquet"))
}

/// Whether a file in an export's folder has a name as units have.
pub(super) fn is_unit_name(name: &str) -> bool {
    let number = name.strip_prefix("partition_").and_then(|name| name.strip_suffix(".parquet"));
    number.is_some_and(|number| number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

pub(super) fn schema(host_column: bool) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int32, true);
    let mut fields: Vec<_> =
        ["uuid", "source_id", "identifier", "license", "source", "title", "label"].map(text).into();
    fields.extend([
        number("record"),
        text("shared_server_name"),
        text("server_name"),
        number("partition_id"),
    ]);
    fields.extend(host_column.then(|| text("host")));
    Arc::new(Schema::new(fields))
}

/// Rows of a unit.
pub(super) fn batch(records: &[ManifestRecord], claim: &UnitClaim, host_column: bool) -> RecordBatch {
    let text = |value: fn(&ManifestRecord) -> Option<&str>| -> ArrayRef {
        Arc::new(records.iter().map(value).collect::<StringArray>())
    };
    let numbers = |values: Vec<i32>| -> ArrayRef { Arc::new(Int32Array::from(values)) };
    let mut columns = vec![
        text(|record| Some(&record.uuid)),
        text(|record| record.source_id.as_deref()),
        text(|record| Some(&record.identifier)),
        text(|record| record.license.as_deref()),
        text(|record| record.source.as_deref()),
        text(|record| record.title.as_deref()),
        text(|record| record.label.as_deref()),
        numbers(records.iter().map(|record| record.record.cast_signed()).collect()),
        text(|record| record.shared_server_name.as_deref()),
        Arc::new(records.iter().map(|_| Some(claim.server_name.as_str())).collect::<StringArray>()),
        numbers(vec![claim.partition_id.cast_signed(); records.len()]),
    ];
    if host_column {
        let host = |record: &ManifestRecord| {
            Some(record.shared_server_name.clone().unwrap_or_else(|| claim.server_name.clone()))
        };
        columns.push(Arc::new(records.iter().map(host).collect::<StringArray>()));
    }
    RecordBatch::try_new(schema(host_column), columns).expect("columns follow the schema")
}

/// The manifest file of a claim in the unit's own dataset.
pub(super) fn manifest_path(layout: &DatasetLayout, claim: &UnitClaim) -> PathBuf {
    layout.manifest_folder(&claim.folder(), claim.partition_id).join(MANIFEST_NAME)
}

/// Its name.
pub(super) const MANIFEST_NAME: &str = "unit.parquet";
