//! One attempt at one URL: guard, permit, GET, header, body; and the same again for each redirect.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{CONTENT_TYPE, LOCATION};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::addresses::{Addresses, Turn};
use super::body::{self, BodyMemory};
use super::classify::{self, Phase};
use super::client::{Clients, IDLE_TIMEOUT, Target};
use super::dns::Dns;
use super::error::FetchError;
use super::failed::{Failed, NoBody, is_complaint, may_pass, misconfigured, refused};
use super::guard::Guard;
use super::landlord::Landlord;
use super::opt_out::OptOuts;
use super::options::FetchOptions;
use super::outcome::{FetchFailure, FetchOutcome, FetchSkip, FetchedBody, Retry};
use super::request_log::{Log, RequestLog, Trace};
use super::response::Response;
use super::robots::{RobotsCache, agents};
use super::rules::ServerRules;
use super::server::{Permit, Server};
use super::servers::Servers;
use crate::model::{
    Embargo, FailureCause, Loan, RequestPurpose, ServerKnowledge, ServerName, SkipReason, without_credentials,
};
use crate::runtime::max_open_files;

/// Longest URL that a redirect may lead to; the default of `max_url_bytes` for lists.
const MAX_REDIRECT_URL_BYTES: usize = 8192;
/// Longest `Content-Type` that is kept.
const MAX_CONTENT_TYPE_BYTES: usize = 255;
/// Servers known at once from which on connections are kept only where several requests are under way: a web
/// crawl touches thousands of servers a minute, and each idle connection is an open file. A GBIF snapshot with
/// its 545 servers stays well below.
const CROWDED: usize = 2048;
/// Files below which each idle connection counts: a thousand servers that keep eight of them need as many.
const FEW_FILES: usize = 16 * 1024;
/// Idle connections to one server then.
const FEW_IDLE: usize = 2;

/// Fetches URLs; owns the connections and the [`Server`]s. Cheap to share behind an `Arc`.
pub struct Fetcher {
    pub(super) options: FetchOptions,
    pub(super) clients: Clients,
    pub(super) servers: Servers,
    addresses: Arc<Addresses>,
    pub(super) dns: Arc<Dns>,
    guard: Guard,
    pub(super) robots: RobotsCache,
    pub(super) opt_outs: OptOuts,
    /// Names by which robots.txt may call us.
    pub(super) agents: Arc<[String]>,
    /// Servers known at once from which on connections are kept for good reason only.
    crowded: usize,
    pub(super) log: Option<Log>,
    ignored: HashSet<ServerName>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a hop leads to.
enum Hop {
    Body { body: body::Body, http_status: u16, content_type: Option<String> },
    Redirect { location: Url, http_status: u16 },
}

/// One attempt so far.
pub(super) struct Attempt {
    /// How long its requests may still be under way.
    pub left: Duration,
    pub asked: bool,
}

impl Attempt {
    pub fn new(options: &FetchOptions) -> Self {
        Self { left: options.request_timeout, asked: false }
    }

    /// The end of an attempt that came to nothing.
    pub fn failure(&self, failed: Failed) -> FetchFailure {
        let Failed { cause, http_status, message, retry } = failed;
        let (message, asked) = (classify::shorten(message), self.asked);
        FetchFailure { cause, http_status, message, retry, asked, fetched_at: SystemTime::now() }
    }

    /// Counts a request that left at `sent`. What its deadline was moved by is time that the body waited for memory.
    pub fn count(&mut self, sent: Instant, deadline: Instant) {
        let waited = deadline.saturating_duration_since(sent + self.left);
        self.left = self.left.saturating_sub(sent.elapsed().saturating_sub(waited));
    }
}

impl Fetcher {
    /// Takes the options and what is set for single servers.
    ///
    /// # Errors
    /// If an option, a rule or the certificate file cannot be used.
    pub fn new(options: FetchOptions, rules: ServerRules) -> Result<Self, FetchError> {
        let dns = Dns::new(options.max_name_lookups);
        Self::with_dns(options, rules, dns)
    }

