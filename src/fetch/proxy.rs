//! Forward proxies, as `http_proxy`, `https_proxy` and `no_proxy` name them.
//!
//! http goes through the proxy in absolute form, https through a tunnel (CONNECT): certificates stay the server's.
//! What is on this machine is never asked through one, nor what `connect_to` sends elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::address_range::AddressRange;
use crate::model::mask_credentials;

/// A proxy: `http://name:password@proxy.example:3128`, where the scheme may be missing.
///
/// Whether it can be used is said when a [`Fetcher`](super::Fetcher) is made. Of what cannot, no more than a scheme is
/// kept; and it is shown without name and password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ProxyUrl(String);

impl ProxyUrl {
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let url = scheme.map_or_else(|| Url::parse(&format!("http://{text}")), |_| Url::parse(text));
        match url {
            Ok(url) if is_usable(&url) => Self(url.as_str().trim_end_matches('/').to_owned()),
            _ => {
                let is_scheme = |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                Self(format!("{}://", scheme.filter(is_scheme).unwrap_or("http")))
            }
        }
    }

    /// # Errors
    /// Why it cannot be used.
    pub fn url(&self) -> Result<Url, String> {
        match Url::parse(&self.0) {
            Ok(url) if is_usable(&url) => Ok(url),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                Err(format!("is a proxy that speaks `{}`; only `http` and `https` work", url.scheme()))
            }
            _ => Err("is no URL of a proxy, such as `http://proxy.example:3128`".to_owned()),
        }
    }
}

fn is_usable(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

impl From<String> for ProxyUrl {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<ProxyUrl> for String {
    fn from(proxy: ProxyUrl) -> Self {
        proxy.0
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_credentials(&self.0))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// What is asked directly all the same.
#[derive(Debug)]
pub(super) struct NoProxy(Vec<Exception>);

#[derive(Debug)]
enum Exception {
    All,
    Addresses(AddressRange),
    /// A name and all below it; at one port, if that is named.
    Name(String, Option<u16>),
}

impl NoProxy {
    /// As curl and most others read `NO_PROXY`: names with all below them (a dot or `*.` before them changes
    /// nothing), addresses and networks, and `*` for all.
    pub fn new(texts: &[String]) -> Self {
        let exceptions =
            texts.iter().map(|text| text.trim().to_ascii_lowercase()).filter(|text| !text.is_empty());
        Self(exceptions.map(|text| Exception::of(&text)).collect())
    }

    pub fn contains(&self, url: &Url) -> bool {
        let (name, address) = match url.host() {
            Some(Host::Domain(name)) => (name.trim_end_matches('.'), None),
            Some(Host::Ipv4(address)) => ("", Some(address.into())),
            Some(Host::Ipv6(address)) => ("", Some(address.into())),
            None => return true,
        };
        // Nobody else's loopback is meant.
        if address.is_some_and(|address: std::net::IpAddr| address.to_canonical().is_loopback())
            || is_below(name, "localhost")
        {
            return true;
        }
        self.0.iter().any(|exception| match exception {
            Exception::All => true,
            Exception::Addresses(range) => address.is_some_and(|address| range.contains(address)),
            Exception::Name(domain, port) => {
                is_below(name, domain) && port.is_none_or(|port| url.port_or_known_default() == Some(port))
            }
        })
    }
}

impl Exception {
    /// Of a text in lower case. The port of an address does not matter.
    fn of(text: &str) -> Self {
        if text == "*" {
            return Self::All;
        }
        if let Ok(range) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Self::Addresses(range);
        }
        let (name, port) = match text.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
            Some((name, Ok(port))) => (name, Some(port)),
            _ => (text, None),
        };
        if let Ok(range) = name.parse() {
            return Self::Addresses(range);
        }
        let name = name.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.');
        Self::Name(name.to_owned(), port)
    }
}

/// Whether a name is a domain or below it.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| !domain.is_empty() && (rest.is_empty() || rest.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let check = |text: &str, expect: &str| {
            let proxy = ProxyUrl::new(text);
            let shown = format!("{proxy} {proxy:?} {}", proxy.url().err().unwrap_or_default());
            assert!(!shown.contains("sec") && proxy.to_string() == expect, "{text}: {shown}");
        };
        check("http://me:secret@p.example:3128", "http://***@p.example:3128");
        check("me:secret@p.example", "http://***@p.example");
        check("https://me:se%2Fcret@p.example/", "https://***@p.example");
        check("socks5://me:secret@p", "socks5://");
        check("http://me:sec/ret@p.example", "http://");
        check("me:secret@p://x", "http://");
        check("http://me:secret@[", "http://");
        let url = ProxyUrl::new("me:secret@p.example:3128").url().unwrap();
        assert_eq!((url.password(), url.port()), (Some("secret"), Some(3128)), "and are sent");
        let error = ProxyUrl::new("socks5h://p.example").url().unwrap_err();
        assert!(error.contains("`socks5h`"), "{error}");
        for text in ["ftp://p.example", "http://", "p example", ""] {
            assert!(ProxyUrl::new(text).url().is_err(), "{text}");
        }
    }

    #[test]
    fn exceptions_are_names_with_all_below_them_addresses_and_networks() {
        let check = |texts: &[&str], url: &str, expect: bool| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(NoProxy::new(&texts).contains(&Url::parse(url).unwrap()), expect, "{texts:?} {url}");
        };
        for url in [
            "http://127.0.0.1/",
            "http://127.9.9.9:81/",
            "http://[::1]/",
            "http://localhost/",
            "http://a.localhost./",
        ] {
            check(&[], url, true);
        }
        check(&[], "http://example.org/", false);
        check(&["*"], "http://example.org/", true);
        for text in
            ["example.org", ".example.org", "*.example.org", "Example.ORG", "example.org:80", "example.org."]
        {
            check(&["other", text], "http://example.org/", true);
            check(&[text], "http://a.b.example.org/", true);
            check(&[text], "http://notexample.org/", false);
        }
        check(&["example.org:443"], "http://example.org/", false);
        check(&["10.0.0.0/8", "fd00::/8"], "http://10.1.2.3/", true);
        check(&["10.0.0.0/8", "fd00::/8"], "http://[fd00::1]/", true);
        check(&["[2001:db8::1]"], "http://[2001:db8::1]/", true);
        check(&["10.0.0.0/8", "", "."], "http://11.1.2.3/", false);
        check(&["", "."], "http://example.org/", false);
    }
}
