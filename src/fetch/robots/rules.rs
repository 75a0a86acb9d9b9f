//! The rules of one robots.txt that are meant for us: pure code.

use std::time::Duration;

use robotxt::{ANY_AGENT, Robots, Rule};
use url::{Position, Url};

/// The name by which robots.txt and `X-Robots-Tag` may speak to every user of ddl.
const PRODUCT_TOKEN: &str = "ddl";

/// Rules times bytes of the path from which on a look-up is work for another thread: some milliseconds.
const COSTLY: usize = 1 << 20;

/// The names under which owners of servers may address us: `ddl`, and the first word of the user agent up to its
/// version (`my-project/1.0 (me@institute.org)` is `my-project`), or with it (`my-project/1.0`).
pub(in crate::fetch) fn agents(user_agent: &str) -> Vec<String> {
    let end = |c: char| c.is_whitespace() || matches!(c, '/' | '(' | ')' | ',' | ';' | ':');
    let own = user_agent.split(end).next().unwrap_or_default();
    let mut agents = vec![PRODUCT_TOKEN.to_owned()];
    // As owners copy it from their logs, too.
    let with_version = user_agent.split_whitespace().next().unwrap_or_default();
    for name in [own, with_version] {
        if !own.is_empty() && own != ANY_AGENT && agents.iter().all(|known| !known.eq_ignore_ascii_case(name))
        {
            agents.push(name.to_owned());
        }
    }
    agents
}

/// Without a group everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::fetch) struct Rules {
    groups: Vec<Robots>,
}

impl Rules {
    /// Reads a file of any bytes.
    pub fn parse(text: &[u8], agents: &[String]) -> Self {
        let mut groups: Vec<Robots> = agents.iter().map(|agent| Robots::parse(text, agent)).collect();
        if groups.iter().any(|group| group.user_agent() != ANY_AGENT) {
            groups.retain(|group| group.user_agent() != ANY_AGENT);
        } else {
            groups.truncate(1);
        }
        // Most files have nothing to say to us: these cost nothing to keep.
        groups.retain(|group| group.always() != Some(true) || group.crawl_delay().is_some());
        Self { groups }
    }

    /// The rule that forbids a URL, as people write it; `None` if it may be asked for.
    pub fn forbids(&self, url: &Url) -> Option<String> {
        let path = path_of(url);
        if path == "/robots.txt" {
            return None;
        }
        self.groups.iter().find_map(|group| {
            let rule = deciding_rule(group, path).filter(|rule| !rule.is_allow())?;
            Some(format!("Disallow: {} (User-agent: {})", rule.pattern(), group.user_agent()))
        })
    }

    /// Whether a look-up takes so long that it would hold up other requests.
    pub fn is_costly(&self, url: &Url) -> bool {
        let rules: usize = self.groups.iter().map(|group| group.rules().len()).sum();
        rules.saturating_mul(path_of(url).len()) > COSTLY
    }

    /// The least time between two requests; zero if the file has none.
    pub fn crawl_delay(&self) -> Duration {
        self.groups.iter().filter_map(Robots::crawl_delay).max().unwrap_or_default()
    }

    /// About how many bytes of memory this takes.
    pub fn weight(&self) -> usize {
        let of_group = |group: &Robots| {
            let rules: usize =
                group.rules().iter().map(|rule| size_of::<Rule>() + rule.pattern().len()).sum();
            let sitemaps: usize =
                group.sitemaps().iter().map(|url| size_of::<Url>() + url.as_str().len()).sum();
            size_of::<Robots>() + rules + sitemaps
        };
        self.groups.iter().map(of_group).sum()
    }
}

fn path_of(url: &Url) -> &str {
    &url[Position::BeforePath..Position::AfterQuery]
}

