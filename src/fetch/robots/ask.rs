//! Asking for robots.txt, and looking up what it says.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use url::Url;

use super::super::body::{self, BodyMemory};
use super::super::client::Target;
use super::super::failed::{Failed, NoBody, is_complaint, may_pass, refused};
use super::super::fetcher::{Attempt, Fetcher, location, proxy_refused};
use super::super::outcome::FetchSkip;
use super::super::request_log::Trace;
use super::super::server::{Permit, Server};
use super::cache::Entry;
use super::rules::Rules;
use crate::model::{FailureCause, RequestPurpose, RobotsTxt, ServerNews, SkipReason};

/// Redirects that are followed; RFC 9309, 2.3.1.2 asks for at least five.
const MAX_REDIRECTS: u32 = 5;

/// What one request for the file came to.
enum Answer {
    File(Vec<u8>),
    Redirect(Url),
    /// There is no such file.
    Unavailable,
}

impl Fetcher {
    /// Lets pass what the server's robots.txt lets pass. Asks for the file if it is not known; the server's
    /// Crawl-delay holds from then on.
    pub(in crate::fetch) async fn heed_robots_txt(
        &self,
        url: &Url,
        server: &Arc<Server>,
        memory: &dyn BodyMemory,
    ) -> Result<(), NoBody> {
        if !self.options().respect_robots_txt {
            return Ok(());
        }
        let is_https = url.scheme() == "https";
        let entry = self.robots.entry(server.name(), is_https);
        let rules = match entry.rules(Instant::now()) {
            Some(rules) => rules,
            None => self.learn_rules(&entry, url, server, memory).await?,
        };
        server.set_crawl_delay(is_https, rules.crawl_delay().min(self.options().max_crawl_delay));
        let rule = if rules.is_costly(url) {
            let url = url.clone();
            let found = spawn_blocking(move || rules.forbids(&url)).await;
            found.map_err(|error| Failed::new(FailureCause::Internal, error.to_string()))?
        } else {
            rules.forbids(url)
        };
        let skip = |rule| {
            let signal = format!("robots.txt: {rule}");
            FetchSkip { reason: SkipReason::Robots, http_status: None, signal, fetched_at: SystemTime::now() }
        };
        rule.map_or(Ok(()), |rule| Err(NoBody::Skipped(skip(rule))))
    }

    /// Asks for the file, unless another rank knows it, or waits for who does so already and shares what came of it.
    async fn learn_rules(
        &self,
        entry: &Entry,
        url: &Url,
        server: &Server,
        memory: &dyn BodyMemory,
    ) -> Result<Arc<Rules>, Failed> {
        let since = Instant::now();
        let mut last_failure = entry.asking.lock().await;
        if let Some(rules) = entry.rules(Instant::now()) {
            return Ok(rules);
        }
        if let Some((at, failed)) = &*last_failure
            && *at >= since
        {
            return Err(failed.clone());
        }
        // What the others know comes with the first loan.
        server.borrowed().await.map_err(|refusal| refused(server.name(), refusal))?;
        if let Some((text, until)) = entry.take_handed_over(Instant::now()) {
            let rules = Arc::new(self.parse(text).await?.0);
            self.robots.learn(entry, Arc::clone(&rules), until);
            return Ok(rules);
        }
        let (rules, text) = match self.ask_for_rules(url, memory).await {
            Ok((rules, text)) => (Arc::new(rules), text),
            Err(failed) => {
                *last_failure = Some((Instant::now(), failed.clone()));
                return Err(failed);
            }
        };
        *last_failure = None;
        let crawl_delay = rules.crawl_delay();
        tracing::debug!(origin = %url.origin().ascii_serialization(), ?crawl_delay, "read robots.txt");
        self.robots.learn(entry, Arc::clone(&rules), Instant::now() + self.options().robots_txt_max_age);
        self.servers.tell(server.name(), || {
            ServerNews::RobotsTxt(RobotsTxt {
                is_https: url.scheme() == "https",
                fetched_at: unix_ms(SystemTime::now()),
                text: String::from_utf8_lossy(&text).into_owned(),
                crawl_delay: crawl_delay.min(self.options().max_crawl_delay),
            })
        });
        Ok(rules)
    }

