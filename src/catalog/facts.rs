//! What is known of servers beyond a run: pauses that they asked for, limits that were found, robots.txt, and bytes
//! that count against a budget.
//!
//! Each fact is a value of its own, so that a byte count does not rewrite a robots.txt. None of them is needed: one
//! that is damaged is left out with a warning, and the server is asked again.

use std::time::Duration;

use redb::TableError;
use serde::{Deserialize, Serialize};

use super::{Catalog, CatalogError, CatalogView, encoding, tables};
use crate::model::{FailureCause, LearntLimit, RobotsTxt, ServerName};

/// Facts older than this are forgotten: operators change what they allow, and a limit that was found while something
/// else was wrong must not slow a server down for ever.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longer texts of robots.txt are not kept. Nearly all have less than 1 KiB, a reader needs to parse 500 KiB at least
/// (RFC 9309, section 2.5), and 10,000 servers with as much would outgrow the catalog of their images.
pub const MAX_ROBOTS_TXT_BYTES: usize = 64 << 10;

/// One thing that is known of a server. A newer one of its kind replaces it.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFact {
    /// It is to be left alone.
    Embargo {
        /// Milliseconds since 1970.
        until: u64,
        cause: FailureCause,
        http_status: Option<u16>,
    },
    Learnt {
        limit: LearntLimit,
        /// Milliseconds since 1970.
        at: u64,
    },
    Received(ReceivedBytes),
    /// One of two, by its scheme.
    RobotsTxt(RobotsTxt),
}

/// Bytes of bodies by the time of their receipt, oldest first; empty where no budget needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedBytes {
    /// (minutes since 1970, bytes), of the last hour.
    pub minutes: Vec<(u64, u64)>,
    /// (quarters of an hour since 1970, bytes), of the last day.
    pub quarters: Vec<(u64, u64)>,
}

/// The cause by its number, which never changes.
#[derive(Serialize, Deserialize)]
struct StoredEmbargo {
    until: u64,
    cause: u8,
    http_status: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct StoredLearnt {
    at: u64,
    max_rate: Option<f64>,
    max_in_flight: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredRobotsTxt {
    fetched_at: u64,
    crawl_delay_ms: u64,
    text: String,
}

const EMBARGO: u8 = 1;
const LEARNT: u8 = 2;
const RECEIVED: u8 = 3;
const ROBOTS_HTTP: u8 = 4;
const ROBOTS_HTTPS: u8 = 5;

impl ServerFact {
    /// Number of its kind, in the key.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Embargo { .. } => EMBARGO,
            Self::Learnt { .. } => LEARNT,
            Self::Received(_) => RECEIVED,
            Self::RobotsTxt(robots) if robots.is_https => ROBOTS_HTTPS,
            Self::RobotsTxt(_) => ROBOTS_HTTP,
        }
    }