    pub(super) fn with_dns(options: FetchOptions, rules: ServerRules, dns: Dns) -> Result<Self, FetchError> {
        options.validate()?;
        rules.validate()?;
        let max_idle = rules.most_connections().max(Some(options.max_connections_per_server)).unwrap_or(1);
        let (max_idle, crowded) = idle_limits(max_open_files(), max_idle);
        let guard = Guard::new(options.allow_private_networks, &options.allow_addresses);
        let dns = Arc::new(dns);
        Ok(Self {
            clients: Clients::new(&options, &rules, max_idle, &dns, &guard)?,
            addresses: Arc::new(Addresses::new(&options, &rules, Arc::clone(&dns), guard.clone(), 1)),
            dns,
            servers: Servers::new(options.clone(), rules),
            guard,
            robots: RobotsCache::new(options.robots_txt_max_age),
            opt_outs: OptOuts::new(&options),
            agents: agents(&options.user_agent).into(),
            crowded,
            log: None,
            ignored: HashSet::new(),
            options,
        })
    }

    /// Tells `log` of every request from now on.
    #[must_use]
    pub fn with_request_log(self, log: Arc<dyn RequestLog>) -> Self {
        Self { log: Some(Log::new(log)), ..self }
    }

    /// The limits of an address are divided by the number of ranks from now on: each of them has a whole part, at least
    /// one request under way.
    #[must_use]
    pub fn with_num_ranks(self, num_ranks: u32) -> Self {
        let (dns, guard) = (Arc::clone(&self.dns), self.guard.clone());
        let addresses = Addresses::new(&self.options, self.servers.rules(), dns, guard, num_ranks);
        Self { addresses: Arc::new(addresses), ..self }
    }

    /// Asks none of these, not even where a redirect leads to one.
    #[must_use]
    pub fn with_ignored(self, ignored: HashSet<ServerName>) -> Self {
        Self { ignored, ..self }
    }

    /// Works on limits that `landlord` lends, instead of all of each server's. To be said before anything is fetched.
    ///
    /// A server is borrowed when something is first asked of it, robots.txt included; until its first loan comes
    /// ([`lend`](Self::lend)) whoever asks waits in line. It is given back when it was not asked anything for a
    /// second, and with all others by [`leave`](Self::leave).
    #[must_use]
    pub fn with_landlord(mut self, landlord: Arc<dyn Landlord>) -> Self {
        self.servers.set_landlord(landlord);
        self
    }

    /// Takes a loan of a server; the first one with what is known of it. A loan of what was given back meanwhile
    /// changes nothing.
    pub fn lend(&self, server: &ServerName, loan: Loan, knowledge: Option<ServerKnowledge>) {
        let Some(known) = self.servers.known(server) else { return };
        let ServerKnowledge { embargo, learnt, robots_txt } = knowledge.unwrap_or_default();
        // Before those who wait for the loan look for it.
        for file in robots_txt.into_iter().filter(|_| self.options.respect_robots_txt) {
            let (is_https, crawl_delay) = (file.is_https, file.crawl_delay);
            if self.robots.hand_over(server, file, SystemTime::now()) {
                known.set_crawl_delay(is_https, crawl_delay.min(self.options.max_crawl_delay));
            }
        }
        known.lend(loan, embargo, learnt);
    }

    /// Leaves a server alone, as another rank was asked to, and then probes it. No URL fails for it, and the server
    /// is not given up for what others have heard.
    pub fn embargo(&self, server: &ServerName, embargo: Embargo) {
        // Of one that is not known the first loan will say so.
        if let Some(known) = self.servers.known(server) {
            known.embargo(embargo);
        }
    }

    /// For the end: tells the landlord what was learnt of each server and gives all back, but those with requests
    /// under way.
    pub fn leave(&self) {
        self.servers.leave();
    }

    /// The options that this was made with.
    #[must_use]
    pub fn options(&self) -> &FetchOptions {
        &self.options
    }

    /// The server of this name, made on first use. It is not given back as long as anybody holds it.
    #[must_use]
    pub fn server(&self, name: &ServerName) -> Arc<Server> {
        self.servers.get(name)
    }

