//! `ddl download`: one process, or one rank of many; the same either way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::{Dataset, PipelineError, ranks};
use crate::cluster::{Cluster, Ending, Endpoint};
use crate::config::{self, ConfigError, Resolved, contact_of};
use crate::dispatch::{
    BudgetOf, DispatchOptions, Farewell, PublishedStatus, RunContext, RunEnding, RunReport, Work,
};
use crate::download::{DownloadExecutor, DownloadSettings, RenditionRule, Renditions};
use crate::fetch::{FetchOptions, RequestLog, ServerRule, ServerRules, robots_policy};
use crate::model::{Rank, RequestEntry, RunId, ServerBudget, ServerName};
use crate::runtime::{Shutdown, install_deadline, raise_open_files};
use crate::storage::{LedgerWriter, read_server_list, read_server_rates};

/// How `ddl download` ended.
#[derive(Debug)]
pub enum DownloadEnding {
    /// On rank 0, or alone.
    Coordinated(Box<RunReport>),
    /// On another rank, whose work rank 0 has reported.
    Worked,
    /// A second Ctrl-C: ended on the spot.
    Forced,
}

/// Downloads what is pending. `make_observer` is called on rank 0 only, and what it returns is shown the
/// status about twice a second.
///
/// The second value says how the process must end where ranks were lost (see [`Ending`]).
///
/// # Errors
/// Whatever ends a run early; what is committed stays committed.
pub fn download<O>(
    dataset: &Dataset,
    cluster: Cluster,
    shutdown: &Shutdown,
    make_observer: impl FnOnce(u32) -> O,
) -> Result<(DownloadEnding, Ending), PipelineError>
where
    O: FnMut(&PublishedStatus) + Send,
{
    download_share(dataset, None, cluster, shutdown, make_observer)
}

/// What a download may take that is one of several which do not hear of each other.
#[derive(Clone)]
pub(super) struct Share {
    /// So many run at once.
    pub num_downloads: u32,
    /// Of these servers; of others it may take an even part.
    pub budgets: HashMap<ServerName, ServerBudget>,
    /// Then it stops.
    pub ends_in: Duration,
}

/// As [`download`], with a share of the limits.
pub(super) fn download_share<O>(
    dataset: &Dataset,
    share: Option<Share>,
    cluster: Cluster,
    shutdown: &Shutdown,
    make_observer: impl FnOnce(u32) -> O,
) -> Result<(DownloadEnding, Ending), PipelineError>
where
    O: FnMut(&PublishedStatus) + Send,
{
    // Before anything is opened: a download without a contact must not send a single request.
    let user_agent = contact_of(&dataset.settings)?;
    tracing::debug!(user_agent = user_agent.as_str(), "identified");
    if let Err(error) = raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let ledger = OnceLock::new();
    let (ended, ending) = ranks::run_process(
        dataset,
        cluster,
        shutdown,
        async |endpoint| {
            if let Some(share) = &share {
                install_deadline(shutdown, Instant::now() + share.ends_in);
            }
            run_rank(dataset, share, endpoint, shutdown, &ledger, make_observer).await
        },
        |ended| {
            ledger.get().inspect(|ledger: &&Arc<LedgerWriter>| ledger.finish());
            ended
        },
    )?;
    Ok((ended.unwrap_or(DownloadEnding::Forced), ending))
}

/// One rank of a download.
async fn run_rank<O>(
    dataset: &Dataset,
    share: Option<Share>,
    endpoint: Endpoint,
    shutdown: &Shutdown,
    ledger: &OnceLock<Arc<LedgerWriter>>,
    make_observer: impl FnOnce(u32) -> O,
) -> (Result<DownloadEnding, PipelineError>, Farewell)
where
    O: FnMut(&PublishedStatus) + Send,
{
    let (rank, size) = (endpoint.rank, endpoint.size);
    // Limits of addresses are divided by all that ask at once.
    let num_processes = share.as_ref().map_or(size, |share| size.saturating_mul(share.num_downloads));
    let make_executor = |run: RunId, settings: &str, line| {
        config::parse("settings of rank 0", settings)
            .map_err(PipelineError::from)
            .and_then(|resolved| {
                let dataset = Dataset::new(resolved)?;
                let mut settings = download_settings(&dataset, num_processes)?;
                settings.landlord = Some(Arc::new(line));
                if let Some(started) = start_ledger(&dataset, run, rank, &settings.fetch)? {
                    settings.request_log = Some(ledger.get_or_init(|| started).clone());
                }
                Ok(settings)
            })
            .map_err(|error| error.to_string())
            .and_then(DownloadExecutor::new)
    };
    let make_context = async || tokio::task::block_in_place(|| run_context(dataset, share, size)).map(Some);
    let (ended, farewell) =
        ranks::run_rank(endpoint, shutdown, make_executor, make_context, make_observer).await;
    let ending = ended.map(|report| match report {
        Some(report) => DownloadEnding::Coordinated(Box::new(report)),
        None => DownloadEnding::Worked,
    });
    (ending, farewell)
}

