//! What belongs to no room in particular, typed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigError;
use super::resolve::Resolved;
use super::value::split_header;

/// Inputs, outputs, identity, and the shape of jobs. What a room owns is read with
/// [`Resolved::section`] instead.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The lists; [`Settings::inputs`] when they are needed.
    pub path_to_input: Vec<PathBuf>,
    /// [`Settings::output_folder`] when it is needed.
    pub path_to_output_folder: Option<PathBuf>,
    /// As written; [`contact_of`] when it is needed.
    pub user_agent: String,
    /// Open partitions of a server, to ranks that may work on it at once; has an entry for 1.
    pub schedule_rules: BTreeMap<u64, u64>,
    /// The Slurm account.
    pub account: Option<String>,
    pub output_structure: OutputStructure,
    pub downloader_parameters: DownloadJobs,
    pub tools_parameters: ToolsParameters,
}

/// Names below the output folder: relative, without `..`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputStructure {
    pub urls_folder: PathBuf,
    pub logs_folder: PathBuf,
    pub images_folder: PathBuf,
    pub schedules_folder: PathBuf,
    pub profiles_table: PathBuf,
    pub ignored_table: PathBuf,
    pub inner_checkpoint_file: PathBuf,
    pub tools_folder: PathBuf,
}

/// The jobs of a download, and what no room reads of `downloader_parameters`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownloadJobs {
    /// `Name: value`, as distributed-downloader has it.
    pub header: Option<String>,
    /// Jobs in a row, each resuming the one before.
    pub num_downloads: u32,
    pub max_nodes: u32,
    pub workers_per_node: u32,
    /// 0: left to Slurm.
    pub cpu_per_worker: u32,
    /// As in Python: `WARNING`, `INFO`, ...
    pub logger_level: String,
}

/// What the tools do, and their jobs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolsParameters {
    /// Pixels of the shorter side.
    pub threshold_size: u32,
    /// Pixels of the longest side.
    pub new_resize_size: u32,
    /// Where tools of one's own are.
    pub custom_folder: PathBuf,
    pub resize_mode: String,
    pub resize_only_if_bigger: bool,
    pub remove_blank: bool,
    pub placeholder_min_urls: u64,
    /// Jobs in a row, each resuming the one before.
    pub num_workers: u32,
    pub max_nodes: u32,
    pub workers_per_node: u32,
    /// 0: left to Slurm.
    pub cpu_per_worker: u32,
}

impl Settings {
    /// # Errors
    /// `Mismatch` if the table and these types disagree; a test holds that they do not.
    pub fn of(resolved: &Resolved) -> Result<Self, ConfigError> {
        resolved.section(&[""], &[])
    }

    /// The inputs of an ingest.
    ///
    /// # Errors
    /// `Unset` when there is none.
    pub fn inputs(&self) -> Result<&[PathBuf], ConfigError> {
        match &self.path_to_input[..] {
            [] => Err(ConfigError::Unset { key: "path_to_input" }),
            inputs => Ok(inputs),
        }
    }

    /// The root of everything that is written.
    ///
    /// # Errors
    /// `Unset` when it is not set.
    pub fn output_folder(&self) -> Result<&PathBuf, ConfigError> {
        self.path_to_output_folder.as_ref().ok_or(ConfigError::Unset { key: "path_to_output_folder" })
    }

    /// The configured header, when it is another than `User-Agent`.
    #[must_use]
    pub fn extra_header(&self) -> Option<(String, String)> {
        let (name, value) = split_header(self.downloader_parameters.header.as_deref()?)?;
        (!name.eq_ignore_ascii_case("user-agent")).then(|| (name.to_owned(), value.to_owned()))
    }
}

/// A `User-Agent` that names a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAgent(String);

