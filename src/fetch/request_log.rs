//! Telling of every request that leaves, however it ends.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use url::Url;

use super::response::Response;
use super::server::Server;
use crate::model::{RequestEntry, RequestPurpose, RobotsRequest, ServerName};

/// Is told of every request. Must not wait.
pub trait RequestLog: Send + Sync + Debug {
    fn record(&self, entry: RequestEntry);
}

/// A log with a clock: the wall's when it was made, and from then on one that never jumps.
#[derive(Debug)]
pub(super) struct Log {
    sink: Arc<dyn RequestLog>,
    since: Instant,
    /// Microseconds since 1970 at that moment.
    since_us: i64,
}

impl Log {
    pub fn new(sink: Arc<dyn RequestLog>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { sink, since: Instant::now(), since_us: us(since_1970) }
    }
}

fn us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A request under way. When it is dropped, at its end or because nobody waits for it any more, it is told of.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    told: Option<(&'a Log, RequestEntry)>,
    /// End of a pause that began with the response's header.
    rests_until: Option<Instant>,
}

impl<'a> Trace<'a> {
    /// A request that leaves now; nothing is told where there is no log.
    pub fn start(log: Option<&'a Log>, server: &Server, purpose: RequestPurpose, url: &Url) -> Self {
        let told = log.map(|log| {
            let limits = server.limits();
            let entry = RequestEntry {
                server: server.name().clone(),
                address: None,
                purpose,
                is_https: url.scheme() == "https",
                target: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
                sent_at: log.since_us.saturating_add(us(log.since.elapsed())),
                took: Duration::ZERO,
                received_bytes: 0,
                http_status: None,
                retry_after: None,
                max_rate: limits.rate,
                max_connections: u32::try_from(limits.max_connections).unwrap_or(u32::MAX),
                robots: None,
            };
            (log, entry)
        });
        Self { told, rests_until: None }
    }

    /// The request has failed and leaves once more.
    pub fn again(&mut self) {
        self.tell();
        if let Some((log, entry)) = &mut self.told {
            entry.sent_at = log.since_us.saturating_add(us(log.since.elapsed()));
        }
    }

    pub fn heard(&mut self, response: &Response) {
        if let Some((_, entry)) = &mut self.told {
            entry.address = response.remote_address();
            entry.http_status = Some(response.status().as_u16());
        }
    }

    /// The response asked to be left alone.
    pub fn asked_to_wait(&mut self, wait: Option<Duration>) {
        if let Some((_, entry)) = &mut self.told {
            entry.retry_after = wait;
        }
    }

    /// The server is left alone until then: in the log, for as long as is left of it when the request has ended.
    pub fn rests_until(&mut self, until: Instant) {
        self.rests_until = Some(until);
    }

    pub fn received(&mut self, bytes: usize) {
        if let Some((_, entry)) = &mut self.told {
            entry.received_bytes = bytes as u64;
        }
    }

    /// It asks for the robots.txt of this server and scheme.
    pub fn about_robots_of(&mut self, url: &Url) {
        if let Some((_, entry)) = &mut self.told {
            entry.robots = ServerName::from_url(url).map(|server| {
                let is_https = url.scheme() == "https";
                RobotsRequest { server, is_https, text: None }
            });
        }
    }

    /// A robots.txt has come.
    pub fn read_robots_txt(&mut self, text: &[u8]) {
        if let Some((_, entry)) = &mut self.told
            && let Some(robots) = &mut entry.robots
        {
            robots.text = Some(text.to_vec());
        }
    }

    fn tell(&mut self) {
        if let Some((log, entry)) = &mut self.told {
            let now = log.since_us.saturating_add(us(log.since.elapsed()));
            entry.took = Duration::from_micros(now.saturating_sub(entry.sent_at).max(0).cast_unsigned());
            let left = self.rests_until.map(|until| until.saturating_duration_since(Instant::now()));
            entry.retry_after = entry.retry_after.max(left.filter(|left| !left.is_zero()));
            log.sink.record(entry.clone());
        }
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}
