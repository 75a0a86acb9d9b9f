//! `HOST1:PORT1:HOST2:PORT2`: requests for one server go to another address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Host, Url};

/// One rule, as of curl's `--connect-to`: what is meant for `HOST1:PORT1` connects to `HOST2:PORT2`.
///
/// The `Host` header, the TLS server name and the certificate check stay those of the URL. An empty `HOST1` or
/// `PORT1` matches any; an empty `HOST2` or `PORT2` keeps the URL's. IPv6 addresses stand in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectTo {
    from_host: Option<Host>,
    from_port: Option<u16>,
    to_host: Option<Host>,
    to_port: Option<u16>,
}

/// Why a text is not a [`ConnectTo`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not HOST1:PORT1:HOST2:PORT2 ({problem}): `{text}`")]
pub struct ParseConnectToError {
    problem: &'static str,
    text: String,
}

impl ConnectTo {
    /// Whether a URL's requests are for this rule.
    #[must_use]
    pub fn matches(&self, url: &Url) -> bool {
        self.from_port.is_none_or(|port| url.port_or_known_default() == Some(port))
            && self.from_host.as_ref().is_none_or(|host| url.host() == Some(borrowed(host)))
    }

    /// Where to connect instead of the URL's host, or `None` to keep that.
    #[must_use]
    pub fn to_host(&self) -> Option<&Host> {
        self.to_host.as_ref()
    }

    /// Where to connect instead of the URL's port, or `None` to keep that.
    #[must_use]
    pub fn to_port(&self) -> Option<u16> {
        self.to_port
    }
}

fn borrowed(host: &Host) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    }
}

impl FromStr for ConnectTo {
    type Err = ParseConnectToError;

    fn from_str(text: &str) -> Result<Self, ParseConnectToError> {
        let fail = |problem| ParseConnectToError { problem, text: text.to_owned() };
        let mut rest = Some(text);
        let from_host = take_host(&mut rest).map_err(fail)?;
        let from_port = take_port(&mut rest).map_err(fail)?;
        let to_host = take_host(&mut rest).map_err(fail)?;
        let to_port = take_port(&mut rest).map_err(fail)?;
        if rest.is_some() {
            return Err(fail("more than four fields"));
        }
        Ok(Self { from_host, from_port, to_host, to_port })
    }
}

/// Takes one field and its colon; a closing bracket ends an IPv6 address's own colons.
fn take_host(rest: &mut Option<&str>) -> Result<Option<Host>, &'static str> {
    let text = rest.ok_or("fewer than four fields")?;
    let end = if text.starts_with('[') {
        text.find(']').ok_or("no `]`")? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, tail) = text.split_at(end);
    *rest = match tail.strip_prefix(':') {
        None if !tail.is_empty() => return Err("no `:` after `]`"),
        tail => tail,
    };
    if host.is_empty() {
        return Ok(None);
    }
    Host::parse(host).map(Some).map_err(|_| "bad host")
}

fn take_port(rest: &mut Option<&str>) -> Result<Option<u16>, &'static str> {
    let text = rest.ok_or("fewer than four fields")?;
    let (port, tail) = text.split_once(':').map_or((text, None), |(port, tail)| (port, Some(tail)));
    *rest = tail;
    match port.parse() {
        _ if port.is_empty() => Ok(None),
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err("bad port"),
    }
}

impl fmt::Display for ConnectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn field(value: Option<&impl ToString>) -> String {
            value.map(ToString::to_string).unwrap_or_default()
        }
        let (from_host, from_port) = (field(self.from_host.as_ref()), field(self.from_port.as_ref()));
        write!(f, "{from_host}:{from_port}:{}:{}", field(self.to_host.as_ref()), field(self.to_port.as_ref()))
    }
}

impl TryFrom<String> for ConnectTo {
    type Error = ParseConnectToError;

    fn try_from(text: String) -> Result<Self, ParseConnectToError> {
        text.parse()
    }
}

impl From<ConnectTo> for String {
    fn from(rule: ConnectTo) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_may_be_empty_and_ipv6_is_bracketed() {
        for text in ["a.org:80:b.org:81", "::b.org:", ":443:127.0.0.1:8443", "[::1]:80:[fe80::1]:81", ":::"] {
            assert_eq!(text.parse::<ConnectTo>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "a:80",
            "a:80:b",
            "a:80:b:81:",
            "a:x:b:1",
            "a:0:b:1",
            "a:70000:b:1",
            "[::1:80:b:1",
            "[::1]80:b:1",
            "a b::c:",
        ] {
            assert!(text.parse::<ConnectTo>().is_err(), "{text}");
        }
    }

    #[test]
    fn matches_by_host_and_effective_port() {
        let check = |rule: &str, url: &str, expect: bool| {
            let rule: ConnectTo = rule.parse().unwrap();
            assert_eq!(rule.matches(&Url::parse(url).unwrap()), expect, "{rule} {url}");
        };
        check("A.org:80:b:1", "http://a.org/x", true);
        check("a.org:80:b:1", "https://a.org/x", false);
        check("a.org:443:b:1", "https://a.org/x", true);
        check("a.org::b:1", "https://a.org:99/x", true);
        check("a.org::b:1", "https://b.org/x", false);
        check(":80:b:1", "http://anything/", true);
        check("[::1]:80:b:1", "http://[0::1]/", true);
        check("127.0.0.1::b:1", "http://0x7f.1/", true);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in "[a-z0-9.:\\[\\]é ]{0,40}") {
            if let Ok(rule) = text.parse::<ConnectTo>() {
                prop_assert_eq!(rule.to_string().parse::<ConnectTo>(), Ok(rule));
            }
        }
    }
}
