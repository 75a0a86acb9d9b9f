//! What the user may set about fetching.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::address_range::AddressRange;
use super::connect_to::ConnectTo;
use super::error::FetchError;
use super::proxy::ProxyUrl;
use super::rate::{AimdOptions, PaarcOptions, RateControl};

/// A longer Crawl-delay would be no rate.
const LONGEST_CRAWL_DELAY: Duration = Duration::from_secs(24 * 3600);

/// A response header has to fit: servers send up to 8 KiB of each kind.
const LEAST_CONNECTION_BUFFER: u64 = 16 << 10;
/// Photos of 411 KiB: with 64 KiB they take no more CPU time than with 128 or 408, with 32 a tenth more.
const MOST_CONNECTION_BUFFER: u64 = 64 << 10;

/// What a stream has before anything is said (RFC 9113, 6.9.2), and the most that can be said (6.9.1).
const LEAST_HTTP2_WINDOW: u32 = (64 << 10) - 1;
pub(super) const MOST_HTTP2_WINDOW: u32 = (1 << 31) - 1;

/// Limits and identity of all requests. The defaults are safe on a laptop with 4 GiB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FetchOptions {
    /// `User-Agent` of every request. Whether it names a contact is checked where downloads start.
    pub user_agent: String,
    /// Further headers of every request, in order; they replace those that ddl would send itself.
    pub headers: Vec<(String, String)>,
    /// Admits loopback and private networks. Link-local, unspecified and multicast addresses stay refused.
    pub allow_private_networks: bool,
    /// Admits single addresses, whatever they are, and private networks.
    pub allow_addresses: Vec<AddressRange>,
    /// Asks each server for its robots.txt first and obeys it.
    pub respect_robots_txt: bool,
    /// How long a robots.txt counts before it is asked for again.
    pub robots_txt_max_age: Duration,
    /// Longest Crawl-delay of a robots.txt that is obeyed; a longer one counts as this, zero ignores all.
    pub max_crawl_delay: Duration,
    /// Skips images whose `X-Robots-Tag` has one of `x_robots_tag_directives`.
    pub respect_x_robots_tag: bool,
    /// Directives that count, whatever their case.
    pub x_robots_tag_directives: Vec<String>,
    /// Skips images whose `Content-Usage` says no to one of `content_usage_categories`.
    pub respect_content_usage: bool,
    /// Categories that count, whatever their case.
    pub content_usage_categories: Vec<String>,
    /// Skips images whose `tdm-reservation` is 1.
    pub respect_tdm_reservation: bool,
    /// Other addresses for chosen servers, as curl's `--connect-to`; the first match wins.
    pub connect_to: Vec<ConnectTo>,
    /// PEM file with certificates to trust besides those of the platform.
    pub ca_certificate: Option<PathBuf>,
    /// Forward proxy of http requests; `None` is none. The environment is not looked at.
    #[serde(deserialize_with = "proxy")]
    pub http_proxy: Option<ProxyUrl>,
    /// Forward proxy of https requests, likewise.
    #[serde(deserialize_with = "proxy")]
    pub https_proxy: Option<ProxyUrl>,
    /// Names (with all below them), addresses and networks that are asked directly all the same; `*` is all.
    pub no_proxy: Vec<String>,
    /// Time for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time from the request, its connection included, to the end of the response header.
    pub first_byte_timeout: Duration,
    /// Time for all of an attempt, redirects included; waiting for permits or memory does not count.
    pub request_timeout: Duration,
    /// Largest body in bytes, before and after decoding its Content-Encoding.
    pub max_body_bytes: u64,
    /// Redirects that are followed in one attempt.
    pub max_redirects: u32,
    /// Attempts at one URL before its failure is final.
    pub max_attempts: u32,
    /// Backoff before the second attempt, doubled for each further one, with full jitter.
    pub retry_backoff: Duration,
    /// Longest `Retry-After` that is obeyed; a longer one counts as this.
    pub max_retry_after: Duration,
    /// Obeys what `RateLimit` headers and their kin say: nothing more until a reset (within `max_retry_after`), and a
    /// quota per time (as a gap within `max_crawl_delay`).
    pub respect_rate_limit_headers: bool,
    /// How long a server may do nothing but complain (no answer, 5xx, 429) before it is given up.
    pub server_patience: Duration,
    /// Requests under way at once, over all servers of this process.
    pub max_in_flight: usize,
    /// Most requests under way at once to one server, over the whole cluster, whatever its controller thinks.
    pub max_connections_per_server: usize,
    /// Most requests under way at once to one IP address, over all servers and the whole cluster: each rank has a whole
    /// part, at least 1. `None`: four times `max_connections_per_server`, never less for a rank than one server may
    /// have, and loopback is spared.
    pub max_connections_per_address: Option<usize>,
    /// Most requests per second to one IP address, likewise; 0 is no limit.
    pub rate_limit_per_address: f64,
    /// Bytes that HTTP/1 connections read ahead of their bodies: dealt evenly to `max_in_flight`, 16 to 64 KiB each. A
    /// response header that is longer than that fails. Idle connections may hold as much.
    pub connection_memory: u64,
    /// Most bytes of a body that may come over HTTP/2 before there is memory for them. At least 64 KiB.
    pub http2_window: u32,
    /// Names that are asked for at once.
    pub max_name_lookups: usize,
    /// Most requests per second to a server without a rate of its own, likewise; 0 is no limit.
    pub default_rate_limit: f64,
    /// Of `fixed` only: how far a server that asks for less may be slowed down, from its rate `r` to
    /// `r * (1 - rate_multiplier)`, and no further than one request in 10 s.
    ///
    /// DD's band around the rate had an upper half as well; ddl never exceeds `r`.
    pub rate_multiplier: f64,
    /// Who decides, below these limits, how hard a server is worked.
    pub rate_control: RateControl,
    pub paarc: PaarcOptions,
    pub aimd: AimdOptions,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            user_agent: String::new(),
            headers: Vec::new(),
            allow_private_networks: false,
            allow_addresses: Vec::new(),
            respect_robots_txt: true,
            robots_txt_max_age: Duration::from_secs(24 * 3600),
            max_crawl_delay: Duration::from_secs(30),
            respect_x_robots_tag: true,
            x_robots_tag_directives: words(&["noai", "noimageai", "noml", "noindex", "noimageindex", "none"]),
            respect_content_usage: true,
            content_usage_categories: words(&["train-ai", "train-genai", "ai", "genai", "tdm", "bots"]),
            respect_tdm_reservation: true,
            connect_to: Vec::new(),
            ca_certificate: None,
            http_proxy: None,
            https_proxy: None,
            no_proxy: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(120),
            max_body_bytes: 100 << 20,
            max_redirects: 5,
            max_attempts: 5,
            retry_backoff: Duration::from_secs(1),
            max_retry_after: Duration::from_secs(3600),
            respect_rate_limit_headers: true,
            server_patience: Duration::from_secs(900),
            max_in_flight: 256,
            max_connections_per_server: 8,
            max_connections_per_address: None,
            rate_limit_per_address: 0.0,
            connection_memory: 32 << 20,
            http2_window: 256 << 10,
            max_name_lookups: 64,
            default_rate_limit: 10.0,
            rate_multiplier: 1.0,
            rate_control: RateControl::default(),
            paarc: PaarcOptions::default(),
            aimd: AimdOptions::default(),
        }
    }
}

