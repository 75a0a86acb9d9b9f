//! What the demo contains and how its servers behave.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The size of the demo's list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemoOptions {
    /// Rows of the list. Below 250 some of the special cases do not occur.
    pub num_records: u32,
    /// Everything is derived from it: the same seed gives the same list and the same bytes.
    pub seed: u64,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { num_records: 600, seed: 1 }
    }
}

/// A farm of image servers behind one loopback address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FarmOptions {
    /// The demo's servers and pictures, or none: then only plain servers are served.
    pub demo: Option<DemoOptions>,
    /// Number of plain servers, `server-000.example` and so on, whose lists `farm_list` makes.
    pub num_servers: u32,
    /// Longest side, in pixels, of the pictures of plain servers (a few KB at the default of 96).
    pub picture_side: u16,
    /// Servers that do not behave normally, by name. They replace what the demo says of a server.
    pub behaviours: BTreeMap<String, ServerBehaviour>,
    /// Requests that the log keeps; later ones are only counted. About 150 bytes each.
    pub max_log_entries: usize,
    /// Connections served at once; further ones wait to be accepted.
    pub max_connections: usize,
}

impl Default for FarmOptions {
    fn default() -> Self {
        Self {
            demo: None,
            num_servers: 8,
            picture_side: 96,
            behaviours: BTreeMap::new(),
            max_log_entries: 200_000,
            max_connections: 4_096,
        }
    }
}

/// How one server answers. The default answers everything at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerBehaviour {
    /// Time from the request to the first byte of the answer.
    pub latency: Duration,
    /// Requests per second that are answered; those beyond get 429.
    pub requests_per_second: Option<f64>,
    /// Requests that may come at once after a pause, when `requests_per_second` is set.
    pub burst: u32,
    /// `Retry-After` of a 429, rounded up to whole seconds; zero leaves the header out.
    pub retry_after: Duration,
    /// Requests in flight above which a further one gets 429.
    pub max_in_flight: Option<u32>,
    /// Requests worked on at once, each for `latency`; further ones wait in a queue.
    pub num_workers: Option<u32>,
    /// Body of `/robots.txt`; without it that path is a 404. It is never limited or delayed.
    pub robots_txt: Option<String>,
}

impl Default for ServerBehaviour {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            requests_per_second: None,
            burst: 1,
            retry_after: Duration::from_secs(1),
            max_in_flight: None,
            num_workers: None,
            robots_txt: None,
        }
    }
}
