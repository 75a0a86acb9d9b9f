//! What is to be looked at.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Finding;
use crate::catalog::CatalogOptions;
use crate::fetch::{FetchOptions, ProxyUrl, ServerRules};

/// A folder that will be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The key that names it.
    pub key: &'static str,
    pub path: PathBuf,
    /// What is going to be written there, as far as it can be told.
    pub needed_bytes: Option<u64>,
}

/// What [`examine`](super::examine) looks at. Each rank has its own.
#[derive(Debug)]
pub struct DoctorOptions {
    /// Name of this node.
    pub node: String,
    /// Whether a launcher has started several ranks.
    pub is_launched: bool,
    /// What is known before anything is tried. Of ranks but the first, what concerns the rank itself.
    pub known: Vec<Finding>,
    pub output: Folder,
    pub scratch: Vec<Folder>,
    /// Without so many open files, nothing goes.
    pub least_open_files: u64,
    /// With so many, nothing waits for one.
    pub enough_open_files: u64,
    pub catalog: CatalogOptions,
    pub fetch: FetchOptions,
    pub rules: ServerRules,
    /// Forward proxies by the keys that name them.
    pub proxies: Vec<(&'static str, ProxyUrl)>,
    /// Why nothing is to be asked for.
    pub no_requests: Option<String>,
    /// Rank 0: what may be asked for. An answer to one of them is enough.
    pub urls: Vec<Url>,
    /// How long a rank, a filesystem or a server may take to answer.
    pub patience: Duration,
}
