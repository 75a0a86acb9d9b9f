//! The smallest rendition of an image that suffices, by rewriting its URL before it is asked for.
//!
//! Rules see path and query of a URL and give others: scheme, host and port stay what they are, whatever a rule says.
//! So a rendition is asked of the server of the image itself, and counts against the same limits.

use std::borrow::Cow;

use regex::Regex;
use serde::Deserialize;
use url::{Position, Url};

use crate::model::{FailureCause, ServerName};

/// Longest path and query that a rule may make; the default of `max_url_bytes` for lists.
const MAX_TARGET_BYTES: usize = 8192;

/// How a server names a smaller rendition of an image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RenditionRule {
    /// The server it is for, `host` or `host:port`; empty: any.
    pub server: String,
    /// A regular expression for path and query.
    pub pattern: String,
    /// What stands for what it matches: `$1` is what its first group has found, `{size}` the size.
    pub replace: String,
    /// The longest side that the rendition has at least, in pixels; without it, whatever is asked for.
    pub size: Option<u32>,
}

/// The rules that give what suffices, the best first.
#[derive(Clone, Debug, Default)]
pub struct Renditions(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    server: Option<ServerName>,
    pattern: Regex,
    replace: String,
}

impl Renditions {
    /// The rules for a longest side of `size` pixels, none for 0: those of the user before those that ship, and of
    /// each the smallest first.
    ///
    /// # Errors
    /// One line for people, when a rule cannot be used that would be.
    pub fn new(size: u32, own: &[RenditionRule], known: &[RenditionRule]) -> Result<Self, String> {
        let mut rules = Vec::new();
        for given in [own, known] {
            let size_of = |rule: &RenditionRule| rule.size.unwrap_or(size);
            let mut given: Vec<_> = given.iter().collect();
            given.sort_by_key(|rule| size_of(rule));
            for rule in given {
                if size > 0 && size_of(rule) >= size {
                    rules.push(Rule::new(rule, size_of(rule))?);
                }
            }
        }
        Ok(Self(rules))
    }

    /// The URL of the rendition to ask for; `None` where no rule fits.
    #[must_use]
    pub fn of(&self, url: &Url) -> Option<Url> {
        if self.0.is_empty() {
            return None;
        }
        let server = ServerName::from_url(url)?;
        let for_server = |rule: &&Rule| rule.server.as_ref().is_none_or(|only| *only == server);
        self.0.iter().filter(for_server).find_map(|rule| rule.rewrite(url))
    }
}

impl Rule {
    fn new(rule: &RenditionRule, size: u32) -> Result<Self, String> {
        let RenditionRule { server, pattern, replace, .. } = rule;
        let bad = |what: &str| format!("{what} (`pattern` is `{pattern}`)");
        if pattern.is_empty() || replace.is_empty() {
            return Err(bad("a rule needs `pattern` and `replace`"));
        }
        let server = match server.as_str() {
            "" => None,
            name => Some(ServerName::parse(name).ok_or_else(|| bad(&format!("`{name}` is no server")))?),
        };
        let pattern = Regex::new(pattern).map_err(|error| bad(&error.to_string()))?;
        Ok(Self { server, pattern, replace: replace.replace("{size}", &size.to_string()) })
    }

    fn rewrite(&self, url: &Url) -> Option<Url> {
        let target = &url[Position::BeforePath..Position::AfterQuery];
        let Cow::Owned(target) = self.pattern.replace(target, &self.replace) else { return None };
        if !target.starts_with('/') || target.len() > MAX_TARGET_BYTES {
            return None;
        }
        let (path, query) =
            target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
        let mut rendition = url.clone();
        rendition.set_path(path);
        rendition.set_query(query);
        rendition.set_fragment(None);
        (rendition.origin() == url.origin() && rendition != *url).then_some(rendition)
    }
}

