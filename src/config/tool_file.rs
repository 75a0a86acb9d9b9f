//! A tool that is a file: its keys, to what the room of tools calls a [`ToolDefinition`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, ProblemKind, Problems};
use super::file;
use super::resolve::Origin;
use super::units::{parse_duration, parse_integer};
use super::value::{show_found, wrong_node};
use super::yaml::{self, Data, MAX_FILE_BYTES, Name, Node};
use crate::model::nearest;
use crate::tools::{
    Argument, CommandDefinition, CommandOutput, NAME_RULE, Selects, ToolDefinition, Variable, is_tool_name,
    split_words,
};

const KEYS: &[&str] = &[
    "name",
    "description",
    "filter",
    "select",
    "reason",
    "run",
    "timeout",
    "success_exit_codes",
    "output",
    "environment",
];
/// They say something of `run`.
const KEYS_OF_RUN: &[&str] = &["timeout", "success_exit_codes", "output", "environment"];

/// A partition has 10,000 images; to look at each for a third of a second takes an hour.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30 * 86_400);

/// Reads the file of a tool.
///
/// # Errors
/// `UnreadableTool`, or `Invalid` with all problems of the file.
pub fn tool_file(path: &Path) -> Result<ToolDefinition, ConfigError> {
    let bytes = file::read(path).map_err(|error| match error {
        ConfigError::Unreadable { path, source } => ConfigError::UnreadableTool { path, source },
        error => error,
    })?;
    parse_tool(path, &bytes)
}

/// `path` stands in messages, and is the tool's name if it has no other.
pub(super) fn parse_tool(path: &Path, bytes: &[u8]) -> Result<ToolDefinition, ConfigError> {
    let mut reader = Reader { path: path.into(), problems: Problems::default(), found: HashMap::new() };
    let root = if bytes.len() as u64 > MAX_FILE_BYTES {
        reader.problem(None, ProblemKind::TooLarge { limit_bytes: MAX_FILE_BYTES });
        None
    } else {
        yaml::parse(bytes).unwrap_or_else(|error| {
            reader.problem(Some(error.line), ProblemKind::Syntax(error.reason));
            None
        })
    };
    match root.as_deref().map(|root| (root.line, &root.data)) {
        Some((_, Data::Map(entries))) => reader.keys(entries),
        Some((line, _)) => {
            let kind = ProblemKind::Syntax("expected a mapping of keys to values".to_owned());
            reader.problem(Some(line), kind);
        }
        None => {}
    }
    let definition = reader.definition(blake3::hash(bytes).to_hex().to_string());
    reader.problems.or(definition)
}

struct Reader<'a> {
    path: Arc<Path>,
    problems: Problems,
    /// Keys with their lines; those without a value are left out.
    found: HashMap<&'static str, (u32, &'a Node)>,
}

impl<'a> Reader<'a> {
    fn keys(&mut self, entries: &'a [(Name, std::rc::Rc<Node>)]) {
        let mut lines: HashMap<&str, u32> = HashMap::new();
        for (name, node) in entries {
            let key = show_found(&name.text);
            if let Some(first_line) = lines.insert(&name.text, name.line) {
                self.problem(Some(name.line), ProblemKind::Duplicate { key, first_line });
            } else if let Some(known) = KEYS.iter().find(|known| **known == name.text) {
                if !matches!(node.data, Data::Null) {
                    self.found.insert(known, (name.line, node));
                }
            } else {
                let nearest = nearest(&name.text, KEYS.iter().copied());
                self.problem(Some(name.line), ProblemKind::UnknownKey { key, nearest, nested: None });
            }
        }
    }

