//! Values: what the text of a key means by its kind, and how it is written.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use super::keys::{Key, Kind, RENDITION_KEYS, SERVER_KEYS};
use super::units::{parse_bytes, parse_duration, parse_integer, show_bytes, show_duration};
use super::yaml::{self, Data, Node};
use crate::fetch::{AddressRange, ProxyUrl};
use crate::model::{ServerName, nearest};

/// A value of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Integer(u64),
    /// Finite.
    Number(f64),
    /// Empty: nothing.
    Text(String),
    Duration(Duration),
    Bytes(u64),
    List(Vec<String>),
    Rules(BTreeMap<u64, u64>),
    /// Servers to what is set for each, and that by key.
    Map(BTreeMap<String, Value>),
    /// Rules, each a map.
    Maps(Vec<Value>),
}

/// Why something is no value of a key: what was found.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) found: String,
    /// Line of the YAML text, where it is not the key's own.
    pub(super) line: Option<u32>,
    /// The word that was probably meant, where only some words are right.
    pub(super) nearest: Option<&'static str>,
}

impl Value {
    /// The default of a key.
    ///
    /// A test holds that every default of the table is a value of its kind.
    pub(super) fn default_of(key: &Key) -> Self {
        match Self::from_text(key, key.default) {
            Ok(Some(value)) => value,
            _ => match key.kind {
                Kind::List | Kind::ConnectTo | Kind::Addresses => Self::List(Vec::new()),
                Kind::Servers => Self::Map(BTreeMap::new()),
                Kind::Renditions => Self::Maps(Vec::new()),
                _ => Self::Text(String::new()),
            },
        }
    }

    /// Reads the text of a flag or a variable; `None` means not set.
    ///
    /// Brackets or braces make it a YAML list or mapping.
    pub(super) fn from_text(key: &Key, text: &str) -> Result<Option<Self>, Wrong> {
        let is_compound = matches!(
            key.kind,
            Kind::List | Kind::ConnectTo | Kind::Addresses | Kind::Rules | Kind::Servers | Kind::Renditions
        );
        // `[::1]:80::` is one item that begins like a list.
        let is_compound = is_compound && !(key.kind == Kind::ConnectTo && is_connect_to(text));
        if is_compound && text.starts_with(['[', '{']) {
            let wrong = || Wrong { found: show_found(text), line: None, nearest: None };
            let root = yaml::parse(text.as_bytes()).map_err(|_| wrong())?;
            // A line within a flag means nothing to anybody.
            let without_line = |wrong: Wrong| Wrong { line: None, ..wrong };
            return root.map_or(Ok(None), |node| Self::from_node(key, &node).map_err(without_line));
        }
        Self::from_scalar(key, text)
    }

