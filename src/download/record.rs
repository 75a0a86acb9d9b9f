//! One attempt at one record: fetch, then pixels, then a row.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use url::Url;

use super::Renditions;
use super::executor::DownloadExecutor;
use super::rendition::may_be_only_the_rendition;
use crate::fetch::{
    Attempts, BodyMemory, BodyReservation, FetchFailure, FetchOutcome, FetchSkip, FetchedBody, Next, Retry,
};
use crate::imaging::{decode_bytes_estimate, process};
use crate::model::{FailureCause, RecordState, ServerName, SkipReason, without_credentials};
use crate::runtime::{MemoryBudget, MemoryPermit, panic_message};
use crate::storage::{ErrorRow, ImageRow, ManifestRecord};

/// A record on its way.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub record: Arc<ManifestRecord>,
    /// None when the URL does not parse: ingest has parsed it, so that is the manifest's fault.
    pub target: Option<Arc<Target>>,
    /// What is asked for in place of the URL, until that has come to nothing.
    rendition: Option<Arc<Url>>,
    attempts: Attempts,
    /// Times that a request was made so far, those included that cost no attempt.
    num_requests: u32,
}

/// What a record asks for, and of whom.
#[derive(Debug)]
pub(super) struct Target {
    url: Url,
    pub server: ServerName,
}

impl Job {
    pub fn new(record: ManifestRecord, renditions: &Renditions) -> Self {
        let target = Url::parse(&record.identifier).ok().and_then(|url| {
            let server = ServerName::from_url(&url)?;
            Some(Arc::new(Target { url, server }))
        });
        let rendition = target.as_ref().and_then(|target| renditions.of(&target.url)).map(Arc::new);
        Self { record: Arc::new(record), target, rendition, attempts: Attempts::default(), num_requests: 0 }
    }

    /// The same record by its own URL, at once and with all attempts.
    fn without_rendition(&self) -> Attempted {
        tracing::debug!(url = %shown(self), "the rendition cannot be had; asking for the image itself");
        let job = Self { rendition: None, attempts: Attempts::default(), ..self.clone() };
        Attempted::Later(job, Instant::now())
    }

