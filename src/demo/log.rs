//! What the farm was asked, when, and how much of it at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One request, from its head to the last byte handed to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The server's name, from the `Host` header without the port, in lower case.
    pub server: Arc<str>,
    /// Path and query as sent.
    pub path: String,
    /// The `User-Agent` header, empty if there is none.
    pub user_agent: Arc<str>,
    /// Status of the answer; 0 when the client left before there was one.
    pub status: u16,
    /// When the request's head had arrived.
    pub started: Instant,
    /// When the last byte of the answer was handed to the connection, or the client was gone.
    pub ended: Instant,
    /// Requests of this server in flight just after this one started, itself included.
    pub in_flight: u32,
}

/// Counts of one server; exact even when the log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Requests begun.
    pub num_requests: u64,
    /// Requests answered with 429.
    pub num_refused: u64,
    /// Requests in flight now.
    pub in_flight: u32,
    /// The most requests that were in flight at once.
    pub max_in_flight: u32,
}

/// Bounded memory of requests.
#[derive(Debug)]
pub(super) struct RequestLog {
    max_entries: usize,
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    entries: Vec<LogEntry>,
    num_dropped: u64,
    servers: HashMap<Arc<str>, ServerCounts>,
    /// The user agent of the last request: nearly always that of the next one too.
    user_agent: Option<Arc<str>>,
}

impl RequestLog {
    pub(super) fn new(max_entries: usize) -> Self {
        Self { max_entries, state: Mutex::default() }
    }

    /// Notes the start of a request; its end is noted when the result is dropped.
    pub(super) fn open(self: &Arc<Self>, server: &str, path: &str, user_agent: &str) -> OpenRequest {
        let started = Instant::now();
        let mut state = self.lock();
        let server = match state.servers.get_key_value(server) {
            Some((name, _)) => name.clone(),
            None => server.into(),
        };
        let user_agent = match &state.user_agent {
            Some(last) if **last == *user_agent => last.clone(),
            _ => state.user_agent.insert(user_agent.into()).clone(),
        };
        let counts = state.servers.entry(server.clone()).or_default();
        counts.num_requests += 1;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        let in_flight = counts.in_flight;
        drop(state);
        let path = path.to_owned();
        let entry = LogEntry { server, path, user_agent, status: 0, started, ended: started, in_flight };
        OpenRequest { log: self.clone(), entry }
    }

    pub(super) fn entries(&self) -> Vec<LogEntry> {
        self.lock().entries.clone()
    }

    pub(super) fn num_dropped(&self) -> u64 {
        self.lock().num_dropped
    }

    pub(super) fn counts(&self, server: &str) -> ServerCounts {
        self.lock().servers.get(server).copied().unwrap_or_default()
    }

    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.entries.clear();
        state.num_dropped = 0;
        for counts in state.servers.values_mut() {
            let in_flight = counts.in_flight;
            *counts = ServerCounts { in_flight, max_in_flight: in_flight, ..ServerCounts::default() };
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        // Nothing below can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose answer is not yet complete.
#[derive(Debug)]
pub(super) struct OpenRequest {
    log: Arc<RequestLog>,
    entry: LogEntry,
}

impl OpenRequest {
    pub(super) fn in_flight(&self) -> u32 {
        self.entry.in_flight
    }

    pub(super) fn set_status(&mut self, status: u16) {
        self.entry.status = status;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.entry.ended = Instant::now();
        let mut state = self.log.lock();
        if let Some(counts) = state.servers.get_mut(&self.entry.server) {
            counts.in_flight -= 1;
            counts.num_refused += u64::from(self.entry.status == 429);
        }
        if state.entries.len() < self.log.max_entries {
            state.entries.push(self.entry.clone());
        } else {
            state.num_dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_exact_when_the_log_is_full() {
        let log = Arc::new(RequestLog::new(2));
        let open: Vec<_> = (0..3).map(|n| log.open("a", &format!("/{n}"), "me")).collect();
        assert_eq!(open.iter().map(OpenRequest::in_flight).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(log.counts("a").in_flight, 3);
        drop(open);
        log.open("a", "/3", "me").set_status(429);
        let expected = ServerCounts { num_requests: 4, num_refused: 1, in_flight: 0, max_in_flight: 3 };
        assert_eq!(log.counts("a"), expected);
        assert_eq!(log.counts("b"), ServerCounts::default());
        assert_eq!((log.entries().len(), log.num_dropped()), (2, 2));
        assert!(log.entries().iter().all(|entry| entry.status == 0 && entry.ended >= entry.started));
        log.clear();
        assert_eq!((log.entries().len(), log.num_dropped()), (0, 0));
    }
}