    /// Reads a node of a file; `None` means not set.
    pub(super) fn from_node(key: &Key, node: &Node) -> Result<Option<Self>, Wrong> {
        match (&node.data, key.kind) {
            (Data::Null, _) => Ok(None),
            (Data::Scalar(text), _) => Self::from_scalar(key, text),
            (Data::List(items), Kind::List | Kind::ConnectTo | Kind::Addresses) => {
                let texts = items.iter().map(|item| match &item.data {
                    Data::Scalar(text) if is_item(key.kind, text) => Ok(text.clone()),
                    _ => Err(wrong_node(item)),
                });
                Ok(Some(Self::List(texts.collect::<Result<_, _>>()?)))
            }
            (Data::Map(entries), Kind::Rules) => {
                let mut rules = BTreeMap::new();
                for (name, node) in entries {
                    let from = parse_integer(&name.text).filter(|number| *number > 0);
                    let ranks = match &node.data {
                        Data::Scalar(text) => parse_integer(text).filter(|number| *number > 0),
                        _ => None,
                    };
                    let (Some(from), Some(ranks)) = (from, ranks) else {
                        let bad =
                            if from.is_none() { show_found(&name.text) } else { wrong_node(node).found };
                        return Err(Wrong { found: bad, line: Some(name.line), nearest: None });
                    };
                    if rules.insert(from, ranks).is_some() {
                        let found = format!("two rules for `{from}`");
                        return Err(Wrong { found, line: Some(name.line), nearest: None });
                    }
                }
                Ok(Some(Self::Rules(rules)))
            }
            (Data::Map(entries), Kind::Servers) => {
                let mut servers = BTreeMap::new();
                for (name, node) in entries {
                    let wrong = |found| Wrong { found, line: Some(name.line), nearest: None };
                    let server =
                        ServerName::parse(&name.text).ok_or_else(|| wrong(show_found(&name.text)))?;
                    let rule = Self::from_rule(node, SERVER_KEYS)?;
                    if servers.insert(server.to_string(), Self::Map(rule)).is_some() {
                        return Err(wrong(format!("two rules for {}", show_found(&name.text))));
                    }
                }
                Ok(Some(Self::Map(servers)))
            }
            (Data::List(items), Kind::Renditions) => {
                let rules = items.iter().map(|item| {
                    let rule = Self::from_rule(item, RENDITION_KEYS)?;
                    match ["pattern", "replace"].into_iter().find(|name| !rule.contains_key(*name)) {
                        Some(name) => Err(Wrong {
                            found: format!("a rule without `{name}`"),
                            line: Some(item.line),
                            nearest: None,
                        }),
                        None => Ok(Self::Map(rule)),
                    }
                });
                Ok(Some(Self::Maps(rules.collect::<Result<_, _>>()?)))
            }
            _ => Err(wrong_node(node)),
        }
    }

    /// What is set for one server, or one rule of a list.
    fn from_rule(node: &Node, keys: &'static [Key]) -> Result<BTreeMap<String, Self>, Wrong> {
        let Data::Map(entries) = &node.data else { return Err(wrong_node(node)) };
        let mut rule = BTreeMap::new();
        for (name, node) in entries {
            let wrong = |found, nearest| Wrong { found, line: Some(name.line), nearest };
            let Some(key) = keys.iter().find(|key| key.path == name.text) else {
                let known = nearest(&name.text, keys.iter().map(|key| key.path));
                let found = format!("a rule with the unknown key {}", show_found(&name.text));
                return Err(wrong(found, known));
            };
            let value = Self::from_node(key, node).map_err(|Wrong { found, line, nearest }| {
                let found = format!("a rule whose `{}` is {found}, not {}", key.path, key.kind.expected());
                Wrong { found, line: line.or(Some(name.line)), nearest }
            })?;
            let Some(value) = value else { continue };
            if rule.insert(name.text.clone(), value).is_some() {
                return Err(wrong(format!("a rule with `{}` twice", key.path), None));
            }
        }
        Ok(rule)
    }

