//! `ddl status`: how a dataset stands, also while a download runs.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::ingest::now_ms;
use super::{Dataset, PipelineError};
use crate::catalog::{CatalogError, CatalogView, DispositionCounts};
use crate::dispatch::{PublishedStatus, read_published};
use crate::model::{FailureCause, RecordState, ServerName};

/// Where the numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusSource {
    Catalog,
    /// `status/status.json`: the catalog could not be opened beside its writer.
    Published,
}

/// How a dataset stands. What `status.json` does not tell is `None` where that is the source.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetStatus {
    pub source: StatusSource,
    pub counts: DispositionCounts,
    /// Servers, each by its own name, also those that share a folder.
    pub num_servers: Option<u64>,
    pub num_partitions: Option<u64>,
    pub finished_partitions: Option<u64>,
    /// Those that are out in work units.
    pub leased_partitions: Option<u64>,
    pub image_bytes: Option<u64>,
    /// Most pending records first.
    pub servers: Vec<ServerStatus>,
    /// Who is at work on it now.
    pub in_use_by: Option<String>,
    /// What the last or present run has published.
    pub run: Option<PublishedStatus>,
}

impl DatasetStatus {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let is_finished = match self.source {
            StatusSource::Catalog => self.finished_partitions == self.num_partitions,
            StatusSource::Published => self.run.as_ref().is_some_and(|run| run.unfinished_partitions == 0),
        };
        is_finished && self.counts.pending == 0
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    /// The folder of a server, or one that small servers share; `None` for records without a usable URL.
    pub server_name: Option<String>,
    pub counts: DispositionCounts,
    pub image_bytes: u64,
}

/// Reads the status from the catalog, or from what rank 0 publishes where that cannot be opened.
///
/// # Errors
/// When there is neither.
pub fn dataset_status(dataset: &Dataset) -> Result<DatasetStatus, PipelineError> {
    let run = read_published(&dataset.layout.status());
    let in_use_by = dataset.in_use_by()?.map(|holder| holder.to_string());
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
            num_servers: None,
            num_partitions: None,
            finished_partitions: None,
            leased_partitions: None,
            image_bytes: None,
            servers: Vec::new(),
            in_use_by,
            run,
        }),
        (Err(error), _) => Err(error),
    }
}

/// Failed records of the dataset by cause (each HTTP status apart), most frequent first.
///
/// # Errors
/// When the catalog cannot be read.
pub fn failure_causes(dataset: &Dataset) -> Result<Vec<(String, u64)>, PipelineError> {
    let view = dataset.open_reader()?.view()?;
    let mut partitions = Vec::new();
    view.for_each_partition(|key, row| {
        if row.counts.failed > 0 {
            partitions.push(key);
        }
    })?;
    let mut counts: HashMap<(FailureCause, u16), u64> = HashMap::new();
    for key in partitions {
        for status in view.states(key)? {
            if let RecordState::Failed(cause) = status.state {
                let http_status = if cause == FailureCause::HttpStatus { status.http_status } else { 0 };
                *counts.entry((cause, http_status)).or_default() += 1;
            }
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(cause, records)| (Reverse(records), cause));
    let name = |(cause, http_status): (FailureCause, u16)| match http_status {
        0 => cause.to_string(),
        http_status => format!("{cause} {http_status}"),
    };
    Ok(counts.into_iter().map(|(cause, records)| (name(cause), records)).collect())
}

fn from_catalog(view: &CatalogView) -> Result<DatasetStatus, PipelineError> {
    let rows = view.servers()?;
    let shared: HashSet<&ServerName> = rows.iter().filter(|row| row.shared).map(|row| &row.folder).collect();
    let is_server = |name: &ServerName| name.as_str() != ServerName::NULL && !shared.contains(name);
    let num_servers = view.server_ids()?.keys().filter(|name| is_server(name)).count() as u64;
    let mut servers: HashMap<_, _> = rows
        .iter()
        .map(|row| {
            let status = ServerStatus {
                server_name: (row.folder.as_str() != ServerName::NULL).then(|| row.folder.to_string()),
                counts: DispositionCounts::default(),
                image_bytes: 0,
            };
            (row.id, status)
        })
        .collect();
    let mut counts = DispositionCounts::default();
    let (mut num_partitions, mut finished_partitions, mut image_bytes) = (0, 0, 0);
    view.for_each_partition(|key, row| {
        counts += row.counts;
        num_partitions += 1;
        finished_partitions += u64::from(!row.needs_work());
        image_bytes += row.image_bytes;
        if let Some(server) = servers.get_mut(&key.server_id) {
            server.counts += row.counts;
            server.image_bytes += row.image_bytes;
        }
    })?;
    let now = now_ms();
    let leased = view.leases()?.iter().filter(|(_, lease)| lease.holds(now)).count();
    let mut servers: Vec<_> = servers.into_values().collect();
    servers.sort_by(|a, b| {
        (b.counts.pending, b.counts.failed, b.counts.total(), &a.server_name).cmp(&(
            a.counts.pending,
            a.counts.failed,
            a.counts.total(),
            &b.server_name,
        ))
    });
    Ok(DatasetStatus {
        source: StatusSource::Catalog,
        counts,
        num_servers: Some(num_servers),
        num_partitions: Some(num_partitions),
        finished_partitions: Some(finished_partitions),
        leased_partitions: Some(leased as u64),
        image_bytes: Some(image_bytes),
        servers,
        in_use_by: None,
        run: None,
    })
}