/// The longest rule that matches; of two as long, the one that allows.
///
/// A rule names a literal `*` or `$` as `%2A` and `%24` (RFC 9309, 2.2.3), so a path with one is looked up in
/// this form as well.
fn deciding_rule<'a>(group: &'a Robots, path: &str) -> Option<&'a Rule> {
    let rule = group.matching_rule(path);
    if !path.contains(['*', '$']) {
        return rule;
    }
    let encoded = path.replace('*', "%2A").replace('$', "%24");
    [rule, group.matching_rule(&encoded)]
        .into_iter()
        .flatten()
        .max_by_key(|rule| (rule.pattern().len(), rule.is_allow()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::parse(text.as_bytes(), &agents("my-project/1.0 (me@institute.org)"))
    }

    fn is_allowed(rules: &Rules, path: &str) -> bool {
        rules.forbids(&Url::parse("http://a.example").unwrap().join(path).unwrap()).is_none()
    }

    /// `/path +` is allowed, `/path -` is not.
    fn check(text: &str, expect: &[(&str, bool)]) {
        let rules = rules(text);
        for (path, expect) in expect {
            assert_eq!(is_allowed(&rules, path), *expect, "{path} by\n{text}");
        }
    }

    #[test]
    fn names_of_ours() {
        let check =
            |user_agent: &str, expect: &[&str]| assert_eq!(agents(user_agent), expect, "{user_agent}");
        check("my-project/1.0 (me@institute.org)", &["ddl", "my-project", "my-project/1.0"]);
        check("Herbarium (me@institute.org)", &["ddl", "Herbarium"]);
        check("DDL/0.1 (a@b.example)", &["ddl", "DDL/0.1"]);
        check("* (a@b.example)", &["ddl"]);
        check("", &["ddl"]);
    }

    /// RFC 9309, section 5.1.
    #[test]
    fn the_simple_example_of_the_rfc() {
        let text = "User-Agent: *\nDisallow: *.gif$\nDisallow: /example/\nAllow: /publications/\n\n\
                    User-Agent: foobot\nDisallow:/\nAllow:/example/page.html\nAllow:/example/allowed.gif\n\n\
                    User-Agent: barbot\nUser-Agent: bazbot\nDisallow: /example/page.html\n\n\
                    User-Agent: quxbot\n";
        let paths = ["/example/page.html", "/example/allowed.gif", "/publications/x.gif", "/a/b.gif", "/"];
        let check = |agent: &str, expect: [bool; 5]| {
            let rules = Rules::parse(text.as_bytes(), &agents(agent));
            assert_eq!(paths.map(|path| is_allowed(&rules, path)), expect, "{agent}");
        };
        check("other", [false, false, true, false, true]);
        check("FooBot/2.1", [true, true, false, false, false]);
        check("barbot", [false, true, true, true, true]);
        check("bazbot", [false, true, true, true, true]);
        // Its group is empty: nothing is disallowed, also not by the group of all.
        check("quxbot", [true; 5]);
    }

    /// RFC 9309, section 5.2, and what 2.2.2 and 2.2.3 say of encoding and of special characters.
    #[test]
    fn the_longest_match_counts_and_octets_are_compared() {
        check(
            "User-agent: ddl\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif",
            &[("/example/page/", true), ("/example/page/disallowed.gif", false)],
        );
        check("User-agent: *\nDisallow: /page\nAllow: /page", &[("/page", true)]);
        check("User-agent: *\nAllow: /p\nDisallow: /", &[("/page", true), ("/q", false)]);
        check(
            "User-agent: *\nDisallow: /foo/bar?baz=quz",
            &[("/foo/bar?baz=quz", false), ("/foo/bar", true)],
        );
        check(
            "User-agent: *\nDisallow: /foo/bar?baz=http://foo.bar",
            &[("/foo/bar?baz=http://foo.bar", false), ("/foo/bar?baz=http", true)],
        );
        check("User-agent: *\nDisallow: /foo/bar/\u{30c4}", &[("/foo/bar/%E3%83%84", false)]);
        check("User-agent: *\nDisallow: /foo/bar/%E3%83%84", &[("/foo/bar/\u{30c4}", false)]);
        check("User-agent: *\nDisallow: /foo/bar/%62%61%7A", &[("/foo/bar/baz", false)]);
        check("User-agent: *\nDisallow: /foo/bar/baz", &[("/foo/bar/%62%61%7a", false)]);
        check("User-agent: *\nDisallow: /a%2fb", &[("/a%2Fb", false), ("/a/b", true)]);
        check(
            "User-agent: *\nDisallow: /path/file-with-a-%2A.html",
            &[("/path/file-with-a-*.html", false), ("/path/file-with-a-b.html", true)],
        );
        check("User-agent: *\nDisallow: /path/foo-%24", &[("/path/foo-$", false), ("/path/foo-", true)]);
        check("User-agent: *\nDisallow: /a$b", &[("/a$b/c", false), ("/a", true)]);
        check(
            "User-agent: *\nDisallow: *.gif$",
            &[("/a.gif", false), ("/a.gif?x", true), ("/b/.gif/c", true)],
        );
        check(
            "User-agent: *\nDisallow: /a/*/c\nAllow: /a/*/c/open$",
            &[("/a/b/c", false), ("/a/b/b/c/d", false), ("/a/b/c/open", true), ("/a/c", true)],
        );
        check("User-agent: *\nDisallow: /This", &[("/this", true), ("/This.jpg", false)]);
    }

    #[test]
    fn lines_and_groups_as_people_write_them() {
        // A byte order mark, CRLF and CR, comments, blanks around everything, any case of the keys.
        check("\u{feff}User-agent: *\r\nDisallow: /a\r\n", &[("/a", false)]);
        check("User-agent: *\rDisallow: /a\rDisallow: /b", &[("/a", false), ("/b", false)]);
        check(" # all\n\tUSER-AGENT :  * # us\n  disallow:\t/a # no\n", &[("/a", false), ("/b", true)]);
        // Groups of one name are one group; other lines end none.
        check(
            "User-agent: ddl\nDisallow: /a\n\nUser-agent: x\nDisallow: /x\n\nUser-agent: DDL\nDisallow: /b\n\
             Sitemap: http://a.example/\nHost: a\nDisallow: /c",
            &[("/a", false), ("/b", false), ("/c", false), ("/x", true)],
        );
        check(
            "User-agent: *\nUser-agent: ddl\nDisallow: /a\nUser-agent: *\nDisallow: /b",
            &[("/a", false), ("/b", true)],
        );
        // Rules of no group are nobody's, and what is no rule forbids nothing.
        check("Disallow: /\nUser-agent: *\nDisallow: /a", &[("/a", false), ("/b", true)]);
        check("User-agent: *\nDisallow:\n", &[("/a", true)]);
        check("<!doctype html><title>Not found</title>", &[("/a", true)]);
        check("", &[("/a", true)]);
        check("User-agent: *\nDisallow: /", &[("/robots.txt", true), ("/robots.txt?x", false), ("/", false)]);
    }

    #[test]
    fn who_is_named_twice_obeys_both() {
        let text = "User-agent: ddl\nDisallow: /a\nCrawl-delay: 1.5\n\nUser-agent: My-Project\nDisallow: /b\n\
                    Crawl-delay: 20\n\nUser-agent: *\nDisallow: /c\nCrawl-delay: 99";
        check(text, &[("/a", false), ("/b", false), ("/c", true)]);
        assert_eq!(rules(text).crawl_delay(), Duration::from_secs(20));
        let other = Rules::parse(text.as_bytes(), &["other".to_owned()]);
        assert_eq!(other.crawl_delay(), Duration::from_secs(99));
        assert_eq!(rules("User-agent: ddl\nCrawl-delay: soon").crawl_delay(), Duration::ZERO);
        let rule = rules(text).forbids(&Url::parse("https://u:p@a.example/b?c#d").unwrap());
        assert_eq!(rule.unwrap(), "Disallow: /b (User-agent: my-project)");
    }

    #[test]
    fn the_first_500_kib_count_and_no_half_line() {
        let mut text = "User-agent: *\nDisallow: /a\n".to_owned();
        text.push_str(&"#\n".repeat(250 * 1024));
        text.push_str("Allow: /\n");
        check(&text, &[("/a", false)]);
        let mut cut = "User-agent: *\nDisallow: /a\n".to_owned();
        cut.push_str(&"\n".repeat(500 * 1024 - cut.len() - "Disallow: /".len()));
        cut.push_str("Disallow: /private/");
        check(&cut, &[("/a", false), ("/b", true)]);
    }

    #[test]
    fn the_largest_files_are_read_and_weighed() {
        let rules = rules(&("User-agent: *\nDisallow: /x\n".to_owned() + &"Allow:*a*a*b\n".repeat(40_000)));
        let url = Url::parse(&format!("http://a.example/{}", "a".repeat(8000))).unwrap();
        assert!(rules.is_costly(&url));
        assert!(rules.weight() > 400_000, "{}", rules.weight());
        assert_eq!(rules.forbids(&url), None);
        assert_eq!(self::rules("User-agent: *\nAllow: /a").weight(), 0, "nothing is kept of it");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_any_path_is_decided(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            lines in prop::collection::vec("(user-agent|allow|disallow|crawl-delay|x)[: ]{1,2}[*$/a-c%0-9#é ]{0,8}", 0..8),
            path in "/[a-c*$%2A/?é]{0,12}",
        ) {
            let mut text = lines.join("\n").into_bytes();
            text.extend(bytes);
            let rules = Rules::parse(&text, &agents("a"));
            let url = Url::parse(&format!("http://a.example{path}")).unwrap();
            let _ = (rules.forbids(&url), rules.crawl_delay(), rules.weight());
        }

        /// Against a matcher that tries everything.
        #[test]
        fn patterns_match_as_the_simplest_matcher_says(pattern in "/[ab*]{0,6}\\$?", path in "/[ab]{0,8}") {
            fn matches(pattern: &[u8], path: &[u8]) -> bool {
                match (pattern, path) {
                    ([], _) | ([b'$'], []) => true,
                    ([b'*', pattern @ ..], _) => (0..=path.len()).any(|skip| matches(pattern, &path[skip..])),
                    ([first, pattern @ ..], [next, path @ ..]) => first == next && matches(pattern, path),
                    _ => false,
                }
            }
            let rules = rules(&format!("User-agent: *\nDisallow: {pattern}"));
            prop_assert_eq!(!is_allowed(&rules, &path), matches(pattern.as_bytes(), path.as_bytes()));
        }

        /// The longest of the rules that match decides, whatever their order.
        #[test]
        fn order_does_not_matter(rules in prop::collection::vec(("/[ab]{0,4}", any::<bool>()), 1..6), path in "/[ab]{0,5}") {
            let line = |(pattern, allow): &(String, bool)| {
                format!("{}: {pattern}\n", if *allow { "Allow" } else { "Disallow" })
            };
            let best = rules.iter().filter(|(pattern, _)| path.starts_with(pattern.as_str()))
                .max_by_key(|(pattern, allow)| (pattern.len(), *allow));
            let text: String = rules.iter().rev().map(line).collect();
            let rules = self::rules(&format!("User-agent: *\n{text}"));
            prop_assert_eq!(is_allowed(&rules, &path), best.is_none_or(|(_, allow)| *allow));
        }
    }
}
