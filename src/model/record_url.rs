//! URLs of records and the names of servers: parsed once, at the edge.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::SkipReason;

/// A server as the catalog knows it: `host[:port]` in lower case, the default port and the root's dot dropped.
///
/// Internationalised names are in their ASCII (punycode) form and IPv6 literals keep their
/// brackets, so equal servers have equal names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerName(Arc<str>);

impl ServerName {
    /// Directory name of records that have no server, as Hive, Spark and DuckDB write a null.
    pub const NULL: &'static str = "__HIVE_DEFAULT_PARTITION__";

    /// Takes a name that is known to be in the catalog's form.
    #[must_use]
    pub fn from_catalog(name: &str) -> Self {
        Self(name.into())
    }

    /// The server of a URL, or `None` when the URL has no host.
    #[must_use]
    pub fn from_url(url: &Url) -> Option<Self> {
        // `example.org.` is `example.org`, said in full.
        let host = url.host_str()?;
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() || host.ends_with('.') {
            return None;
        }
        Some(match url.port() {
            // `url` drops a scheme's default port by itself.
            Some(port) => Self(format!("{host}:{port}").into()),
            None => Self(host.into()),
        })
    }

    /// Takes a server as people write it: `Example.org`, `example.org:80`, `https://example.org/`. `None` when it is
    /// the name of no server, or of more than one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&with_scheme).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let is_more = url.path() != "/"
            || url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.host_str().is_some_and(|host| host.contains('*'));
        if is_more { None } else { Self::from_url(&url) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `server_name=S` is a name that filesystems take, which end at 255 bytes. Every byte that
    /// could be escaped there (as `%3A`) counts as three. DNS itself ends at 253.
    fn fits_a_folder(&self) -> bool {
        let stays = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let escaped: usize = self.0.bytes().map(|byte| if stays(byte) { 1 } else { 3 }).sum();
        "server_name=".len() + escaped <= 255
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A URL for people and logs: without the name and the password that it may hold.
///
/// Takes any text: what does not parse may hold a password all the same.
#[must_use]
pub fn without_credentials(url: &str) -> Cow<'_, str> {
    // Slashes may be missing, too many, or backslashes: URL parsers take all of these.
    let scheme = url.find(':').map_or(0, |colon| colon + 1);
    let slashes = url[scheme..].len() - url[scheme..].trim_start_matches(['/', '\\']).len();
    let (scheme, slashes) = match slashes {
        // `//user@host/`, or a path with a colon in it.
        0 if url.starts_with(['/', '\\']) => (0, url.len() - url.trim_start_matches(['/', '\\']).len()),
        slashes => (scheme, slashes),
    };
    let start = scheme + slashes;
    let end = url[start..].find(['/', '\\', '?', '#']).map_or(url.len(), |end| start + end);
    match url[start..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{}{}", &url[..start], &url[start + at + 1..])),
        None => Cow::Borrowed(url),
    }
}

/// Identity of a record across lists and runs: 128 bits of BLAKE3 over the URL's text.
///
/// At 200 million URLs the chance that any two differ in text and agree in key is about 6e-23.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UrlKey(pub u128);

impl UrlKey {
    #[must_use]
    pub fn of_bytes(text: &[u8]) -> Self {
        let digest = blake3::hash(text);
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_bytes()[..16]);
        Self(u128::from_le_bytes(half))
    }
}

/// A URL that can be asked for: http or https, with a host, within the length limit.
///
/// The text is kept as the list has it (white space at the ends removed): it is what `identifier`
/// shows, what the UUID is made from, and what decides whether two rows are the same record.
#[derive(Clone, Debug)]
pub struct RecordUrl<'a> {
    pub text: &'a str,
    pub server: ServerName,
}

impl<'a> RecordUrl<'a> {
    /// # Errors
    /// The reason for which a record with this text is skipped.
    pub fn parse(text: &'a str, max_url_bytes: usize) -> Result<Self, SkipReason> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(SkipReason::EmptyUrl);
        }
        if text.len() > max_url_bytes {
            return Err(SkipReason::UrlTooLong);
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::EmptyHost => SkipReason::NoHost,
            url::ParseError::RelativeUrlWithoutBase => SkipReason::BadScheme,
            _ => SkipReason::BadUrl,
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SkipReason::BadScheme);
        }
        let server = ServerName::from_url(&url).ok_or(SkipReason::NoHost)?;
        if !server.fits_a_folder() || url.port() == Some(0) {
            return Err(SkipReason::BadUrl);
        }
        Ok(Self { text, server })
    }

    #[must_use]
    pub fn key(&self) -> UrlKey {
        UrlKey::of_bytes(self.text.as_bytes())
    }

    /// UUIDv5 of the text in the URL namespace (RFC 9562), as Python's
    /// `uuid.uuid5(uuid.NAMESPACE_URL, text)` gives it.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.text.as_bytes())
    }
}

