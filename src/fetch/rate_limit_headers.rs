//! What a server says of its limits beside `Retry-After`, on any answer.
//!
//! | header | where it is from |
//! |---|---|
//! | `RateLimit: "default";r=50;t=30` and `RateLimit-Policy: "default";q=100;w=60` | draft-ietf-httpapi-ratelimit-headers, from 08 on |
//! | `RateLimit: limit=100, remaining=50, reset=5` and `RateLimit-Policy: 100;w=60` | the same, 07 |
//! | `RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining`, `RateLimit-Reset` | the same, up to 06 |
//! | `X-RateLimit-Remaining` and `-Reset`, also `X-Rate-Limit-` | GitHub, Twitter and many after them: by custom |
//!
//! Two things are taken from them: nothing is left until a reset, and a quota per time. What a quota counts other
//! than requests (`qu`) is left alone, and so is what makes no sense: these headers are advice, and many servers
//! send them half configured.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::HeaderMap;

/// Headers of one name, and items of one header, that are read; real answers have one to three.
const MAX_ITEMS: usize = 16;
/// A longer value is no such header.
const MAX_VALUE_BYTES: usize = 1024;
/// A reset beyond this (30 years as seconds from now) is a time: seconds since 1970, which passed it in 2001 ...
const UNIX_SECONDS: f64 = 1e9;
/// ... or milliseconds.
const UNIX_MILLISECONDS: f64 = 1e12;
/// The largest number of a structured field (RFC 9651, 3.3.1).
const LARGEST: f64 = 1e15;

/// What the headers of one answer come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RateLimitHeaders {
    /// Nothing more is granted for so long; never zero.
    pub exhausted_for: Option<Duration>,
    /// The time between two requests that uses up the tightest quota evenly; never zero.
    pub gap: Option<Duration>,
}

impl RateLimitHeaders {
    /// Reads them. `now` is for resets that are told as a time.
    pub fn read(headers: &HeaderMap, now: SystemTime) -> Self {
        let mut found = Self::default();
        for item in items(headers, "ratelimit").filter(|item| item.number("r") == Some(0.0)) {
            found.exhausted(item.number("t"), now);
        }
        // Draft 07 has three members instead of one item with parameters.
        let member = |name| items(headers, "ratelimit").find_map(|item| item.member(name));
        if member("remaining") == Some(0.0) {
            found.exhausted(member("reset"), now);
        }
        for family in ["ratelimit", "x-ratelimit", "x-rate-limit"] {
            let first =
                |what: &str| items(headers, &format!("{family}-{what}")).find_map(|item| number(item.name));
            if first("remaining") == Some(0.0) {
                found.exhausted(first("reset"), now);
            }
        }
        for header in ["ratelimit-policy", "ratelimit-limit"] {
            for item in items(headers, header) {
                found.quota(&item);
            }
        }
        found
    }

    fn exhausted(&mut self, reset: Option<f64>, now: SystemTime) {
        let Some(reset) = reset else { return };
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let wait = match reset {
            _ if reset >= UNIX_MILLISECONDS => reset / 1000.0 - since_1970,
            _ if reset >= UNIX_SECONDS => reset - since_1970,
            _ => reset,
        };
        // A zero says nothing, and what is over neither.
        let wait = Duration::try_from_secs_f64(wait).ok().filter(|wait| !wait.is_zero());
        self.exhausted_for = self.exhausted_for.max(wait);
    }

    fn quota(&mut self, item: &Item<'_>) {
        let is_of_requests = item.parameter("qu").is_none_or(|unit| unit.trim_matches('"') == "requests");
        let quota = item.number("q").or_else(|| number(item.name));
        let (Some(quota), Some(window), true) = (quota, item.number("w"), is_of_requests) else { return };
        if quota >= 1.0 && window >= 1.0 {
            let gap = Duration::try_from_secs_f64(window / quota).ok().filter(|gap| !gap.is_zero());
            self.gap = self.gap.max(gap);
        }
    }
}

/// `name;key=value;...`, or `key=value`.
struct Item<'a> {
    name: &'a str,
    parameters: &'a str,
}

impl<'a> Item<'a> {
    fn parameter(&self, key: &str) -> Option<&'a str> {
        let mut parameters =
            self.parameters.split(';').take(MAX_ITEMS).filter_map(|text| text.split_once('='));
        parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case(key)).map(|(_, value)| value.trim())
    }

    fn number(&self, key: &str) -> Option<f64> {
        number(self.parameter(key)?)
    }

    fn member(&self, key: &str) -> Option<f64> {
        let (name, value) = self.name.split_once('=')?;
        name.trim().eq_ignore_ascii_case(key).then(|| number(value)).flatten()
    }
}