    /// Most requests to a server that may be under way at once, over the whole cluster.
    #[must_use]
    pub fn max_connections(&self, name: &ServerName) -> usize {
        self.servers.limits(name).max_connections
    }

    /// Requests under way at present.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.servers.under_way()
    }

    /// Sends nothing from now on, for when the process is about to stop: attempts that wait for a permit fail with
    /// [`Retry::ServerPaused`], requests under way go on.
    pub fn close(&self) {
        self.servers.close();
    }

    /// Makes one attempt: waits for a permit, then asks. Does not wait for a server that is paused.
    pub async fn fetch(&self, url: &Url, memory: &dyn BodyMemory) -> FetchOutcome {
        self.servers.keep();
        let mut attempt = Attempt::new(&self.options);
        match self.follow(url, memory, &mut attempt).await {
            Ok(body) => FetchOutcome::Body(body),
            Err(NoBody::Skipped(skip)) => FetchOutcome::Skip(skip.shortened()),
            Err(NoBody::Failed(failed)) => FetchOutcome::Failure(attempt.failure(failed)),
        }
    }

    async fn follow(
        &self,
        asked: &Url,
        memory: &dyn BodyMemory,
        attempt: &mut Attempt,
    ) -> Result<FetchedBody, NoBody> {
        let mut seen = vec![asked.clone()];
        // Not sent, so two URLs that differ in it only are a circle.
        seen[0].set_fragment(None);
        loop {
            let url = seen.last().unwrap_or(asked);
            let name = self.check(url)?;
            if self.ignored.contains(&name) {
                let reason = SkipReason::IgnoredServer;
                let signal = match seen.len() {
                    1 => reason.meaning().to_owned(),
                    _ => format!("a redirect leads to `{name}`: {}", reason.meaning()),
                };
                let fetched_at = SystemTime::now();
                return Err(NoBody::Skipped(FetchSkip { reason, http_status: None, signal, fetched_at }));
            }
            let server = self.servers.get(&name);
            let target = self.target(url).await?;
            self.heed_robots_txt(url, &server, memory).await?;
            let permit = self.permit(&server, &target).await?;
            attempt.asked = true;
            let purpose = if seen.len() > 1 { RequestPurpose::Redirect } else { RequestPurpose::Image };
            match self.hop(url, purpose, &target, permit, memory, attempt).await? {
                Hop::Body { body, http_status, content_type } => {
                    return Ok(FetchedBody {
                        bytes: body.bytes,
                        http_status,
                        content_type,
                        final_url: (seen.len() > 1).then(|| without_credentials(url.as_str()).into_owned()),
                        fetched_at: SystemTime::now(),
                        reservation: body.reservation,
                    });
                }
                Hop::Redirect { location, http_status } => {
                    self.go_on_to(location, &mut seen).map_err(|failed| failed.with_status(http_status))?;
                }
            }
        }
    }

    /// Puts the target of a redirect behind those URLs that led to it.
    pub(super) fn go_on_to(&self, location: Url, seen: &mut Vec<Url>) -> Result<(), Failed> {
        let fail = |message| Err(Failed::new(FailureCause::TooManyRedirects, message));
        if seen.contains(&location) {
            let location = without_credentials(location.as_str());
            return fail(format!("redirects lead in a circle to `{location}`"));
        }
        if seen.len() > self.options.max_redirects as usize {
            return fail(format!("more than {} redirects", self.options.max_redirects));
        }
        seen.push(location);
        Ok(())
    }

