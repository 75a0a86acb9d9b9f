//! From the HTTP client's errors to causes: by the types in the chain of sources, never by their text.

use std::error::Error;
use std::io;

use hyper_util::client::legacy;
use rustix::io::Errno;

use super::dns::DnsError;
use super::guard::Forbidden;
use crate::model::FailureCause;

/// Longest message of a failure, in bytes.
const MAX_MESSAGE_BYTES: usize = 500;

/// How far a request had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Up to the end of the response header.
    Header,
    Body,
}

/// What an error of the client means for the record.
pub(super) fn cause(error: &(dyn Error + 'static), phase: Phase) -> FailureCause {
    let (found, _) = Found::walk(error);
    let connecting = phase == Phase::Header && found.connecting;
    match found {
        // Too many open files here say nothing about the server.
        Found { exhausted: true, .. } => FailureCause::Internal,
        Found { forbidden: true, .. } => FailureCause::ForbiddenAddress,
        Found { dns: true, .. } => FailureCause::Dns,
        // A server may also refuse a handshake after the client thinks that it is done.
        Found { tls: true, .. } if phase == Phase::Header => FailureCause::Tls,
        Found { io: Some(io::ErrorKind::TimedOut), .. } if connecting => FailureCause::ConnectTimeout,
        // The TLS layer reports a peer that hangs up in mid-handshake so.
        Found { io: Some(io::ErrorKind::UnexpectedEof), .. } if connecting => FailureCause::Tls,
        _ if connecting => FailureCause::Connect,
        Found { parse: true, .. } => FailureCause::BadResponse,
        Found { incomplete: true, .. } | Found { io: Some(io::ErrorKind::UnexpectedEof), .. }
            if phase == Phase::Body =>
        {
            FailureCause::TruncatedBody
        }
        // Chunk sizes and trailers that are none.
        Found { io: Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput), tls: false, .. } => {
            FailureCause::BadResponse
        }
        _ => FailureCause::ConnectionLost,
    }
}

#[derive(Default)]
struct Found {
    connecting: bool,
    exhausted: bool,
    forbidden: bool,
    dns: bool,
    tls: bool,
    parse: bool,
    incomplete: bool,
    io: Option<io::ErrorKind>,
}

impl Found {
    /// Looks at an error and all that it stems from; returns the innermost as well.
    fn walk<'a>(error: &'a (dyn Error + 'static)) -> (Self, &'a (dyn Error + 'static)) {
        let (mut found, mut innermost) = (Self::default(), error);
        while let Some(next) = found.look_at(innermost) {
            innermost = next;
        }
        (found, innermost)
    }

    /// Takes note of one error and returns the next.
    fn look_at<'a>(&mut self, error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        self.connecting |= error.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect);
        self.forbidden |= error.is::<Forbidden>();
        self.dns |= error.is::<DnsError>();
        self.tls |= error.is::<rustls::Error>();
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            self.parse |= error.is_parse();
            self.incomplete |= error.is_incomplete_message();
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // The innermost is the one that the socket or the decoder gave.
            self.io = Some(error.kind());
            self.exhausted |=
                matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS));
            // An io::Error skips what it wraps: its source is the source of that.
            if let Some(inner) = error.get_ref() {
                return Some(inner);
            }
        }
        error.source()
    }
}

/// One line for people: the innermost error, which is where the reason stands.
pub(super) fn message(error: &(dyn Error + 'static)) -> String {
    let (_, innermost) = Found::walk(error);
    shorten(innermost.to_string())
}

/// Bounds a text that may hold what a server sent.
pub(super) fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_errors_are_seen_through() {
        let full = io::Error::other(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error()));
        let (found, innermost) = Found::walk(&full);
        assert!(found.exhausted && !found.tls);
        assert_ne!(innermost.to_string(), "");
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert!(Found::walk(&tls).0.tls);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(shorten("\u{fc}".repeat(400)).len(), MAX_MESSAGE_BYTES);
        assert_eq!(shorten(format!("a{}", "\u{fc}".repeat(400))).len(), MAX_MESSAGE_BYTES - 1);
    }
}
