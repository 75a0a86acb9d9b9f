//! What an answer asks for: to come back later, or less often.

use std::time::{Duration, SystemTime};

use hyper::header::RETRY_AFTER;

use super::fetcher::Fetcher;
use super::outcome::Retry;
use super::rate_limit_headers::RateLimitHeaders;
use super::request_log::Trace;
use super::response::Response;
use super::retry::retry_after;
use super::server::Permit;
use crate::model::FailureCause;

/// No `Retry-After` is longer than this, whatever `max_retry_after` says.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30 * 24 * 3600);

impl Fetcher {
    /// How long the response's Retry-After asks for, as far as it is obeyed.
    pub(super) fn retry_after(&self, response: &Response) -> Option<Duration> {
        let asked = response.headers().get(RETRY_AFTER)?;
        self.bounded(retry_after(asked, SystemTime::now())?)
    }

    /// How long nothing more is granted, as far as that is obeyed.
    fn exhausted_for(&self, response: &Response) -> Option<Duration> {
        let read = || RateLimitHeaders::read(response.headers(), SystemTime::now()).exhausted_for;
        self.options.respect_rate_limit_headers.then(read).flatten().and_then(|wait| self.bounded(wait))
    }

    fn bounded(&self, wait: Duration) -> Option<Duration> {
        // A zero says nothing.
        Some(wait.min(self.options.max_retry_after).min(MAX_PAUSE)).filter(|wait| !wait.is_zero())
    }

    /// What any answer may say of the server's limits. A `Retry-After` beside it says better how long to wait.
    pub(super) fn heed_rate_limit(&self, response: &Response, permit: &Permit, trace: &mut Trace<'_>) {
        let http_status = response.status().as_u16();
        if http_status < 400
            && let Some(wait) = self.retry_after(response)
        {
            trace.asked_to_wait(Some(wait));
            permit.exhausted(http_status, wait);
        }
        if !self.options.respect_rate_limit_headers {
            return;
        }
        let RateLimitHeaders { exhausted_for, gap } =
            RateLimitHeaders::read(response.headers(), SystemTime::now());
        if let Some(gap) = gap {
            permit.server().set_quota_gap(gap.min(self.options.max_crawl_delay));
        }
        let wait = exhausted_for.and_then(|wait| self.retry_after(response).or_else(|| self.bounded(wait)));
        if let Some(wait) = wait {
            trace.rests_until(permit.exhausted(http_status, wait));
        }
    }

    /// What an error status means for the URL; tells the server of it. `may_pass` knows the statuses that are
    /// complaints without a `Retry-After`.
    pub(super) fn retry(
        &self,
        response: &Response,
        permit: &Permit,
        trace: &mut Trace<'_>,
        may_pass: fn(u16) -> bool,
    ) -> Retry {
        let asked = self.retry_after(response);
        trace.asked_to_wait(asked);
        match (response.status().as_u16(), asked) {
            (http_status @ (429 | 503), _) | (http_status @ (403 | 408 | 413 | 425 | 500..=599), Some(_)) => {
                match permit.throttled(http_status, asked.or_else(|| self.exhausted_for(response))) {
                    Some(pause) if pause.given_up => Retry::Never,
                    // It names no time, and the server has just answered another: the URL may be in trouble by itself.
                    Some(pause) if http_status == 503 && asked.is_none() && pause.is_first => Retry::Backoff,
                    Some(pause) => Retry::Throttled { until: pause.until },
                    None => Retry::Throttled { until: std::time::Instant::now() },
                }
            }
            (http_status, None) if may_pass(http_status) => {
                permit.complained(FailureCause::HttpStatus, Some(http_status));
                Retry::Backoff
            }
            (http_status, asked) => {
                permit.replied();
                if let Some(wait) = asked {
                    permit.exhausted(http_status, wait);
                }
                Retry::Never
            }
        }
    }
}