impl FetchOptions {
    /// Most bytes that one HTTP/1 connection reads at once, and hence holds beside the body that it reads for.
    pub(super) fn connection_buffer(&self) -> usize {
        let share = self.connection_memory / (self.max_in_flight as u64).max(1);
        share.clamp(LEAST_CONNECTION_BUFFER, MOST_CONNECTION_BUFFER) as usize
    }

    /// # Errors
    /// The first option whose value would make every request fail or wait for ever.
    pub fn validate(&self) -> Result<(), FetchError> {
        let bad = |option, problem: &str| Err(FetchError::BadOption { option, problem: problem.to_owned() });
        for (option, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            if duration.is_zero() {
                return bad(option, "is zero: no request could succeed");
            }
        }
        for (option, count) in [
            ("max_body_bytes", self.max_body_bytes),
            ("max_attempts", u64::from(self.max_attempts)),
            ("max_in_flight", self.max_in_flight as u64),
            ("max_connections_per_server", self.max_connections_per_server as u64),
            ("max_connections_per_address", self.max_connections_per_address.unwrap_or(1) as u64),
            ("max_name_lookups", self.max_name_lookups as u64),
        ] {
            if count == 0 {
                return bad(option, "is zero: no request could be made");
            }
        }
        if !(LEAST_HTTP2_WINDOW..=MOST_HTTP2_WINDOW).contains(&self.http2_window) {
            return bad("http2_window", "is less than 64 KiB, or more than HTTP/2 has");
        }
        if self.max_crawl_delay > LONGEST_CRAWL_DELAY {
            return bad("max_crawl_delay", "is more than a day");
        }
        for (option, rate) in [
            ("default_rate_limit", self.default_rate_limit),
            ("rate_limit_per_address", self.rate_limit_per_address),
        ] {
            if !is_rate(rate) {
                return bad(option, "is not a number of requests per second (0 is no limit)");
            }
        }
        for (option, proxy) in [("http_proxy", &self.http_proxy), ("https_proxy", &self.https_proxy)] {
            if let Some(Err(problem)) = proxy.as_ref().map(ProxyUrl::url) {
                return bad(option, &format!("{problem}; `none` does without"));
            }
        }
        if !(0.0..=1.0).contains(&self.rate_multiplier) {
            return bad("rate_multiplier", "is not between 0 and 1");
        }
        Ok(())
    }
}

