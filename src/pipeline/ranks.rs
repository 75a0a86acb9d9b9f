//! What one rank of a run does, whatever the run is for.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Dataset, PipelineError};
use crate::cluster::{Cluster, Ending, Endpoint};
use crate::dispatch::{
    Executor, Farewell, PublishedStatus, RunContext, RunReport, ServerLine, coordinate, dismiss,
    keep_in_touch, sort_mail, work,
};
use crate::model::RunId;
use crate::runtime::{Shutdown, install_deadline, install_signals};
use crate::slurm::JobEnvironment;

/// Once rank 0 has ended the run, its own worker gets this long to let go.
const WORKER_FAREWELL: Duration = Duration::from_secs(30);

/// Leaving without waiting for others.
const ALONE: Farewell = Farewell { lost_ranks: true };

/// Runs `body` as one rank of a run: on a runtime of its own, with signals and the job's end heard. `None` after a second
/// Ctrl-C, which ends it on the spot.
///
/// `last` gets what came of it before this rank leaves the cluster; it is not called on the spot. The second value says
/// how the process must end where ranks were lost.
pub(super) fn run_process<T, E>(
    dataset: &Dataset,
    cluster: Cluster,
    shutdown: &Shutdown,
    body: impl AsyncFnOnce(Endpoint) -> (Result<T, PipelineError>, Farewell),
    last: impl FnOnce(Result<T, PipelineError>) -> Result<E, PipelineError>,
) -> Result<(Option<E>, Ending), PipelineError> {
    let warn_before = warn_before(dataset)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("net")
        .build()
        .map_err(|source| PipelineError::Io { action: "start the runtime".into(), source })?;
    let Cluster { endpoint, membership } = cluster;
    let (ended, farewell) = runtime.block_on(async {
        if let Err(source) = install_signals(shutdown) {
            let error = PipelineError::Io { action: "listen for signals".into(), source };
            return (Some(Err(error)), ALONE);
        }
        watch_job_end(shutdown, warn_before);
        tokio::select! {
            (ended, farewell) = body(endpoint) => (Some(ended), farewell),
            _ = shutdown.wait_forced() => (None, ALONE),
        }
    });
    // Tasks that still run hold nothing that is not committed or swept.
    runtime.shutdown_background();
    let Some(ended) = ended else {
        drop(membership);
        return Ok((None, Ending::Finished));
    };
    let ended = last(ended);
    let ending = membership.finish(farewell.lost_ranks);
    Ok((Some(ended?), ending))
}

/// How long before its end a job stops.
pub(super) fn warn_before(dataset: &Dataset) -> Result<Duration, PipelineError> {
    Ok(dataset.resolved.read("slurm_parameters.warn_before")?)
}

/// Asks `shutdown` to stop that long before Slurm ends the job, if this is one.
pub(super) fn watch_job_end(shutdown: &Shutdown, warn_before: Duration) {
    if let Some(left) = JobEnvironment::read().time_left(SystemTime::now()) {
        let usable = left.saturating_sub(warn_before);
        tracing::info!(minutes = usable.as_secs() / 60, "the job has an end; stopping before it");
        install_deadline(shutdown, Instant::now() + usable);
    }
}

/// Works, and on rank 0 coordinates. `make_context` is asked on rank 0 only, while the others wait; without a context
/// there is nothing to run, and all leave. The report is rank 0's, of a run.
///
/// Says how to leave, too: a rank that fails by itself leaves alone, but rank 0 leaves with the others also when the run
/// has failed, for it has told them.
pub(super) async fn run_rank<E: Executor, O>(
    endpoint: Endpoint,
    shutdown: &Shutdown,
    make_executor: impl FnOnce(RunId, &str, ServerLine) -> Result<Arc<E>, String>,
    make_context: impl AsyncFnOnce() -> Result<Option<RunContext>, PipelineError>,
    make_observer: impl FnOnce(u32) -> O,
) -> (Result<Option<RunReport>, PipelineError>, Farewell)
where
    O: FnMut(&PublishedStatus) + Send,
{
    let Endpoint { rank, size, outbox, inbox } = endpoint;
    let (to_worker, worker_inbox) = mpsc::unbounded_channel();
    let (to_coordinator, coordinator_inbox) = mpsc::unbounded_channel();
    let is_coordinator = rank == 0;
    let mut background = JoinSet::new();
    background.spawn(async move {
        if let Err(error) = sort_mail(inbox, to_worker, is_coordinator.then_some(to_coordinator)).await {
            tracing::error!(%error, "cannot read what another rank sent");
        }
    });
    let worker = work(outbox.clone(), worker_inbox, shutdown.clone(), make_executor);
    if !is_coordinator {
        return match worker.await {
            Ok(farewell) => (Ok(None), farewell),
            Err(error) => (Err(error.into()), ALONE),
        };
    }
    background.spawn(keep_in_touch(outbox.clone(), size));
    let context = match make_context().await {
        Ok(Some(context)) => context,
        Ok(None) => {
            dismiss(&outbox, size, false);
            return (Ok(None), Farewell { lost_ranks: false });
        }
        Err(error) => {
            dismiss(&outbox, size, false);
            return (Err(error), Farewell { lost_ranks: false });
        }
    };
    let mut observer = make_observer(size);
    let coordinator = coordinate(context, outbox, coordinator_inbox, shutdown.clone(), &mut observer);
    tokio::pin!(coordinator, worker);
    let (report, worked) = tokio::select! {
        report = &mut coordinator => (report, tokio::time::timeout(WORKER_FAREWELL, worker).await),
        worked = &mut worker => match worked {
            Ok(farewell) => (coordinator.await, Ok(Ok(farewell))),
            Err(error) => return (Err(error.into()), ALONE),
        },
    };
    let farewell = worked.ok().and_then(Result::ok).unwrap_or(ALONE);
    (report.map(Some).map_err(PipelineError::from), farewell)
}
