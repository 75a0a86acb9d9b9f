//! The part of the catalog that ingest uses, in memory.
//!
//! Stands in until the catalog's own types are imported here in its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::datatypes::Schema;
use thiserror::Error;

use crate::model::{RecordState, ServerId, ServerName, UrlKey};

#[derive(Debug, Error)]
#[error("{0}")]
pub struct CatalogError(pub String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    pub id: ServerId,
    pub folder: ServerName,
    pub shared: bool,
    pub num_partitions: u32,
    pub num_records: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    pub name: String,
    pub num_records: u32,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NewPartition {
    pub folder: ServerName,
    pub members: Vec<ServerName>,
    pub partition_id: u32,
    pub manifest_files: Vec<ManifestFile>,
    pub states: Vec<RecordState>,
    pub url_keys: Vec<UrlKey>,
}

#[derive(Debug, Default)]
pub struct Catalog {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub schema: Option<Schema>,
    pub folders: Vec<ServerName>,
    pub members: BTreeMap<ServerName, ServerId>,
    pub partitions: BTreeMap<(ServerName, u32), NewPartition>,
    /// How many more commits succeed.
    pub commits_left: Option<u32>,
}

impl Catalog {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn view(&self) -> Result<CatalogView, CatalogError> {
        Ok(CatalogView { state: self.state().clone() })
    }

    pub fn set_manifest_schema(&self, schema: &Schema) -> Result<(), CatalogError> {
        self.state().schema = Some(schema.clone());
        Ok(())
    }

    pub fn add_partitions(&self, partitions: &[NewPartition]) -> Result<(), CatalogError> {
        let mut state = self.state();
        if let Some(left) = &mut state.commits_left {
            *left = left.checked_sub(1).ok_or_else(|| CatalogError("killed".into()))?;
        }
        for partition in partitions {
            let folder = partition.folder.clone();
            let known = state.folders.iter().position(|known| *known == folder);
            let id = ServerId(known.unwrap_or(state.folders.len()) as u32);
            if known.is_none() {
                state.folders.push(folder.clone());
                state.members.insert(folder.clone(), id);
            }
            for member in &partition.members {
                state.members.insert(member.clone(), id);
            }
            let key = (folder, partition.partition_id);
            if state.partitions.insert(key, partition.clone()).is_some() {
                return Err(CatalogError("partition exists".into()));
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub struct CatalogView {
    state: State,
}

impl CatalogView {
    pub fn servers(&self) -> Result<Vec<ServerRow>, CatalogError> {
        let rows = self.state.folders.iter().enumerate().map(|(id, folder)| {
            let partitions = || self.state.partitions.values().filter(|p| p.folder == *folder);
            ServerRow {
                id: ServerId(id as u32),
                folder: folder.clone(),
                shared: folder.as_str().starts_with("SHARED-"),
                num_partitions: partitions().count() as u32,
                num_records: partitions().map(|p| p.url_keys.len() as u64).sum(),
            }
        });
        Ok(rows.collect())
    }

    pub fn server_ids(&self) -> Result<HashMap<ServerName, ServerId>, CatalogError> {
        Ok(self.state.members.iter().map(|(name, id)| (name.clone(), *id)).collect())
    }

    pub fn for_each_url_key(&self, id: ServerId, each: &mut dyn FnMut(UrlKey)) -> Result<(), CatalogError> {
        let folder = &self.state.folders[id.0 as usize];
        let partitions = self.state.partitions.values().filter(|p| p.folder == *folder);
        partitions.flat_map(|p| &p.url_keys).for_each(|key| each(*key));
        Ok(())
    }

    pub fn manifest_schema(&self) -> Result<Option<Schema>, CatalogError> {
        Ok(self.state.schema.clone())
    }
}
