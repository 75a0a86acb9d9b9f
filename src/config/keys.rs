//! What a key of the configuration is, and how keys are found. `table.rs` has all of them.

mod table;

pub use table::{GROUPS, KEYS};
pub(super) use table::{RENDITION_KEYS, SERVER_KEYS};

use crate::model::num_typos;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Where it stands in the file, levels joined by dots.
    pub path: &'static str,
    pub kind: Kind,
    /// As a user would write it; empty: nothing.
    pub default: &'static str,
    pub family: Family,
    /// What it does, and why the default is what it is. Markdown.
    pub doc: &'static str,
    /// 0 stands for "not set", as in distributed-downloader's example file.
    pub zero_is_unset: bool,
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Distributed-downloader's, with its name and meaning.
    Dd,
    /// Ours.
    Ddl,
}

/// What a value may be. Bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Bool,
    Integer {
        min: u64,
        max: u64,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// In seconds.
    Duration {
        min: f64,
        max: f64,
    },
    Bytes {
        min: u64,
        max: u64,
    },
    Text,
    /// One of these words, whatever the case.
    Choice(&'static [&'static str]),
    /// A file or folder, relative to the working folder.
    Path,
    /// A relative path below the output folder.
    Inside,
    /// One HTTP header, `Name: value`.
    Header,
    /// Several texts; one alone may be written without brackets.
    List,
    /// A proxy's URL, or a word: `environment`, `none`.
    Proxy,
    /// Several of curl's `--connect-to` triples.
    ConnectTo,
    /// Several addresses or networks.
    Addresses,
    /// Positive whole numbers to positive whole numbers.
    Rules,
    /// Servers to what is set for each: the keys of a rule.
    Servers,
    /// A regular expression.
    Pattern,
    /// A list of rules: the keys of each.
    Renditions,
}

impl Key {
    /// The last word of the path.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The group that the key stands in; empty at the top level.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(group, _)| group)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("DDL_{}", self.path.to_ascii_uppercase().replace('.', "__"))
    }
}

/// Position of a key in [`KEYS`].
pub(super) fn position(path: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.path == path)
}

/// The documentation of a group of keys, if there is such a group.
pub(super) fn group_doc(path: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(group, _)| *group == path).map(|(_, doc)| *doc)
}

/// The known key or group that a wrong one was most likely meant to be.
///
/// The last words are compared first: a key at the wrong level is as frequent as a misspelt one.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let (group, name) = path.rsplit_once('.').unwrap_or(("", path));
    let distance = |key: &'static str| {
        let (key_group, key_name) = key.rsplit_once('.').unwrap_or(("", key));
        num_typos(name, key_name).map(|typos| (typos * 2 + usize::from(group != key_group), key))
    };
    let groups = GROUPS.iter().map(|(group, _)| *group);
    KEYS.iter().map(|key| key.path).chain(groups).filter_map(distance).min().map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn paths_and_variables_are_unique_and_their_groups_documented() {
        let mut seen = HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.path) && seen.insert(&key.variable().leak()[..]), "{}", key.path);
            assert!(key.group().is_empty() || group_doc(key.group()).is_some(), "{}", key.path);
            assert!(key.doc.ends_with(['.', ')']), "{}: a sentence", key.path);
        }
        for (group, _) in GROUPS {
            assert!(KEYS.iter().any(|key| key.group() == *group), "{group} is empty");
            assert!(seen.insert(group), "{group} is also a key");
        }
    }

    #[test]
    fn wrong_keys_find_the_one_that_was_meant() {
        let check = |wrong: &str, expect: Option<&str>| assert_eq!(nearest(wrong), expect, "{wrong}");
        check("downloader_parameters.batch_sise", Some("downloader_parameters.batch_size"));
        check("batch_size", Some("downloader_parameters.batch_size"));
        check("useragent", Some("user_agent"));
        check("user-agent", Some("user_agent"));
        check("tools_parameters.max_node", Some("tools_parameters.max_nodes"));
        check("max_redirects", Some("downloader_parameters.max_redirects"));
        check("downloader_paramters", Some("downloader_parameters"));
        check("entirely_unrelated_words", None);
        check("", None);
        check(&"a".repeat(1 << 20), None);
    }
}