    /// The rules and the file that has them, which is empty if there is none.
    async fn ask_for_rules(&self, of: &Url, memory: &dyn BodyMemory) -> Result<(Rules, Vec<u8>), Failed> {
        let mut url = robotxt::robots_url(of)
            .map_err(|error| Failed::new(FailureCause::Internal, error.to_string()))?;
        let mut attempt = Attempt::new(self.options());
        for redirects in 0..=MAX_REDIRECTS {
            let server = match self.check(&url) {
                Ok(server) => server,
                Err(_) if redirects > 0 => return Ok(Default::default()),
                Err(failed) => return Err(failed),
            };
            let target = match self.target(&url).await {
                Err(failed) if redirects > 0 && failed.cause == FailureCause::ForbiddenAddress => {
                    return Ok(Default::default());
                }
                target => target?,
            };
            let permit = self.servers.get(&server).admit_at(self.turn(&target)).await;
            let permit = permit.map_err(|refusal| refused(&server, refusal))?;
            let answer = self.ask_once(of, &url, &target, permit, memory, &mut attempt).await;
            match answer {
                Ok(Answer::File(text)) => return self.parse(text).await,
                Ok(Answer::Redirect(location)) => url = location,
                Ok(Answer::Unavailable) => return Ok(Default::default()),
                // A name that leads to a forbidden address only now.
                Err(failed) if redirects > 0 && failed.cause == FailureCause::ForbiddenAddress => {
                    return Ok(Default::default());
                }
                Err(failed) => {
                    return Err(Failed { message: format!("robots.txt: {}", failed.message), ..failed });
                }
            }
        }
        Ok(Default::default())
    }

    /// One request for the rules of a URL, and its response; tells the server what came of it.
    async fn ask_once(
        &self,
        of: &Url,
        url: &Url,
        target: &Target<'_>,
        mut permit: Permit,
        memory: &dyn BodyMemory,
        attempt: &mut Attempt,
    ) -> Result<Answer, Failed> {
        let mut sent = tokio::time::Instant::now();
        let mut trace = Trace::start(self.log.as_ref(), permit.server(), RequestPurpose::Robots, url);
        trace.about_robots_of(of);
        let response = self.send(target, &mut permit, &mut sent, attempt.left, &mut trace).await?;
        let mut deadline = sent + attempt.left;
        let http_status = response.status().as_u16();
        let answer = match http_status {
            200..=299 => {
                permit.answered();
                let max_bytes = robotxt::BYTE_LIMIT + 1;
                match body::read_start(response, memory, max_bytes, &mut deadline, permit.received()).await {
                    Ok(body) => {
                        trace.received(body.bytes.len());
                        trace.read_robots_txt(&body.bytes);
                        permit.replied();
                        Ok(Answer::File(body.bytes.to_vec()))
                    }
                    Err((cause, message)) if is_complaint(cause) => {
                        permit.complained(cause, Some(http_status));
                        Err(Failed::new(cause, message).with_status(http_status))
                    }
                    // No bytes, or none that can be read.
                    Err(_) => {
                        trace.read_robots_txt(&[]);
                        permit.replied();
                        Ok(Answer::Unavailable)
                    }
                }
            }
            301 | 302 | 303 | 307 | 308 => {
                permit.replied();
                let location = location(&response, url);
                body::drain(response, permit.received()).await;
                Ok(location.map_or(Answer::Unavailable, Answer::Redirect))
            }
            407 if target.is_proxied() => {
                let failed = proxy_refused(&permit);
                body::drain(response, permit.received()).await;
                Err(failed)
            }
            408 | 425 | 429 | 500..=599 => {
                let retry =
                    self.retry(&response, &permit, &mut trace, |status| status >= 500 || may_pass(status));
                body::drain(response, permit.received()).await;
                let message = format!("the server answered {http_status}");
                let failed = Failed::new(FailureCause::HttpStatus, message).with_status(http_status);
                Err(Failed { retry, ..failed })
            }
            _ => {
                permit.replied();
                body::drain(response, permit.received()).await;
                Ok(Answer::Unavailable)
            }
        };
        attempt.count(sent, deadline);
        answer
    }

    /// A large file takes some 20 ms: work for a thread that may block.
    async fn parse(&self, text: Vec<u8>) -> Result<(Rules, Vec<u8>), Failed> {
        let agents = Arc::clone(&self.agents);
        spawn_blocking(move || (Rules::parse(&text, &agents), text))
            .await
            .map_err(|error| Failed::new(FailureCause::Internal, error.to_string()))
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
