//! Headers with which the owner of an image says that it is not for this.
//!
//! | header | opts out | of |
//! |---|---|---|
//! | `X-Robots-Tag` | a directive of `x_robots_tag_directives` for all, for `ddl`, or for the first word of the user agent | Google's robots meta tags, DeviantArt's `noai` |
//! | `Content-Usage` | `=n` for a category of `content_usage_categories` | the IETF's AIPREF drafts |
//! | `tdm-reservation` | `1` | TDMRep, for article 4 of the EU's directive 2019/790 |
//!
//! Read from the response that has the image, not from redirects on the way, and before any of its body.
//! What does not parse opts out of nothing, but where a draft leaves room the owner is believed: a `no` anywhere
//! counts, whatever stands beside it.

use hyper::header::HeaderMap;

use super::options::FetchOptions;
use super::robots::agents;

/// Directives of `X-Robots-Tag` that have a value behind a colon, and so are no agents.
const WITH_VALUE: [&str; 4] = ["unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"];

/// Which signals count.
#[derive(Debug)]
pub(super) struct OptOuts {
    /// Names of ours, in lower case.
    agents: Vec<String>,
    /// Empty: the header is not looked at. In lower case, as the next.
    directives: Vec<String>,
    categories: Vec<String>,
    tdm_reservation: bool,
}

