//! `ddl status`: how a dataset stands, also while a download runs.

use serde::Serialize;

use super::{Dataset, PipelineError};
use crate::catalog::{CatalogError, CatalogView, DispositionCounts, LockHolder, lock_holder};
use crate::dispatch::{PublishedStatus, read_published};

/// Where the numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusSource {
    Catalog,
    /// `status/status.json`: the catalog could not be opened beside its writer.
    Published,
}

#[derive(Clone, Debug, Serialize)]
pub struct DatasetStatus {
    pub source: StatusSource,
    pub counts: DispositionCounts,
    pub num_servers: u64,
    pub num_partitions: u64,
    pub finished_partitions: u64,
    pub image_bytes: u64,
    /// Most pending records first.
    pub servers: Vec<ServerStatus>,
    /// Who is at work on it now.
    pub in_use_by: Option<String>,
    /// What the last or present run has published.
    pub run: Option<PublishedStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    pub server_name: String,
    pub counts: DispositionCounts,
    pub image_bytes: u64,
}

/// Reads the status from the catalog, or from what rank 0 publishes where that cannot be opened.
///
/// # Errors
/// When there is neither.
pub fn dataset_status(dataset: &Dataset) -> Result<DatasetStatus, PipelineError> {
    let run = read_published(&dataset.layout.status());
    let in_use_by = lock_holder(&dataset.layout.catalog())
        .filter(LockHolder::may_be_alive)
        .map(|holder| holder.to_string());
    let view = dataset.open_reader().and_then(|reader| Ok(reader.view()?));
    match (view, &run) {
        (Ok(view), _) => Ok(DatasetStatus { in_use_by, run, ..from_catalog(&view)? }),
        (
            Err(PipelineError::Catalog(
                CatalogError::HeldElsewhere { .. }
                | CatalogError::InUse { .. }
                | CatalogError::NoFileLocks { .. },
            )),
            Some(published),
        ) => Ok(DatasetStatus {
            source: StatusSource::Published,
            counts: published.counts,
            num_servers: 0,
            num_partitions: 0,
            finished_partitions: 0,
            image_bytes: published.image_bytes,
            servers: Vec::new(),
            in_use_by,
            run,
        }),
        (Err(error), _) => Err(error),
    }
}

fn from_catalog(view: &CatalogView) -> Result<DatasetStatus, PipelineError> {
    let rows = view.servers()?;
    let mut servers: std::collections::HashMap<_, _> = rows
        .iter()
        .map(|row| {
            let status = ServerStatus {
                server_name: row.folder.to_string(),
                counts: DispositionCounts::default(),
                image_bytes: 0,
            };
            (row.id, status)
        })
        .collect();
    let mut status = DatasetStatus {
        source: StatusSource::Catalog,
        counts: DispositionCounts::default(),
        num_servers: rows.len() as u64,
        num_partitions: 0,
        finished_partitions: 0,
        image_bytes: 0,
        servers: Vec::new(),
        in_use_by: None,
        run: None,
    };
    view.for_each_partition(|key, row| {
        status.counts += row.counts;
        status.num_partitions += 1;
        status.finished_partitions += u64::from(!row.needs_work());
        status.image_bytes += row.image_bytes;
        if let Some(server) = servers.get_mut(&key.server_id) {
            server.counts += row.counts;
            server.image_bytes += row.image_bytes;
        }
    })?;
    status.servers = servers.into_values().collect();
    status.servers.sort_by(|a, b| {
        (b.counts.pending, b.counts.failed, b.counts.total(), &a.server_name).cmp(&(
            a.counts.pending,
            a.counts.failed,
            a.counts.total(),
            &b.server_name,
        ))
    });
    Ok(status)
}
