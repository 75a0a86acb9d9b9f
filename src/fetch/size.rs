//! The size of a body without the body: a HEAD, and where that does not say it, a GET for the first byte.
//!
//! Many servers answer HEAD with another status than GET, or leave its length out, so what HEAD says against an image
//! is not believed. Each of the two is a request like any other: with a permit of its server, and counted by it.

use std::time::SystemTime;

use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use tokio::time::Instant;
use url::Url;

use super::body::{self, UnboundedMemory};
use super::client::{Ask, Target};
use super::failed::{Failed, NoBody, may_pass};
use super::fetcher::{Attempt, Fetcher, content_type, location};
use super::outcome::{FetchSkip, Retry, SizeOutcome};
use super::request_log::Trace;
use super::response::Response;
use super::server::Permit;
use crate::model::{FailureCause, RequestPurpose, SkipReason};

/// What one request led to.
enum Answer {
    Size(SizeOutcome),
    Redirect(Url),
}

impl Fetcher {
    /// Makes one attempt at learning how large a URL's body is. Does not wait for a server that is paused.
    pub async fn size_of(&self, url: &Url) -> SizeOutcome {
        self.servers.keep();
        let mut attempt = Attempt::new(self.options());
        let mut told = Err(Failed::new(FailureCause::Internal, "nothing was asked").into());
        for ask in [Ask::Header, Ask::FirstByte] {
            told = self.follow_size(url, ask, &mut attempt).await;
            let is_last_word = match &told {
                Ok(SizeOutcome::Untold) => false,
                Ok(_) | Err(NoBody::Skipped(_)) => true,
                // A request to wait, and no answer at all, hold for a GET as well.
                Err(NoBody::Failed(failed)) => {
                    failed.http_status.is_none() || matches!(failed.retry, Retry::Throttled { .. })
                }
            };
            if is_last_word {
                break;
            }
        }
        match told {
            Ok(outcome) => outcome,
            Err(NoBody::Skipped(skip)) => SizeOutcome::Skip(skip.shortened()),
            Err(NoBody::Failed(failed)) => SizeOutcome::Failure(attempt.failure(failed)),
        }
    }

    /// Asks in one of the two ways, and the same of each redirect.
    async fn follow_size(&self, asked: &Url, ask: Ask, attempt: &mut Attempt) -> Result<SizeOutcome, NoBody> {
        let mut seen = vec![asked.clone()];
        seen[0].set_fragment(None);
        loop {
            let url = seen.last().unwrap_or(asked).clone();
            let server = self.server(&self.check(&url)?);
            let target = self.target(&url).await?.asking(ask);
            self.heed_robots_txt(&url, &server, &UnboundedMemory).await?;
            let permit = self.permit(&server, &target).await?;
            attempt.asked = true;
            let purpose = if seen.len() > 1 { RequestPurpose::Redirect } else { RequestPurpose::Image };
            match self.ask_size(&url, purpose, ask, &target, permit, attempt).await? {
                Answer::Size(size) => return Ok(size),
                Answer::Redirect(location) => self.go_on_to(location, &mut seen)?,
            }
        }
    }

    async fn ask_size(
        &self,
        url: &Url,
        purpose: RequestPurpose,
        ask: Ask,
        target: &Target<'_>,
        mut permit: Permit,
        attempt: &mut Attempt,
    ) -> Result<Answer, NoBody> {
        let mut sent = Instant::now();
        let mut trace = Trace::start(self.log.as_ref(), permit.server(), purpose, url);
        let response = self.send(target, &mut permit, &mut sent, attempt.left, &mut trace).await?;
        let took = sent.elapsed();
        let http_status = response.status().as_u16();
        let answer = match http_status {
            200 | 203 | 206 => {
                permit.answered();
                permit.replied();
                if let Some(signal) = self.opt_outs.find(response.headers()) {
                    Err(NoBody::Skipped(FetchSkip {
                        reason: SkipReason::OptOut,
                        http_status: Some(http_status),
                        signal,
                        fetched_at: SystemTime::now(),
                    }))
                } else {
                    let content_type = content_type(&response);
                    let told = |bytes| SizeOutcome::Told { bytes, content_type, took };
                    Ok(Answer::Size(size(&response, ask).map_or(SizeOutcome::Untold, told)))
                }
            }
            301 | 302 | 303 | 307 | 308 => {
                permit.replied();
                location(&response, url)
                    .map(Answer::Redirect)
                    .map_err(|message| Failed::new(FailureCause::BadRedirect, message).into())
            }
            _ => {
                let retry = self.retry(&response, &permit, &mut trace, may_pass);
                let message = format!("the server answered {http_status}");
                let failed = Failed::new(FailureCause::HttpStatus, message).with_status(http_status);
                Err(Failed { retry, ..failed }.into())
            }
        };
        // Of a server that ignores the range, the body is left unread, and with it the connection.
        body::drain(response, permit.received()).await;
        attempt.count(sent, sent + attempt.left);
        answer
    }
}

/// The length that a response tells.
fn size(response: &Response, ask: Ask) -> Option<u64> {
    let header = |name| response.headers().get(name)?.to_str().ok();
    if response.status() == 206 {
        return header(CONTENT_RANGE)?.rsplit_once('/')?.1.trim().parse().ok();
    }
    let length = header(CONTENT_LENGTH)?.trim().parse().ok()?;
    // Pages that are made on demand have no length yet when only their header is asked for.
    (ask != Ask::Header || length > 0).then_some(length)
}