    fn from_scalar(key: &Key, text: &str) -> Result<Option<Self>, Wrong> {
        let text = text.trim();
        if text.is_empty() || (key.zero_is_unset && text == "0") {
            return Ok(None);
        }
        let value = match key.kind {
            Kind::Bool => parse_bool(text).map(Self::Bool),
            Kind::Integer { min, max } => {
                parse_integer(text).filter(|number| (min..=max).contains(number)).map(Self::Integer)
            }
            Kind::Number { min, max } => {
                parse_number(text).filter(|x| (min..=max).contains(x)).map(Self::Number)
            }
            Kind::Duration { min, max } => {
                parse_duration(text).filter(|x| (min..=max).contains(&x.as_secs_f64())).map(Self::Duration)
            }
            Kind::Bytes { min, max } => {
                parse_bytes(text).filter(|number| (min..=max).contains(number)).map(Self::Bytes)
            }
            Kind::Text | Kind::Path => Some(Self::Text(text.to_owned())),
            Kind::Proxy => as_proxy(text).map(Self::Text),
            Kind::Choice(words) => {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(text));
                word.map(|word| Self::Text((*word).to_owned()))
            }
            Kind::Inside => is_inside(text).then(|| Self::Text(text.to_owned())),
            Kind::Header => split_header(text).is_some().then(|| Self::Text(text.to_owned())),
            Kind::List | Kind::ConnectTo | Kind::Addresses => {
                is_item(key.kind, text).then(|| Self::List(vec![text.to_owned()]))
            }
            Kind::Pattern => regex::Regex::new(text).ok().map(|_| Self::Text(text.to_owned())),
            Kind::Rules | Kind::Servers | Kind::Renditions => None,
        };
        value.map(Some).ok_or_else(|| {
            let nearest = match key.kind {
                Kind::Choice(words) => nearest(text, words.iter().copied()),
                _ => None,
            };
            // It may have a password in it.
            let found = if key.kind == Kind::Proxy { "something else".to_owned() } else { show_found(text) };
            Wrong { found, line: None, nearest }
        })
    }

    /// As it stands in a YAML file, on one line.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => yaml::quote(text),
            Self::Duration(duration) => show_duration(*duration),
            Self::Bytes(bytes) => show_bytes(*bytes),
            Self::List(texts) => {
                format!("[{}]", texts.iter().map(|text| yaml::quote(text)).collect::<Vec<_>>().join(", "))
            }
            Self::Rules(rules) => {
                let rules: Vec<_> = rules.iter().map(|(from, ranks)| format!("{from}: {ranks}")).collect();
                format!("{{{}}}", rules.join(", "))
            }
            Self::Map(map) => {
                let entries: Vec<_> = map
                    .iter()
                    .map(|(name, value)| format!("{}: {}", yaml::quote(name), value.to_yaml()))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }
            Self::Maps(maps) => {
                format!("[{}]", maps.iter().map(Self::to_yaml).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Kind {
    /// What a value of this kind is, for people: "expected ...".
    #[must_use]
    pub fn expected(&self) -> String {
        let seconds = |x: f64| show_duration(Duration::from_secs_f64(x));
        match *self {
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Duration { min, max } => {
                format!("a duration from {} to {}, such as `30s` or `5m`", seconds(min), seconds(max))
            }
            Self::Bytes { min, max } => {
                format!("a size from {} to {}, such as `64 MiB` or `100MB`", show_bytes(min), show_bytes(max))
            }
            Self::Text => "text".to_owned(),
            Self::Choice(words) => {
                let words: Vec<_> =
                    words.iter().filter(|word| !word.is_empty()).map(|word| format!("`{word}`")).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Path => "a path".to_owned(),
            Self::Proxy => {
                "`environment`, `none`, or the URL of a proxy such as `http://proxy.example:3128`".to_owned()
            }
            Self::Inside => "a relative path below the output folder, without `..`".to_owned(),
            Self::Header => "one header, `Name: value`".to_owned(),
            Self::List => "a text or a list of texts".to_owned(),
            Self::ConnectTo => "`HOST1:PORT1:HOST2:PORT2` or a list of such".to_owned(),
            Self::Addresses => "an address, a network such as `10.0.0.0/8`, or a list of such".to_owned(),
            Self::Rules => "a mapping of positive numbers, such as `{1: 1, 1000: 4}`".to_owned(),
            Self::Servers => {
                "servers and rules, such as `{example.org: {rate_limit: 2, max_connections: 1}}`".to_owned()
            }
            Self::Pattern => "a regular expression".to_owned(),
            Self::Renditions => {
                "a list of rules, such as `[{server: example.org, pattern: '/full/', replace: '/small/', size: 240}]`"
                    .to_owned()
            }
        }
    }
}

/// Text of a user in a message: on one line, printable, not endless.
pub(super) fn show_found(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push_str("...");
    }
    format!("`{}`", shown.replace("\\'", "'").replace("\\\"", "\""))
}

/// Name and value of a header, when it is one: a token (RFC 9110, 5.6.2) and visible text.
pub(super) fn split_header(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let value = value.trim();
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    let is_value = !value.is_empty() && !value.chars().any(char::is_control);
    (is_name && is_value).then_some((name, value))
}

pub(super) fn wrong_node(node: &Node) -> Wrong {
    let found = match &node.data {
        Data::Null => "nothing".to_owned(),
        Data::Scalar(text) => show_found(text),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a mapping".to_owned(),
    };
    Wrong { found, line: Some(node.line), nearest: None }
}

/// YAML 1.1's words as well: distributed-downloader reads them so.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn parse_number(text: &str) -> Option<f64> {
    // Rust also reads `inf` and `nan`.
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Whether a folder or file stays below the output folder, whatever it is called.
fn is_inside(text: &str) -> bool {
    let path = Path::new(text);
    !text.contains('\0')
        && path.components().all(|part| matches!(part, Component::Normal(_)))
        && path.components().next().is_some()
}

/// A word for a proxy, or its URL.
fn as_proxy(text: &str) -> Option<String> {
    let word = ["environment", "none"].into_iter().find(|word| word.eq_ignore_ascii_case(text));
    let proxy = || Some(ProxyUrl::new(text)).filter(|proxy| proxy.url().is_ok());
    word.map(str::to_owned).or_else(|| proxy().map(String::from))
}

fn is_item(kind: Kind, text: &str) -> bool {
    match kind {
        Kind::ConnectTo => is_connect_to(text),
        Kind::Addresses => text.parse::<AddressRange>().is_ok(),
        _ => !text.trim().is_empty(),
    }
}

/// `HOST1:PORT1:HOST2:PORT2`; each part may be empty, IPv6 addresses stand in brackets.
fn is_connect_to(text: &str) -> bool {
    let mut depth = 0;
    let parts: Vec<&str> = text
        .split(|c: char| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            c == ':' && depth == 0
        })
        .collect();
    let is_port = |text: &str| text.is_empty() || text.parse::<u16>().is_ok();
    let is_host = |text: &str| !text.contains(char::is_whitespace);
    matches!(parts[..], [host1, port1, host2, port2]
        if is_host(host1) && is_port(port1) && is_host(host2) && is_port(port2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{Family, KEYS};

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for key in KEYS {
            let value = Value::from_text(key, key.default);
            let may_be_empty = matches!(
                key.kind,
                Kind::Text
                    | Kind::Path
                    | Kind::Header
                    | Kind::List
                    | Kind::ConnectTo
                    | Kind::Addresses
                    | Kind::Choice(_)
            );
            assert!(matches!(value, Ok(Some(_))) || (key.default.is_empty() && may_be_empty), "{}", key.path);
            if let Ok(Some(value)) = value {
                assert_eq!(Value::from_text(key, &value.to_yaml()), Ok(Some(value.clone())), "{}", key.path);
                assert_eq!(
                    value.to_yaml(),
                    key.default,
                    "{}: defaults are written as they are shown",
                    key.path
                );
            }
        }
    }

    fn check(kind: Kind, text: &str, expect: Option<&str>) {
        let key = Key { path: "k", kind, default: "", family: Family::Ddl, doc: "", zero_is_unset: false };
        let shown = Value::from_text(&key, text).ok().flatten().map(|value| value.to_yaml());
        assert_eq!(shown.as_deref(), expect, "{kind:?} {text}");
    }

    #[test]
    fn text_means_what_the_key_says() {
        check(Kind::Bool, "Yes", Some("true"));
        check(Kind::Bool, "1", None);
        check(Kind::Integer { min: 1, max: 10 }, "10", Some("10"));
        check(Kind::Integer { min: 1, max: 10 }, "11", None);
        check(Kind::Integer { min: 1, max: 10 }, "2.5", None);
        check(Kind::Number { min: 0.0, max: 9.0 }, "2.50", Some("2.5"));
        check(Kind::Number { min: 0.0, max: 9.0 }, "nan", None);
        check(Kind::Choice(&["INFO"]), "info", Some("INFO"));
        check(Kind::Duration { min: 1.0, max: 60.0 }, "60s", Some("1m"));
        check(Kind::Duration { min: 1.0, max: 60.0 }, "0", None);
        check(Kind::Bytes { min: 0, max: 1 << 30 }, "1024 MiB", Some("1 GiB"));
        check(Kind::Inside, "a/b", Some("a/b"));
        for outside in ["/a", "../a", "a/../../b", ".", "./a"] {
            check(Kind::Inside, outside, None);
        }
        check(Kind::Header, "User-Agent: me@x.org", Some("\"User-Agent: me@x.org\""));
        for header in ["true", "User Agent: x", "A: b\r\nC: d", ": x", "A:"] {
            check(Kind::Header, header, None);
        }
        check(Kind::List, "a, b.csv", Some("[\"a, b.csv\"]"));
        check(Kind::List, "[a, 'b c']", Some("[a, b c]"));
        check(Kind::List, "[a, [b]]", None);
        check(Kind::Rules, "{100: 4, 1: 1}", Some("{1: 1, 100: 4}"));
        for rules in ["{1: 0}", "{0: 1}", "{1: 1, 1: 2}", "{1: [1]}", "1", "[1]", "{1: 1"] {
            check(Kind::Rules, rules, None);
        }
        check(
            Kind::Servers,
            "{'HTTPS://B.org/': {rate_limit: 0, source: 'x, y'}, a.org:8080: {max_connections: 2, rate_control: FIXED}, c.org: {}}",
            Some(
                "{\"a.org:8080\": {max_connections: 2, rate_control: fixed}, \
                 b.org: {rate_limit: 0, source: \"x, y\"}, c.org: {}}",
            ),
        );
        for servers in [
            "a.org",
            "[a.org]",
            "{a.org: 3}",
            "{a.org: [3]}",
            "{'*.org': {rate_limit: 1}}",
            "{a.org: {rate: 1}}",
            "{a.org: {rate_limit: -1}}",
            "{a.org: {max_connections: 0}}",
            "{a.org: {rate_limit: 1, rate_limit: 2}}",
            "{a.org: {}, A.org: {}}",
        ] {
            check(Kind::Servers, servers, None);
        }
        check(
            Kind::Renditions,
            r"[{pattern: '\.jpg$', replace: '_{size}.jpg', size: 20}, {pattern: 'a', replace: 'b, c', server: x.org}]",
            Some(
                r#"[{pattern: "\\.jpg$", replace: "_{size}.jpg", size: 20}, {pattern: a, replace: "b, c", server: x.org}]"#,
            ),
        );
        for rules in [
            "a",
            "{a: b}",
            "[a]",
            "[{pattern: a}]",
            "[{pattern: '(', replace: b}]",
            "[{pattern: a, replace: b, size: 0}]",
        ] {
            check(Kind::Renditions, rules, None);
        }
        check(
            Kind::ConnectTo,
            "example.org:443:127.0.0.1:8443",
            Some("[\"example.org:443:127.0.0.1:8443\"]"),
        );
        check(Kind::ConnectTo, "[::1]:80:[fe80::1]:81", Some("[\"[::1]:80:[fe80::1]:81\"]"));
        check(Kind::Addresses, "::1", Some("[\"::1\"]"));
        check(Kind::Addresses, "[10.0.0.0/8, 'fe80::1']", Some("[\"10.0.0.0/8\", \"fe80::1\"]"));
        for addresses in ["localhost", "10.0.0.0/33", "[10.0.0.1, x]"] {
            check(Kind::Addresses, addresses, None);
        }
        check(Kind::Proxy, "NONE", Some("none"));
        check(Kind::Proxy, "p.example:3128", Some("\"http://p.example:3128\""));
        for proxy in ["socks5://p.example", "http://", "a b"] {
            check(Kind::Proxy, proxy, None);
        }
        check(Kind::ConnectTo, ":::", Some("[\":::\"]"));
        for triple in ["a:b:c:d", "a:1:b", "a:1:b:65536", "a b:1:c:2"] {
            check(Kind::ConnectTo, triple, None);
        }
    }

    #[test]
    fn what_users_wrote_is_shown_harmlessly() {
        assert_eq!(show_found("a\x1b[31m\n'\""), "`a\\u{1b}[31m\\n'\"`");
        assert_eq!(show_found(&"x".repeat(1000)).len(), 65);
    }
}
