//! What can be wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::keys::Key;
use super::resolve::Origin;
use super::value::Wrong;

/// Why there is no usable configuration. Nothing here goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file of the chain cannot be opened or read.
    #[error("cannot read configuration `{}`: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file of a tool cannot be opened or read.
    #[error("cannot read tool `{}`: {source}", path.display())]
    UnreadableTool { path: PathBuf, source: io::Error },
    /// Everything that is wrong in all sources, at once.
    #[error("{0}")]
    Invalid(Problems),
    /// A key without a default is needed and nobody set it.
    #[error("`{key}` is not set")]
    Unset { key: &'static str },
    /// As `Unset` for the output folder, where there is no file in which it could be set.
    #[error("there is no `ddl.yaml` in this folder, and nothing else says where the dataset is")]
    NoFile,
    /// A key names a path where nothing is.
    #[error("{at}: `{key}` names `{}`: {source}", path.display())]
    MissingPath { at: Origin, key: &'static str, path: PathBuf, source: io::Error },
    /// Politeness: no download without a contact.
    #[error("{}", match user_agent.as_str() {
        "" => "no user agent is set: servers must be able to see whom to write to".to_owned(),
        text => format!("the user agent `{text}` has no contact: servers must be able to see whom to write to"),
    })]
    NoContact { user_agent: String },
    /// The program asks for an option that the table does not have, or of another type.
    #[error("options of {options}: {reason}")]
    Mismatch { options: &'static str, reason: String },
}

impl ConfigError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("`ddl init` writes a file to start from".to_owned())
            }
            Self::UnreadableTool { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("`ddl tool --list` says which tools there are".to_owned())
            }
            Self::Unset { key } => {
                Some(format!("write `{key}: ...` into the configuration, or give `--set {key}=...`"))
            }
            Self::NoFile => Some(
                "`ddl init` writes one to start from; `-c FILE` names one elsewhere, `--dataset DIR` the dataset itself"
                    .to_owned(),
            ),
            Self::NoContact { .. } => Some(
                "set `user_agent`, for instance `user_agent: my-project/1.0 (me@institute.org)`; \
                 an e-mail address or a URL is needed"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Each problem by itself, when there may be several.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problems) => &problems.list,
            _ => &[],
        }
    }

    /// How many problems there are beyond those.
    #[must_use]
    pub fn num_omitted(&self) -> usize {
        match self {
            Self::Invalid(problems) => problems.omitted,
            _ => 0,
        }
    }
}

/// At least one problem; the first 20.
#[derive(Debug, Default)]
pub struct Problems {
    pub(super) list: Vec<Problem>,
    /// Problems beyond those.
    pub(super) omitted: usize,
}

impl Problems {
    /// A screenful; later ones are mostly consequences of the first.
    const MAX: usize = 20;

    pub(super) fn push(&mut self, at: Origin, kind: ProblemKind) {
        if self.is_full() {
            self.omitted += 1;
        } else {
            self.list.push(Problem { at, kind });
        }
    }

    /// Whether further problems are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= Self::MAX
    }

    /// `value` if there was no problem.
    pub(super) fn or<T>(self, value: T) -> Result<T, ConfigError> {
        if self.list.is_empty() { Ok(value) } else { Err(ConfigError::Invalid(self)) }
    }
}

impl fmt::Display for Problems {
    /// One line per problem, and one per hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
            if let Some(hint) = problem.hint() {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("{at}: {kind}")]
pub struct Problem {
    /// Where to look.
    pub at: Origin,
    /// What is wrong there.
    pub kind: ProblemKind,
}

impl Problem {
    /// What was probably meant.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.kind {
            ProblemKind::UnknownKey { nested: Some((group, name)), .. } => {
                Some(format!("write `{group}:` and, indented below it, `{name}: ...`"))
            }
            ProblemKind::UnknownKey { nearest: Some(nearest), .. }
            | ProblemKind::WrongValue { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            ProblemKind::Conflict { hint, .. } => Some((*hint).to_owned()),
            _ => None,
        }
    }
}

/// The ways in which a configuration can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProblemKind {
    /// The text is not YAML, or not a mapping.
    #[error("not valid YAML: {0}")]
    Syntax(String),
    /// Not read any further.
    #[error("the file is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    /// The table has no such key.
    #[error("unknown key {key}")]
    UnknownKey {
        /// Quoted for people.
        key: String,
        nearest: Option<&'static str>,
        /// Group and name of the key that was written with a dot instead of below its group.
        nested: Option<(&'static str, &'static str)>,
    },
    /// Of the wrong type or out of range.
    #[error("`{key}` is {found}, expected {expected}")]
    WrongValue {
        key: String,
        found: String,
        expected: String,
        /// The word that was probably meant, where only some words are right.
        nearest: Option<&'static str>,
    },
    /// Twice in one file, under the same name or under one of FLOW-DC's.
    #[error("{key} is set a second time (first on line {first_line})")]
    Duplicate { key: String, first_line: u32 },
    /// An argument of `--set` without a key or without `=`.
    #[error("{text} is not an assignment, expected `key.path=value`")]
    NotAnAssignment { text: String },
    /// A variable of other bytes.
    #[error("the value of `{key}` is not UTF-8")]
    NotUtf8 { key: &'static str },
    /// Values that are right one by one and wrong together.
    #[error("{message}")]
    Conflict { message: String, hint: &'static str },
}

impl ProblemKind {
    pub(super) fn wrong_value(key: &Key, wrong: Wrong) -> Self {
        let Wrong { found, nearest, .. } = wrong;
        Self::WrongValue { key: key.path.to_owned(), found, expected: key.kind.expected(), nearest }
    }
}
