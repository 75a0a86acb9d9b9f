//! Servers of many URLs, at the cost of parsing few.

use std::collections::HashMap;

use crate::model::{RecordUrl, ServerName, SkipReason};

/// Numbers the servers of a batch of URLs in order of first appearance.
///
/// Which server a URL names is settled before the first `/`, `?`, `#` or `\` behind `http://` or
/// `https://` (and so is whether it parses: nothing behind the authority can make it fail), so one
/// URL of each such beginning goes through [`RecordUrl::parse`] and the rest through a table. A
/// property test holds the two equal.
#[derive(Debug, Default)]
pub(super) struct ServerLookup<'a> {
    by_beginning: HashMap<&'a [u8], u32>,
    by_name: HashMap<ServerName, u32>,
    names: Vec<ServerName>,
}

impl<'a> ServerLookup<'a> {
    /// The number of the server of a URL, white space at whose ends is removed already.
    ///
    /// # Errors
    /// As `RecordUrl::parse`.
    pub(super) fn find(&mut self, text: &'a str, max_url_bytes: usize) -> Result<u32, SkipReason> {
        let beginning = beginning(text.as_bytes()).filter(|_| text.len() <= max_url_bytes);
        if let Some(&number) = beginning.and_then(|beginning| self.by_beginning.get(beginning)) {
            return Ok(number);
        }
        let number = self.number(RecordUrl::parse(text, max_url_bytes)?.server);
        if let Some(beginning) = beginning {
            self.by_beginning.insert(beginning, number);
        }
        Ok(number)
    }

    /// The number of a server by its name.
    pub(super) fn number(&mut self, name: ServerName) -> u32 {
        if let Some(&number) = self.by_name.get(&name) {
            return number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.clone());
        self.by_name.insert(name, number);
        number
    }

    pub(super) fn into_names(self) -> Vec<ServerName> {
        self.names
    }

    pub(super) fn names(&self) -> &[ServerName] {
        &self.names
    }
}

/// Scheme and authority, if they are what they seem: parsers skip tabs and line ends within, and
/// further slashes where the authority is empty.
fn beginning(text: &[u8]) -> Option<&[u8]> {
    let scheme = [&b"https://"[..], b"http://"].into_iter().find(|scheme| text.starts_with(scheme))?.len();
    let authority = &text[scheme..];
    let end =
        authority.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b'\\')).unwrap_or(authority.len());
    let is_plain = end > 0 && authority[..end].iter().all(|&b| b > b' ');
    is_plain.then(|| &text[..scheme + end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_parser(
            beginnings in proptest::collection::vec(
                "(https?://|HTTP://|ftp://|http:/|http:///)[aA1.:@%x\\-é\t /?#\\[\\]]{0,8}(|:80|:443|:0|@b)", 1..4),
            rests in proptest::collection::vec("(/|\\?|#|\\\\|:80)?[a@/:\t \\[%é]{0,6}", 1..6),
        ) {
            let urls: Vec<String> =
                beginnings.iter().flat_map(|b| rests.iter().map(move |r| format!("{b}{r}"))).collect();
            let mut lookup = ServerLookup::default();
            for url in &urls {
                let url = url.trim_ascii();
                let found = lookup.find(url, 24).map(|number| lookup.names()[number as usize].clone());
                let expect = RecordUrl::parse(url, 24).map(|parsed| parsed.server);
                prop_assert_eq!(found, expect, "{}", url);
            }
        }
    }

    #[test]
    fn one_server_has_one_number() {
        let mut lookup = ServerLookup::default();
        let numbers: Vec<_> = ["http://A.org/1", "https://a.org:443/2", "http://b.org", "http://a.org?3"]
            .iter()
            .map(|url| lookup.find(url, 100).unwrap())
            .collect();
        assert_eq!(numbers, [0, 0, 1, 0]);
        assert_eq!(lookup.into_names().len(), 2);
    }
}
