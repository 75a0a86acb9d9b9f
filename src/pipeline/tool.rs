//! `ddl tool`: the three stages of one tool; alone, or as one rank of many.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Dataset, PipelineError, against, ranks};
use crate::catalog::Catalog;
use crate::cluster::{Cluster, Ending, Endpoint};
use crate::config;
use crate::dispatch::{DispatchOptions, Farewell, PublishedStatus, RunContext, RunReport, ToolWork, Work};
use crate::imaging::ImagingOptions;
use crate::model::{ImageEncoding, ServerBudget};
use crate::query::{QueryOptions, QuerySession};
use crate::runtime::Shutdown;
use crate::storage::StorageOptions;
use crate::tools::{
    self, AGAINST, Stage, StagesReport, Tool, ToolError, ToolExecutor, ToolFactory, ToolOptions,
};

/// What is asked of a tool.
#[derive(Clone, Debug)]
pub struct ToolRequest {
    /// As [`find_tool`](super::find_tool) finds it.
    pub tool: ToolFactory,
    /// Only this stage; else all, as far as they are not done.
    pub stage: Option<Stage>,
    /// From which stage on to start again.
    pub reset: Option<Stage>,
}

/// How `ddl tool` ended.
#[derive(Debug)]
pub enum ToolEnding {
    /// On rank 0, or alone. Without a run there was nothing to go through.
    Coordinated { run: Option<Box<RunReport>>, stages: StagesReport },
    /// Asked to stop before there was anything to run: the filter has to be run again.
    Stopped,
    /// On another rank, whose work rank 0 has reported.
    Worked,
    /// A second Ctrl-C: ended on the spot.
    Forced,
}

/// Runs a tool. `make_observer` is called on rank 0 only, and what it returns is shown the status about twice a second.
///
/// The second value says how the process must end where ranks were lost (see [`Ending`]).
///
/// # Errors
/// Whatever ends a stage early; what is committed stays committed.
pub fn tool<O>(
    dataset: &Dataset,
    request: &ToolRequest,
    cluster: Cluster,
    shutdown: &Shutdown,
    make_observer: impl FnOnce(u32) -> O,
) -> Result<(ToolEnding, Ending), PipelineError>
where
    O: FnMut(&PublishedStatus) + Send,
{
    let is_rank_zero = cluster.endpoint.rank == 0;
    let (ended, ending) = ranks::run_process(
        dataset,
        cluster,
        shutdown,
        async |endpoint| run_rank(dataset, request, endpoint, shutdown, make_observer).await,
        |ended| match ended {
            Err(PipelineError::Tool(ToolError::Stopped)) => Ok(ToolEnding::Stopped),
            Err(error) => Err(error),
            Ok(_) if !is_rank_zero => Ok(ToolEnding::Worked),
            Ok(run) => finish(dataset, &request.tool)
                .map(|stages| ToolEnding::Coordinated { run: run.map(Box::new), stages }),
        },
    )?;
    Ok((ended.unwrap_or(ToolEnding::Forced), ending))
}

/// One rank of a tool.
async fn run_rank<O>(
    dataset: &Dataset,
    request: &ToolRequest,
    endpoint: Endpoint,
    shutdown: &Shutdown,
    make_observer: impl FnOnce(u32) -> O,
) -> (Result<Option<RunReport>, PipelineError>, Farewell)
where
    O: FnMut(&PublishedStatus) + Send,
{
    let (rank, size) = (endpoint.rank, endpoint.size);
    let make_executor = |_, settings: &str, _| {
        let resolved = config::parse("settings of rank 0", settings).map_err(PipelineError::from);
        let made = resolved.and_then(Dataset::new).and_then(|dataset| {
            let tool = make(&dataset, &request.tool)?;
            let storage = storage_options(&dataset)?;
            let threads = dataset.resolved.read("downloader_parameters.cpu_threads")?;
            Ok((tool, dataset.layout, storage, threads))
        });
        let (tool, layout, storage, threads) = made.map_err(|error| error.to_string())?;
        ToolExecutor::new(tool, layout, storage, rank, threads)
    };
    // What a filter has written by then has no name yet, and is written anew by the next.
    let make_context = async || {
        tokio::select! {
            prepared = prepare(dataset, request, size) => prepared,
            _ = shutdown.wait() => Err(ToolError::Stopped.into()),
        }
    };
    ranks::run_rank(endpoint, shutdown, make_executor, make_context, make_observer).await
}

