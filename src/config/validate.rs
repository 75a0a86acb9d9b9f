//! Rules between keys: values that are right one by one and wrong together.
//!
//! Each rule is here because breaking it would stop the program later, silently or for ever.

use std::path::Path;

use super::error::{ProblemKind, Problems};
use super::keys::KEYS;
use super::resolve::{Origin, Resolved};
use super::value::Value;

/// The catalog; what stands beside it (its lock) begins with its name.
const CATALOG: &str = "catalog.redb";
/// What ddl makes beside it, whatever the configuration.
const OWN_FOLDERS: [&str; 3] = ["status", "exports", "tmp"];
/// Folders in which ddl removes what no commit names.
const SWEPT: [&str; 2] = ["output_structure.urls_folder", "output_structure.images_folder"];

/// Checks all rules.
pub(super) fn check(resolved: &Resolved, problems: &mut Problems) {
    let checker = Checker { resolved };
    checker.resize_needs_an_encoding(problems);
    checker.memory_holds_one_of_each(problems);
    checker.every_server_has_a_rule(problems);
    checker.names_in_the_output_differ(problems);
}

struct Checker<'a> {
    resolved: &'a Resolved,
}

impl Checker<'_> {
    fn resize_needs_an_encoding(&self, problems: &mut Problems) {
        let (encoding, size) = ("image_encoding", "downloader_parameters.image_size");
        if self.text(encoding) == "original" && self.number(size) > 0 {
            let message = format!(
                "`{encoding}: original` keeps every image as it is, but `{size}` is {}",
                self.show(size)
            );
            let hint =
                "`image_encoding: auto` keeps images that need no resize; `image_size: 0` resizes none";
            problems.push(self.blame(&[encoding, size]), ProblemKind::Conflict { message, hint });
        }
    }

    /// Memory is handed out before it is used: what never fits would wait for ever.
    fn memory_holds_one_of_each(&self, problems: &mut Problems) {
        const RULES: &[(&str, &str, u64, &str)] = &[
            (
                "downloader_parameters.decode_memory",
                "downloader_parameters.max_image_pixels",
                3,
                "a decoded pixel takes 3 bytes: raise `decode_memory` or lower `max_image_pixels`",
            ),
            (
                "downloader_parameters.part_memory",
                "downloader_parameters.row_group_bytes",
                1,
                "raise `part_memory` or lower `row_group_bytes`",
            ),
            (
                "downloader_parameters.part_bytes",
                "downloader_parameters.row_group_bytes",
                1,
                "a part has at least one row group: raise `part_bytes` or lower `row_group_bytes`",
            ),
            (
                "ingest_parameters.memory_bytes",
                "ingest_parameters.max_row_bytes",
                1,
                "raise `memory_bytes` or lower `max_row_bytes`",
            ),
            (
                "ingest_parameters.max_row_bytes",
                "ingest_parameters.max_url_bytes",
                1,
                "a row holds its URL: raise `max_row_bytes` or lower `max_url_bytes`",
            ),
        ];
        for (large, small, factor, hint) in RULES {
            if self.number(large) < self.number(small).saturating_mul(*factor) {
                let (large_value, small_value) = (self.show(large), self.show(small));
                let message = format!("`{large}` ({large_value}) is too small for `{small}` ({small_value})");
                problems.push(self.blame(&[large, small]), ProblemKind::Conflict { message, hint });
            }
        }
    }

    fn every_server_has_a_rule(&self, problems: &mut Problems) {
        let key = "schedule_rules";
        let has_first = matches!(self.resolved.get(key), Some(Value::Rules(rules)) if rules.contains_key(&1));
        if !has_first {
            let message =
                format!("`{key}` has no rule for 1: servers with few partitions would never be asked");
            problems.push(self.blame(&[key]), ProblemKind::Conflict { message, hint: "add `1: 1`" });
        }
    }

    /// Names are relative and without `..` or `.`, so that equal places have equal names.
    fn names_in_the_output_differ(&self, problems: &mut Problems) {
        let keys: Vec<_> = KEYS.iter().filter(|key| key.group() == "output_structure").collect();
        let conflict = |keys: &[&str], message| {
            (self.blame(keys), ProblemKind::Conflict { message, hint: "each needs a place of its own" })
        };
        for (at, key) in keys.iter().map(|key| key.path).enumerate() {
            let name = self.text(key);
            let first = Path::new(name).iter().next().unwrap_or_default().to_string_lossy();
            if first.starts_with(CATALOG) || OWN_FOLDERS.contains(&&*first) {
                let (at, kind) =
                    conflict(&[key], format!("`{key}` is `{name}`, which ddl itself keeps there"));
                problems.push(at, kind);
            }
            for other in keys.iter().map(|other| other.path).enumerate().filter(|(of, _)| *of != at) {
                let (of, other) = other;
                let other_name = self.text(other);
                let message = if Path::new(name) == Path::new(other_name) {
                    if of > at {
                        continue;
                    }
                    format!("`{key}` and `{other}` are both `{name}`")
                } else if SWEPT.contains(&other) && Path::new(name).starts_with(other_name) {
                    format!("`{key}` (`{name}`) lies within `{other}` (`{other_name}`)")
                } else {
                    continue;
                };
                let (at, kind) = conflict(&[key, other], message);
                problems.push(at, kind);
            }
        }
    }

    fn text(&self, path: &str) -> &str {
        match self.resolved.get(path) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    fn number(&self, path: &str) -> u64 {
        match self.resolved.get(path) {
            Some(Value::Integer(number) | Value::Bytes(number)) => *number,
            _ => 0,
        }
    }

    fn show(&self, path: &str) -> String {
        self.resolved.get(path).map(Value::to_yaml).unwrap_or_default()
    }

    /// Where to look: the first of the keys that somebody set.
    fn blame(&self, paths: &[&str]) -> Origin {
        let mut origins = paths.iter().filter_map(|path| self.resolved.origin(path));
        origins.find(|origin| **origin != Origin::Default).cloned().unwrap_or(Origin::Default)
    }
}