    /// What the file says; where that is wrong, anything.
    fn definition(&mut self, digest: String) -> ToolDefinition {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name =
            match self.parsed("name", NAME_RULE, &[], |text| is_tool_name(text).then(|| text.to_owned())) {
                Some(name) => name,
                None if is_tool_name(&stem) || self.found.contains_key("name") => stem,
                None => {
                    let message =
                        format!("{} is no name of a tool: it has other than {NAME_RULE}", show_found(&stem));
                    self.conflict("name", message, "give it one with `name`");
                    stem
                }
            };
        let filter = self.text("filter").filter(|filter| !filter.trim().is_empty());
        let command = self.command();
        let whole = |text: &str| match text {
            "images" => Some(Selects::Images),
            "partitions" => Some(Selects::Partitions),
            _ => None,
        };
        let default =
            if filter.is_none() && command.is_some() { Selects::Partitions } else { Selects::Images };
        let words = &["images", "partitions"];
        let selects = self.parsed("select", "`images` or `partitions`", words, whole).unwrap_or(default);
        let uses_selected = |command: &CommandDefinition| {
            command.arguments.iter().any(|argument| argument.has(Variable::Selected))
        };
        match (selects, &command) {
            (Selects::Partitions, None) if !self.found.contains_key("run") => {
                let message = "`select: partitions` is for commands, and there is no `run`".to_owned();
                self.conflict(
                    "select",
                    message,
                    "without a command, the images that `filter` chooses are removed",
                );
            }
            (Selects::Partitions, Some(command)) if uses_selected(command) => {
                let message =
                    "`{selected}` is for `select: images`: here whole partitions are chosen".to_owned();
                self.conflict("run", message, "`{input}` has all images of the partition");
            }
            _ => {}
        }
        ToolDefinition {
            description: self.text("description").unwrap_or_default().trim().replace('\n', " "),
            reason: self.text("reason").unwrap_or_else(|| name.clone()),
            name,
            path: self.path.to_path_buf(),
            digest,
            selects,
            filter,
            command,
        }
    }

    fn command(&mut self) -> Option<CommandDefinition> {
        let arguments = self.arguments();
        let timeout =
            self.parsed("timeout", "a duration from 100ms to 30 days, such as `30m`", &[], |text| {
                parse_duration(text).filter(|timeout| TIMEOUTS.contains(timeout))
            });
        let codes = self.texts("success_exit_codes", "exit codes, such as `[0, 3]`", |text| {
            parse_integer(text).filter(|code| *code <= 255).map(|code| code as i32)
        });
        let expected = "`verdicts`, `images` or `both`";
        let output = self.parsed("output", expected, CommandOutput::WORDS, CommandOutput::parse);
        let environment = self.environment();
        if !self.found.contains_key("run") {
            for &key in KEYS_OF_RUN {
                if self.found.contains_key(key) {
                    let message = format!("`{key}` says something of a command, and there is no `run`");
                    self.conflict(
                        key,
                        message,
                        "`run: [python3, script.py, \"{input}\", \"{output}\"]` is one",
                    );
                }
            }
        }
        Some(CommandDefinition {
            arguments: arguments?,
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            success_exit_codes: codes.unwrap_or_else(|| vec![0]),
            output: output.unwrap_or(CommandOutput::Verdicts),
            environment,
        })
    }

    fn arguments(&mut self) -> Option<Vec<Argument>> {
        const EXPECTED: &str = "a command: a list of arguments, or one line of them";
        let &(line, node) = self.found.get("run")?;
        let words = match &node.data {
            Data::Scalar(text) => match split_words(text) {
                Ok(words) => words,
                Err(error) => {
                    let hint = "quote it, or write `run: [sh, -c, '...']` where a shell is to run it";
                    self.conflict("run", format!("`run` is {}: {error}", show_found(text)), hint);
                    return None;
                }
            },
            _ => self.texts("run", EXPECTED, |text| Some(text.to_owned()))?,
        };
        if words.first().is_none_or(String::is_empty) {
            self.wrong("run", line, "empty".to_owned(), EXPECTED, None);
            return None;
        }
        let mut arguments = Vec::new();
        for word in &words {
            match Argument::parse(word) {
                Ok(argument) => arguments.push(argument),
                Err(wrong) => {
                    let names: Vec<_> =
                        Variable::ALL.iter().map(|(name, _)| format!("`{{{name}}}`")).collect();
                    let braces = format!("one of {} (`{{{{word}}}}` is `{{word}}`)", names.join(", "));
                    let found = format!("{{{}}}", wrong.name);
                    self.wrong("run", line, show_found(&found), &braces, wrong.nearest);
                }
            }
        }
        (arguments.len() == words.len()).then_some(arguments)
    }