/// `none` and nothing are no proxy.
fn proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProxyUrl>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty() && text != "none").map(|text| ProxyUrl::new(&text)))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Whether a number is a rate: zero (no limit), or so that a gap between requests is neither longer than twelve
/// days nor shorter than a nanosecond.
pub(super) fn is_rate(rate: f64) -> bool {
    rate == 0.0 || (1e-6..=1e9).contains(&rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        FetchOptions::default().validate().unwrap();
    }

    #[test]
    fn unusable_values_are_named() {
        let check = |options: FetchOptions, name: &str| {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{name}`")), "{message}");
        };
        let default = FetchOptions::default;
        check(FetchOptions { max_in_flight: 0, ..default() }, "max_in_flight");
        check(FetchOptions { request_timeout: Duration::ZERO, ..default() }, "request_timeout");
        check(FetchOptions { default_rate_limit: f64::NAN, ..default() }, "default_rate_limit");
        check(FetchOptions { default_rate_limit: -1.0, ..default() }, "default_rate_limit");
        check(FetchOptions { rate_limit_per_address: -1.0, ..default() }, "rate_limit_per_address");
        check(
            FetchOptions { max_connections_per_address: Some(0), ..default() },
            "max_connections_per_address",
        );
        check(FetchOptions { http2_window: 1 << 31, ..default() }, "http2_window");
        check(FetchOptions { max_name_lookups: 0, ..default() }, "max_name_lookups");
        let https_proxy = Some(ProxyUrl::new("socks5://me:secret@p.example"));
        check(FetchOptions { https_proxy, ..default() }, "https_proxy");
        check(FetchOptions { rate_multiplier: 1.5, ..default() }, "rate_multiplier");
    }

    #[test]
    fn connections_share_their_memory() {
        let check = |max_in_flight, connection_memory, expect| {
            let options = FetchOptions { max_in_flight, connection_memory, ..FetchOptions::default() };
            assert_eq!(options.connection_buffer(), expect, "{max_in_flight} {connection_memory}");
        };
        check(256, 32 << 20, 64 << 10);
        check(1024, 32 << 20, 32 << 10);
        check(2048, 32 << 20, 16 << 10);
        check(100_000, 32 << 20, 16 << 10);
        check(1, 0, 16 << 10);
    }

    #[test]
    fn unknown_keys_are_errors_and_missing_ones_defaults() {
        let options: FetchOptions = serde_json::from_str(r#"{"connect_to": ["a:80:[::1]:81"]}"#).unwrap();
        assert_eq!(options.connect_to, ["a:80:[::1]:81".parse().unwrap()]);
        assert_eq!(options.max_redirects, 5);
        assert!(serde_json::from_str::<FetchOptions>(r#"{"max_redirect": 5}"#).is_err());
    }
}
