//! From all sources to one value per key, each with its origin.
//!
//! Flags and `--set` win over the environment, that over files (later over earlier), those over the
//! defaults of the table. An empty value or `null` sets a key back to its default, so a later source
//! can undo an earlier one. Empty environment variables count as not there, as is usual for them.
//!
//! Keys of proxies that say `environment` take what the variables of other programs say, after all sources.
//!
//! This file and `slurm/env.rs` are the only ones that read the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ConfigError, ProblemKind, Problems};
use super::keys::{self, KEYS, Kind};
use super::value::{Value, show_found};
use super::{file, legacy, validate};
use crate::download::RenditionRule;
use crate::fetch::ProxyUrl;

/// The file that is read when none is named, in the working folder.
pub const DEFAULT_FILE: &str = "ddl.yaml";
/// Names the file when neither a flag nor the working folder does.
const FILE_VARIABLE: &str = "DDL_CONFIG";
const VARIABLE_PREFIX: &str = "DDL_";
/// Variables that the command of a tool gets, in which it may run ddl.
const TOOL_PREFIX: &str = "DDL_TOOL_";
/// What a key of proxies says to be taken from the environment, and to be none at all.
const FROM_ENVIRONMENT: &str = "environment";
const NONE: &str = "none";
/// Where it is then taken from: the first that is set. Small letters come first, as for curl.
const PROXY_VARIABLES: [(&str, &[&str]); 3] = [
    ("http_proxy", &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
    ("https_proxy", &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
    ("no_proxy", &["no_proxy", "NO_PROXY"]),
];

/// The sources of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Files named by `-c`: each must exist, later ones win. None: `ddl.yaml` in the working folder,
    /// else what `DDL_CONFIG` names, else only defaults.
    pub files: Vec<PathBuf>,
    /// Usually [`Environment::of_process`].
    pub environment: Environment,
    /// From the command line.
    pub overrides: Overrides,
}

/// Variables whose names begin with `DDL_`, and those that name proxies.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of(std::env::vars_os())
    }

    /// Those among the given ones.
    pub fn of<K: AsRef<OsStr>, V: Into<OsString>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let ours = variables.into_iter().filter_map(|(name, value)| {
            let is_ours = |name: &&str| name.starts_with(VARIABLE_PREFIX) || is_of_proxies(name);
            let name = name.as_ref().to_str().filter(is_ours)?.to_owned();
            Some((name, value.into())).filter(|(_, value)| !value.is_empty())
        });
        let mut ours: Vec<_> = ours.collect();
        // The system gives them in any order; problems should not come in any order.
        ours.sort();
        Self(ours)
    }

    fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }
}

fn is_of_proxies(variable: &str) -> bool {
    PROXY_VARIABLES.iter().any(|(_, variables)| variables.contains(&variable))
}

/// What the command line sets; later ones win.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Clone, Debug)]
struct Override {
    flag: String,
    /// Key and value, or text that is no assignment.
    assignment: Result<(String, Given), String>,
}

#[derive(Clone, Debug)]
enum Given {
    Text(String),
    List(Vec<String>),
}

impl Overrides {
    /// The argument of `--set`: `key.path=value`. What is wrong with it is said by [`load`].
    pub fn set(&mut self, assignment: &str) {
        let parts = assignment.split_once('=').filter(|(key, _)| !key.trim().is_empty());
        let assignment = parts
            .map(|(key, value)| (key.trim().to_owned(), Given::Text(value.to_owned())))
            .ok_or_else(|| assignment.to_owned());
        self.0.push(Override { flag: "--set".to_owned(), assignment });
    }

    /// A flag of its own that sets a key, such as `--rate`.
    pub fn flag(&mut self, flag: &str, key: &str, value: impl Into<String>) {
        let assignment = Ok((key.to_owned(), Given::Text(value.into())));
        self.0.push(Override { flag: flag.to_owned(), assignment });
    }

