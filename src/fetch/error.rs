//! Options that do not work. What servers do wrong is a `FetchFailure`, not an error.

use std::path::PathBuf;

use thiserror::Error;

/// Why no [`Fetcher`](super::Fetcher) can be made from the options.
#[derive(Debug, Error)]
pub enum FetchError {
    /// An option has a value that cannot be used.
    #[error("`{option}` {problem}")]
    BadOption { option: &'static str, problem: String },

    /// The user agent, or one of `headers`, cannot be sent as an HTTP header.
    #[error("header `{name}` cannot be sent: its name or value has characters that HTTP does not allow")]
    BadHeader { name: String },

    /// The file of extra certificates cannot be read, or holds none.
    #[error("cannot read certificates from `{}`: {problem}", path.display())]
    CaCertificate { path: PathBuf, problem: String },

    /// The HTTP client or its TLS could not be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}