    /// The rendition's URL, as rows have it.
    fn rendition_url(&self) -> Option<String> {
        self.rendition.as_ref().map(|url| without_credentials(url.as_str()).into_owned())
    }
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempted {
    /// An image, and the memory it stands in until it is written.
    Image(Box<ImageRow>, MemoryPermit),
    /// Failed for good, or skipped.
    Error(Box<ErrorRow>, RecordState),
    Later(Job, Instant),
}

/// Tries a record once. Owns nothing that outlives it: dropped in mid-flight, the record is still pending. A
/// panic of ours costs this record, not the run.
pub(super) async fn attempt(executor: Arc<DownloadExecutor>, job: Job) -> Attempted {
    survive(&executor, &job, try_once(&executor, job.clone())).await
}

async fn survive(
    executor: &DownloadExecutor,
    job: &Job,
    tried: impl Future<Output = Attempted>,
) -> Attempted {
    AssertUnwindSafe(tried).catch_unwind().await.unwrap_or_else(|panic| {
        let message = format!("ddl panicked: {}", panic_message(panic.as_ref()));
        tracing::error!(url = %shown(job), message, "please report this");
        fail(executor, job, FailureCause::Internal, None, &message, SystemTime::now())
    })
}

async fn try_once(executor: &DownloadExecutor, mut job: Job) -> Attempted {
    let counters = &executor.counters;
    let Some(target) = job.target.clone() else {
        let message = "the URL does not parse";
        return fail(executor, &job, FailureCause::Internal, None, message, SystemTime::now());
    };
    let url = job.rendition.as_deref().unwrap_or(&target.url);
    let outcome = executor.fetcher.fetch(url, &BodyBudget(&executor.body_memory)).await;
    if outcome.asked() {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        job.num_requests += 1;
    }
    if job.rendition.is_some() && has_no_rendition(&outcome) {
        return job.without_rendition();
    }
    match outcome {
        FetchOutcome::Body(body) => {
            counters.received_bytes.fetch_add(body.bytes.len() as u64, Ordering::Relaxed);
            to_image(executor, &job, body).await
        }
        FetchOutcome::Skip(FetchSkip { reason, http_status, signal, fetched_at }) => {
            skip(executor, &job, reason, http_status, &signal, fetched_at)
        }
        FetchOutcome::Failure(failure) => match retry(executor, &mut job, failure.retry) {
            Next::At(at) => {
                tracing::debug!(url = %shown(&job), cause = %failure.cause, failure.message, "trying again later");
                Attempted::Later(job, at)
            }
            Next::GiveUp => {
                let FetchFailure { cause, http_status, message, fetched_at, .. } = failure;
                fail(executor, &job, cause, http_status, &message, fetched_at)
            }
        },
    }
}

/// Whether there is no rendition at its URL, or none that we may ask for: the image's own URL has rules of its own.
fn has_no_rendition(outcome: &FetchOutcome) -> bool {
    match outcome {
        FetchOutcome::Body(_) => false,
        FetchOutcome::Skip(skip) => skip.reason == SkipReason::Robots,
        FetchOutcome::Failure(failure) => {
            failure.asked
                && failure.retry == Retry::Never
                && may_be_only_the_rendition(failure.cause, failure.http_status)
        }
    }
}

fn retry(executor: &DownloadExecutor, job: &mut Job, retry: Retry) -> Next {
    job.attempts.after(retry, executor.fetcher.options(), Instant::now(), &mut fastrand::Rng::new())
}

async fn to_image(executor: &DownloadExecutor, job: &Job, body: FetchedBody) -> Attempted {
    let FetchedBody { bytes, http_status, content_type, final_url, fetched_at, reservation } = body;
    let imaging = executor.settings.imaging.clone();
    let budget = &executor.decode_memory;
    let mut pixels = match decode_bytes_estimate(&bytes, &imaging) {
        0 => None,
        // More than any image may need, and still no more than this: the decoder's own limits see to it.
        estimate => budget.acquire(estimate.min(budget.max_permit())).await.ok(),
    };
    let processed = executor.cpu.run(move || process(&bytes, &imaging));
    let image = match processed.await {
        Ok(Ok(image)) => image,
        Ok(Err(error))
            if job.rendition.is_some() && may_be_only_the_rendition(error.cause, Some(http_status)) =>
        {
            return job.without_rendition();
        }
        Ok(Err(error)) => {
            return fail(executor, job, error.cause, Some(http_status), &error.message, fetched_at);
        }
        Err(_) if job.rendition.is_some() => return job.without_rendition(),
        Err(panic) => {
            let cause = FailureCause::DecoderPanic;
            return fail(executor, job, cause, Some(http_status), &panic.message, fetched_at);
        }
    };
    if let Some(pixels) = &mut pixels {
        pixels.shrink(image.image.len() as u64);
    }
    let permit = executor.part_memory.buy(image.image.len() as u64).await;
    drop((pixels, reservation));
    executor.counters.success.fetch_add(1, Ordering::Relaxed);
    let row = ImageRow {
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
        rendition_url: job.rendition_url(),
    };
    Attempted::Image(Box::new(row), permit)
}

fn skip(
    executor: &DownloadExecutor,
    job: &Job,
    reason: SkipReason,
    http_status: Option<u16>,
    signal: &str,
    at: SystemTime,
) -> Attempted {
    executor.counters.skipped.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(url = %shown(job), %reason, signal, "skipped");
    let row = error_row(job, -2, reason.as_str(), http_status, signal, at);
    Attempted::Error(Box::new(row), RecordState::Skipped(reason))
}

/// The URL as logs may have it.
fn shown(job: &Job) -> Cow<'_, str> {
    without_credentials(&job.record.identifier)
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
    tracing::debug!(url = %shown(job), %cause, message, "failed");
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
        retry_count: u8::try_from(job.num_requests.saturating_sub(1)).unwrap_or(u8::MAX),
        error_code,
        error_msg: message.to_owned(),
        cause,
        http_status,
        fetched_at: unix_ms(at),
        rendition_url: job.rendition_url(),
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

#[cfg(test)]
mod tests {
    use super::super::tests::{record, settings};
    use super::*;

    #[test]
    fn logs_have_urls_without_passwords() {
        let job = Job::new(record(0, "http://me:secret@a.example/1.jpg"), &Renditions::default());
        assert_eq!(shown(&job), "http://a.example/1.jpg");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_the_record_alone() {
        let executor = DownloadExecutor::new(settings("unused".as_ref(), 1)).unwrap();
        let job = Job::new(record(7, "http://a.example/"), &Renditions::default());
        let Attempted::Error(row, state) =
            survive(&executor, &job, async { panic!("attempt to multiply with overflow") }).await
        else {
            panic!("it failed");
        };
        assert_eq!(state, RecordState::Failed(FailureCause::Internal));
        assert_eq!(row.record.record, 7);
        assert_eq!(row.error_msg, "ddl panicked: attempt to multiply with overflow");
    }
}
