//! The table and its values as text: `ddl config show`, `ddl init`, and the files in `config/`.

use std::fmt::Write;

use super::keys::{Family, GROUPS, KEYS, Key, Kind};
use super::legacy;
use super::resolve::{Origin, Resolved, known_servers};
use super::value::Value;
use crate::model::mask_credentials;

/// Columns of comments in YAML files.
const WIDTH: usize = 100;
/// The group whose keys are all of one kind: its comment says all.
const SCRIPTS: &str = "scripts";

/// One line of `ddl config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownValue {
    /// Its path; the rule of a server is below `servers`.
    pub key: String,
    /// As it would stand in a YAML file.
    pub value: String,
    pub origin: Origin,
}

/// Every value and where it came from, in the order of the table; then the rules of single servers, those that ddl
/// knows first.
#[must_use]
pub fn show(resolved: &Resolved) -> Vec<ShownValue> {
    let shown = |(key, (value, origin)): (&Key, &(Value, Origin))| {
        // They have lines of their own.
        let value = match key.kind {
            Kind::Servers => "see below".to_owned(),
            Kind::Proxy => mask_credentials(&value.to_yaml()).into_owned(),
            _ => value.to_yaml(),
        };
        ShownValue { key: key.path.to_owned(), value, origin: origin.clone() }
    };
    let mut lines: Vec<_> = KEYS.iter().zip(resolved.entries()).map(shown).collect();
    if let Ok(known) = known_servers() {
        lines.extend(rules(&known, |_| Origin::Known));
    }
    lines
        .extend(rules(resolved, |server| resolved.server_origin(server).cloned().unwrap_or(Origin::Default)));
    lines
}

fn rules(resolved: &Resolved, origin: impl Fn(&str) -> Origin) -> Vec<ShownValue> {
    let Some(Value::Map(servers)) = resolved.get("servers") else { return Vec::new() };
    let shown = |(server, rule): (&String, &Value)| ShownValue {
        key: format!("servers.{server}"),
        value: rule.to_yaml(),
        origin: origin(server),
    };
    servers.iter().map(shown).collect()
}

/// All values as one YAML file, for storing with a run and for people: without the passwords of proxies.
#[must_use]
pub fn to_yaml(resolved: &Resolved) -> String {
    mask_credentials(&to_yaml_for_ranks(resolved)).into_owned()
}

/// All values as one YAML file, passwords included, for the other ranks of a run; [`parse`](super::parse) reads it back.
#[must_use]
pub fn to_yaml_for_ranks(resolved: &Resolved) -> String {
    let mut text = String::new();
    for (group, keys) in grouped() {
        let indent = if group.is_empty() { "" } else { "  " };
        if !group.is_empty() {
            let _ = writeln!(text, "{group}:");
        }
        for (position, key) in keys {
            let _ = writeln!(text, "{indent}{}: {}", key.name(), resolved.entries()[position].0.to_yaml());
        }
    }
    text
}

/// The settings that go with a work unit, as YAML, and the keys that are left out of it because they may hold a secret.
/// Paths and proxies are those of one site, and what tools and lists are about is of no use to a download: they are left
/// out, too.
#[must_use]
pub fn to_yaml_for_units(resolved: &Resolved) -> (String, Vec<&'static str>) {
    let mut text = String::new();
    let mut secret = Vec::new();
    for (group, keys) in grouped() {
        let mut lines = String::new();
        let indent = if group.is_empty() { "" } else { "  " };
        for (position, key) in keys {
            let value = &resolved.entries()[position].0;
            if key.kind == Kind::Header && !is_public_header(value) {
                secret.push(key.path);
            } else if travels(key) {
                let _ = writeln!(lines, "{indent}{}: {}", key.name(), value.to_yaml());
            }
        }
        if !group.is_empty() && !lines.is_empty() {
            let _ = writeln!(text, "{group}:");
        }
        text += &lines;
    }
    (text, secret)
}

