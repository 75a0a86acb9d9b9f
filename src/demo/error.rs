//! What can go wrong while the demo is set up.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The demo could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DemoError {
    /// No socket on the loopback interface, or no thread to serve it.
    #[error("cannot start the demo servers on 127.0.0.1")]
    Start {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An encoder refused a picture.
    #[error("cannot encode the demo picture `{picture}`")]
    Encode {
        /// The picture's description.
        picture: String,
        /// What the encoder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The list could not be written.
    #[error("cannot write the demo list `{path}`")]
    WriteList {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
