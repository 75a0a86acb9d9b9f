//! A street of servers, each with a listener, a manner and a log of its own.
//!
//! They speak HTTP by hand, one request per connection, and judge nothing: what a client should not have done is
//! worked out from the log afterwards, by [`StreetServer::most_in`], [`StreetServer::most_at_once`] and
//! [`StreetServer::embargoes_broken`].

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Listener;
use super::nasty::good_jpeg;
use super::project::Project;

/// Requests per second that a server may be sent, where nothing else is set for it.
pub const RATE: usize = 20;
/// Likewise under way at once.
pub const CONNECTIONS: usize = 4;
/// On each server but the slow ones.
pub const URLS: usize = 100;

/// How a server treats those who ask it.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// From the request to the answer.
    pub latency: Duration,
    /// Answered in any second; what is beyond gets 429 and `refusal`.
    pub per_second: Option<usize>,
    pub refusal: Refusal,
    /// Under way at once; what is beyond gets 503 without a word on when to come back.
    pub at_once: Option<usize>,
    /// So many requests per window are announced in `RateLimit` headers, and enforced with a bare 429.
    pub quota: Option<(usize, Duration)>,
    /// Each n-th request gets 500.
    pub fails_each: Option<usize>,
    /// After so many requests for images every connection is reset.
    pub bans_after: Option<usize>,
    /// Never answers.
    pub is_mute: bool,
    /// Ends each body half way.
    pub truncates: bool,
    /// One byte of the body at a time, so far apart.
    pub drips: Option<Duration>,
    pub robots_txt: Option<&'static str>,
    /// Redirects to the same path of this server.
    pub redirects_to: Option<&'static str>,
}

/// `Retry-After` of a 429.
#[derive(Clone, Copy, Debug, Default)]
pub enum Refusal {
    #[default]
    Bare,
    Seconds(u64),
    /// An HTTP date; these have whole seconds, so it is up to one earlier.
    Date(u64),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub at: Instant,
    /// When the last bytes of the answer were to be written, or the client had left; `None` while under way.
    pub ended: Option<Instant>,
    /// 0: no answer.
    pub status: u16,
    /// How long the client was asked to stay away.
    pub embargo: Option<Duration>,
}

/// A running server.
#[derive(Debug)]
pub struct StreetServer {
    pub name: &'static str,
    listener: Listener,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    manner: Manner,
    seen: Mutex<Vec<Seen>>,
    /// When images were answered, for the limits; refused ones do not count.
    answered: Mutex<VecDeque<Instant>>,
}

impl StreetServer {
    pub fn start(name: &'static str, manner: Manner) -> Self {
        let state = Arc::new(State { manner, seen: Mutex::default(), answered: Mutex::default() });
        let shared = state.clone();
        let listener = Listener::start(move |stream| {
            let state = shared.clone();
            // An error is a client that left.
            async move { drop(serve(stream, &state).await) }
        });
        Self { name, listener, state }
    }

    /// What `connect_to` needs.
    pub fn route(&self) -> String {
        format!("{}:80:{}", self.name, self.listener.addr())
    }

    pub fn log(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn images(&self) -> Vec<Seen> {
        let mut log = self.log();
        log.retain(|seen| seen.path != "/robots.txt");
        log
    }

    /// The most requests that arrived within `window`.
    pub fn most_in(&self, window: Duration) -> usize {
        let times: Vec<Instant> = self.log().iter().map(|seen| seen.at).collect();
        let within =
            |&first: &Instant| times.iter().filter(|&&at| at >= first && at < first + window).count();
        times.iter().map(within).max().unwrap_or(0)
    }

    /// The most requests under way at once.
    pub fn most_at_once(&self) -> usize {
        let log = self.log();
        let under_way = |now: Instant| {
            log.iter().filter(|seen| seen.at <= now && seen.ended.is_none_or(|ended| ended > now)).count()
        };
        log.iter().map(|seen| under_way(seen.at)).max().unwrap_or(0)
    }

    /// Requests that arrived during an embargo, `grace` after it was pronounced.
    pub fn embargoes_broken(&self, grace: Duration) -> Vec<Seen> {
        let log = self.log();
        let breaks = |seen: &&Seen| {
            log.iter().any(|refused| match (refused.embargo, refused.ended) {
                (Some(embargo), Some(from)) => seen.at > from + grace && seen.at < from + embargo,
                _ => false,
            })
        };
        log.iter().filter(breaks).cloned().collect()
    }

    /// Whole images per second, from the first request to the last answer.
    pub fn goodput(&self) -> f64 {
        let images = self.images();
        let good = images.iter().filter(|seen| seen.status == 200).count();
        let from = images.iter().map(|seen| seen.at).min();
        let to = images.iter().filter_map(|seen| seen.ended).max();
        from.zip(to).map_or(0.0, |(from, to)| good as f64 / (to - from).as_secs_f64())
    }
}

/// An answer, before it is written.
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    embargo: Option<Duration>,
}