/// The first two stages, and what the third needs if there is anything to go through.
async fn prepare(
    dataset: &Dataset,
    request: &ToolRequest,
    num_ranks: u32,
) -> Result<Option<RunContext>, PipelineError> {
    let tool = make(dataset, &request.tool)?;
    let storage = storage_options(dataset)?;
    let dispatch: DispatchOptions =
        dataset.resolved.section(&["", "downloader_parameters", "catalog_parameters"], &[])?;
    let catalog = Arc::new(dataset.open_writer()?);
    catalog.pin_hash_algorithm(storage.hash_algorithm)?;
    let session = session(dataset, &catalog)?;
    let tool = match other(dataset, &*tool, &catalog, &session).await? {
        Some(fingerprint) => {
            let options = ToolOptions { against_fingerprint: fingerprint, ..options(dataset)? };
            request.tool.make(&options)
        }
        None => tool,
    };
    let has_work =
        tools::prepare(&*tool, &catalog, &session, num_ranks, request.stage, request.reset).await?;
    // It reads the catalog as long as it lives, and the run closes that.
    drop(session);
    has_work.then(|| context(dataset, &*tool, catalog, dispatch, num_ranks)).transpose()
}

fn finish(dataset: &Dataset, tool: &ToolFactory) -> Result<StagesReport, PipelineError> {
    let catalog = dataset.open_writer()?;
    Ok(tools::finish(&*make(dataset, tool)?, &catalog, &session(dataset, &catalog)?)?)
}

fn session(dataset: &Dataset, catalog: &Catalog) -> Result<QuerySession, PipelineError> {
    let options: QueryOptions = dataset.resolved.section(&["query_parameters"], &[])?;
    Ok(QuerySession::open(&dataset.layout, catalog.view()?, &options)?)
}

fn context(
    dataset: &Dataset,
    tool: &dyn Tool,
    catalog: Arc<Catalog>,
    options: DispatchOptions,
    num_ranks: u32,
) -> Result<RunContext, PipelineError> {
    let run = dataset.run_row(&format!("tool {}", tool.name()), num_ranks);
    let folders: HashMap<_, _> =
        catalog.view()?.servers()?.into_iter().map(|server| (server.id, server.folder)).collect();
    let settle = tools::settle(dataset.layout.clone(), move |key| folders.get(&key.server_id).cloned());
    Ok(RunContext {
        work: Work::Tool(ToolWork { name: tool.name().to_owned(), settle }),
        catalog,
        options: options.without_servers(),
        run,
        settings: config::to_yaml_for_ranks(&dataset.resolved),
        status_folder: dataset.layout.status(),
        num_ranks,
        // A tool asks no server for anything.
        budget_of: Arc::new(|_| ServerBudget {
            rate: 0.0,
            max_connections: u32::MAX,
            bytes_per_hour: 0,
            bytes_per_day: 0,
        }),
    })
}

/// Opens the other dataset for a tool that compares with one, and returns what is in it as a number.
async fn other(
    dataset: &Dataset,
    tool: &dyn Tool,
    catalog: &Catalog,
    session: &QuerySession,
) -> Result<Option<u64>, PipelineError> {
    match options(dataset)?.against.filter(|_| tool.name() == AGAINST) {
        Some(path) => Ok(Some(against::open(&path, dataset, catalog, session).await?)),
        None => Ok(None),
    }
}

fn make(dataset: &Dataset, tool: &ToolFactory) -> Result<Box<dyn Tool>, PipelineError> {
    Ok(tool.make(&options(dataset)?))
}

fn options(dataset: &Dataset) -> Result<ToolOptions, PipelineError> {
    Ok(ToolOptions {
        imaging: dataset.resolved.section(&["", "downloader_parameters"], &[])?,
        decode_memory: dataset.resolved.read("downloader_parameters.decode_memory")?,
        ..dataset.resolved.section(&["tools_parameters"], &[])?
    })
}

fn storage_options(dataset: &Dataset) -> Result<StorageOptions, PipelineError> {
    let imaging: ImagingOptions = dataset.resolved.section(&["", "downloader_parameters"], &[])?;
    let raw_pixels = imaging.image_encoding == ImageEncoding::Raw;
    Ok(StorageOptions { hash_algorithm: imaging.hash_algorithm, raw_pixels })
}