impl UserAgent {
    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The user agent of a download: `user_agent`, else distributed-downloader's `header`.
///
/// # Errors
/// `NoContact` when there is none, when it has neither an e-mail address nor a URL, or when it could
/// not stand in a header.
pub fn contact_of(settings: &Settings) -> Result<UserAgent, ConfigError> {
    let header = settings.downloader_parameters.header.as_deref().and_then(split_header);
    let from_header =
        header.filter(|(name, _)| name.eq_ignore_ascii_case("user-agent")).map(|(_, value)| value);
    let user_agent = match settings.user_agent.trim() {
        "" => from_header.unwrap_or_default(),
        text => text,
    };
    let has_contact = user_agent.split(is_separator).any(|word| is_email(word) || is_web_address(word));
    if has_contact && !user_agent.contains(char::is_control) {
        Ok(UserAgent(user_agent.to_owned()))
    } else {
        Err(ConfigError::NoContact { user_agent: user_agent.escape_debug().to_string() })
    }
}

/// What stands around contacts in user agents: `name/1.0 (+https://...; mailto:me@x.org)`.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '<' | '>' | '[' | ']' | ',' | ';' | '"' | '\'')
}

fn is_email(word: &str) -> bool {
    let word = word.strip_prefix("mailto:").unwrap_or(word);
    word.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && is_domain(domain))
}

fn is_web_address(word: &str) -> bool {
    let word = word.strip_prefix('+').unwrap_or(word);
    let rest = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"));
    rest.is_some_and(|rest| is_domain(rest.split(['/', '?', '#', ':']).next().unwrap_or_default()))
}

/// Labels with at least one dot between; what else a domain is, mail and web know best.
fn is_domain(text: &str) -> bool {
    text.contains('.')
        && text.split('.').all(|label| !label.is_empty())
        && text.chars().all(|c| c.is_alphanumeric() || c == '.' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve::parse;

    fn settings(text: &str) -> Settings {
        Settings::of(&parse("t", text).unwrap()).unwrap()
    }

    #[test]
    fn downloads_need_a_contact() {
        let check = |user_agent: &str, expect: bool| {
            let settings = Settings { user_agent: user_agent.to_owned(), ..settings("") };
            assert_eq!(contact_of(&settings).is_ok(), expect, "{user_agent}");
        };
        check("me@x.org", true);
        check("tree-of-life/2.0 (+https://example.org/bot; mailto:me@example.org)", true);
        check("bot (https://example.org)", true);
        check("bot <me@müseum.example>", true);
        check("", false);
        check("Mozilla/5.0", false);
        check("me@localhost", false);
        check("@x.org", false);
        check("bot (https://)", false);
        check("me@x.org\r\nX-Evil: 1", false);
    }

    #[test]
    fn the_header_of_dd_is_the_user_agent_or_a_further_header() {
        let agent = settings("downloader_parameters: {header: 'User-Agent: me@x.org'}");
        assert_eq!(contact_of(&agent).unwrap().as_str(), "me@x.org");
        assert_eq!(agent.extra_header(), None);

        let both = Settings { user_agent: "you@y.org".to_owned(), ..agent };
        assert_eq!(contact_of(&both).unwrap().as_str(), "you@y.org");

        let other = settings("downloader_parameters: {header: 'X-Project: a: b'}");
        assert_eq!(other.extra_header(), Some(("X-Project".to_owned(), "a: b".to_owned())));
        assert!(contact_of(&other).is_err());
    }

    #[test]
    fn input_and_output_have_no_default() {
        let empty = settings("");
        let error = empty.inputs().unwrap_err();
        assert_eq!(error.to_string(), "`path_to_input` is not set");
        assert!(error.hint().unwrap().contains("--set path_to_input="));
        assert!(empty.output_folder().is_err());
        let set = settings("path_to_input: a.csv\npath_to_output_folder: out\n");
        assert_eq!(set.inputs().unwrap(), [PathBuf::from("a.csv")]);
        assert_eq!(set.output_folder().unwrap(), &PathBuf::from("out"));
    }
}
