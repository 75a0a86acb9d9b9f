//! Arguments of a command, with variables in braces.

use crate::model::nearest;

/// What an argument can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    Input,
    Selected,
    Output,
    ServerName,
    PartitionId,
}

impl Variable {
    /// All of them with their names. As a variable of the environment each is `DDL_TOOL_NAME`.
    pub const ALL: &[(&str, Self)] = &[
        ("input", Self::Input),
        ("selected", Self::Selected),
        ("output", Self::Output),
        ("server_name", Self::ServerName),
        ("partition_id", Self::PartitionId),
    ];
}

/// An argument of a command: `{input}` and the like stand for something, `{{input}}` for `{input}`. Other braces are
/// themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Variable(Variable),
}

/// A word in braces that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongVariable {
    pub name: String,
    pub nearest: Option<&'static str>,
}

impl Argument {
    /// # Errors
    /// When a word in braces is none that is known.
    pub fn parse(text: &str) -> Result<Self, WrongVariable> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            plain.push_str(&rest[..at]);
            let from = &rest[at..];
            if let Some(word) = word_in(from, "{{", "}}") {
                plain.push_str(&from[1..=word.len() + 2]);
                rest = &from[word.len() + 4..];
            } else if let Some(word) = word_in(from, "{", "}") {
                let Some((_, variable)) = Variable::ALL.iter().find(|(name, _)| *name == word) else {
                    let nearest = nearest(word, Variable::ALL.iter().map(|(name, _)| *name));
                    return Err(WrongVariable { name: word.to_owned(), nearest });
                };
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Variable(*variable));
                rest = &from[word.len() + 2..];
            } else {
                plain.push('{');
                rest = &from[1..];
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// The argument, where nothing in it stands for something else.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.0[..] {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether this stands in it.
    #[must_use]
    pub fn has(&self, variable: Variable) -> bool {
        self.0.contains(&Piece::Variable(variable))
    }

    pub(super) fn fill(&self, value: impl Fn(Variable) -> String) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Variable(variable) => value(*variable),
        });
        pieces.collect()
    }
}

/// The word between two brackets with which a text begins.
fn word_in<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let (word, _) = text.strip_prefix(open)?.split_once(close)?;
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_word.then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_and_other_braces_stay() {
        let fill = |text: &str| Argument::parse(text).unwrap().fill(|variable| format!("<{variable:?}>"));
        for (text, filled) in [
            ("", ""),
            ("--in={input}", "--in=<Input>"),
            ("{server_name}/{partition_id}", "<ServerName>/<PartitionId>"),
            ("{{input}}", "{input}"),
            ("{{{input}}}", "{{input}}"),
            (r#"{"a": {"b": 1}}"#, r#"{"a": {"b": 1}}"#),
            ("{1 {} { {Input} }", "{1 {} { {Input} }"),
            ("ä{output}ü{", "ä<Output>ü{"),
        ] {
            assert_eq!(fill(text), filled, "{text}");
        }
        let wrong = Argument::parse("x{inptu}").unwrap_err();
        assert_eq!(wrong, WrongVariable { name: "inptu".into(), nearest: Some("input") });
        assert_eq!(Argument::parse("{print}").unwrap_err().nearest, None);
        assert_eq!(Argument::parse("a{{b}}").unwrap().as_text(), Some("a{b}"));
        assert_eq!(Argument::parse("{input}").unwrap().as_text(), None);
        assert!(Argument::parse("{input}").unwrap().has(Variable::Input));
    }
}
