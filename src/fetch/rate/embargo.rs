//! Until when a server wants to be left alone: the latest end of all the waits it has asked for.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Embargo {
    until: Option<Instant>,
}

impl Embargo {
    pub(super) fn extend(&mut self, wait: Duration, now: Instant) {
        // A wait beyond the end of time is for its issuer to bound; here it only must not panic.
        if let Some(until) = now.checked_add(wait) {
            self.until = self.until.max(Some(until));
        }
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}
