//! Why a request, or a whole attempt, came to nothing, and what that says of trying again.

use std::time::SystemTime;

use super::outcome::{FetchSkip, Retry};
use super::server::Refusal;
use crate::model::{FailureCause, ServerName};

/// Why a hop came to nothing; becomes a [`FetchFailure`].
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub cause: FailureCause,
    pub http_status: Option<u16>,
    pub message: String,
    pub retry: Retry,
}

/// Why there is no body.
pub(super) enum NoBody {
    Failed(Failed),
    Skipped(FetchSkip),
}

impl From<Failed> for NoBody {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl Failed {
    pub fn new(cause: FailureCause, message: impl Into<String>) -> Self {
        let retry = if is_complaint(cause) { Retry::Backoff } else { Retry::Never };
        Self { cause, http_status: None, message: message.into(), retry }
    }

    pub fn with_status(self, http_status: u16) -> Self {
        Self { http_status: Some(http_status), ..self }
    }
}

/// Whether a status says that the server is in trouble: it may pass.
pub(super) fn may_pass(http_status: u16) -> bool {
    matches!(http_status, 408 | 425 | 500 | 502 | 504 | 509 | 520..=530)
}

/// Whether a failure says that the server, or the way to it, is in trouble: it may pass.
pub(super) fn is_complaint(cause: FailureCause) -> bool {
    use FailureCause::{
        BadResponse, Connect, ConnectTimeout, ConnectionLost, Dns, FirstByteTimeout, RequestTimeout, Tls,
        TruncatedBody,
    };
    matches!(
        cause,
        Dns | Connect
            | Tls
            | ConnectTimeout
            | FirstByteTimeout
            | RequestTimeout
            | ConnectionLost
            | TruncatedBody
            | BadResponse
    )
}

/// `connect_to` does not work for a URL: trying again changes nothing.
pub(super) fn misconfigured(message: &'static str) -> Failed {
    Failed { retry: Retry::Never, ..Failed::new(FailureCause::Connect, message) }
}

/// No request was sent.
pub(super) fn refused(server: &ServerName, refusal: Refusal) -> Failed {
    let pause = match refusal {
        Refusal::Paused(pause) => pause,
        Refusal::Closed => {
            let retry = Retry::ServerPaused { until: std::time::Instant::now() };
            return Failed { retry, ..Failed::new(FailureCause::Internal, "no more requests are sent") };
        }
    };
    let (message, retry) = if pause.given_up {
        let since = httpdate::fmt_http_date(SystemTime::now() - pause.since.elapsed());
        let message = format!(
            "not asked: server `{server}` has failed every request since {since}, longer than `server_patience`"
        );
        (message, Retry::Never)
    } else {
        (format!("server `{server}` is paused"), Retry::ServerPaused { until: pause.until })
    };
    Failed { cause: pause.cause, http_status: pause.http_status, message, retry }
}
