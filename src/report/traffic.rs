//! What the ledger says of servers: how many requests, how fast they were answered, how many in vain.

use std::collections::HashMap;
use std::path::Path;

use super::ReportError;
use crate::model::{RequestEntry, RequestPurpose, ServerName};
use crate::storage::{LedgerReader, ledger_files};

/// Servers of which times are kept, 2 KB each; of further ones only the sum is.
const MAX_SERVERS: usize = 20_000;

/// Steps within a power of two: a time is told within 6 %.
const STEPS: usize = 8;
/// From a microsecond to two days.
const NUM_BUCKETS: usize = 38 * STEPS;

/// Requests for images over all runs, by server.
#[derive(Debug, Default)]
pub struct Traffic {
    pub servers: HashMap<ServerName, ServerTraffic>,
    pub num_requests: u64,
}

/// Requests for images to one server.
#[derive(Clone, Debug)]
pub struct ServerTraffic {
    pub num_requests: u64,
    /// Without an answer, or with one of 400 and above.
    pub num_errors: u64,
    first_sent_at: i64,
    last_ended_at: i64,
    /// How many took how long.
    times: Vec<u32>,
}

impl Traffic {
    /// Reads all of the ledger in `folder`.
    ///
    /// # Errors
    /// When a file of it cannot be read.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let mut traffic = Self::default();
        for (_, _, path) in ledger_files(folder)? {
            let mut reader = LedgerReader::open(&path)?;
            while let Some(batch) = reader.next_batch()? {
                batch.iter().for_each(|entry| traffic.add(entry));
            }
        }
        Ok(traffic)
    }

    fn add(&mut self, entry: &RequestEntry) {
        if entry.purpose == RequestPurpose::Robots {
            return;
        }
        self.num_requests += 1;
        if self.servers.len() < MAX_SERVERS || self.servers.contains_key(&entry.server) {
            self.servers.entry(entry.server.clone()).or_insert_with(|| ServerTraffic::new(entry)).add(entry);
        }
    }
}

impl ServerTraffic {
    fn new(entry: &RequestEntry) -> Self {
        Self {
            num_requests: 0,
            num_errors: 0,
            first_sent_at: entry.sent_at,
            last_ended_at: entry.ended_at(),
            times: vec![0; NUM_BUCKETS],
        }
    }

    fn add(&mut self, entry: &RequestEntry) {
        self.num_requests += 1;
        self.num_errors += u64::from(entry.http_status.is_none_or(|status| status >= 400));
        self.first_sent_at = self.first_sent_at.min(entry.sent_at);
        self.last_ended_at = self.last_ended_at.max(entry.ended_at());
        let bucket = &mut self.times[bucket_of(entry.took.as_micros() as u64)];
        *bucket = bucket.saturating_add(1);
    }

    /// Requests per second, from the first that was sent to the end of the last.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let micros = self.last_ended_at.saturating_sub(self.first_sent_at).max(1);
        self.num_requests as f64 / (micros as f64 / 1e6)
    }

    /// The time within which this part of the requests ended, in milliseconds; within 6 %.
    #[must_use]
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let all: u64 = self.times.iter().map(|&number| u64::from(number)).sum();
        let wanted = ((all as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.times.iter().position(|&number| {
            seen += u64::from(number);
            seen >= wanted
        });
        found.map_or(0.0, |bucket| middle_of(bucket) / 1000.0)
    }
}

fn bucket_of(micros: u64) -> usize {
    (((micros.max(1) as f64).log2() * STEPS as f64) as usize).min(NUM_BUCKETS - 1)
}

fn middle_of(bucket: usize) -> f64 {
    ((bucket as f64 + 0.5) / STEPS as f64).exp2()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(n: u64, millis: u64, http_status: Option<u16>) -> RequestEntry {
        RequestEntry {
            server: ServerName::from_catalog("a.example"),
            address: None,
            purpose: RequestPurpose::Image,
            is_https: false,
            target: "/".into(),
            sent_at: (n * 100_000) as i64,
            took: Duration::from_millis(millis),
            received_bytes: 1,
            http_status,
            retry_after: None,
            max_rate: 0.0,
            max_connections: 1,
            robots: None,
        }
    }

    #[test]
    fn percentiles_are_near_what_was_measured() {
        let mut traffic = Traffic::default();
        for n in 0..1000 {
            traffic.add(&entry(n, n + 1, (n % 10 != 0).then_some(if n % 10 == 1 { 404 } else { 200 })));
        }
        traffic.add(&RequestEntry { purpose: RequestPurpose::Robots, ..entry(0, 9_000, None) });
        let server = &traffic.servers[&ServerName::from_catalog("a.example")];
        assert_eq!((traffic.num_requests, server.num_requests, server.num_errors), (1000, 1000, 200));
        for (part, expected) in [(0.5, 500.0), (0.95, 950.0), (1.0, 1000.0)] {
            let found = server.percentile_ms(part);
            assert!((found / expected - 1.0).abs() < 0.07, "{part}: {found}");
        }
        assert!((server.per_second() - 1000.0 / 100.9).abs() < 0.1, "{}", server.per_second());
    }

    #[test]
    fn no_time_is_beyond_the_buckets() {
        for micros in [0, 1, 1_000_000, u64::MAX] {
            assert!(bucket_of(micros) < NUM_BUCKETS, "{micros}");
        }
        assert_eq!(bucket_of(u64::MAX), NUM_BUCKETS - 1);
    }
}