fn travels(key: &Key) -> bool {
    let is_of_site = matches!(key.kind, Kind::Proxy | Kind::Path) || key.path == "no_proxy";
    let is_of_download = !matches!(
        key.group(),
        "columns"
            | "ingest_parameters"
            | "query_parameters"
            | "tools_parameters"
            | "unit_parameters"
            | "slurm_parameters"
            | "scripts"
            | "output_structure"
    );
    let is_certificate = key.path == "ca_certificate";
    is_of_download && (!is_of_site || is_certificate) && key.path != "path_to_input"
}

/// Headers that nobody puts a secret into.
fn is_public_header(header: &Value) -> bool {
    let Value::Text(header) = header else { return true };
    let name = header.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
    name.is_empty()
        || name.starts_with("accept")
        || ["user-agent", "from", "referer", "dnt"].contains(&&*name)
}

/// What `ddl init` writes.
#[must_use]
pub fn starter_file() -> String {
    let mut text = String::from(
        "# ddl: from a list of image URLs to a clean dataset.\n\
         # Fill in the first three, then: ddl ingest, ddl download, ddl query.\n\
         # Everything else has a default; `ddl config show` prints all keys.\n\n\
         # The list: CSV, TSV, Parquet, a Darwin Core archive; one path or a list of paths.\n\
         path_to_input:\n\n\
         # Where everything is written.\n\
         path_to_output_folder: dataset\n\n\
         # Sent with every request; it must name a contact (an e-mail address or a URL),\n\
         # for instance: my-project/1.0 (me@institute.org)\n\
         user_agent:\n\n\
         # The columns of URLs and of classes, when they cannot be guessed from their names.\n\
         columns:\n  url:\n  label:\n\n\
         downloader_parameters:\n",
    );
    for (path, doc) in [
        (
            "downloader_parameters.image_size",
            "Longest side in pixels; larger images are scaled down. 0 keeps every size.",
        ),
        (
            "downloader_parameters.default_rate_limit",
            "Most requests per second to one server, over all processes together.",
        ),
        (
            "downloader_parameters.max_connections_per_server",
            "Most requests under way to one server at once.",
        ),
    ] {
        let key = KEYS.iter().find(|key| key.path == path);
        let _ = key.map(|key| writeln!(text, "{}  {}: {}", comment("  ", doc), key.name(), key.default));
    }
    text
}

/// `config/default.yaml`: every key with its default and its documentation.
#[must_use]
pub fn default_file() -> String {
    let mut text = String::from(
        "# Every key of ddl with its default. Made from the table in src/config/keys.rs.\n\
         # An empty value stands for the default. Durations: 1500ms, 30s, 5m, 1h, or seconds.\n\
         # Sizes: 64 MiB, 100MB, or bytes.\n",
    );
    for (group, keys) in grouped() {
        let indent = if group.is_empty() { "" } else { "  " };
        if let Some((_, doc)) = GROUPS.iter().find(|(known, _)| *known == group) {
            let _ = write!(text, "\n{}{group}:\n", comment("", doc));
        }
        for (position, key) in keys {
            // Thirteen times the same sentence says less than once, in the group's comment.
            let is_script = group == SCRIPTS;
            let doc = if is_script { String::new() } else { comment(indent, key.doc) };
            let separator = if is_script { "" } else { "\n" };
            let value = Value::default_of(&KEYS[position]).to_yaml();
            let _ = writeln!(text, "{separator}{doc}{indent}{}: {value}", key.name());
        }
    }
    text
}

