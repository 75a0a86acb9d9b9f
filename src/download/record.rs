//! One attempt at one record: fetch, then pixels, then a row.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use url::Url;

use super::executor::DownloadExecutor;
use crate::fetch::{
    Attempts, BodyMemory, BodyReservation, FetchFailure, FetchOutcome, FetchedBody, Next, Retry,
};
use crate::imaging::{decode_bytes_estimate, inspect, process};
use crate::model::{FailureCause, RecordState, ServerName, SkipReason};
use crate::runtime::{MemoryBudget, MemoryPermit};
use crate::storage::{ErrorRow, ImageRow, ManifestRecord};

/// A record on its way.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub record: Arc<ManifestRecord>,
    pub attempts: Attempts,
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempted {
    Image(Box<ImageRow>),
    /// Failed for good, or skipped.
    Error(Box<ErrorRow>, RecordState),
    Later(Job, Instant),
}

/// Tries a record once. Owns nothing that outlives it: dropped in mid-flight, the record is still pending.
pub(super) async fn attempt(executor: Arc<DownloadExecutor>, mut job: Job, share: f64) -> Attempted {
    let Ok(url) = Url::parse(&job.record.identifier) else {
        // Ingest has parsed it; a URL that no longer parses is the file's fault.
        return fail(
            &executor,
            &job,
            FailureCause::Internal,
            None,
            "the URL does not parse",
            SystemTime::now(),
        );
    };
    let Some(server) = ServerName::from_url(&url) else {
        return fail(&executor, &job, FailureCause::Internal, None, "the URL has no host", SystemTime::now());
    };
    if executor.settings.ignored.contains(&server) {
        executor.counters.skipped.fetch_add(1, Ordering::Relaxed);
        let reason = SkipReason::IgnoredServer;
        let row = error_row(&job, -2, reason.as_str(), None, reason.meaning(), SystemTime::now());
        return Attempted::Error(Box::new(row), RecordState::Skipped(reason));
    }
    // Held for the attempt, so that the server keeps its share.
    let server = executor.fetcher.server(&server);
    server.set_share(share);
    executor.counters.in_flight.fetch_add(1, Ordering::Relaxed);
    let outcome = executor.fetcher.fetch(&url, &BodyBudget(&executor.body_memory)).await;
    executor.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
    executor.counters.requests.fetch_add(1, Ordering::Relaxed);
    match outcome {
        FetchOutcome::Body(body) => {
            executor.counters.received_bytes.fetch_add(body.bytes.len() as u64, Ordering::Relaxed);
            to_image(&executor, &job, body).await
        }
        FetchOutcome::Failure(failure) => {
            let next = retry(&executor, &mut job, failure.retry);
            match next {
                Next::At(at) => {
                    tracing::debug!(url = job.record.identifier, cause = %failure.cause, failure.message, "trying again later");
                    Attempted::Later(job, at)
                }
                Next::GiveUp => {
                    let FetchFailure { cause, http_status, message, fetched_at, .. } = failure;
                    fail(&executor, &job, cause, http_status, &message, fetched_at)
                }
            }
        }
    }
}

fn retry(executor: &DownloadExecutor, job: &mut Job, retry: Retry) -> Next {
    job.attempts.after(retry, executor.fetcher.options(), Instant::now(), &mut fastrand::Rng::new())
}

async fn to_image(executor: &Arc<DownloadExecutor>, job: &Job, body: FetchedBody) -> Attempted {
    let FetchedBody { bytes, http_status, content_type, final_url, fetched_at, reservation, .. } = body;
    let imaging = executor.settings.imaging.clone();
    let estimate = inspect(&bytes).map_or(0, |header| decode_bytes_estimate(&header, &imaging));
    // An estimate beyond what any image may need is refused by `process` itself, before it allocates.
    let _pixels: Option<MemoryPermit> = match estimate {
        0 => None,
        estimate => {
            executor.decode_memory.acquire(estimate.min(executor.decode_memory.max_permit())).await.ok()
        }
    };
    let processed = executor.cpu.run(move || process(&bytes, &imaging)).await;
    drop(reservation);
    let image = match processed {
        Ok(Ok(image)) => image,
        Ok(Err(error)) => {
            return fail(executor, job, error.cause, Some(http_status), &error.message, fetched_at);
        }
        Err(panic) => {
            let cause = FailureCause::DecoderPanic;
            return fail(executor, job, cause, Some(http_status), &panic.message, fetched_at);
        }
    };
    executor.counters.success.fetch_add(1, Ordering::Relaxed);
    Attempted::Image(Box::new(ImageRow {
        record: job.record.clone(),
        image: image.image,
        image_format: image.image_format,
        original_size: image.original_size,
        resized_size: image.resized_size,
        hashsum_original: image.hashsum_original,
        hashsum_resized: image.hashsum_resized,
        perceptual_hash: image.perceptual_hash,
        content_type,
        http_status,
        fetched_at: unix_ms(fetched_at),
        final_url,
    }))
}

fn fail(
    executor: &DownloadExecutor,
    job: &Job,
    cause: FailureCause,
    http_status: Option<u16>,
    message: &str,
    at: SystemTime,
) -> Attempted {
    executor.counters.failed.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(url = job.record.identifier, %cause, message, "failed");
    let code = match (cause, http_status) {
        (FailureCause::HttpStatus, Some(status)) => i32::from(status),
        _ => cause.error_code(),
    };
    let row = error_row(job, code, cause.as_str(), http_status, message, at);
    Attempted::Error(Box::new(row), RecordState::Failed(cause))
}

fn error_row(
    job: &Job,
    error_code: i32,
    cause: &'static str,
    http_status: Option<u16>,
    message: &str,
    at: SystemTime,
) -> ErrorRow {
    ErrorRow {
        record: job.record.clone(),
        // Attempts after the first, as far as they were made.
        retry_count: u8::try_from(job.attempts.failed.saturating_sub(1)).unwrap_or(u8::MAX),
        error_code,
        error_msg: message.to_owned(),
        cause,
        http_status,
        fetched_at: unix_ms(at),
    }
}

fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}

/// `body_memory` as the fetcher asks for it.
struct BodyBudget<'a>(&'a MemoryBudget);

#[derive(Debug)]
struct Reserved(Option<MemoryPermit>);

impl BodyMemory for BodyBudget<'_> {
    fn reserve(&self, bytes: u64) -> Pin<Box<dyn Future<Output = Box<dyn BodyReservation>> + Send + '_>> {
        Box::pin(async move {
            // Bodies are capped below the largest permit, so the budget never refuses one.
            Box::new(Reserved(self.0.acquire(bytes).await.ok())) as Box<dyn BodyReservation>
        })
    }
}

impl BodyReservation for Reserved {
    fn grow(&mut self, bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if let Some(permit) = &mut self.0 {
                let _capped_by_max_body_bytes = permit.grow(bytes).await;
            }
        })
    }

    fn shrink(&mut self, bytes: u64) {
        if let Some(permit) = &mut self.0 {
            permit.shrink(bytes);
        }
    }
}