    /// As the catalog has it, for work units.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            &Self::Embargo { until, cause, http_status } => {
                encoding::encode(&StoredEmbargo { until, cause: cause as u8, http_status })
            }
            Self::Learnt { limit, at } => encoding::encode(&StoredLearnt {
                at: *at,
                max_rate: limit.max_rate,
                max_in_flight: limit.max_in_flight.map(|most| most as u64),
            }),
            Self::Received(received) => encoding::encode(received),
            Self::RobotsTxt(robots) => encoding::encode(&StoredRobotsTxt {
                fetched_at: robots.fetched_at,
                crawl_delay_ms: robots.crawl_delay.as_millis() as u64,
                text: robots.text.clone(),
            }),
        }
    }

    /// What [`ServerFact::encode`] makes of a fact of this kind.
    ///
    /// # Errors
    /// When the bytes are those of no such fact.
    pub fn decode(kind: u8, bytes: &[u8]) -> Result<Self, CatalogError> {
        Ok(match kind {
            EMBARGO => {
                let stored: StoredEmbargo = encoding::decode(bytes, "an embargo")?;
                let cause = FailureCause::from_number(stored.cause)
                    .ok_or_else(|| CatalogError::inconsistent("an embargo without a known cause"))?;
                Self::Embargo { until: stored.until, cause, http_status: stored.http_status }
            }
            LEARNT => {
                let stored: StoredLearnt = encoding::decode(bytes, "a learnt limit")?;
                if stored.max_rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
                    return Err(CatalogError::inconsistent("a learnt limit that is no rate"));
                }
                let max_in_flight = stored.max_in_flight.and_then(|most| usize::try_from(most).ok());
                Self::Learnt {
                    limit: LearntLimit { max_rate: stored.max_rate, max_in_flight },
                    at: stored.at,
                }
            }
            RECEIVED => Self::Received(encoding::decode(bytes, "received bytes")?),
            ROBOTS_HTTP | ROBOTS_HTTPS => {
                let stored: StoredRobotsTxt = encoding::decode(bytes, "a robots.txt")?;
                Self::RobotsTxt(RobotsTxt {
                    is_https: kind == ROBOTS_HTTPS,
                    fetched_at: stored.fetched_at,
                    text: stored.text,
                    crawl_delay: Duration::from_millis(stored.crawl_delay_ms),
                })
            }
            _ => return Err(CatalogError::inconsistent(format!("a fact of the unknown kind {kind}"))),
        })
    }

    /// Whether it says nothing any more, or was written under a clock that was far ahead.
    fn is_stale(&self, now: u64) -> bool {
        let max_age = MAX_AGE.as_millis() as u64;
        let is_old = |at: u64| at.abs_diff(now) > max_age;
        match self {
            Self::Embargo { until, .. } => *until <= now || is_old(*until),
            Self::Learnt { at, .. } => is_old(*at),
            Self::Received(received) => {
                let last = |buckets: &[(u64, u64)], minutes: u64| {
                    buckets.last().is_none_or(|&(bucket, _)| is_old(bucket.saturating_mul(minutes * 60_000)))
                };
                last(&received.minutes, 1) && last(&received.quarters, 15)
            }
            Self::RobotsTxt(robots) => is_old(robots.fetched_at),
        }
    }
}

impl Catalog {
    /// Keeps facts, in one transaction; a later one of the same server and kind replaces an earlier one.
    ///
    /// # Errors
    /// When the storage fails: then none is kept.
    pub fn remember(&self, facts: &[(ServerName, ServerFact)]) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        {
            let mut table = txn.open_table(tables::SERVER_FACTS)?;
            for (server, fact) in facts {
                table.insert((server.as_str().as_bytes(), fact.kind()), fact.encode().as_slice())?;
            }
        }
        self.commit(txn)
    }

    /// Drops what says nothing any more. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn forget_stale_facts(&self, now: u64) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        txn.open_table(tables::SERVER_FACTS)?.retain(|(_, kind), value| {
            ServerFact::decode(kind, value).is_ok_and(|fact| !fact.is_stale(now))
        })?;
        self.commit(txn)
    }
}