impl Answer {
    fn bare(status: u16, headers: String) -> Self {
        Self { status, headers, body: Vec::new(), embargo: None }
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 16 << 10 || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or("/").to_owned();
    let number = {
        let mut seen = state.seen.lock().unwrap();
        seen.push(Seen { path: path.clone(), at: Instant::now(), ended: None, status: 0, embargo: None });
        seen.len() - 1
    };
    let answer = answer(&mut stream, state, &path).await;
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    let embargo = answer.as_ref().and_then(|answer| answer.embargo);
    let last = match answer {
        Some(answer) => write(&mut stream, state, answer).await,
        None => Ok(Vec::new()),
    };
    {
        let mut seen = state.seen.lock().unwrap();
        let seen = &mut seen[number];
        (seen.ended, seen.status, seen.embargo) = (Some(Instant::now()), status, embargo);
    }
    // For the client it is over when these arrive, which may be before the next line of this log.
    stream.write_all(&last?).await?;
    stream.shutdown().await
}

/// `None` where there is none.
async fn answer(stream: &mut TcpStream, state: &State, path: &str) -> Option<Answer> {
    let manner = &state.manner;
    if path == "/robots.txt" && !manner.is_mute {
        return Some(match manner.robots_txt {
            Some(text) => {
                Answer { body: text.into(), ..Answer::bare(200, "Content-Type: text/plain\r\n".into()) }
            }
            None => Answer::bare(404, String::new()),
        });
    }
    if manner.is_mute {
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        return None;
    }
    let asked = state.seen.lock().unwrap().iter().filter(|seen| seen.path != "/robots.txt").count();
    if manner.bans_after.is_some_and(|after| asked > after) {
        let _ = stream.set_zero_linger();
        return None;
    }
    let under_way = state.seen.lock().unwrap().iter().filter(|seen| seen.ended.is_none()).count();
    if manner.at_once.is_some_and(|most| under_way > most) {
        return Some(Answer::bare(503, String::new()));
    }
    let now = Instant::now();
    if let Some(refused) = over_the_limit(state, now) {
        return Some(refused);
    }
    sleep(manner.latency).await;
    if manner.fails_each.is_some_and(|each| asked.is_multiple_of(each)) {
        return Some(Answer::bare(500, String::new()));
    }
    if let Some(to) = manner.redirects_to {
        return Some(Answer::bare(302, format!("Location: http://{to}{path}\r\n")));
    }
    let headers = format!("Content-Type: image/jpeg\r\n{}", quota_left(state, now));
    Some(Answer { body: good_jpeg().to_vec(), ..Answer::bare(200, headers) })
}

/// The refusal of one who asks too often; else the request is counted.
fn over_the_limit(state: &State, now: Instant) -> Option<Answer> {
    let manner = &state.manner;
    let (most, window) = manner.quota.or(manner.per_second.map(|most| (most, Duration::from_secs(1))))?;
    let mut answered = state.answered.lock().unwrap();
    while answered.front().is_some_and(|&at| at + window <= now) {
        answered.pop_front();
    }
    if answered.len() < most {
        answered.push_back(now);
        return None;
    }
    let (header, seconds) = match manner.refusal {
        Refusal::Bare => (String::new(), None),
        Refusal::Seconds(seconds) => (format!("Retry-After: {seconds}\r\n"), Some(seconds)),
        Refusal::Date(seconds) => {
            let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
            (format!("Retry-After: {date}\r\n"), Some(seconds - 1))
        }
    };
    Some(Answer { embargo: seconds.map(Duration::from_secs), ..Answer::bare(429, header) })
}

/// What is left of the quota, as RateLimit header fields.
fn quota_left(state: &State, now: Instant) -> String {
    let Some((most, window)) = state.manner.quota else { return String::new() };
    let answered = state.answered.lock().unwrap();
    let reset = answered.front().map_or(window, |&at| (at + window).saturating_duration_since(now));
    let (left, reset) = (most - answered.len(), reset.as_secs() + 1);
    format!(
        "RateLimit-Policy: \"default\";q={most};w={}\r\nRateLimit: \"default\";r={left};t={reset}\r\n",
        window.as_secs()
    )
}

/// Writes all but the last bytes, which it returns.
async fn write(stream: &mut TcpStream, state: &State, answer: Answer) -> io::Result<Vec<u8>> {
    let Answer { status, headers, mut body, .. } = answer;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} So It Is\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    if status != 200 {
        return Ok([head.into_bytes(), body].concat());
    }
    stream.write_all(head.as_bytes()).await?;
    if let Some(apart) = state.manner.drips {
        for byte in body.drain(..length - 1) {
            stream.write_all(&[byte]).await?;
            sleep(apart).await;
        }
    }
    if state.manner.truncates {
        body.truncate(length / 2);
    }
    Ok(body)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const ROBOTS: &str =
    "User-agent: *\nDisallow: /private/\nAllow: /private/but\n\nUser-agent: other\nDisallow: /\n";
const CRAWL_DELAY: &str = "User-agent: ddl-tests\nCrawl-delay: 0.5\n";
const NOBODY: &str = "User-agent: *\nDisallow: /\n";

/// Servers without a flaw: what they get done must not depend on the others.
pub fn healthy() -> Vec<StreetServer> {
    let slow = Manner { latency: ms(150), ..Manner::default() };
    vec![
        StreetServer::start("fast.example", Manner::default()),
        StreetServer::start("far.example", slow),
        StreetServer::start("small.example", Manner { latency: ms(20), ..Manner::default() }),
    ]
}

/// All of them.
pub fn street() -> Vec<StreetServer> {
    let limited = |refusal| Manner { per_second: Some(10), refusal, latency: ms(20), ..Manner::default() };
    let mut street = healthy();
    street.extend([
        StreetServer::start("seconds.example", limited(Refusal::Seconds(3))),
        StreetServer::start("date.example", limited(Refusal::Date(4))),
        StreetServer::start("bare.example", limited(Refusal::Bare)),
        StreetServer::start("quota.example", Manner { quota: Some((10, ms(1000))), ..Manner::default() }),
        StreetServer::start(
            "crowded.example",
            Manner { at_once: Some(2), latency: ms(100), ..Manner::default() },
        ),
        StreetServer::start("mute.example", Manner { is_mute: true, ..Manner::default() }),
        StreetServer::start("banning.example", Manner { bans_after: Some(20), ..Manner::default() }),
        StreetServer::start("failing.example", Manner { fails_each: Some(7), ..Manner::default() }),
        StreetServer::start("cut.example", Manner { truncates: true, ..Manner::default() }),
        StreetServer::start("dripping.example", Manner { drips: Some(ms(1)), ..Manner::default() }),
        StreetServer::start("private.example", Manner { robots_txt: Some(ROBOTS), ..Manner::default() }),
        StreetServer::start("patient.example", Manner { robots_txt: Some(CRAWL_DELAY), ..Manner::default() }),
        StreetServer::start("closed.example", Manner { robots_txt: Some(NOBODY), ..Manner::default() }),
        StreetServer::start(
            "pointing.example",
            Manner { redirects_to: Some("content.example"), ..Manner::default() },
        ),
        StreetServer::start("content.example", Manner { latency: ms(30), ..Manner::default() }),
    ]);
    street
}

/// A project whose list has [`URLS`] of most servers, none of `content.example`, which only redirects lead to, and so
/// many of the healthy ones.
pub fn street_project(street: &[StreetServer], healthy: usize) -> Project {
    let routes: Vec<String> = street.iter().map(|server| format!("'{}'", server.route())).collect();
    let settings = format!(
        "rate_control: fixed\n\
         connect_to: [{}]\n\
         servers: {{small.example: {{rate_limit: 1, max_connections: 1}}}}\n\
         schedule_rules: {{1: 4}}\n\
         downloader_parameters:\n  {{default_rate_limit: {RATE}, max_connections_per_server: {CONNECTIONS}, batch_size: 20,\n   \
          first_byte_timeout: 1s, request_timeout: 20s, server_patience: 6s, retry_backoff: 100ms, max_attempts: 3}}",
        routes.join(", "),
    );
    let mut urls = Vec::new();
    for server in street.iter().filter(|server| server.name != "content.example") {
        let number = match server.name {
            "fast.example" | "far.example" => healthy,
            "small.example" => healthy / 10,
            "patient.example" => 12,
            "dripping.example" => 8,
            "mute.example" => 40,
            _ => URLS,
        };
        for n in 0..number {
            let folder = ["public", "private", "private/but"][n % 3];
            let mut url = String::new();
            write!(url, "http://{}/{folder}/{n}.jpg", server.name).unwrap();
            urls.push(url);
        }
    }
    let project = Project::routed(&settings).with_urls(urls);
    project.ok(&["ingest"]);
    project
}