/// Whether a failure is that of a rendition alone: there is none, or it is no image. The image itself may be there all
/// the same. A server in trouble is another matter.
pub(super) fn may_be_only_the_rendition(cause: FailureCause, http_status: Option<u16>) -> bool {
    use FailureCause::{
        BadContentEncoding, BadImage, BadRedirect, DecoderPanic, EmptyBody, HttpStatus, NotAnImage,
        TooManyRedirects, TruncatedImage, UnsupportedFormat,
    };
    match cause {
        // 501: a IIIF server that has no sizes.
        HttpStatus => matches!(http_status, Some(501 | 400..=407 | 409..=424 | 426..=428 | 430..=499)),
        EmptyBody | NotAnImage | UnsupportedFormat | TruncatedImage | BadImage | DecoderPanic
        | BadContentEncoding | TooManyRedirects | BadRedirect => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(renditions: &Renditions, url: &str, expect: Option<&str>) {
        let found = renditions.of(&Url::parse(url).unwrap()).map(String::from);
        assert_eq!(found.as_deref(), expect, "{url}");
    }

    fn own(server: &str, pattern: &str, replace: &str, size: Option<u32>) -> RenditionRule {
        RenditionRule { server: server.into(), pattern: pattern.into(), replace: replace.into(), size }
    }

    #[test]
    fn rules_of_the_user_come_first_and_the_smallest_that_suffices_wins() {
        let rules = [
            own("a.example", r"\.jpg$", "_l.jpg", Some(800)),
            own("a.example", r"\.jpg$", "_s.jpg", Some(100)),
            own("a.example", r"\.jpg$", "_m.jpg", Some(400)),
            own("", "^/any/", "/any/{size}/", None),
        ];
        let known = [own("a.example", "^/", "/known/", None), own("", "^/any/", "/known/any/", None)];
        let renditions = |size| Renditions::new(size, &rules, &known).unwrap();
        check(&renditions(100), "http://a.example/1.jpg", Some("http://a.example/1_s.jpg"));
        check(&renditions(101), "http://a.example/1.jpg", Some("http://a.example/1_m.jpg"));
        check(&renditions(900), "http://a.example/1.jpg", Some("http://a.example/known/1.jpg"));
        check(&renditions(900), "http://c.example/1.jpg", None);
        check(&renditions(224), "http://b.example/any/1.jpg#x", Some("http://b.example/any/224/1.jpg"));
    }

    #[test]
    fn rules_that_cannot_be_used_are_named() {
        for (rule, says) in [
            (own("", "(", "/", None), "unclosed group"),
            (own("", "", "/", None), "needs `pattern`"),
            (own("", "/", "", None), "needs `pattern` and `replace`"),
            (own("*.org", "/", "/", None), "`*.org` is no server"),
        ] {
            let error = Renditions::new(224, &[rule], &[]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_server_in_trouble_is_no_missing_rendition() {
        for status in [400, 401, 403, 404, 410, 451, 501] {
            assert!(may_be_only_the_rendition(FailureCause::HttpStatus, Some(status)), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 520] {
            assert!(!may_be_only_the_rendition(FailureCause::HttpStatus, Some(status)), "{status}");
        }
        assert!(!may_be_only_the_rendition(FailureCause::FirstByteTimeout, None));
    }

    proptest! {
        /// Whatever rules and URLs say, the server is the same, and nothing panics.
        #[test]
        fn the_server_never_changes(
            path in r"[/?#%@:.\\a-f0-9\[\]é ]{0,60}",
            replace in r"[/?#%@:.\\a-f\[\]é ${}]{1,30}",
            port in prop::option::of(1_u16..),
        ) {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            let Ok(url) = Url::parse(&format!("https://me:pw@a.example{port}/{path}")) else { return Ok(()) };
            let rules = [own("", "^.*$", &replace, None), own("", "^/(.*)/", &format!("//evil.example/{replace}"), None)];
            for rule in rules {
                let renditions = Renditions::new(224, &[rule], &[]).unwrap();
                if let Some(rendition) = renditions.of(&url) {
                    prop_assert_eq!(rendition.origin(), url.origin());
                    prop_assert_eq!(rendition.username(), "me");
                    prop_assert_eq!(Url::parse(rendition.as_str()).unwrap().origin(), url.origin());
                }
            }
        }
    }
}
