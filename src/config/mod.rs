//! The configuration: one YAML (or JSON) file, the environment and flags, to one value per key.
//!
//! Everything that can be set is a line of [`KEYS`]: its path, what it may be, its default and its
//! documentation. Files of distributed-downloader and FLOW-DC are read as they are. Nobody below
//! this room sees the configuration: [`Resolved::section`] fills the options of each room by the
//! names of their fields, and [`Settings`] holds what no room owns.
//!
//! ```
//! use std::time::Duration;
//!
//! #[derive(serde::Deserialize)]
//! struct PatienceOptions {
//!     connect_timeout: Duration,
//!     max_attempts: u32,
//! }
//!
//! let text = "downloader_parameters: {connect_timeout: 1500ms}";
//! let resolved = ddl::config::parse("ddl.yaml", text)?;
//! let options: PatienceOptions = resolved.section(&["downloader_parameters"], &[])?;
//! assert_eq!(options.connect_timeout, Duration::from_millis(1500));
//! assert_eq!(options.max_attempts, 5);
//! # Ok::<(), ddl::config::ConfigError>(())
//! ```
//!
//! All problems of all sources are reported at once, each with its place and, where there is one,
//! the key that was probably meant. Files are not trusted: size, depth and aliases are bounded.

mod error;
mod file;
mod keys;
mod legacy;
mod render;
mod resolve;
mod section;
mod settings;
mod tool_file;
mod units;
mod validate;
mod value;
mod yaml;

#[cfg(test)]
mod rendition_tests;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, Problem, ProblemKind, Problems};
pub use keys::{Family, GROUPS, KEYS, Key, Kind};
pub use render::{
    ShownValue, default_file, reference, show, starter_file, to_yaml, to_yaml_for_ranks, to_yaml_for_units,
};
pub use resolve::{
    Chain, DEFAULT_FILE, Environment, Notice, Origin, Overrides, Resolved, known_renditions, known_servers,
    load, load_over, parse,
};
pub use settings::{DownloadJobs, OutputStructure, Settings, ToolsParameters, UserAgent, contact_of};
pub use tool_file::tool_file;
pub use units::parse_duration;
pub use value::Value;