impl OptOuts {
    pub fn new(options: &FetchOptions) -> Self {
        let lower = |words: &[String], respected: bool| {
            let words = words.iter().filter(|_| respected);
            words.map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty()).collect()
        };
        Self {
            agents: lower(&agents(&options.user_agent), true),
            directives: lower(&options.x_robots_tag_directives, options.respect_x_robots_tag),
            categories: lower(&options.content_usage_categories, options.respect_content_usage),
            tdm_reservation: options.respect_tdm_reservation,
        }
    }

    /// The header that opts out, as it was sent.
    pub fn find(&self, headers: &HeaderMap) -> Option<String> {
        let find = |name: &'static str, opts_out: &dyn Fn(&str) -> bool| {
            headers.get_all(name).iter().find_map(|value| {
                let text = String::from_utf8_lossy(value.as_bytes());
                opts_out(&text).then(|| format!("{name}: {text}"))
            })
        };
        find("x-robots-tag", &|text| self.robots_tag_opts_out(text))
            .or_else(|| find("content-usage", &|text| self.usage_opts_out(text)))
            .or_else(|| {
                find("tdm-reservation", &|text| {
                    self.tdm_reservation && text.split(',').any(|item| item.trim() == "1")
                })
            })
    }

    /// `noai, noimageai`, or `agent: noai`: an agent's name holds up to the next, or to the header's end.
    fn robots_tag_opts_out(&self, text: &str) -> bool {
        let mut is_for_us = true;
        text.split(',').any(|part| {
            let mut directives = part.trim();
            if let Some((name, rest)) = directives.split_once(':') {
                let name = name.trim();
                if WITH_VALUE.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    return false;
                }
                // A date has colons too.
                if name.contains(char::is_whitespace) {
                    return false;
                }
                is_for_us = name == "*" || self.agents.iter().any(|agent| agent.eq_ignore_ascii_case(name));
                directives = rest;
            }
            is_for_us
                && directives.split(|c: char| c.is_whitespace() || c == ';').any(|directive| {
                    self.directives.iter().any(|known| known.eq_ignore_ascii_case(directive))
                })
        })
    }

    /// A dictionary of structured fields (RFC 9651): `train-ai=n, search=y`, each perhaps with parameters.
    fn usage_opts_out(&self, text: &str) -> bool {
        text.split(',').any(|member| {
            let member = member.split(';').next().unwrap_or_default();
            member.split_once('=').is_some_and(|(key, value)| {
                let key = key.trim();
                value.trim().eq_ignore_ascii_case("n")
                    && self.categories.iter().any(|known| known.eq_ignore_ascii_case(key))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn options() -> FetchOptions {
        FetchOptions { user_agent: "Herbarium-Bot/1.0 (a@b.example)".into(), ..FetchOptions::default() }
    }

    fn found(options: &FetchOptions, headers: &[(&'static str, &str)]) -> Option<String> {
        let map = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        OptOuts::new(options).find(&HeaderMap::from_iter(map))
    }

    fn check(options: &FetchOptions, name: &'static str, value: &str, expect: bool) {
        let expect = expect.then(|| format!("{name}: {value}"));
        assert_eq!(found(options, &[(name, value)]), expect, "{name}: {value}");
    }

    #[test]
    fn x_robots_tag() {
        let options = options();
        let check = |value, expect| check(&options, "x-robots-tag", value, expect);
        for directive in ["noai", "noimageai", "noml", "noindex", "noimageindex", "none", "NoAI"] {
            check(directive, true);
        }
        for directive in ["", "all", "nofollow", "noarchive", "nosnippet", "noindexx", "xnoai", "no ai"] {
            check(directive, false);
        }
        check("nofollow, noai", true);
        check("max-snippet: 20, noai", true);
        check("max-image-preview: none", false);
        check("unavailable_after: 25 Jun 2010 15:00:00 PST", false);
        check("unavailable_after: Friday, 25-Jun-10 15:00:00 PST, noai", true);
        // For some only.
        check("googlebot: noai", false);
        check("googlebot: nofollow, noai", false);
        check("googlebot: noindex, ddl: nofollow, noai", true);
        check("ddl: noai", true);
        check("DDL:noai", true);
        check("herbarium-bot: noai", true);
        check("herbarium: noai", false);
        check("*: noai", true);
        check("*: nofollow, otherbot: noai", false);
    }

    #[test]
    fn each_header_line_stands_alone() {
        let lines =
            [("x-robots-tag", "googlebot: noai"), ("x-robots-tag", "nofollow"), ("x-robots-tag", "noml")];
        assert_eq!(found(&options(), &lines[..2]), None);
        assert_eq!(found(&options(), &lines), Some("x-robots-tag: noml".into()));
    }

    #[test]
    fn content_usage() {
        let options = options();
        let check = |value, expect| check(&options, "content-usage", value, expect);
        check("train-ai=n", true);
        check("search=y, train-ai=n", true);
        check("Train-AI = N", true);
        check("train-ai=n;exceptions=1", true);
        check("train-ai=y, bots=n", true);
        check("search=n", false);
        check("train-ai=y", false);
        check("train-ai", false);
        check("train-ai=no", false);
        check("train-ai-not=n", false);
        check("", false);
    }

    #[test]
    fn tdm_reservation() {
        let options = options();
        check(&options, "tdm-reservation", "1", true);
        check(&options, "tdm-reservation", "1, 1", true);
        check(&options, "tdm-reservation", "0", false);
        check(&options, "tdm-reservation", "true", false);
        check(&options, "tdm-policy", "https://a.example/policy.json", false);
    }

    #[test]
    fn each_signal_can_be_changed_alone() {
        let signals =
            [("x-robots-tag", "noindex"), ("content-usage", "train-ai=n"), ("tdm-reservation", "1")];
        let default = options;
        let seen = |options: FetchOptions| signals.map(|signal| found(&options, &[signal]).is_some());
        assert_eq!(seen(default()), [true; 3]);
        assert_eq!(seen(FetchOptions { respect_x_robots_tag: false, ..default() }), [false, true, true]);
        assert_eq!(seen(FetchOptions { respect_content_usage: false, ..default() }), [true, false, true]);
        assert_eq!(seen(FetchOptions { respect_tdm_reservation: false, ..default() }), [true, true, false]);
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let ai = FetchOptions { x_robots_tag_directives: words(&["noai", "noml"]), ..default() };
        assert_eq!(seen(ai), [false, true, true]);
        let search = FetchOptions { content_usage_categories: words(&["search"]), ..default() };
        assert_eq!(seen(search), [true, false, true]);
        let none = FetchOptions { x_robots_tag_directives: Vec::new(), ..default() };
        assert_eq!(seen(none), [false, true, true]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[a-z:,;=* ]{0,40}") {
            let outs = OptOuts::new(&options());
            for value in [HeaderValue::from_bytes(&bytes), HeaderValue::from_str(&text)].into_iter().flatten() {
                for name in ["x-robots-tag", "content-usage", "tdm-reservation"] {
                    let _ = outs.find(&HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]));
                }
            }
        }
    }
}