    /// Arguments that set a key of texts, such as `INPUT...`; each is taken as it is.
    pub fn list(&mut self, flag: &str, key: &str, values: Vec<String>) {
        let assignment = Ok((key.to_owned(), Given::List(values)));
        self.0.push(Override { flag: flag.to_owned(), assignment });
    }
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A rule of a server that ddl knows and ships.
    Known,
    /// The line is counted from 1; a problem of the whole file has none.
    File { path: Arc<Path>, line: Option<u32> },
    /// The variable's name.
    Environment(String),
    /// The flag, such as `--set`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Known => f.write_str("known to ddl (config/servers.yaml); only tightens"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable `{name}`"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Something worth a word in the log that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A key of a predecessor that has no effect here. For a debug line.
    Unused { key: String, at: Origin, reason: &'static str },
    /// A value of a predecessor that is more than it can be here. For a warning.
    CountsAs { key: String, at: Origin, value: String, reason: &'static str },
    /// A variable that begins with `DDL_` and is no key. For a warning: it may belong to somebody else.
    UnknownVariable { name: String, nearest: Option<String> },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unused { key, at, reason } => write!(f, "{at}: `{key}` has no effect: {reason}"),
            Self::CountsAs { key, at, value, reason } => {
                write!(f, "{at}: `{key}` counts as `{value}`: {reason}")
            }
            Self::UnknownVariable { name, nearest: Some(nearest) } => {
                write!(f, "environment variable `{name}` is no key, did you mean `{nearest}`?")
            }
            Self::UnknownVariable { name, nearest: None } => {
                write!(f, "environment variable `{name}` is no key")
            }
        }
    }
}

/// What one source sets.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// Position in the table, value (`None`: back to the default), origin.
    values: Vec<(usize, Option<Value>, Origin)>,
    pub(super) notices: Vec<Notice>,
}

impl Layer {
    pub(super) fn set(&mut self, key: usize, value: Option<Value>, origin: Origin) {
        self.values.push((key, value, origin));
    }
}

/// A value for every key of the table.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Parallel to [`KEYS`].
    entries: Vec<(Value, Origin)>,
    /// Where the rule of each of `servers` was set.
    server_origins: BTreeMap<String, Origin>,
    notices: Vec<Notice>,
    files: Vec<PathBuf>,
}

impl Resolved {
    fn defaults() -> Self {
        let entries = KEYS.iter().map(|key| (Value::default_of(key), Origin::Default)).collect();
        Self { entries, server_origins: BTreeMap::new(), notices: Vec::new(), files: Vec::new() }
    }

    fn apply(&mut self, layer: Layer) {
        for (key, value, origin) in layer.values {
            let value = value.unwrap_or_else(|| Value::default_of(&KEYS[key]));
            let value = match legacy::counts_as(KEYS[key].path, &value) {
                Some((less, reason)) => {
                    let (key, value) = (KEYS[key].path.to_owned(), less.to_yaml());
                    self.notices.push(Notice::CountsAs { key, at: origin.clone(), value, reason });
                    less
                }
                None => value,
            };
            let value = if KEYS[key].kind == Kind::Servers { self.join(key, value, &origin) } else { value };
            self.entries[key] = (value, origin);
        }
        self.notices.extend(layer.notices);
    }

    /// Servers join those of earlier sources; none at all sets them back.
    fn join(&mut self, key: usize, value: Value, origin: &Origin) -> Value {
        let (Value::Map(mut known), Value::Map(newer)) = (self.entries[key].0.clone(), value) else {
            return Value::default_of(&KEYS[key]);
        };
        if newer.is_empty() {
            known.clear();
            self.server_origins.clear();
        }
        self.server_origins.extend(newer.keys().map(|name| (name.clone(), origin.clone())));
        known.extend(newer);
        Value::Map(known)
    }