    fn environment(&mut self) -> Vec<(String, String)> {
        const EXPECTED: &str = "variables and their values, such as `{OMP_NUM_THREADS: 1}`";
        let Some(&(line, node)) = self.found.get("environment") else { return Vec::new() };
        let Data::Map(entries) = &node.data else {
            self.wrong("environment", line, wrong_node(node).found, EXPECTED, None);
            return Vec::new();
        };
        let mut variables = Vec::new();
        for (name, node) in entries {
            let value = match &node.data {
                Data::Scalar(text) => text.clone(),
                Data::Null => String::new(),
                Data::List(_) | Data::Map(_) => {
                    self.wrong("environment", name.line, wrong_node(node).found, EXPECTED, None);
                    continue;
                }
            };
            if name.text.is_empty() || name.text.contains(['=', '\0']) || value.contains('\0') {
                self.wrong("environment", name.line, show_found(&name.text), EXPECTED, None);
            } else {
                variables.push((name.text.clone(), value));
            }
        }
        variables
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, "text", &[], |text| Some(text.to_owned()))
    }

    /// The value of a key, if there is one and it is right.
    fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        words: &[&'static str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let &(line, node) = self.found.get(key)?;
        let value = match &node.data {
            Data::Scalar(text) => parse(text).ok_or_else(|| nearest(text, words.iter().copied())),
            _ => Err(None),
        };
        value.map_err(|nearest| self.wrong(key, line, wrong_node(node).found, expected, nearest)).ok()
    }

    /// The values of a key; one alone may stand without brackets.
    fn texts<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let &(line, node) = self.found.get(key)?;
        let items = match &node.data {
            Data::List(items) => items.iter().map(|item| &**item).collect(),
            _ => vec![node],
        };
        let mut values = Vec::new();
        for item in items {
            let value = match &item.data {
                Data::Scalar(text) => parse(text),
                _ => None,
            };
            match value {
                Some(value) => values.push(value),
                None => {
                    self.wrong(key, line, wrong_node(item).found, expected, None);
                    return None;
                }
            }
        }
        Some(values)
    }

    fn wrong(&mut self, key: &str, line: u32, found: String, expected: &str, nearest: Option<&'static str>) {
        let (key, expected) = (key.to_owned(), expected.to_owned());
        self.problem(Some(line), ProblemKind::WrongValue { key, found, expected, nearest });
    }

    /// `key` says where, if it is there.
    fn conflict(&mut self, key: &str, message: String, hint: &'static str) {
        let line = self.found.get(key).map(|(line, _)| *line);
        self.problem(line, ProblemKind::Conflict { message, hint });
    }

    fn problem(&mut self, line: Option<u32>, kind: ProblemKind) {
        self.problems.push(Origin::File { path: self.path.clone(), line }, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ToolDefinition, String> {
        parse_tool(Path::new("tools/grey.yaml"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn arguments(text: &str) -> Vec<String> {
        let command = parse(text).unwrap().command.unwrap();
        command.arguments.iter().map(|argument| argument.as_text().unwrap_or("?").to_owned()).collect()
    }

    #[test]
    fn a_file_says_little_and_means_more() {
        let nothing = parse("").unwrap();
        assert_eq!((nothing.name.as_str(), nothing.reason.as_str()), ("grey", "grey"));
        assert_eq!((nothing.selects, nothing.filter, nothing.command), (Selects::Images, None, None));
        let command = parse("run: true").unwrap();
        assert_eq!(command.selects, Selects::Partitions);
        let command = command.command.unwrap();
        assert_eq!(command.timeout, Duration::from_secs(3600));
        assert_eq!((command.success_exit_codes, command.output), (vec![0], CommandOutput::Verdicts));
        assert_eq!(parse("run: true\nfilter: image_bytes < 9").unwrap().selects, Selects::Images);
        let all = parse(
            "name: dull\ndescription: 'no colour'\nfilter: 'image_format = ''png'''\nselect: partitions\n\
             reason: no_colour\nrun: [python3, 'a b.py', '{input}']\ntimeout: 90\nsuccess_exit_codes: 3\n\
             output: both\nenvironment: {A: 1, B: }\n",
        )
        .unwrap();
        let command = all.command.unwrap();
        assert_eq!((all.name.as_str(), all.selects), ("dull", Selects::Partitions));
        assert_eq!((command.timeout, command.success_exit_codes), (Duration::from_secs(90), vec![3]));
        assert_eq!(command.environment, [("A".into(), "1".into()), ("B".into(), String::new())]);
        assert_eq!(arguments("run: python3 'a b.py' {input}"), ["python3", "a b.py", "?"]);
        assert_eq!(arguments("run: [echo, 007, '*']"), ["echo", "007", "*"]);
        assert_ne!(parse("# a").unwrap().digest, nothing.digest);
        let example = tool_file(Path::new("config/tools/grey.yaml")).unwrap();
        assert!(example.command.is_some() && !example.description.is_empty());
    }

    #[test]
    fn problems_are_told_with_their_lines_and_what_was_meant() {
        insta::assert_snapshot!(
            parse(
                "nmae: x\nfilter: [a]\nselect: image\nrun: [python3, '{inptu}']\ntimeout: soon\n\
                 success_exit_codes: [0, 256]\noutput: verdict\nenvironment: [A]\noutput: both\n"
            )
            .unwrap_err(),
            @r"
        tools/grey.yaml:1: unknown key `nmae`
          hint: did you mean `name`?
        tools/grey.yaml:9: `output` is set a second time (first on line 7)
        tools/grey.yaml:2: `filter` is a list, expected text
        tools/grey.yaml:4: `run` is `{inptu}`, expected one of `{input}`, `{selected}`, `{output}`, `{server_name}`, `{partition_id}` (`{{word}}` is `{word}`)
          hint: did you mean `input`?
        tools/grey.yaml:5: `timeout` is `soon`, expected a duration from 100ms to 30 days, such as `30m`
        tools/grey.yaml:6: `success_exit_codes` is `256`, expected exit codes, such as `[0, 3]`
        tools/grey.yaml:7: `output` is `verdict`, expected `verdicts`, `images` or `both`
          hint: did you mean `verdicts`?
        tools/grey.yaml:8: `environment` is a list, expected variables and their values, such as `{OMP_NUM_THREADS: 1}`
        tools/grey.yaml:3: `select` is `image`, expected `images` or `partitions`
          hint: did you mean `images`?
        "
        );
        let one = |text: &str| parse(text).unwrap_err().lines().next().unwrap().to_owned();
        assert_eq!(one("- a"), "tools/grey.yaml:1: not valid YAML: expected a mapping of keys to values");
        assert_eq!(
            one("run: ls | wc"),
            "tools/grey.yaml:1: `run` is `ls | wc`: `|` means something to a shell only, and none runs it"
        );
        assert_eq!(
            one("run: []"),
            "tools/grey.yaml:1: `run` is empty, expected a command: a list of arguments, or one line of them"
        );
        assert_eq!(
            one("select: partitions"),
            "tools/grey.yaml:1: `select: partitions` is for commands, and there is no `run`"
        );
        assert_eq!(
            one("\noutput: both"),
            "tools/grey.yaml:2: `output` says something of a command, and there is no `run`"
        );
        assert_eq!(
            one("run: a {selected}"),
            "tools/grey.yaml:1: `{selected}` is for `select: images`: here whole partitions are chosen"
        );
        assert!(one("name: Grey").contains("`name` is `Grey`, expected lower-case letters"));
        let named = parse_tool(Path::new("a-b.yaml"), b"").unwrap_err().to_string();
        assert!(named.starts_with("a-b.yaml: `a-b` is no name of a tool: "), "{named}");
        assert!(parse_tool(Path::new("a-b.yaml"), b"name: ab").is_ok());
    }
}
