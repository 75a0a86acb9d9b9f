//! What a robots.txt says, read once more: from RFC 9309 alone, and by other code than that which obeys it.
//!
//! Only the words of the RFC are known, and `Crawl-delay`. Who obeys may read more into a file; that makes a request
//! fewer, never one more.

use std::time::Duration;

/// What must be read of a file (RFC 9309, 2.5).
const MAX_BYTES: usize = 500 << 10;
const ANY_AGENT: &[u8] = b"*";

/// The groups that hold for somebody with some names. Without any, all is allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RobotsTxt {
    groups: Vec<Group>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    rules: Vec<Rule>,
    crawl_delay: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    allows: bool,
    /// As [`octets`] gives them: `*` is any sequence, everything else itself.
    pattern: Vec<u8>,
    /// Whether the path must end where the pattern does.
    is_anchored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    UserAgent,
    Allow,
    Disallow,
    CrawlDelay,
}

impl RobotsTxt {
    /// Reads any bytes, as somebody with these names.
    pub fn parse(text: &[u8], agents: &[String]) -> Self {
        let lines: Vec<_> = lines(text).filter_map(statement).collect();
        let is_named = |agent: &&[u8]| {
            lines.iter().any(|(word, value)| *word == Word::UserAgent && value.eq_ignore_ascii_case(agent))
        };
        let mut named: Vec<&[u8]> = agents.iter().map(String::as_bytes).filter(is_named).collect();
        if named.is_empty() {
            named.push(ANY_AGENT);
        }
        Self { groups: named.into_iter().map(|agent| Group::of(agent, &lines)).collect() }
    }

    /// The rule that forbids path and query, as people write it.
    pub fn forbids(&self, target: &str) -> Option<String> {
        if target.split('?').next() == Some("/robots.txt") {
            return None;
        }
        let path = octets(target.as_bytes(), false);
        let deciding = |group: &Group| {
            let of_group = group.rules.iter().filter(|rule| rule.matches(&path));
            of_group.max_by_key(|rule| (rule.len(), rule.allows)).filter(|rule| !rule.allows).map(Rule::text)
        };
        self.groups.iter().find_map(deciding)
    }

    /// The least time between two requests; zero without one.
    pub fn crawl_delay(&self) -> Duration {
        self.groups.iter().filter_map(|group| group.crawl_delay).max().unwrap_or_default()
    }
}

fn is_end(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0)
}

/// Whole lines of what must be read.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let read = match text.get(..=MAX_BYTES) {
        Some(too_much) => &text[..too_much.iter().rposition(is_end).unwrap_or(0)],
        None => text,
    };
    read.split(is_end)
}

fn statement(line: &[u8]) -> Option<(Word, &[u8])> {
    let line = line.split(|byte| *byte == b'#').next()?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (word, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
    let words = [
        ("user-agent", Word::UserAgent),
        ("allow", Word::Allow),
        ("disallow", Word::Disallow),
        ("crawl-delay", Word::CrawlDelay),
    ];
    let known = words.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))?;
    Some((known.1, value))
}

impl Group {
    /// All that is said to one name, in however many groups.
    fn of(agent: &[u8], lines: &[(Word, &[u8])]) -> Self {
        let mut group = Self::default();
        let (mut is_meant, mut follows_agent) = (false, false);
        for (word, value) in lines {
            if *word == Word::UserAgent {
                is_meant = value.eq_ignore_ascii_case(agent) || follows_agent && is_meant;
            } else if is_meant {
                group.take(*word, value);
            }
            follows_agent = *word == Word::UserAgent;
        }
        group
    }

    fn take(&mut self, word: Word, value: &[u8]) {
        match word {
            Word::Allow | Word::Disallow => self.rules.extend(Rule::new(word == Word::Allow, value)),
            Word::CrawlDelay => {
                let seconds = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                let delay = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                self.crawl_delay = match (self.crawl_delay, delay) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            Word::UserAgent => {}
        }
    }
}

impl Rule {
    /// None of an empty value, which matches nothing.
    fn new(allows: bool, value: &[u8]) -> Option<Self> {
        if value.is_empty() {
            return None;
        }
        let (value, is_anchored) = value.strip_suffix(b"$").map_or((value, false), |value| (value, true));
        let mut pattern = octets(value, true);
        // Paths begin so, and a rule that does not is meant to.
        if pattern.first() != Some(&b'/') {
            pattern.insert(0, b'/');
        }
        Some(Self { allows, pattern, is_anchored })
    }

    fn len(&self) -> usize {
        self.pattern.len() + usize::from(self.is_anchored)
    }