impl CatalogView {
    /// What is known of a server and not stale. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn server_facts(&self, server: &ServerName, now: u64) -> Result<Vec<ServerFact>, CatalogError> {
        self.read(|txn| {
            let table = match txn.open_table(tables::SERVER_FACTS) {
                // Of an earlier version, and not opened for writing since.
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let (name, mut facts) = (server.as_str().as_bytes(), Vec::new());
            for entry in table.range((name, 0)..=(name, u8::MAX))? {
                let (key, value) = entry?;
                match ServerFact::decode(key.value().1, value.value()) {
                    Ok(fact) if fact.is_stale(now) => {}
                    Ok(fact) => facts.push(fact),
                    Err(error) => tracing::warn!(%server, %error, "left out of what is known of a server"),
                }
            }
            Ok(facts)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogOptions;

    const NOW: u64 = 1_800_000_000_000;
    const DAY: u64 = 24 * 3600 * 1000;

    fn robots(is_https: bool, text: &str) -> ServerFact {
        let crawl_delay = Duration::from_millis(1500);
        ServerFact::RobotsTxt(RobotsTxt { is_https, fetched_at: NOW, text: text.into(), crawl_delay })
    }

    fn every_kind() -> Vec<ServerFact> {
        vec![
            ServerFact::Embargo {
                until: NOW + 60_000,
                cause: FailureCause::HttpStatus,
                http_status: Some(429),
            },
            ServerFact::Learnt {
                limit: LearntLimit { max_rate: Some(2.5), max_in_flight: Some(3) },
                at: NOW,
            },
            ServerFact::Received(ReceivedBytes {
                minutes: vec![(NOW / 60_000, 7)],
                quarters: vec![(NOW / 900_000, 7)],
            }),
            robots(false, ""),
            robots(true, "User-agent: *\nDisallow: /"),
        ]
    }

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        (folder, catalog)
    }

    fn facts_at(catalog: &Catalog, server: &str, now: u64) -> Vec<ServerFact> {
        catalog.view().unwrap().server_facts(&ServerName::from_catalog(server), now).unwrap()
    }

    #[test]
    fn facts_are_kept_by_server_and_kind_and_the_last_word_counts() {
        let (_folder, catalog) = catalog();
        let name = ServerName::from_catalog("b");
        catalog.remember(&[(name.clone(), robots(false, "old"))]).unwrap();
        let facts: Vec<_> = every_kind().into_iter().map(|fact| (name.clone(), fact)).collect();
        catalog.remember(&facts).unwrap();
        assert_eq!(facts_at(&catalog, "b", NOW), every_kind());
        assert!(facts_at(&catalog, "a", NOW).is_empty() && facts_at(&catalog, "b.c", NOW).is_empty());
    }

    #[test]
    fn what_is_stale_is_not_told_and_then_forgotten() {
        let (_folder, catalog) = catalog();
        let name = ServerName::from_catalog("b");
        let facts: Vec<_> = every_kind().into_iter().map(|fact| (name.clone(), fact)).collect();
        catalog.remember(&facts).unwrap();
        assert_eq!(facts_at(&catalog, "b", NOW + DAY), every_kind()[1..], "the embargo is over");
        assert!(facts_at(&catalog, "b", NOW + 31 * DAY).is_empty());
        assert!(facts_at(&catalog, "b", NOW - 32 * DAY).is_empty(), "the clock was wrong once");
        catalog.forget_stale_facts(NOW + DAY).unwrap();
        assert_eq!(facts_at(&catalog, "b", NOW), every_kind()[1..]);
    }

    #[test]
    fn a_damaged_fact_costs_only_itself() {
        let (_folder, catalog) = catalog();
        let name = ServerName::from_catalog("b");
        let facts: Vec<_> = every_kind().into_iter().map(|fact| (name.clone(), fact)).collect();
        catalog.remember(&facts).unwrap();
        let txn = catalog.begin().unwrap();
        {
            let mut table = txn.open_table(tables::SERVER_FACTS).unwrap();
            table.insert((b"b".as_slice(), RECEIVED), [1, 0xff].as_slice()).unwrap();
            table
                .insert(
                    (b"b".as_slice(), LEARNT),
                    encoding::encode(&(NOW, Some(f64::NAN), None::<u64>)).as_slice(),
                )
                .unwrap();
            table.insert((b"b".as_slice(), 77), [1].as_slice()).unwrap();
        }
        catalog.commit(txn).unwrap();
        assert_eq!(facts_at(&catalog, "b", NOW).len(), 3);
        catalog.forget_stale_facts(NOW).unwrap();
        assert_eq!(facts_at(&catalog, "b", NOW).len(), 3);
    }

    #[test]
    fn a_catalog_without_the_table_knows_nothing_and_gets_it_when_it_is_written() {
        let (folder, catalog) = catalog();
        let txn = catalog.begin().unwrap();
        txn.delete_table(tables::SERVER_FACTS).unwrap();
        catalog.commit(txn).unwrap();
        assert!(facts_at(&catalog, "b", NOW).is_empty());
        drop(catalog);
        let catalog = Catalog::open(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        catalog.remember(&[(ServerName::from_catalog("b"), robots(true, ""))]).unwrap();
        assert_eq!(facts_at(&catalog, "b", NOW).len(), 1);
    }

    #[test]
    fn golden_bytes() {
        let bytes: Vec<_> = every_kind().iter().map(ServerFact::encode).collect();
        // version, until as a varint, cause 16, Some(429)
        assert_eq!(bytes[0], [1, 0xe0, 0xf4, 0xf4, 0xc2, 0xb1, 0x34, 16, 1, 0xad, 3]);
        assert_eq!(bytes[3][7..], [0xdc, 11, 0], "1500 ms, no text");
    }
}
