//! What is known of each server's robots.txt.
//!
//! Bounded in bytes: entries live in two generations. What is looked up stands in the young one; when that is full
//! it becomes the old one, and what the old one still held is forgotten. So whoever is in use stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::failed::Failed;
use super::rules::Rules;
use crate::model::{RobotsTxt, ServerName};

/// Bytes of a generation: a hundred thousand servers of a crawl with short files, or the few dozen largest that may be.
const GENERATION_BYTES: usize = 16 << 20;
/// What an entry takes without its rules.
const ENTRY_BYTES: usize = 256;

/// The rules of all servers of this process. One look-up is two short locks and no copy.
#[derive(Debug)]
pub(in crate::fetch) struct RobotsCache {
    max_age: Duration,
    generation_bytes: usize,
    table: Mutex<Table>,
}

/// A server has a file for each scheme: `true` is https.
type Origin = (ServerName, bool);

#[derive(Debug, Default)]
struct Table {
    young: HashMap<Origin, Arc<Entry>>,
    old: HashMap<Origin, Arc<Entry>>,
    young_bytes: usize,
}

/// One robots.txt.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Entry {
    known: Mutex<Option<Known>>,
    /// What another rank, or another run, has read, until when it holds: parsed when it is needed.
    handed_over: Mutex<Option<(Vec<u8>, Instant)>>,
    /// Held by who asks for the file; others wait for what comes of it. The last failure, and when it was.
    pub asking: tokio::sync::Mutex<Option<(Instant, Failed)>>,
}

#[derive(Debug)]
struct Known {
    rules: Arc<Rules>,
    until: Instant,
}

impl Entry {
    /// The rules, unless they are not known, or too old.
    pub fn rules(&self, now: Instant) -> Option<Arc<Rules>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|known| known.until > now).map(|known| Arc::clone(&known.rules))
    }

    /// The file that was handed over, once, if it still holds.
    pub fn take_handed_over(&self, now: Instant) -> Option<(Vec<u8>, Instant)> {
        let mut handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        handed_over.take().filter(|(_, until)| *until > now)
    }

    fn weight(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        ENTRY_BYTES
            + known.as_ref().map_or(0, |known| known.rules.weight())
            + handed_over.as_ref().map_or(0, |(text, _)| text.len())
    }
}

impl RobotsCache {
    pub fn new(max_age: Duration) -> Self {
        Self { max_age, generation_bytes: GENERATION_BYTES, table: Mutex::default() }
    }

    /// The entry of a server, made if there is none.
    pub fn entry(&self, server: &ServerName, is_https: bool) -> Arc<Entry> {
        let origin = (server.clone(), is_https);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.young.get(&origin) {
            return Arc::clone(entry);
        }
        let entry = table.old.remove(&origin).unwrap_or_default();
        table.young_bytes += entry.weight();
        table.young.insert(origin, Arc::clone(&entry));
        self.bound(&mut table);
        entry
    }

    /// Takes note of a file that somebody else has read; `now` is the time of day. False if it is too old, or if
    /// rules are known already.
    pub fn hand_over(&self, server: &ServerName, file: RobotsTxt, now: SystemTime) -> bool {
        let read_at = UNIX_EPOCH + Duration::from_millis(file.fetched_at);
        // Clocks of nodes differ: what comes from the future is new.
        let left = self.max_age.saturating_sub(now.duration_since(read_at).unwrap_or_default());
        let entry = self.entry(server, file.is_https);
        let (now, weight) = (Instant::now(), file.text.len());
        if left.is_zero() || entry.rules(now).is_some() {
            return false;
        }
        let handed_over = Some((file.text.into_bytes(), now + left));
        *entry.handed_over.lock().unwrap_or_else(PoisonError::into_inner) = handed_over;
        self.weigh(weight);
        true
    }

    /// Takes note of rules that hold until then.
    pub fn learn(&self, entry: &Entry, rules: Arc<Rules>, until: Instant) {
        let weight = rules.weight();
        *entry.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known { rules, until });
        self.weigh(weight);
    }

    /// Counts so many bytes more.
    fn weigh(&self, bytes: usize) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.young_bytes += bytes;
        self.bound(&mut table);
    }

    fn bound(&self, table: &mut Table) {
        if table.young_bytes > self.generation_bytes {
            table.old = std::mem::take(&mut table.young);
            table.young_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_kept_for_their_time_and_for_each_scheme() {
        let cache = RobotsCache::new(Duration::from_secs(60));
        let server = ServerName::from_catalog("a.example");
        let entry = cache.entry(&server, false);
        let now = Instant::now();
        assert!(entry.rules(now).is_none());
        cache.learn(&entry, Arc::default(), now + Duration::from_secs(60));
        assert!(cache.entry(&server, false).rules(now).is_some());
        assert!(cache.entry(&server, true).rules(now).is_none());
        assert!(entry.rules(now + Duration::from_secs(61)).is_none());
    }

    #[test]
    fn what_others_have_read_counts_from_when_they_did() {
        let cache = RobotsCache::new(Duration::from_secs(60));
        let server = ServerName::from_catalog("a.example");
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let read_at = |seconds: u64| RobotsTxt {
            is_https: true,
            fetched_at: seconds * 1000,
            text: "Disallow: /".into(),
            crawl_delay: Duration::ZERO,
        };
        assert!(!cache.hand_over(&server, read_at(940), now), "too old");
        assert!(cache.hand_over(&server, read_at(950), now));
        let entry = cache.entry(&server, true);
        let start = Instant::now();
        let (text, until) = entry.take_handed_over(start).unwrap();
        assert_eq!(text, b"Disallow: /");
        assert!(until <= start + Duration::from_secs(10));
        assert!(entry.take_handed_over(start).is_none());
        assert!(cache.hand_over(&server, read_at(5000), now), "clocks of nodes differ");
        assert!(entry.take_handed_over(Instant::now() + Duration::from_secs(61)).is_none());
        cache.learn(&entry, Arc::default(), until);
        assert!(!cache.hand_over(&server, read_at(1000), now), "our own is known");
    }

    #[test]
    fn memory_is_bounded_and_who_is_in_use_is_not_forgotten() {
        let cache =
            RobotsCache { generation_bytes: 100 * ENTRY_BYTES, ..RobotsCache::new(Duration::from_secs(60)) };
        let used = ServerName::from_catalog("used.example");
        let until = Instant::now() + Duration::from_secs(60);
        cache.learn(&cache.entry(&used, false), Arc::default(), until);
        for number in 0..1000 {
            cache.entry(&ServerName::from_catalog(&format!("{number}.example")), false);
            assert!(cache.entry(&used, false).rules(Instant::now()).is_some(), "{number}");
        }
        let table = cache.table.lock().unwrap();
        assert!(table.young.len() + table.old.len() <= 202);
        drop(table);
        // One large file after the other.
        let text = "User-agent: *\n".to_owned() + &"Disallow: /a\n".repeat(1000);
        let rules = Arc::new(Rules::parse(text.as_bytes(), &["ddl".to_owned()]));
        for number in 0..10 {
            let entry = cache.entry(&ServerName::from_catalog(&format!("{number}.large.example")), false);
            cache.learn(&entry, Arc::clone(&rules), until);
            assert!(cache.table.lock().unwrap().young_bytes <= 100 * ENTRY_BYTES);
        }
    }
}
