//! `ddl plan`: what a download would do, and what it would bring.
//!
//! Nothing is written. Times are bounds from below: what the limits that are set leave possible, were everything else
//! for nothing. The slowest server decides, for servers do not wait for each other. An estimate of bytes asks the
//! servers ([`estimate`]); all else is the catalog's.

mod estimate;
mod sample;
mod statistics;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::download::fetch_settings;
use super::ingest::now_ms;
use super::{Dataset, PipelineError};
use crate::catalog::{CatalogView, DispositionCounts, ServerFact};
use crate::dispatch::{DispatchOptions, num_seats};
use crate::fetch::{FetchOptions, ServerRules};
use crate::model::{PartitionKey, RecordState, ServerBudget, ServerId, ServerName};
use crate::runtime::available_cores;
use crate::storage::{ManifestReader, read_server_list};

pub use estimate::{Estimate, EstimateOptions, ServerEstimate};
pub use statistics::Interval;

/// Images that a core receives, checks and writes per second, as they are and resized (`docs/BENCHMARKS.md`; files of
/// 411 KiB and 2.5 megapixels).
const IMAGES_PER_CORE: f64 = 1250.0;
const RESIZED_PER_CORE: f64 = 100.0;
/// Of a complete partition: its folder, `successes.parquet`, `errors.parquet`, `completed`.
const FILES_PER_PARTITION: u64 = 4;
/// Rows of a manifest that are read at a time.
const MANIFEST_ROWS: usize = 1024;

/// What a download would do.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    pub counts: DispositionCounts,
    /// Pending records of servers that are ignored: they would be skipped.
    pub ignored: u64,
    /// Servers with something to ask for, each by its own name.
    pub num_servers: u64,
    /// Partitions with something to ask for.
    pub num_partitions: u64,
    /// Most requests per second over all servers, at first; `None` where one of them has no limit.
    pub requests_per_second: Option<f64>,
    /// The download takes at least so long; `None` where no server has a limit that bounds it.
    pub least_seconds: Option<f64>,
    /// The server that decides on it.
    pub slowest_server: Option<String>,
    pub ranks: RankPlan,
    /// Files and folders that are there in the end and not now.
    pub new_files: u64,
    pub estimate: Option<Estimate>,
    /// Longest first, then most pending records.
    pub servers: Vec<ServerPlan>,
}

/// How many ranks are of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RankPlan {
    /// With more than these nothing is gained.
    pub helpful: u64,
    /// So many can be at work at once: those that servers may have on them (`schedule_rules`, their limits).
    pub at_work: u64,
    /// So many hold all requests that servers may have under way (`max_in_flight` each).
    pub for_requests: u64,
    /// So many have the cores that images need at that rate, with as many cores each as this process has.
    pub for_cores: u64,
}

/// One server's share of a download.
#[derive(Clone, Debug, Serialize)]
pub struct ServerPlan {
    pub server_name: String,
    pub pending: u64,
    /// Partitions with pending records; `None` for a server that shares its folder with others.
    pub partitions: Option<u64>,
    /// Requests per second, Crawl-delay included; `None`: no limit.
    pub rate_limit: Option<f64>,
    pub max_connections: u32,
    /// 0: no limit.
    pub bytes_per_hour: u64,
    pub bytes_per_day: u64,
    /// Ranks that may work on it at once.
    pub max_ranks: u32,
    /// `None` where nothing bounds it.
    pub least_seconds: Option<f64>,
    pub estimate: Option<ServerEstimate>,
}

impl ServerPlan {
    /// What the limits leave possible, given what is known of bytes and of the time that an answer takes.
    fn bound(&mut self) {
        let pending = self.pending as f64;
        let mut bounds = Vec::new();
        bounds.extend(self.rate_limit.map(|rate| pending / rate));
        if let Some(estimate) = &self.estimate {
            // What a window allows comes at once, the rest window by window.
            let windows = [(self.bytes_per_hour, 3600.0), (self.bytes_per_day, 86_400.0)];
            let limited = windows.into_iter().filter(|(limit, _)| *limit > 0);
            if let Some(bytes) = &estimate.bytes {
                bounds.extend(
                    limited.map(|(limit, seconds)| (bytes.mean / limit as f64 - 1.0).max(0.0) * seconds),
                );
            }
            bounds.extend(
                estimate.answer_seconds.map(|seconds| pending * seconds / f64::from(self.max_connections)),
            );
        }
        self.least_seconds = bounds.into_iter().reduce(f64::max);
    }
}