    /// Puts what the environment says in place of that word; nothing in place of `none`.
    fn take_proxies(&mut self, environment: &Environment) {
        for (key, variables) in PROXY_VARIABLES {
            let Some(key) = keys::position(key) else { continue };
            let (value, origin) = &mut self.entries[key];
            let is_word = |word: &str| match &*value {
                Value::Text(text) => text == word,
                Value::List(texts) => matches!(&texts[..], [text] if text == word),
                _ => false,
            };
            let from_environment = is_word(FROM_ENVIRONMENT);
            if !from_environment && !is_word(NONE) {
                continue;
            }
            let found = variables.iter().find_map(|name| Some((*name, environment.get(name)?)));
            let found = found.filter(|_| from_environment);
            let text = found.map(|(_, text)| text.to_string_lossy()).unwrap_or_default();
            *value = match &*value {
                Value::List(_) => {
                    let texts = text.split([',', ' ']).filter(|text| !text.is_empty());
                    Value::List(texts.map(str::to_owned).collect())
                }
                // One that cannot be used stops downloads, not other commands.
                _ if !text.is_empty() => Value::Text(ProxyUrl::new(&text).into()),
                _ => Value::Text(NONE.to_owned()),
            };
            if let Some((name, _)) = found {
                *origin = Origin::Environment(name.to_owned());
            }
        }
    }

    /// Parameters of controllers that nobody uses are worth a word.
    fn note_unused_controllers(&mut self) {
        let rule_of = |rule: &Value| match rule {
            Value::Map(rule) => rule.get("rate_control").cloned(),
            _ => None,
        };
        let mut used: Vec<Value> = self.get("rate_control").cloned().into_iter().collect();
        if let Some(Value::Map(servers)) = self.get("servers") {
            used.extend(servers.values().filter_map(rule_of));
        }
        for (controller, reason) in [
            ("paarc", "it is for `rate_control: paarc`, and no server has that"),
            ("aimd", "it is for `rate_control: aimd`, and no server has that"),
        ] {
            if used.contains(&Value::Text(controller.to_owned())) {
                continue;
            }
            let of_controller = KEYS.iter().zip(&self.entries).filter(|(key, _)| key.group() == controller);
            let set = of_controller.filter(|(key, (value, _))| *value != Value::default_of(key));
            let notices =
                set.map(|(key, (_, at))| Notice::Unused { key: key.path.to_owned(), at: at.clone(), reason });
            self.notices.extend(notices.collect::<Vec<_>>());
        }
    }

    /// Where the rule of a server was set, if `servers` has one.
    pub(super) fn server_origin(&self, server: &str) -> Option<&Origin> {
        self.server_origins.get(server)
    }

    /// The value of a key; `None` when the table has no such key.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        keys::position(path).map(|key| &self.entries[key].0)
    }

    /// Where the value of a key was set; `None` when the table has no such key.
    #[must_use]
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        keys::position(path).map(|key| &self.entries[key].1)
    }

    /// Value and origin of every key, in the order of the table.
    pub(super) fn entries(&self) -> &[(Value, Origin)] {
        &self.entries
    }

    /// Whether any file was read.
    #[must_use]
    pub fn has_file(&self) -> bool {
        !self.files.is_empty()
    }

    /// The files that were read, in the order in which later ones win.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What the log should mention.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// Reads all sources.
///
/// # Errors
/// `Unreadable` for a file that cannot be read; `Invalid` with all problems of all sources.
pub fn load(chain: &Chain) -> Result<Resolved, ConfigError> {
    let mut texts = Vec::new();
    for path in files(chain) {
        let bytes = file::read(&path)?;
        texts.push((Arc::from(path), bytes));
    }
    resolve(&texts, &chain.environment, &chain.overrides)
}

/// Reads all sources over a text, which counts as the first of the files: the settings of a work unit. Of files only
/// those that `chain` names are read. `name` stands in messages where a path would.
///
/// # Errors
/// As [`load`].
pub fn load_over(name: &str, text: &str, chain: &Chain) -> Result<Resolved, ConfigError> {
    let mut texts = vec![(Arc::from(Path::new(name)), text.as_bytes().to_owned())];
    for path in &chain.files {
        texts.push((Arc::from(&**path), file::read(path)?));
    }
    resolve(&texts, &chain.environment, &chain.overrides)
}

/// Reads one text, as [`to_yaml`](super::to_yaml) writes it, and nothing else: for ranks that take over
/// the settings of rank 0. `name` stands in messages where a path would.
///
/// # Errors
/// `Invalid` with all problems of the text.
pub fn parse(name: &str, text: &str) -> Result<Resolved, ConfigError> {
    let texts = [(Arc::from(Path::new(name)), text.as_bytes().to_owned())];
    resolve(&texts, &Environment::default(), &Overrides::default())
}