    /// The server of a URL that may be asked for.
    pub(super) fn check(&self, url: &Url) -> Result<ServerName, Failed> {
        let fail = |what| {
            let url = without_credentials(url.as_str());
            Failed::new(FailureCause::Internal, format!("{what} `{url}`"))
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fail("not an http URL:"));
        }
        self.guard
            .check_url(url)
            .map_err(|forbidden| Failed::new(FailureCause::ForbiddenAddress, forbidden.to_string()))?;
        ServerName::from_url(url).ok_or_else(|| fail("no server in"))
    }

    /// Where a URL's request goes. A proxy resolves names by itself: what they lead to is checked here first, as far as
    /// it is known here, and none of it may be forbidden, for the proxy may take any.
    pub(super) async fn target(&self, url: &Url) -> Result<Target<'_>, Failed> {
        let target = self.clients.target(url).map_err(misconfigured)?;
        if let Some(name) = target.name_for_proxy()
            && let Ok(Ok(found)) = timeout(self.options.connect_timeout, self.dns.lookup(name)).await
            && let Some(forbidden) = found.iter().find_map(|address| self.guard.check_address(*address).err())
        {
            return Err(Failed::new(FailureCause::ForbiddenAddress, forbidden.to_string()));
        }
        Ok(target)
    }

    /// A request's way to a place at the address that it connects to.
    pub(super) fn turn(&self, target: &Target<'_>) -> Turn {
        Turn::at(&self.addresses, target.connects_to().cloned())
    }

    /// Waits for the right to one request.
    pub(super) async fn permit(&self, server: &Arc<Server>, target: &Target<'_>) -> Result<Permit, Failed> {
        let permit = server.admit_at(self.turn(target)).await;
        permit.map_err(|refusal| refused(server.name(), refusal))
    }

    /// One request and its response; tells the server what came of it.
    async fn hop(
        &self,
        url: &Url,
        purpose: RequestPurpose,
        target: &Target<'_>,
        mut permit: Permit,
        memory: &dyn BodyMemory,
        attempt: &mut Attempt,
    ) -> Result<Hop, NoBody> {
        let mut sent = Instant::now();
        let mut trace = Trace::start(self.log.as_ref(), permit.server(), purpose, url);
        let response = self.send(target, &mut permit, &mut sent, attempt.left, &mut trace).await?;
        let mut deadline = sent + attempt.left;
        let http_status = response.status().as_u16();
        let result = match http_status {
            200 | 203 => {
                permit.answered();
                if let Some(signal) = self.opt_outs.find(response.headers()) {
                    permit.replied();
                    body::drain(response, permit.received()).await;
                    return Err(NoBody::Skipped(FetchSkip {
                        reason: SkipReason::OptOut,
                        http_status: Some(http_status),
                        signal,
                        fetched_at: SystemTime::now(),
                    }));
                }
                let content_type = content_type(&response);
                let max_bytes = self.options.max_body_bytes;
                match body::read(response, memory, max_bytes, &mut deadline, permit.received()).await {
                    Ok(body) => {
                        trace.received(body.bytes.len());
                        permit.succeeded();
                        Ok(Hop::Body { body, http_status, content_type })
                    }
                    Err((cause, message)) => {
                        if is_complaint(cause) {
                            permit.complained(cause, Some(http_status));
                        } else {
                            permit.replied();
                        }
                        Err(Failed::new(cause, message).with_status(http_status).into())
                    }
                }
            }
            301 | 302 | 303 | 307 | 308 => {
                permit.replied();
                let location = location(&response, url).map_err(|message| {
                    Failed::new(FailureCause::BadRedirect, message).with_status(http_status).into()
                });
                body::drain(response, permit.received()).await;
                location.map(|location| Hop::Redirect { location, http_status })
            }
            // Nothing of the server's: the proxy did not pass the request on.
            407 if target.is_proxied() => {
                let failed = proxy_refused(&permit);
                body::drain(response, permit.received()).await;
                Err(failed.into())
            }
            _ => {
                let retry = self.retry(&response, &permit, &mut trace, may_pass);
                body::drain(response, permit.received()).await;
                let message = format!("the server answered {http_status}");
                let failed = Failed::new(FailureCause::HttpStatus, message).with_status(http_status);
                Err(Failed { retry, ..failed }.into())
            }
        };
        attempt.count(sent, deadline);
        result
    }

    /// Sends a request and waits for the response's header; that there is none is told to the server.
    ///
    /// A server may close an idle connection just as it is used again. That is nobody's failure, so the request
    /// is sent once more, on a connection of its own, when the server's rate allows it.
    pub(super) async fn send(
        &self,
        target: &Target<'_>,
        permit: &mut Permit,
        sent: &mut Instant,
        left: Duration,
        trace: &mut Trace<'_>,
    ) -> Result<Response, Failed> {
        let is_worth_keeping = permit.server().is_worth_keeping_alive(IDLE_TIMEOUT)
            && (self.servers.len() < self.crowded
                || self.crowded == CROWDED && permit.server().under_way() > 1);
        let may_reuse = is_worth_keeping && permit.server().may_reuse_connection(IDLE_TIMEOUT);
        let mut result = self.send_once(target, !is_worth_keeping, *sent, left).await;
        let was_closed = |failed: &Failed| may_reuse && failed.cause == FailureCause::ConnectionLost;
        if result.as_ref().is_err_and(was_closed) && permit.renew().await {
            *sent = Instant::now();
            trace.again();
            result = self.send_once(target, true, *sent, left).await;
        }
        match &result {
            Ok(response) => {
                if response.is_http2() {
                    permit.server().speaks_http2();
                }
                trace.heard(response);
                self.heed_rate_limit(response, permit, trace);
            }
            Err(failed) if is_complaint(failed.cause) => permit.complained(failed.cause, None),
            Err(_) => {}
        }
        result
    }

    async fn send_once(
        &self,
        target: &Target<'_>,
        fresh: bool,
        sent: Instant,
        left: Duration,
    ) -> Result<Response, Failed> {
        let first_byte = self.options.first_byte_timeout;
        match timeout_at(sent + first_byte.min(left), target.send(fresh)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let mut message = classify::message(&error);
                if target.is_proxied() {
                    message = format!("through the proxy: {message}");
                }
                let failed = Failed::new(classify::cause(&error, Phase::Header), message);
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
}

/// What a proxy's 407 comes to: of the server nothing has come.
pub(super) fn proxy_refused(permit: &Permit) -> Failed {
    permit.complained(FailureCause::Connect, None);
    let message = "the proxy asks for a user name and a password, or for others (407)";
    Failed::new(FailureCause::Connect, message).with_status(407)
}

/// Idle connections to one server, and servers known at once from which on each needs a reason: together at most a
/// quarter of the files that the process may open.
fn idle_limits(files: usize, max_idle: usize) -> (usize, usize) {
    let max_idle = if files < FEW_FILES { max_idle.min(FEW_IDLE) } else { max_idle };
    (max_idle, (files / 4 / max_idle.max(1)).clamp(1, CROWDED))
}

pub(super) fn content_type(response: &Response) -> Option<String> {
    let mut text = String::from_utf8_lossy(response.headers().get(CONTENT_TYPE)?.as_bytes()).into_owned();
    text.truncate(text.floor_char_boundary(MAX_CONTENT_TYPE_BYTES));
    Some(text)
}

/// Where a redirect leads; the message says why nowhere.
pub(super) fn location(response: &Response, url: &Url) -> Result<Url, String> {
    let header = response.headers().get(LOCATION).ok_or("a redirect without a Location")?;
    // Not only ASCII, as servers send it: the URL parser escapes the rest.
    let text = std::str::from_utf8(header.as_bytes()).map_err(|_| "the Location is not UTF-8")?.trim();
    if text.is_empty() || text.len() > MAX_REDIRECT_URL_BYTES {
        return Err(format!("the Location has {} bytes", text.len()));
    }
    let shown = || without_credentials(text);
    let mut target =
        url.join(text).map_err(|error| format!("the Location is no URL ({error}): `{}`", shown()))?;
    if !matches!(target.scheme(), "http" | "https") || ServerName::from_url(&target).is_none() {
        return Err(format!("the Location is no http URL: `{}`", shown()));
    }
    target.set_fragment(None);
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 900 servers with eight idle connections each used up the 1,024 files of a shell.
    #[test]
    fn idle_connections_leave_files_for_others() {
        for files in [256, 1024, 4096, 65_536, 1 << 20] {
            for max_idle in [1, 8, 32] {
                let (max_idle, servers) = idle_limits(files, max_idle);
                assert!(max_idle * servers <= files / 4, "{files}");
            }
        }
        assert_eq!(idle_limits(1 << 20, 8), (8, CROWDED), "where there are many, nothing changes");
    }
}
