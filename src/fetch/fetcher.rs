//! One attempt at one URL: guard, permit, GET, header, body; and the same again for each redirect.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::{self, BodyMemory};
use super::classify::{self, Phase};
use super::client::{Clients, IDLE_TIMEOUT, Target};
use super::error::FetchError;
use super::guard;
use super::options::{FetchOptions, is_rate};
use super::outcome::{FetchFailure, FetchOutcome, FetchedBody, Retry};
use super::retry::retry_after;
use super::server::{Permit, Server, ServerLimits};
use super::servers::Servers;
use crate::model::{FailureCause, ServerName};

/// Longest URL that a redirect may lead to; the default of `max_url_bytes` for lists.
const MAX_REDIRECT_URL_BYTES: usize = 8192;
/// Longest `Content-Type` that is kept.
const MAX_CONTENT_TYPE_BYTES: usize = 255;
/// Servers known at once from which on connections are kept only where several requests are under way: a web
/// crawl touches thousands of servers a minute, and each idle connection is an open file. A GBIF snapshot with
/// its 545 servers stays well below.
const CROWDED: usize = 2048;
/// No `Retry-After` is longer than this, whatever `max_retry_after` says.
const MAX_PAUSE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Fetches URLs; owns the connections and the [`Server`]s. Cheap to share behind an `Arc`.
pub struct Fetcher {
    options: FetchOptions,
    clients: Clients,
    servers: Servers,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Why a hop came to nothing; becomes a [`FetchFailure`].
struct Failed {
    cause: FailureCause,
    http_status: Option<u16>,
    message: String,
    retry: Retry,
}

impl Failed {
    fn new(cause: FailureCause, message: impl Into<String>) -> Self {
        let retry = match cause {
            FailureCause::Dns
            | FailureCause::Connect
            | FailureCause::Tls
            | FailureCause::ConnectTimeout
            | FailureCause::FirstByteTimeout
            | FailureCause::RequestTimeout
            | FailureCause::ConnectionLost
            | FailureCause::TruncatedBody
            | FailureCause::BadResponse => Retry::Backoff,
            _ => Retry::Never,
        };
        Self { cause, http_status: None, message: message.into(), retry }
    }

    fn with_status(self, http_status: u16) -> Self {
        Self { http_status: Some(http_status), ..self }
    }
}

/// What a hop leads to.
enum Hop {
    Body { body: body::Body, http_status: u16, content_type: Option<String> },
    Redirect { location: Url, http_status: u16 },
}

/// How long requests of one attempt have been and may be under way.
struct Time {
    left: Duration,
    spent: Duration,
}

impl Fetcher {
    /// Takes the options and the rates of servers that have their own, in requests/s (0: no limit).
    ///
    /// # Errors
    /// If an option, a rate or the certificate file cannot be used.
    pub fn new(options: FetchOptions, rates: HashMap<ServerName, f64>) -> Result<Self, FetchError> {
        options.validate()?;
        if let Some((name, rate)) = rates.iter().find(|(_, rate)| !is_rate(**rate)) {
            let problem = format!("of server `{name}` is not a number of requests per second: {rate}");
            return Err(FetchError::BadOption { option: "rate_limit", problem });
        }
        let limits = ServerLimits {
            rate: options.default_rate_limit,
            rate_multiplier: options.rate_multiplier,
            max_connections: options.max_connections_per_server,
        };
        let servers = Servers::new(limits, rates, options.max_in_flight);
        Ok(Self { clients: Clients::new(&options)?, servers, options })
    }

    /// The options that this was made with.
    #[must_use]
    pub fn options(&self) -> &FetchOptions {
        &self.options
    }

    /// The server of this name, made on first use. Hold it as long as its share matters.
    #[must_use]
    pub fn server(&self, name: &ServerName) -> Arc<Server> {
        self.servers.get(name)
    }

    /// The share of servers that are met from now on and have none of their own, such as the targets of
    /// redirects: one over the number of ranks keeps the cluster within each server's limits.
    pub fn set_default_share(&self, fraction: f64) {
        self.servers.set_default_share(fraction);
    }

    /// Makes one attempt: waits for a permit, then asks.
    pub async fn fetch(&self, url: &Url, memory: &dyn BodyMemory) -> FetchOutcome {
        self.attempt(url, None, memory).await
    }

    /// As [`fetch`](Self::fetch), with a permit that the caller already has from this URL's server.
    pub async fn fetch_with(&self, url: &Url, permit: Permit, memory: &dyn BodyMemory) -> FetchOutcome {
        self.attempt(url, Some(permit), memory).await
    }

