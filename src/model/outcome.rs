//! What became of a record, and why.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Exactly one of these holds for every ingested record at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    Pending,
    Success,
    Failed,
    Skipped,
}

impl Disposition {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Success, Self::Failed, Self::Skipped];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A closed list with a stored number, a name and a one-line meaning for each entry.
macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:literal, $text:literal, $meaning:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $meaning] #[serde(rename = $text)] $variant = $number,)+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name, as in the column `cause` and on the command line.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// One line for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// The entry with this stored number.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|entry| entry.as_str() == text)
                    .ok_or_else(|| format!("`{text}` is none of {}", Self::ALL.iter().map(|e| e.as_str()).collect::<Vec<_>>().join(", ")))
            }
        }
    };
}

closed_list! {
    /// Why a record failed. Numbers are stored in the catalog: never change or reuse one.
    FailureCause {
        Dns = 1, "dns", "the server's name did not resolve";
        Connect = 2, "connect", "no connection could be made";
        Tls = 3, "tls", "the TLS handshake or the certificate was not accepted";
        ConnectTimeout = 4, "connect_timeout", "no connection within `connect_timeout`";
        FirstByteTimeout = 5, "first_byte_timeout", "no response header within `first_byte_timeout`";
        RequestTimeout = 6, "request_timeout", "the body was not complete within `request_timeout`";
        ConnectionLost = 7, "connection_lost", "the connection was reset or closed in mid-response";
        TruncatedBody = 8, "truncated_body", "the body ended before its announced length";
        BadResponse = 9, "bad_response", "the response was not valid HTTP";
        HttpStatus = 16, "http_status", "the server answered with an error status";
        TooManyRedirects = 17, "too_many_redirects", "more than `max_redirects` redirects, or a loop";
        BadRedirect = 18, "bad_redirect", "a redirect without a usable target";
        ForbiddenAddress = 19, "forbidden_address", "the server resolves to a private, loopback or link-local address";
        BodyTooLarge = 20, "body_too_large", "the body exceeds `max_body_bytes`";
        BadContentEncoding = 21, "bad_content_encoding", "the body's Content-Encoding is unknown or corrupt";
        EmptyBody = 32, "empty_body", "the body has no bytes";
        NotAnImage = 33, "not_an_image", "the body is something else, such as HTML";
        UnsupportedFormat = 34, "unsupported_format", "an image, but of a format that is not read";
        TruncatedImage = 35, "truncated_image", "the image ends before its own end mark";
        BadImage = 36, "bad_image", "the image does not decode";
        TooManyPixels = 37, "too_many_pixels", "the image exceeds `max_image_pixels`";
        DecoderPanic = 38, "decoder_panic", "the decoder failed in an unforeseen way";
        EncodeError = 39, "encode_error", "the resized image could not be encoded";
        Internal = 48, "internal", "ddl itself failed on this record";
    }
}

impl FailureCause {
    /// DD's `error_code` where there is no HTTP status: -1 for the network, -2 for all else.
    #[must_use]
    pub fn error_code(self) -> i32 {
        match self {
            Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::ConnectTimeout
            | Self::FirstByteTimeout
            | Self::RequestTimeout
            | Self::ConnectionLost
            | Self::TruncatedBody
            | Self::BadResponse
            | Self::TooManyRedirects
            | Self::BadRedirect => -1,
            _ => -2,
        }
    }
}

closed_list! {
    /// Why a record is skipped. Numbers are stored in the catalog: never change or reuse one.
    SkipReason {
        EmptyUrl = 1, "empty_url", "the row has no URL";
        NoHost = 2, "no_host", "the URL names no host";
        BadScheme = 3, "bad_scheme", "the URL is not http or https";
        UrlTooLong = 4, "url_too_long", "the URL exceeds `max_url_bytes`";
        BadUtf8 = 5, "bad_utf8", "the URL is not valid UTF-8";
        BadUrl = 6, "bad_url", "the URL cannot be parsed";
        IgnoredServer = 16, "ignored_server", "the server is listed in `ignored_servers.csv`";
        Robots = 17, "robots", "the server's robots.txt disallows the URL";
        OptOut = 18, "opt_out", "a header of the response opts out (`X-Robots-Tag`, `Content-Usage`, `tdm-reservation`)";
        Retracted = 32, "retracted", "it was taken down (`ddl retract`)";
    }
}

/// Disposition and its reason: one byte in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordState {
    Pending,
    Success,
    Failed(FailureCause),
    Skipped(SkipReason),
}

impl RecordState {
    const SKIPPED: u8 = 0x80;

    #[must_use]
    pub fn disposition(self) -> Disposition {
        match self {
            Self::Pending => Disposition::Pending,
            Self::Success => Disposition::Success,
            Self::Failed(_) => Disposition::Failed,
            Self::Skipped(_) => Disposition::Skipped,
        }
    }

    /// The cause or reason, for people and columns.
    #[must_use]
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::Pending | Self::Success => None,
            Self::Failed(cause) => Some(cause.as_str()),
            Self::Skipped(reason) => Some(reason.as_str()),
        }
    }

    /// 0 pending, 1 success, 2 + cause for failures, 0x80 + reason for skipped records.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Success => 1,
            Self::Failed(cause) => 2 + cause as u8,
            Self::Skipped(reason) => Self::SKIPPED + reason as u8,
        }
    }

    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Pending),
            1 => Some(Self::Success),
            2..Self::SKIPPED => FailureCause::from_number(byte - 2).map(Self::Failed),
            _ => SkipReason::from_number(byte - Self::SKIPPED).map(Self::Skipped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_byte() {
        let states = [RecordState::Pending, RecordState::Success]
            .into_iter()
            .chain(FailureCause::ALL.iter().map(|&c| RecordState::Failed(c)))
            .chain(SkipReason::ALL.iter().map(|&r| RecordState::Skipped(r)));
        let mut seen = std::collections::HashSet::new();
        for state in states {
            assert!(seen.insert(state.to_byte()), "{state:?} shares its byte");
            assert_eq!(RecordState::from_byte(state.to_byte()), Some(state));
        }
        let known = (0..=255).filter_map(RecordState::from_byte).count();
        assert_eq!(known, seen.len());
    }

    #[test]
    fn names_parse_back() {
        for &cause in FailureCause::ALL {
            assert_eq!(cause.as_str().parse(), Ok(cause));
        }
        assert!("no_such".parse::<FailureCause>().unwrap_err().contains("http_status"));
    }
}