/// The text with a mark in place of user names and passwords of the URLs in it: for logs and messages.
#[must_use]
pub fn mask_credentials(text: &str) -> Cow<'_, str> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '\\' | '"' | '`' | '<' | '>');
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let authority = after.split(ends).next().unwrap_or_default();
        shown += before;
        rest = match authority.rfind('@') {
            Some(at) => {
                shown += "***";
                &after[at..]
            }
            None => after,
        };
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown += rest;
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_text_are_masked() {
        let check = |text: &str, expect: &str| assert_eq!(mask_credentials(text), expect, "{text}");
        check("no URL, but me@example.org", "no URL, but me@example.org");
        check("failed url=\"http://me:secret@a.example/b@c\"", "failed url=\"http://***@a.example/b@c\"");
        check("https://a@b@c.example:81?x=@ and ftp://u:p@d", "https://***@c.example:81?x=@ and ftp://***@d");
        check("{\"url\":\"http://a.example\",\"x\":\"y@z\"}", "{\"url\":\"http://a.example\",\"x\":\"y@z\"}");
        check("bot (+https://example.org; me@example.org)", "bot (+https://example.org; me@example.org)");
        check("://", "://");
    }

    fn check(text: &str, expect: Result<&str, SkipReason>) {
        let got = RecordUrl::parse(text, 8192).map(|url| url.server.as_str().to_owned());
        assert_eq!(got, expect.map(str::to_owned), "{text}");
    }

    #[test]
    fn credentials_are_left_out() {
        let check = |url: &str, expect: &str| assert_eq!(without_credentials(url), expect, "{url}");
        check("http://a.example/x@y?z@w", "http://a.example/x@y?z@w");
        check("http://me:secret@a.example/x", "http://a.example/x");
        check("https://me@a.example:8443?q", "https://a.example:8443?q");
        check("http://me:se@cret@a.example", "http://a.example");
        check("http:\\\\me:secret@a.example\\x", "http:\\\\a.example\\x");
        check("http:me:secret@a.example/", "http:a.example/");
        check("http:////me:secret@a.example/", "http:////a.example/");
        check("//me:secret@a.example/", "//a.example/");
        check("ftp://me:secret@a b/", "ftp://a b/");
        check("/media/x@2.jpg", "/media/x@2.jpg");
        check("", "");
    }

    #[test]
    fn servers_have_one_name() {
        check("http://Example.ORG/a.jpg", Ok("example.org"));
        check("https://example.org:443/a.jpg", Ok("example.org"));
        check("http://example.org:443/a.jpg", Ok("example.org:443"));
        check("  http://example.org:8080/a b.jpg ", Ok("example.org:8080"));
        check("http://user:pass@example.org/a", Ok("example.org"));
        check("http://[2001:DB8::1]:81/a", Ok("[2001:db8::1]:81"));
        check("http://müseum.example/a", Ok("xn--mseum-kva.example"));
        check("http://example.org./a.jpg", Ok("example.org"));
        check("https://Example.org.:443/a.jpg", Ok("example.org"));
        check("http://example.org.:81/", Ok("example.org:81"));
        check("http://127.0.0.1./", Ok("127.0.0.1"));
    }

    #[test]
    fn servers_are_taken_as_people_write_them() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(ServerName::parse(text).as_ref().map(ServerName::as_str), expect, "{text}");
        };
        check(" Example.ORG ", Some("example.org"));
        check("example.org:80", Some("example.org"));
        check("https://example.org:443/", Some("example.org"));
        check("example.org:8080", Some("example.org:8080"));
        check("[2001:DB8::1]", Some("[2001:db8::1]"));
        check("müseum.example", Some("xn--mseum-kva.example"));
        for none in
            ["", "*.example.org", "example.org/images", "ftp://example.org", "two words", "a@b.org", "a:b"]
        {
            check(none, None);
        }
    }

    #[test]
    fn unusable_urls_have_a_reason() {
        check("", Err(SkipReason::EmptyUrl));
        check("   ", Err(SkipReason::EmptyUrl));
        check("ftp://example.org/a", Err(SkipReason::BadScheme));
        check("images/a.jpg", Err(SkipReason::BadScheme));
        check("data:image/png;base64,AA", Err(SkipReason::BadScheme));
        check("http://", Err(SkipReason::NoHost));
        check("http://./", Err(SkipReason::NoHost));
        check("http://exa mple.org/", Err(SkipReason::BadUrl));
        check("http://example.org:99999/", Err(SkipReason::BadUrl));
        check("http://example.org:0/", Err(SkipReason::BadUrl));
        check(&format!("http://{}/", "a".repeat(244)), Err(SkipReason::BadUrl));
        check(&format!("http://{}:81/", "a".repeat(239)), Err(SkipReason::BadUrl));
        check(&format!("http://{}/", "*".repeat(82)), Err(SkipReason::BadUrl));
        check(&format!("http://example.org/{}", "a".repeat(9000)), Err(SkipReason::UrlTooLong));
    }

    #[test]
    fn the_uuid_is_pythons() {
        let url = RecordUrl::parse("https://example.org/a.jpg", 8192).unwrap();
        assert_eq!(url.uuid().to_string(), "f64ff270-9eab-5d74-96a9-be77dd78294b");
    }
}