    async fn attempt(&self, url: &Url, permit: Option<Permit>, memory: &dyn BodyMemory) -> FetchOutcome {
        match self.follow(url, permit, memory).await {
            Ok(body) => FetchOutcome::Body(body),
            Err(Failed { cause, http_status, message, retry }) => FetchOutcome::Failure(FetchFailure {
                cause,
                http_status,
                message: classify::shorten(message),
                retry,
                fetched_at: SystemTime::now(),
            }),
        }
    }

    async fn follow(
        &self,
        asked: &Url,
        mut permit: Option<Permit>,
        memory: &dyn BodyMemory,
    ) -> Result<FetchedBody, Failed> {
        let mut time = Time { left: self.options.request_timeout, spent: Duration::ZERO };
        let mut seen = vec![asked.clone()];
        // Not sent, so two URLs that differ in it only are a circle.
        seen[0].set_fragment(None);
        loop {
            let url = seen.last().unwrap_or(asked);
            let server = self.check(url)?;
            let permit = match permit.take().filter(|permit| permit.server().name() == &server) {
                Some(permit) => permit,
                None => self.admit(&server, seen.len() > 1).await?,
            };
            match self.hop(url, permit, memory, &mut time).await? {
                Hop::Body { body, http_status, content_type } => {
                    return Ok(FetchedBody {
                        bytes: body.bytes,
                        http_status,
                        content_type,
                        final_url: (seen.len() > 1).then(|| url.to_string()),
                        fetched_at: SystemTime::now(),
                        elapsed: time.spent,
                        reservation: body.reservation,
                    });
                }
                Hop::Redirect { location, http_status } => {
                    let fail = |message| {
                        Err(Failed::new(FailureCause::TooManyRedirects, message).with_status(http_status))
                    };
                    if seen.contains(&location) {
                        return fail(format!("redirects lead in a circle to `{location}`"));
                    }
                    if seen.len() > self.options.max_redirects as usize {
                        return fail(format!("more than {} redirects", self.options.max_redirects));
                    }
                    seen.push(location);
                }
            }
        }
    }

