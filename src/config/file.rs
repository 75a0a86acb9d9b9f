//! One file: its keys against the table.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, ProblemKind, Problems};
use super::keys::{self, KEYS};
use super::legacy;
use super::resolve::{Layer, Notice, Origin};
use super::value::{Value, Wrong, show_found};
use super::yaml::{self, Data, MAX_FILE_BYTES, Name, Node};

/// Reads a file's bytes, one more than the limit at most.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

/// What a text called `path` sets. Problems are collected, so that all are reported at once.
pub(super) fn layer(path: &Arc<Path>, bytes: &[u8], problems: &mut Problems) -> Layer {
    let mut reader = Reader { path, problems, lines: HashMap::new(), layer: Layer::default() };
    if bytes.len() as u64 > MAX_FILE_BYTES {
        reader.problem(None, ProblemKind::TooLarge { limit_bytes: MAX_FILE_BYTES });
        return reader.layer;
    }
    match yaml::parse(bytes) {
        Ok(None) => {}
        Ok(Some(root)) => match &root.data {
            Data::Map(entries) => reader.map("", entries),
            Data::Null => {}
            _ => {
                let kind = ProblemKind::Syntax("expected a mapping of keys to values".to_owned());
                reader.problem(Some(root.line), kind);
            }
        },
        Err(error) => reader.problem(Some(error.line), ProblemKind::Syntax(error.reason)),
    }
    reader.layer
}

struct Reader<'a> {
    path: &'a Arc<Path>,
    problems: &'a mut Problems,
    /// Line on which each key of the table was set, under whatever name.
    lines: HashMap<usize, u32>,
    layer: Layer,
}

impl Reader<'_> {
    fn map(&mut self, group: &str, entries: &[(Name, impl AsRef<Node>)]) {
        let mut seen: HashMap<&str, u32> = HashMap::new();
        for (name, node) in entries {
            let path = if group.is_empty() { name.text.clone() } else { format!("{group}.{}", name.text) };
            if let Some(first_line) = seen.insert(&name.text, name.line) {
                let kind = ProblemKind::Duplicate { key: show_found(&path), first_line };
                self.problem(Some(name.line), kind);
            } else if group.is_empty() && gives_way(name, node.as_ref(), entries) {
                let at = self.at(Some(name.line));
                let reason = "another of FLOW-DC's names for the same is set";
                self.layer.notices.push(Notice::Unused { key: path, at, reason });
            } else {
                self.entry(group, &path, name, node.as_ref());
            }
        }
    }

    fn entry(&mut self, group: &str, path: &str, name: &Name, node: &Node) {
        // A name with a dot is not a path: `a.b: 1` and `a: {b: 1}` would be two ways to say one thing.
        let is_dotted = name.text.contains('.');
        let alias = if group.is_empty() { legacy::alias(path) } else { None };
        let key = keys::position(alias.unwrap_or(path)).filter(|_| !is_dotted);
        if let Some(key) = key {
            let translated = match &node.data {
                Data::Scalar(text) if alias.is_some() => legacy::translate(&name.text, text),
                _ => None,
            };
            let value = match translated {
                Some(text) => Value::from_text(&KEYS[key], text),
                None => Value::from_node(&KEYS[key], node),
            };
            let value =
                if alias == Some(legacy::EXPORT_OUTPUT) { self.split_output(name, value) } else { value };
            return self.set(key, name, value);
        }
        if !is_dotted && keys::group_doc(path).is_some() {
            return match &node.data {
                Data::Map(entries) => self.map(path, entries),
                Data::Null => {}
                _ => {
                    let kind = ProblemKind::WrongValue {
                        key: path.to_owned(),
                        found: "a single value or a list".to_owned(),
                        expected: "a mapping of keys below it".to_owned(),
                        nearest: None,
                    };
                    self.problem(Some(name.line), kind);
                }
            };
        }
        if let Some(reason) = legacy::unused_reason(path).filter(|_| group.is_empty()) {
            let at = self.at(Some(name.line));
            return self.layer.notices.push(Notice::Unused { key: path.to_owned(), at, reason });
        }
        let nested =
            keys::position(path).filter(|_| is_dotted).map(|key| (KEYS[key].group(), KEYS[key].name()));
        // Comparing with every key takes time, and a file may have a million wrong ones.
        let nearest = if self.problems.is_full() { None } else { keys::nearest(path) };
        self.problem(Some(name.line), ProblemKind::UnknownKey { key: show_found(path), nearest, nested });
    }

    /// FLOW-DC's folder of images, which also says where the dataset is, unless that is said.
    fn split_output(
        &mut self,
        name: &Name,
        value: Result<Option<Value>, Wrong>,
    ) -> Result<Option<Value>, Wrong> {
        let Ok(Some(Value::Text(output))) = value else { return value };
        let output = legacy::output_folder(&name.text, &output);
        if let Some(key) = keys::position("path_to_output_folder").filter(|key| !self.lines.contains_key(key))
        {
            let dataset = Value::Text(legacy::dataset_of(&output));
            let at = self.at(Some(name.line));
            self.layer.set(key, Some(dataset), at);
        }
        Ok(Some(Value::Text(output)))
    }

    fn set(&mut self, key: usize, name: &Name, value: Result<Option<Value>, Wrong>) {
        if let Some(first_line) = self.lines.insert(key, name.line) {
            let kind = ProblemKind::Duplicate { key: format!("`{}`", KEYS[key].path), first_line };
            return self.problem(Some(name.line), kind);
        }
        match value {
            Ok(value) => {
                let at = self.at(Some(name.line));
                self.layer.set(key, value, at);
            }
            Err(wrong) => {
                let line = wrong.line.or(Some(name.line));
                self.problem(line, ProblemKind::wrong_value(&KEYS[key], wrong));
            }
        }
    }

    fn at(&self, line: Option<u32>) -> Origin {
        Origin::File { path: Arc::clone(self.path), line }
    }

    fn problem(&mut self, line: Option<u32>, kind: ProblemKind) {
        let at = self.at(line);
        self.problems.push(at, kind);
    }
}

/// Whether an entry is one of several names that FLOW-DC has for one thing, and another of them counts: one with a
/// value before one without, then the one that FLOW-DC reads first.
fn gives_way(name: &Name, node: &Node, entries: &[(Name, impl AsRef<Node>)]) -> bool {
    let is_null = |node: &Node| matches!(node.data, Data::Null);
    legacy::synonyms(&name.text).any(|(other, comes_first)| {
        let mut others = entries.iter().filter(|(name, _)| name.text == other);
        others.any(|(_, other)| (is_null(other.as_ref()), !comes_first) < (is_null(node), comes_first))
    })
}