/// Rules of servers that ddl knows and ships: a configuration of which only `servers` counts.
///
/// # Errors
/// None, as a test holds.
pub fn known_servers() -> Result<Resolved, ConfigError> {
    parse("config/servers.yaml", include_str!("../../config/servers.yaml"))
}

/// Renditions that ddl knows of and ships: a configuration of which only `renditions` counts.
///
/// # Errors
/// None, as a test holds.
pub fn known_renditions() -> Result<Vec<RenditionRule>, ConfigError> {
    parse("config/renditions.yaml", include_str!("../../config/renditions.yaml"))?.read("renditions")
}

fn resolve(
    texts: &[(Arc<Path>, Vec<u8>)],
    environment: &Environment,
    overrides: &Overrides,
) -> Result<Resolved, ConfigError> {
    let mut problems = Problems::default();
    let mut resolved = Resolved::defaults();
    resolved.files = texts.iter().map(|(path, _)| path.to_path_buf()).collect();
    for (path, bytes) in texts {
        resolved.apply(file::layer(path, bytes, &mut problems));
    }
    resolved.apply(environment_layer(environment, &mut problems));
    resolved.apply(override_layer(overrides, &mut problems));
    resolved.take_proxies(environment);
    resolved.note_unused_controllers();
    // What is wrong in itself would be reported twice.
    if problems.list.is_empty() {
        validate::check(&resolved, &mut problems);
    }
    problems.or(resolved)
}

fn files(chain: &Chain) -> Vec<PathBuf> {
    if !chain.files.is_empty() {
        return chain.files.clone();
    }
    let default = PathBuf::from(DEFAULT_FILE);
    if default.exists() {
        return vec![default];
    }
    chain.environment.get(FILE_VARIABLE).map(PathBuf::from).into_iter().collect()
}

fn environment_layer(environment: &Environment, problems: &mut Problems) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in &environment.0 {
        if name == FILE_VARIABLE || name.starts_with(TOOL_PREFIX) || is_of_proxies(name) {
            continue;
        }
        let at = Origin::Environment(name.clone());
        let Some(key) = KEYS.iter().position(|key| key.variable() == *name) else {
            let path = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            let nearest = keys::nearest(&path).and_then(keys::position).map(|key| KEYS[key].variable());
            layer.notices.push(Notice::UnknownVariable { name: name.clone(), nearest });
            continue;
        };
        match value.to_str() {
            Some(text) => set_text(&mut layer, key, text, at, problems),
            None => problems.push(at, ProblemKind::NotUtf8 { key: KEYS[key].path }),
        }
    }
    layer
}

fn override_layer(overrides: &Overrides, problems: &mut Problems) -> Layer {
    let mut layer = Layer::default();
    for Override { flag, assignment } in &overrides.0 {
        let at = Origin::Flag(flag.clone());
        let (path, given) = match assignment {
            Ok(assignment) => assignment,
            Err(text) => {
                problems.push(at, ProblemKind::NotAnAssignment { text: show_found(text) });
                continue;
            }
        };
        let Some(key) = keys::position(path) else {
            let nearest = keys::nearest(path);
            problems.push(at, ProblemKind::UnknownKey { key: show_found(path), nearest, nested: None });
            continue;
        };
        match given {
            Given::List(texts) if KEYS[key].kind == Kind::List => {
                layer.set(key, Some(Value::List(texts.clone())), at);
            }
            Given::List(texts) => set_text(&mut layer, key, &texts.join(" "), at, problems),
            Given::Text(text) => set_text(&mut layer, key, text, at, problems),
        }
    }
    layer
}

fn set_text(layer: &mut Layer, key: usize, text: &str, at: Origin, problems: &mut Problems) {
    match Value::from_text(&KEYS[key], text) {
        Ok(value) => layer.set(key, value, at),
        Err(wrong) => problems.push(at, ProblemKind::wrong_value(&KEYS[key], wrong)),
    }
}
