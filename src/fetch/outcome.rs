//! What one attempt came to.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::body::BodyReservation;
use super::classify::shorten;
use crate::model::{FailureCause, SkipReason};

/// The end of one attempt at a URL.
#[derive(Debug)]
pub enum FetchOutcome {
    /// A 200 or 203 with at least one byte of body.
    Body(FetchedBody),
    /// The server's owner does not want it.
    Skip(FetchSkip),
    /// Anything else.
    Failure(FetchFailure),
}

impl FetchOutcome {
    /// Whether a request was sent at all.
    #[must_use]
    pub fn asked(&self) -> bool {
        match self {
            Self::Body(_) => true,
            Self::Skip(skip) => skip.http_status.is_some(),
            Self::Failure(failure) => failure.asked,
        }
    }
}

/// A complete body and where it came from.
#[derive(Debug)]
pub struct FetchedBody {
    /// The body, its Content-Encoding undone.
    pub bytes: Bytes,
    /// 200 or 203.
    pub http_status: u16,
    /// `Content-Type` as sent, at most 255 bytes of it.
    pub content_type: Option<String>,
    /// The URL that answered, when redirects led to another than was asked for.
    pub final_url: Option<String>,
    /// When the body was complete.
    pub fetched_at: SystemTime,
    /// Keeps the memory of `bytes` reserved: drop it with (or after) them.
    pub reservation: Box<dyn BodyReservation>,
}

/// Why an image that may be there is left alone, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSkip {
    /// [`Robots`](SkipReason::Robots), [`OptOut`](SkipReason::OptOut) or [`IgnoredServer`](SkipReason::IgnoredServer).
    pub reason: SkipReason,
    /// The status of the response that had the signal; none where robots.txt kept us from asking.
    pub http_status: Option<u16>,
    /// The signal: the rule of robots.txt, or the header as sent. At most 500 bytes.
    pub signal: String,
    /// When it was seen to hold.
    pub fetched_at: SystemTime,
}

impl FetchSkip {
    /// With a signal that is bounded, whatever the server sent.
    pub(super) fn shortened(self) -> Self {
        Self { signal: shorten(self.signal), ..self }
    }
}

/// How large a body is, as far as that can be told without it ([`Fetcher::size_of`](super::Fetcher::size_of)).
#[derive(Debug)]
pub enum SizeOutcome {
    Told {
        /// Bytes of the body.
        bytes: u64,
        /// `Content-Type` as sent, at most 255 bytes of it.
        content_type: Option<String>,
        /// From the last request to its answer's header.
        took: Duration,
    },
    /// It is there, and the server does not say how large.
    Untold,
    Skip(FetchSkip),
    Failure(FetchFailure),
}

/// Why there is no body.
#[derive(Clone, Debug)]
pub struct FetchFailure {
    pub cause: FailureCause,
    /// The status of the response that led to this failure, if there was one.
    pub http_status: Option<u16>,
    /// One line for people, at most 500 bytes.
    pub message: String,
    pub retry: Retry,
    /// Whether a request was sent at all, to this server or another that it led to.
    pub asked: bool,
    /// When the attempt was over.
    pub fetched_at: SystemTime,
}

/// Whether another attempt may end otherwise. [`Attempts`](super::Attempts) turns this into a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The failure is final.
    Never,
    /// After the usual backoff.
    Backoff,
    /// The server answered this URL with the request to wait (429, 503, `Retry-After`). Costs no attempt.
    Throttled { until: Instant },
    /// The server, not the URL, has to wait: it, or the one that a redirect leads to, is paused, and was not
    /// asked. Costs no attempt. `until` is the end of the pause as known now.
    ServerPaused { until: Instant },
}