/// Plans a download of what is pending; with `estimate`, asks servers for the sizes of a sample. `progress` is told how
/// many of how many URLs have been asked for.
///
/// # Errors
/// When the catalog cannot be read; for an estimate, without a contact, or beside a download.
pub fn plan(
    dataset: &Dataset,
    estimate: Option<&EstimateOptions>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PlanReport, PipelineError> {
    let (fetch, rules) = fetch_settings(dataset)?;
    let options: DispatchOptions =
        dataset.resolved.section(&["", "downloader_parameters", "catalog_parameters"], &[])?;
    let view = dataset.open_reader()?.view()?;
    let pending = Pending::read(dataset, &view)?;
    let mut servers = Vec::new();
    for (name, of_server) in &pending.servers {
        let mut server = ServerPlan::new(name, of_server, &view, &fetch, &rules, &options)?;
        server.bound();
        servers.push(server);
    }
    let estimate = match estimate {
        Some(options) => Some(estimate::estimate(dataset, &view, &pending, options, &mut servers, progress)?),
        None => None,
    };
    servers.sort_by(|a, b| {
        let seconds = |server: &ServerPlan| server.least_seconds.unwrap_or(0.0);
        seconds(b)
            .total_cmp(&seconds(a))
            .then(b.pending.cmp(&a.pending))
            .then_with(|| a.server_name.cmp(&b.server_name))
    });
    let slowest = servers.first().filter(|server| server.least_seconds.is_some());
    let requests_per_second = servers.iter().map(|server| server.rate_limit).sum::<Option<f64>>();
    Ok(PlanReport {
        counts: pending.counts,
        ignored: pending.ignored,
        num_servers: servers.len() as u64,
        num_partitions: pending.partitions.len() as u64,
        requests_per_second,
        least_seconds: slowest.and_then(|server| server.least_seconds),
        slowest_server: slowest.map(|server| server.server_name.clone()),
        ranks: ranks(dataset, &fetch, &servers, requests_per_second)?,
        new_files: pending.partitions.len() as u64 * FILES_PER_PARTITION + pending.new_folders,
        estimate,
        servers,
    })
}

impl ServerPlan {
    fn new(
        name: &ServerName,
        pending: &PendingOfServer,
        view: &CatalogView,
        fetch: &FetchOptions,
        rules: &ServerRules,
        options: &DispatchOptions,
    ) -> Result<Self, PipelineError> {
        let budget = rules.budget(name, fetch);
        let ServerBudget { rate, max_connections, bytes_per_hour, bytes_per_day } = budget;
        let mut rate_limit = (rate > 0.0).then_some(rate);
        let delay = if fetch.respect_robots_txt { crawl_delay(view, name)? } else { Duration::ZERO };
        if !delay.is_zero() {
            let asked = delay.as_secs_f64().recip();
            rate_limit = Some(rate_limit.map_or(asked, |rate| rate.min(asked)));
        }
        let open = pending.partitions.unwrap_or(1);
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        Ok(Self {
            server_name: name.to_string(),
            pending: pending.records,
            partitions: pending.partitions,
            rate_limit,
            max_connections,
            bytes_per_hour,
            bytes_per_day,
            max_ranks: options.max_ranks_on_server(open).min(num_seats(&budget)),
            least_seconds: None,
            estimate: None,
        })
    }
}

/// What the robots.txt that is known asks for between two requests.
fn crawl_delay(view: &CatalogView, name: &ServerName) -> Result<Duration, PipelineError> {
    let delays = view.server_facts(name, now_ms())?.into_iter().filter_map(|fact| match fact {
        ServerFact::RobotsTxt(robots) => Some(robots.crawl_delay),
        _ => None,
    });
    Ok(delays.max().unwrap_or_default())
}

/// Ranks that help, where a rank has as many cores as this process.
fn ranks(
    dataset: &Dataset,
    fetch: &FetchOptions,
    servers: &[ServerPlan],
    requests_per_second: Option<f64>,
) -> Result<RankPlan, PipelineError> {
    let resizes = dataset.resolved.read::<u32>("downloader_parameters.image_size")? > 0;
    let threads = dataset.resolved.read::<usize>("downloader_parameters.cpu_threads")?;
    let cores = if threads == 0 { available_cores() } else { threads } as f64;
    let per_core = if resizes { RESIZED_PER_CORE } else { IMAGES_PER_CORE };
    // Of a server that answers within a second, no more requests are under way than it may be sent in one.
    let under_way = |server: &ServerPlan| {
        let seconds = server.estimate.as_ref().and_then(|estimate| estimate.answer_seconds).unwrap_or(1.0);
        let connections = f64::from(server.max_connections);
        server.rate_limit.map_or(connections, |rate| connections.min((rate * seconds).max(1.0)))
    };
    let requests: f64 = servers.iter().map(under_way).sum();
    let at_work = servers.iter().map(|server| u64::from(server.max_ranks)).sum::<u64>().max(1);
    let for_requests = ((requests / fetch.max_in_flight as f64).ceil() as u64).max(1);
    let for_cores = requests_per_second.map_or(1, |rate| ((rate / per_core / cores).ceil() as u64).max(1));
    Ok(RankPlan { helpful: at_work.min(for_requests.max(for_cores)), at_work, for_requests, for_cores })
}

/// What is pending, by true servers.
struct Pending {
    counts: DispositionCounts,
    ignored: u64,
    servers: BTreeMap<ServerName, PendingOfServer>,
    /// Partitions with pending records, of servers that are not ignored.
    partitions: Vec<PartitionKey>,
    /// Folders of servers and of shared partitions, with whether they are shared.
    folders: HashMap<ServerId, (ServerName, bool)>,
    ignored_servers: HashSet<ServerName>,
    /// Folders of servers that have no images yet.
    new_folders: u64,
}

#[derive(Default)]
struct PendingOfServer {
    records: u64,
    /// `None` in shared folders.
    partitions: Option<u64>,
}

impl Pending {
    fn read(dataset: &Dataset, view: &CatalogView) -> Result<Self, PipelineError> {
        let ignored_servers = read_server_list(&dataset.layout.ignored_table())?;
        let folders: HashMap<_, _> =
            view.servers()?.into_iter().map(|row| (row.id, (row.folder, row.shared))).collect();
        let mut pending = Self {
            counts: DispositionCounts::default(),
            ignored: 0,
            servers: BTreeMap::new(),
            partitions: Vec::new(),
            folders,
            ignored_servers,
            new_folders: 0,
        };
        let (mut with_images, mut with_work) = (HashSet::new(), HashSet::new());
        view.for_each_partition(|key, row| {
            pending.counts += row.counts;
            if row.counts.success > 0 {
                with_images.insert(key.server_id);
            }
            let Some((folder, is_shared)) = pending.folders.get(&key.server_id) else { return };
            if row.counts.pending == 0 {
                return;
            }
            if pending.ignored_servers.contains(folder) {
                pending.ignored += row.counts.pending;
                return;
            }
            pending.partitions.push(key);
            with_work.insert(key.server_id);
            if !is_shared {
                let server = pending.servers.entry(folder.clone()).or_default();
                server.records += row.counts.pending;
                *server.partitions.get_or_insert(0) += 1;
            }
        })?;
        pending.new_folders = with_work.difference(&with_images).count() as u64;
        pending.add_shared(dataset, view)?;
        Ok(pending)
    }

    /// Which servers the records of shared folders are of, only the manifest knows.
    fn add_shared(&mut self, dataset: &Dataset, view: &CatalogView) -> Result<(), PipelineError> {
        let is_shared =
            |key: &&PartitionKey| self.folders.get(&key.server_id).is_some_and(|(_, shared)| *shared);
        let shared: Vec<PartitionKey> = self.partitions.iter().filter(is_shared).copied().collect();
        for key in shared {
            let states = view.states(key)?;
            let Some(mut reader) = self.manifest(dataset, view, key)? else { continue };
            while let Some(rows) = reader.next_batch()? {
                for row in rows {
                    let state = states.get(row.record as usize).map(|status| status.state);
                    let Some(name) = row.shared_server_name.filter(|_| state == Some(RecordState::Pending))
                    else {
                        continue;
                    };
                    let name = ServerName::from_catalog(&name);
                    if self.ignored_servers.contains(&name) {
                        self.ignored += 1;
                    } else {
                        self.servers.entry(name).or_default().records += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// The list of a partition.
    fn manifest(
        &self,
        dataset: &Dataset,
        view: &CatalogView,
        key: PartitionKey,
    ) -> Result<Option<ManifestReader>, PipelineError> {
        let (Some(row), Some((folder, _))) = (view.partition(key)?, self.folders.get(&key.server_id)) else {
            return Ok(None);
        };
        let path = dataset.layout.manifest_folder(folder, key.partition_id);
        let files = row.manifest_files.iter().map(|file| path.join(&file.name)).collect();
        Ok(Some(ManifestReader::new(files, MANIFEST_ROWS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_bounds_a_server() {
        let server = |rate_limit, bytes_per_hour, estimate| ServerPlan {
            server_name: "a".into(),
            pending: 1000,
            partitions: Some(1),
            rate_limit,
            max_connections: 4,
            bytes_per_hour,
            bytes_per_day: 0,
            max_ranks: 1,
            least_seconds: None,
            estimate,
        };
        let check = |mut server: ServerPlan, expect: Option<f64>| {
            server.bound();
            assert_eq!(server.least_seconds, expect);
        };
        check(server(None, 0, None), None);
        check(server(Some(10.0), 0, None), Some(100.0));
        let estimate = |bytes: f64, answer_seconds| {
            let bytes = Some(Interval { mean: bytes, low: bytes, high: bytes });
            Some(ServerEstimate { bytes, answer_seconds, ..ServerEstimate::default() })
        };
        // Of 3 GB, one comes at once.
        check(server(Some(10.0), 1_000_000_000, estimate(3e9, None)), Some(7200.0));
        check(server(Some(10.0), 1_000_000_000, estimate(5e8, None)), Some(100.0));
        check(server(None, 0, estimate(1.0, Some(2.0))), Some(500.0));
    }
}