/// The members of all headers of a name. A comma within a quoted name makes two of one, of which neither is read.
fn items<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = Item<'a>> {
    headers
        .get_all(name)
        .iter()
        .take(MAX_ITEMS)
        .filter(|value| value.len() <= MAX_VALUE_BYTES)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(',').take(MAX_ITEMS))
        .map(|text| {
            let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
            Item { name: name.trim(), parameters }
        })
}

/// Digits, with a fraction at most; no sign, no exponent, no infinity.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|number| is_plain && *number < LARGEST)
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let lines = text.lines().map(|line| line.trim().split_once(": ").unwrap());
        lines.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_form_is_read() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let check = |text: &str, wait: Option<u64>, gap_ms: Option<u64>| {
            let expect = RateLimitHeaders {
                exhausted_for: wait.map(Duration::from_secs),
                gap: gap_ms.map(Duration::from_millis),
            };
            assert_eq!(RateLimitHeaders::read(&headers(text), now), expect, "{text}");
        };
        check("RateLimit: \"default\";r=50;t=30", None, None);
        check(
            "RateLimit: \"default\";r=0;t=30\nRateLimit-Policy: \"default\";q=100;w=60",
            Some(30),
            Some(600),
        );
        check("RateLimit: \"a\";r=5;t=3, \"b\"; r=0; t=90;pk=:YQ==:", Some(90), None);
        check("RateLimit-Policy: \"burst\";q=10;w=1, \"day\";q=8640;w=86400", None, Some(10_000));
        check("RateLimit-Policy: \"bytes\";q=10;w=60;qu=\"content-bytes\"", None, None);
        check("RateLimit-Policy: \"a\";q=10;w=60;qu=\"requests\"", None, Some(6000));
        check("RateLimit: limit=100, remaining=0, reset=50\nRateLimit-Policy: 100;w=50", Some(50), Some(500));
        check("RateLimit: limit=100, remaining=7, reset=50", None, None);
        check(
            "RateLimit-Limit: 100, 100;w=50\nRateLimit-Remaining: 0\nRateLimit-Reset: 7",
            Some(7),
            Some(500),
        );
        check(
            "X-RateLimit-Limit: 60\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1700000040",
            Some(40),
            None,
        );
        check("X-Rate-Limit-Remaining: 0\nX-Rate-Limit-Reset: 1700000040000", Some(40), None);
        check("X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1600000000", None, None);
        check("X-RateLimit-Remaining: 1\nX-RateLimit-Reset: 40", None, None);
        check("X-RateLimit-Remaining: 0", None, None);
        check("RateLimit: \"a\";r=0\nRateLimit-Policy: \"a\";q=5", None, None);
    }

    #[test]
    fn nonsense_is_ignored() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let values =
            ["", "0", "-1", "NaN", "inf", "1e3", "+5", "0x10", "9".repeat(400).leak(), "½", ";;;", "=", ","];
        for value in values {
            let text = format!(
                "RateLimit: \"a\";r=0;t={value}\nRateLimit-Policy: \"a\";q={value};w=60, \"b\";q=60;w={value}\n\
                 X-RateLimit-Remaining: 0\nX-RateLimit-Reset: {value} "
            );
            let lines = text.lines().filter_map(|line| line.split_once(": "));
            let headers: HeaderMap = lines
                .filter_map(|(name, value)| {
                    Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
                })
                .collect();
            assert_eq!(RateLimitHeaders::read(&headers, now), RateLimitHeaders::default(), "{value}");
        }
        let long = format!("RateLimit: \"{}\";r=0;t=30", "x".repeat(1 << 20));
        assert_eq!(RateLimitHeaders::read(&headers(&long), now), RateLimitHeaders::default());
        let late = format!("{}RateLimit: \"a\";r=0;t=30", "RateLimit: \"a\";r=1;t=30\n".repeat(10_000));
        assert_eq!(RateLimitHeaders::read(&headers(&late), now), RateLimitHeaders::default());
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_waits_are_times(
            values in prop::collection::vec((0usize..8, "[\"a-z0-9.;=, eE+-]{0,60}|[0-9]{0,20}|\\PC{0,30}"), 0..40),
            since_1970 in 0u64..1 << 36,
        ) {
            const NAMES: [&str; 8] = [
                "ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
                "x-ratelimit-remaining", "x-ratelimit-reset", "x-rate-limit-reset",
            ];
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    headers.append(NAMES[name], value);
                }
            }
            let read = RateLimitHeaders::read(&headers, UNIX_EPOCH + Duration::from_secs(since_1970));
            for time in [read.exhausted_for, read.gap].into_iter().flatten() {
                prop_assert!(!time.is_zero() && time.as_secs_f64() <= 1e15);
            }
        }
    }
}