/// `config/README.md`: the reference.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(REFERENCE_HEAD);
    for (group, keys) in grouped() {
        match GROUPS.iter().find(|(known, _)| *known == group) {
            Some((_, doc)) => {
                let _ = write!(text, "\n## {group}\n\n{doc}\n");
            }
            None => text.push_str("\n## Top level\n"),
        }
        if group == SCRIPTS {
            let names: Vec<_> = keys.iter().map(|(_, key)| format!("`{}`", key.name())).collect();
            let _ = write!(text, "\n{}.\n", names.join(", "));
            continue;
        }
        text.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        for (_, key) in keys {
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            let star = if key.family == Family::Dd { " *" } else { "" };
            let expected = key.kind.expected();
            let _ = writeln!(text, "| `{}`{star} | {expected} | {default} | {} |", key.name(), key.doc);
        }
    }
    text.push_str(
        "\n## FLOW-DC\n\nA JSON file of FLOW-DC's `download_batch` or TaskVine manager works as it is (`ddl run CONFIG.json`). \
         Where its images go (`output`), the dataset stands beside, with `.ddl` behind the name. These of its keys, at the top level, mean the same as ours:\n\n| FLOW-DC | ddl |\n|---|---|\n",
    );
    for (name, key) in legacy::aliases() {
        let _ = writeln!(text, "| `{name}` | `{key}` |");
    }
    text.push_str(
        "\nIts other keys (jobs, other controllers) are accepted and have no effect; `-v` names them.\n",
    );
    text
}

const REFERENCE_HEAD: &str = "\
# Configuration

One YAML (or JSON) file, `ddl.yaml` in the working folder unless `-c FILE` or `DDL_CONFIG` names another.
All keys are optional but `path_to_input` (for `ddl ingest`), `path_to_output_folder` and `user_agent` (for `ddl download`).
This page is made from the table in `src/config/keys.rs`, as is [`default.yaml`](default.yaml).

| file | for |
|---|---|
| [`default.yaml`](default.yaml) | every key with its default |
| [`laptop.yaml`](laptop.yaml) | one machine with 4 GiB, sharing its network with people |
| [`gbif.yaml`](gbif.yaml) | a GBIF occurrence snapshot |
| [`slurm.yaml`](slurm.yaml) | many nodes under Slurm |
| [`servers.yaml`](servers.yaml) | what is known of single servers, with sources; always in force |
| [`renditions.yaml`](renditions.yaml) | smaller renditions of images that are known, with sources; for `rendition_size` |

## Where values come from

1. Flags and `--set key.path=value`;
2. the environment: `DDL_` and the path in capitals, with `__` for each dot: `DDL_DOWNLOADER_PARAMETERS__BATCH_SIZE=5000`;
3. files: with several `-c`, the later wins;
4. the defaults below; those of proxies look at the variables that other programs use (`https_proxy` ...).

`ddl config show` prints every value and where it came from.
A key that is not known is an error, as is a key that is set twice in one file.
An empty value or `null` in a file or in `--set` sets a key back to its default; an empty variable counts as not there.

## How values are written

- Durations: `1500ms`, `30s`, `5m`, `1h`, `2d`, or seconds.
- Sizes: `64 MiB` (1024), `100MB` (1000), or bytes. `64M` is refused, because it could mean either.
- Lists: a YAML list, or one text alone. In `--set` and in the environment: `[a.csv, b.csv]`, or one text.
- Relative paths start in the working folder; names in `output_structure` start in the output folder.

Keys with a * are those of distributed-downloader, with their meaning there: its files work as they are.
Its 0 for \"not set\" (`max_nodes: 0`) is taken so.
";

/// Groups in the order of the table, with positions and keys; the top level has no name.
fn grouped() -> Vec<(&'static str, Vec<(usize, &'static Key)>)> {
    let groups = std::iter::once("").chain(GROUPS.iter().map(|(group, _)| *group));
    let keys_of = |group: &str| KEYS.iter().enumerate().filter(|(_, key)| key.group() == group).collect();
    groups.map(|group| (group, keys_of(group))).collect()
}

/// Text as comment lines of at most [`WIDTH`] columns.
fn comment(indent: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut line = format!("{indent}#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(lines, "{line}");
            line = format!("{indent}#");
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(lines, "{line}");
    lines
}