    /// The server of a URL that may be asked for.
    fn check(&self, url: &Url) -> Result<ServerName, Failed> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failed::new(FailureCause::Internal, format!("not an http URL: `{url}`")));
        }
        guard::check_url(url, self.options.allow_private_networks)
            .map_err(|forbidden| Failed::new(FailureCause::ForbiddenAddress, forbidden.to_string()))?;
        ServerName::from_url(url)
            .ok_or_else(|| Failed::new(FailureCause::Internal, format!("no server in `{url}`")))
    }

    /// A permit of the server. The target of a redirect is not waited for while it is paused: that can be an
    /// hour, and the caller can do other things in it.
    async fn admit(&self, name: &ServerName, is_redirected: bool) -> Result<Permit, Failed> {
        let server = self.servers.get(name);
        if is_redirected && let Some((until, reason)) = server.pause() {
            let failed = Failed::new(reason.cause, format!("redirected to server `{name}`, which is paused"));
            let retry = Retry::ServerPaused { until };
            return Err(Failed { http_status: reason.http_status, retry, ..failed });
        }
        Ok(server.admit().await)
    }

    /// One request and its response.
    async fn hop(
        &self,
        url: &Url,
        mut permit: Permit,
        memory: &dyn BodyMemory,
        time: &mut Time,
    ) -> Result<Hop, Failed> {
        let target =
            self.clients.target(url).map_err(|message| Failed::new(FailureCause::Connect, message))?;
        let mut sent = Instant::now();
        let response = match self.send(&target, &mut permit, &mut sent, time.left).await {
            Ok(response) => response,
            Err(failed) => {
                if is_unanswered(failed.cause) {
                    permit.unanswered(failed.cause);
                }
                return Err(failed);
            }
        };
        let mut deadline = sent + time.left;
        let http_status = response.status().as_u16();
        let result = match http_status {
            200 | 203 => {
                permit.responded(true);
                let content_type = content_type(&response);
                let body = body::read(response, memory, self.options.max_body_bytes, &mut deadline)
                    .await
                    .map_err(|(cause, message)| Failed::new(cause, message).with_status(http_status))?;
                permit.completed(body.wire_bytes, sent.elapsed());
                Ok(Hop::Body { body, http_status, content_type })
            }
            301 | 302 | 303 | 307 | 308 => {
                permit.responded(true);
                let location = location(&response, url).map_err(|message| {
                    Failed::new(FailureCause::BadRedirect, message).with_status(http_status)
                });
                body::drain(response).await;
                location.map(|location| Hop::Redirect { location, http_status })
            }
            _ => {
                let retry = self.retry(&response, &permit);
                body::drain(response).await;
                let message = format!("the server answered {http_status}");
                Err(Failed {
                    retry,
                    ..Failed::new(FailureCause::HttpStatus, message).with_status(http_status)
                })
            }
        };
        // What the deadline was moved by is time that the body waited for memory.
        let waited = deadline.saturating_duration_since(sent + time.left);
        let took = sent.elapsed().saturating_sub(waited);
        time.spent += took;
        time.left = time.left.saturating_sub(took);
        result
    }

    /// Sends a GET and waits for the response's header.
    ///
    /// A server may close an idle connection just as it is used again. That is nobody's failure, so the request
    /// is sent once more, on a connection of its own, when the server's rate allows it.
    async fn send(
        &self,
        target: &Target<'_>,
        permit: &mut Permit,
        sent: &mut Instant,
        left: Duration,
    ) -> Result<Response, Failed> {
        let is_worth_keeping = permit.server().is_worth_keeping_alive(IDLE_TIMEOUT)
            && (self.servers.len() < CROWDED || permit.server().under_way() > 1);
        let may_reuse = is_worth_keeping && permit.server().may_reuse_connection(IDLE_TIMEOUT);
        match self.send_once(target, !is_worth_keeping, *sent, left).await {
            Err(failed) if may_reuse && failed.cause == FailureCause::ConnectionLost => {
                if !permit.renew().await {
                    return Err(failed);
                }
                *sent = Instant::now();
                self.send_once(target, true, *sent, left).await
            }
            result => result,
        }
    }

    async fn send_once(
        &self,
        target: &Target<'_>,
        fresh: bool,
        sent: Instant,
        left: Duration,
    ) -> Result<Response, Failed> {
        let first_byte = self.options.first_byte_timeout;
        match timeout_at(sent + first_byte.min(left), target.request(fresh).send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let failed = Failed::new(classify::cause(&error, Phase::Header), classify::message(&error));
                // What this machine lacks at the moment it may have again.
                let is_ours = failed.cause == FailureCause::Internal;
                Err(Failed { retry: if is_ours { Retry::Backoff } else { failed.retry }, ..failed })
            }
            Err(_) if first_byte <= left => {
                let message = format!("no response header within {first_byte:?}");
                Err(Failed::new(FailureCause::FirstByteTimeout, message))
            }
            Err(_) => {
                let message =
                    format!("no response header before the end of {:?}", self.options.request_timeout);
                Err(Failed::new(FailureCause::RequestTimeout, message))
            }
        }
    }

    /// What an error status means for the URL; tells the server's pace of it.
    fn retry(&self, response: &Response, permit: &Permit) -> Retry {
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| retry_after(value, SystemTime::now()))
            .map(|after| after.min(self.options.max_retry_after).min(MAX_PAUSE));
        let http_status = response.status().as_u16();
        match http_status {
            429 | 503 => {
                permit.responded(false);
                Retry::ServerPaused { until: permit.throttled(http_status, asked) }
            }
            408 | 425 | 500 | 502 | 504 | 509 | 520..=530 => {
                permit.responded(false);
                asked.filter(|after| !after.is_zero()).map_or(Retry::Backoff, Retry::After)
            }
            _ => {
                permit.responded(true);
                Retry::Never
            }
        }
    }
}

/// Whether a failure to get a header says that the server is not there.
fn is_unanswered(cause: FailureCause) -> bool {
    use FailureCause::{BadResponse, ForbiddenAddress, Internal};
    !matches!(cause, ForbiddenAddress | BadResponse | Internal)
}

fn content_type(response: &Response) -> Option<String> {
    let mut text = String::from_utf8_lossy(response.headers().get(CONTENT_TYPE)?.as_bytes()).into_owned();
    text.truncate(text.floor_char_boundary(MAX_CONTENT_TYPE_BYTES));
    Some(text)
}

/// Where a redirect leads; the message says why nowhere.
fn location(response: &Response, url: &Url) -> Result<Url, String> {
    let header = response.headers().get(LOCATION).ok_or("a redirect without a Location")?;
    // Not only ASCII, as servers send it: the URL parser escapes the rest.
    let text = std::str::from_utf8(header.as_bytes()).map_err(|_| "the Location is not UTF-8")?.trim();
    if text.is_empty() || text.len() > MAX_REDIRECT_URL_BYTES {
        return Err(format!("the Location has {} bytes", text.len()));
    }
    let mut target = url.join(text).map_err(|error| format!("the Location is no URL ({error}): `{text}`"))?;
    if !matches!(target.scheme(), "http" | "https") || ServerName::from_url(&target).is_none() {
        return Err(format!("the Location is no http URL: `{text}`"));
    }
    target.set_fragment(None);
    Ok(target)
}