fn run_context(dataset: &Dataset, share: Option<Share>, num_ranks: u32) -> Result<RunContext, PipelineError> {
    // The settings are checked before a run is recorded.
    let settings = download_settings(dataset, num_ranks)?;
    settings.fetch.validate()?;
    let catalog = dataset.open_writer()?;
    catalog.pin_hash_algorithm(settings.imaging.hash_algorithm)?;
    let options: DispatchOptions =
        dataset.resolved.section(&["", "downloader_parameters", "catalog_parameters"], &[])?;
    let run = dataset.run_row("download", num_ranks);
    Ok(RunContext {
        work: Work::Download,
        catalog: Arc::new(catalog),
        options,
        run,
        settings: config::to_yaml_for_ranks(&dataset.resolved),
        status_folder: dataset.layout.status(),
        num_ranks,
        budget_of: match share {
            Some(share) => share.of(budgets_of(settings)),
            None => budgets_of(settings),
        },
    })
}

/// What is set for each server, over the whole cluster.
pub(super) fn budgets_of(settings: DownloadSettings) -> BudgetOf {
    Arc::new(move |server| settings.rules.budget(server, &settings.fetch))
}

impl Share {
    fn of(self, all: BudgetOf) -> BudgetOf {
        Arc::new(move |server| {
            let own = self.budgets.get(server).copied();
            own.unwrap_or_else(|| all(server).divided(self.num_downloads))
        })
    }
}

pub(super) fn download_settings(
    dataset: &Dataset,
    num_ranks: u32,
) -> Result<DownloadSettings, PipelineError> {
    let resolved: &Resolved = &dataset.resolved;
    let (mut fetch, rules) = fetch_settings(dataset)?;
    fetch.user_agent = contact_of(&dataset.settings)?.as_str().to_owned();
    Ok(DownloadSettings {
        layout: dataset.layout.clone(),
        fetch,
        imaging: resolved.section(&["", "downloader_parameters"], &[])?,
        download: resolved.section(&["downloader_parameters"], &[])?,
        max_open_partitions: resolved.read("downloader_parameters.max_open_partitions")?,
        rules,
        ignored: read_server_list(&dataset.layout.ignored_table())?,
        num_ranks,
        renditions: renditions(resolved)?,
        landlord: None,
        request_log: None,
    })
}

/// How servers are asked, but for who asks.
pub(super) fn fetch_settings(dataset: &Dataset) -> Result<(FetchOptions, ServerRules), PipelineError> {
    let resolved: &Resolved = &dataset.resolved;
    let mut fetch: FetchOptions = resolved.section(&["downloader_parameters", ""], &[("headers", "")])?;
    fetch.headers.extend(dataset.settings.extra_header());
    resolved.require_paths(&["ca_certificate"])?;
    let rates = read_server_rates(&dataset.layout.profiles_table())?;
    let rules = ServerRules::layered(
        &fetch,
        server_rules(&config::known_servers()?)?,
        rates,
        server_rules(resolved)?,
    );
    Ok((fetch, rules))
}

/// The ledger of this rank's requests, unless it is switched off. A download goes on without it.
fn start_ledger(
    dataset: &Dataset,
    run: RunId,
    rank: Rank,
    fetch: &FetchOptions,
) -> Result<Option<Arc<LedgerWriter>>, PipelineError> {
    if !dataset.resolved.read::<bool>("downloader_parameters.request_ledger")? {
        return Ok(None);
    }
    let started = LedgerWriter::start(&dataset.layout.ledger(), run, rank, &robots_policy(fetch));
    Ok(started
        .inspect_err(|error| tracing::error!(%error, "no ledger of requests is kept"))
        .ok()
        .map(Arc::new))
}

impl RequestLog for LedgerWriter {
    fn record(&self, entry: RequestEntry) {
        Self::record(self, entry);
    }
}

/// The rules that give what suffices, the user's before those that ship.
pub(super) fn renditions(resolved: &Resolved) -> Result<Renditions, PipelineError> {
    let size = resolved.read("downloader_parameters.rendition_size")?;
    let own: Vec<RenditionRule> = resolved.read("renditions")?;
    // Patterns take their time to be made.
    let known = if size > 0 { config::known_renditions()? } else { Vec::new() };
    Renditions::new(size, &own, &known)
        .map_err(|reason| ConfigError::Mismatch { options: "renditions", reason }.into())
}

/// The rules of `servers`, by the names that the catalog has.
fn server_rules(resolved: &Resolved) -> Result<Vec<(ServerName, ServerRule)>, PipelineError> {
    let rules: BTreeMap<String, ServerRule> = resolved.read("servers")?;
    Ok(rules.iter().filter_map(|(name, rule)| Some((ServerName::parse(name)?, *rule))).collect())
}

/// Whether a report means that all is done.
impl DownloadEnding {
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Coordinated(report) => report.ending == RunEnding::Done,
            Self::Worked => true,
            Self::Forced => false,
        }
    }
}
