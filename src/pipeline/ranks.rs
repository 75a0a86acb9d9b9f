//! What one rank of a run does, whatever the run is for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::PipelineError;
use crate::cluster::Endpoint;
use crate::dispatch::{
    Executor, Farewell, PublishedStatus, RunContext, RunReport, ServerLine, coordinate, dismiss,
    keep_in_touch, sort_mail, work,
};
use crate::model::RunId;
use crate::runtime::Shutdown;

/// Once rank 0 has ended the run, its own worker gets this long to let go.
const WORKER_FAREWELL: Duration = Duration::from_secs(30);

/// Leaving without waiting for others.
pub(super) const ALONE: Farewell = Farewell { lost_ranks: true };

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