    /// Walks along pattern and path. Where they part, the last `*` takes one octet more.
    fn matches(&self, path: &[u8]) -> bool {
        let (mut at, mut here) = (0, 0);
        let mut last_star = None;
        loop {
            match (self.pattern.get(at), path.get(here)) {
                (Some(b'*'), _) => {
                    last_star = Some((at, here));
                    at += 1;
                    continue;
                }
                (None, None) => return true,
                (None, Some(_)) if !self.is_anchored => return true,
                (Some(octet), Some(other)) if octet == other => {
                    (at, here) = (at + 1, here + 1);
                    continue;
                }
                // Nothing is left for what the pattern still wants, however much the `*` takes.
                (Some(_), None) => return false,
                _ => {}
            }
            let Some((star, from)) = last_star else { return false };
            last_star = Some((star, from + 1));
            (at, here) = (star + 1, from + 1);
        }
    }

    fn text(&self) -> String {
        let pattern = String::from_utf8_lossy(&self.pattern);
        format!("Disallow: {pattern}{}", if self.is_anchored { "$" } else { "" })
    }
}

/// One spelling for each path (RFC 9309, 2.2.2): octets that need no escape have none, all others have one. `*` and
/// `$` have one, too, but where a pattern means any sequence.
fn octets(text: &[u8], is_pattern: bool) -> Vec<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (octet, was_escaped) = match tail {
            [high, low, after @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    (high * 16 + low, true)
                }
                _ => {
                    rest = tail;
                    (*first, false)
                }
            },
            _ => {
                rest = tail;
                (*first, false)
            }
        };
        let is_unreserved = octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
        let stays = match octet {
            _ if was_escaped => is_unreserved,
            b'*' => is_pattern,
            b'$' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' => false,
            _ => octet.is_ascii_graphic(),
        };
        if stays {
            out.push(octet);
        } else {
            out.extend(format!("%{octet:02X}").bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agents() -> Vec<String> {
        vec!["ddl".into(), "Herbarium".into()]
    }

    /// What is forbidden, of these targets.
    #[track_caller]
    fn check(text: &str, allowed: &[&str], forbidden: &[&str]) {
        let file = RobotsTxt::parse(text.as_bytes(), &agents());
        for target in allowed {
            assert_eq!(file.forbids(target), None, "{target} by\n{text}");
        }
        for target in forbidden {
            assert!(file.forbids(target).is_some(), "{target} by\n{text}");
        }
    }

    #[test]
    fn the_longest_match_decides_and_allow_where_they_are_as_long() {
        check("User-agent: *\nDisallow: /a\nAllow: /a/b", &["/a/b", "/a/bc", "/b"], &["/a", "/a/c"]);
        check("User-agent: *\nAllow: /a/b\nDisallow: /a", &["/a/b"], &["/a/c"]);
        check("User-agent: *\nDisallow: /a\nAllow: /a", &["/a"], &[]);
        check("User-agent: *\nDisallow: /\nAllow: /$", &["/"], &["/a"]);
        check("User-agent: *\nDisallow:\n", &["/", "/a"], &[]);
        check("User-agent: *\nDisallow: /a?x=1", &["/a", "/a?x=2"], &["/a?x=1", "/a?x=12"]);
        check("User-agent: *\nDisallow: /", &["/robots.txt"], &["/robots.txt/", "/"]);
    }

    #[test]
    fn stars_and_ends() {
        check(
            "User-agent: *\nDisallow: /*.gif$",
            &["/a.gif?x", "/gif", "/a.gifs"],
            &["/a.gif", "/a.gif.gif", "/.gif"],
        );
        check("User-agent: *\nDisallow: *.gif$", &["/a.gifs"], &["/a.gif"]);
        check("User-agent: *\nDisallow: /a*b*c", &["/ab", "/acb"], &["/abc", "/aXbYcZ", "/aabbcc"]);
        check("User-agent: *\nDisallow: /a*a*b$", &["/ab", "/aabc"], &["/aab", "/aXaYb", "/aabab"]);
        check("User-agent: *\nDisallow: /a**", &["/b"], &["/a", "/ab"]);
        check("User-agent: *\nDisallow: /a$b", &["/a"], &["/a$b", "/a%24b"]);
        check("User-agent: *\nDisallow: /%2A", &["/x"], &["/*", "/%2a"]);
        check("User-agent: *\nDisallow: /a%24", &["/a"], &["/a$", "/a%24x"]);
    }

    #[test]
    fn escapes_have_one_spelling() {
        check("User-agent: *\nDisallow: /ツ", &["/x"], &["/%E3%83%84", "/%e3%83%84", "/ツ"]);
        check("User-agent: *\nDisallow: /%62%61z", &[], &["/baz", "/b%61z"]);
        check("User-agent: *\nDisallow: /a%2Fb", &["/a/b"], &["/a%2fb"]);
        check("User-agent: *\nDisallow: /a%2", &["/a"], &["/a%2"]);
        check("User-agent: *\nDisallow: /a b", &["/a"], &["/a%20b"]);
    }

    #[test]
    fn groups_are_chosen_by_name() {
        let others = "User-agent: other\nDisallow: /\n";
        check(others, &["/"], &[]);
        check(&format!("{others}\nUser-agent: *\nDisallow: /a"), &["/b"], &["/a"]);
        check("User-agent: *\nDisallow: /a\n\nUser-agent: DDL\nDisallow: /b", &["/a"], &["/b"]);
        check("User-agent: ddl\nDisallow: /a\n\nUser-agent: herbarium\nDisallow: /b", &["/c"], &["/a", "/b"]);
        check(
            "User-agent: ddl\nDisallow: /a\n\nUser-agent: x\nDisallow: /\nUser-agent: ddl\nDisallow: /b",
            &["/c"],
            &["/a", "/b"],
        );
        check("User-agent: x\nUser-agent: ddl\nDisallow: /a\nUser-agent: y\nDisallow: /b", &["/b"], &["/a"]);
        check("User-agent: ddl\nSitemap: /x\nUser-agent: y\nDisallow: /b", &[], &["/b"]);
        check("User-agent: ddl\n\nUser-agent: y\n\nDisallow: /b", &[], &["/b"]);
        check("User-agent: ddl-images\nDisallow: /\nUser-agent: dd\nDisallow: /", &["/"], &[]);
        check("Disallow: /\nUser-agent: *\nDisallow: /a", &["/"], &["/a"]);
        check(
            "\u{feff}USER-AGENT : * # all\r\ndisallow :/a # this\rDisallow: /b\0Disallow: /c",
            &["/d"],
            &["/a", "/b", "/c"],
        );
    }

    #[test]
    fn delays_are_those_of_our_groups() {
        let delay = |text: &str| RobotsTxt::parse(text.as_bytes(), &agents()).crawl_delay().as_secs_f64();
        for (text, seconds) in [
            ("User-agent: *\nCrawl-delay: 2.5", 2.5),
            ("User-agent: *\nCrawl-delay: 2\nUser-agent: ddl\nDisallow:", 0.0),
            ("User-agent: ddl\nCrawl-delay: 2\nUser-agent: herbarium\nCrawl-delay: 3", 3.0),
            ("User-agent: *\nCrawl-delay: 9\nCrawl-delay: 4", 4.0),
            ("User-agent: *\nCrawl-delay: -1", 0.0),
            ("User-agent: *\nCrawl-delay: soon", 0.0),
        ] {
            assert!((delay(text) - seconds).abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn what_is_beyond_500_kib_is_not_read_and_a_cut_line_is_none() {
        let long = format!("User-agent: *\nDisallow: /a\n{}\nDisallow: /b\n", "#".repeat(MAX_BYTES));
        check(&long, &["/b"], &["/a"]);
        let cut = format!("User-agent: *\n{}\nDisallow: /abcdef", "#".repeat(MAX_BYTES - 20));
        check(&cut, &["/a", "/abcdef"], &[]);
    }

    proptest! {
        /// Two readers of the same RFC, on files that have nothing but its words.
        #[test]
        fn agrees_with_what_obeys(
            groups in prop::collection::vec((
                prop::sample::subsequence(vec!["*", "ddl", "Herbarium", "other"], 1..3),
                prop::collection::vec((any::<bool>(), "/[ab*%2Fé?]{0,6}\\$?"), 0..5),
                prop::option::of(0_u32..9),
            ), 0..5),
            path in "/[ab*$%2F?]{0,8}",
        ) {
            let mut text = String::new();
            for (agents, rules, delay) in &groups {
                agents.iter().for_each(|agent| text += &format!("User-agent: {agent}\n"));
                for (allows, pattern) in rules {
                    text += &format!("{}: {pattern}\n", if *allows { "Allow" } else { "Disallow" });
                }
                delay.iter().for_each(|delay| text += &format!("Crawl-delay: {delay}\n"));
            }
            let ours = RobotsTxt::parse(text.as_bytes(), &agents());
            let theirs: Vec<_> = agents().iter().map(|agent| robotxt::Robots::parse(text.as_bytes(), agent)).collect();
            let named: Vec<_> = theirs.iter().filter(|group| group.user_agent() != "*").collect();
            let theirs = if named.is_empty() { vec![&theirs[0]] } else { named };
            let delay = theirs.iter().filter_map(|group| group.crawl_delay()).max().unwrap_or_default();
            prop_assert_eq!(ours.crawl_delay(), delay, "{}", text);
            // What a literal `*` or `$` of a path is, they leave to who asks.
            if !path.contains(['*', '$']) && path != "/robots.txt" {
                let is_allowed = theirs.iter().all(|group| group.is_allowed(&path));
                prop_assert_eq!(ours.forbids(&path).is_none(), is_allowed, "{} by\n{}", path, text);
            }
        }

        #[test]
        fn any_bytes_can_be_read(text in prop::collection::vec(any::<u8>(), 0..300), target in ".{0,30}") {
            let mut file = b"User-agent: *\nDisallow: /".to_vec();
            file.extend(text);
            let file = RobotsTxt::parse(&file, &agents());
            let _ = (file.forbids(&target), file.crawl_delay());
        }
    }
}
