//! Hashes of one slot: their keys counted, those of a range of keys in memory, and their comparison.

use super::error::{NearError, keep_going};
use super::hashes::{Entry, Hashes};
use super::plan::Slot;
use super::search::HotBucket;
use super::spill::Spilled;
use crate::runtime::Shutdown;

/// How often a comparison looks whether it is to stop: each that many keys.
const KEYS_AT_ONCE: usize = 1 << 14;

/// How many hashes of each side have each key.
pub(super) type KeyTable = Vec<Vec<u32>>;

/// Counts the keys of several slots in one go through the hashes.
pub(super) fn count_keys(sides: &[&Hashes], slots: &[Slot]) -> Result<Vec<KeyTable>, NearError> {
    let empty = |slot: &Slot| vec![vec![0; slot.num_keys()]; sides.len()];
    let mut tables: Vec<KeyTable> = slots.iter().map(empty).collect();
    for (side, hashes) in sides.iter().enumerate() {
        for entry in hashes.entries.rows() {
            let bits = entry?.bits;
            for (slot, table) in slots.iter().zip(&mut tables) {
                table[side][slot.key(&bits) as usize] += 1;
            }
        }
    }
    Ok(tables)
}

/// What is known of a slot from counting its keys.
#[derive(Debug)]
pub(super) struct Counted {
    /// In order of keys.
    pub(super) hot: Vec<HotBucket>,
    /// In order of keys; together all keys.
    pub(super) ranges: Vec<Range>,
}

/// Keys whose hashes are in memory together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// First and last.
    pub(super) keys: (u32, u32),
    /// Which unit they are in. Shards share out units: these do not depend on how much memory a process has.
    pub(super) unit: u32,
}

impl Counted {
    /// With one range and one unit.
    pub(super) fn new(number: u32, slot: &Slot, table: &KeyTable, max_bucket: u64) -> Self {
        let count = |side: usize, key: u32| u64::from(table[side][key as usize]);
        let all = |key: u32| (0..table.len()).map(|side| count(side, key)).sum::<u64>();
        let within = table.len() == 1;
        let mut masks = None;
        let mut left_out = |key: u32| {
            let masks = masks.get_or_insert_with(|| slot.masks());
            let comparisons = masks.iter().map(|mask| {
                let other = key ^ mask;
                // Two hot buckets are near each other once.
                let counted_before = all(other) > max_bucket && other < key;
                match (within, *mask) {
                    (true, 0) => count(0, key) * (count(0, key) - 1) / 2,
                    (true, _) if counted_before => 0,
                    (true, _) => count(0, key) * count(0, other),
                    (false, 0) => count(0, key) * count(1, key),
                    (false, _) if counted_before => 0,
                    (false, _) => count(0, key) * count(1, other) + count(1, key) * count(0, other),
                }
            });
            comparisons.sum::<u64>()
        };
        let hot = (0..slot.num_keys() as u32).filter(|&key| all(key) > max_bucket);
        let hot = hot
            .map(|key| HotBucket { slot: number, key, hashes: all(key), comparisons: left_out(key) })
            .collect();
        Self { hot, ranges: vec![Range { keys: (0, (slot.num_keys() - 1) as u32), unit: 0 }] }
    }

    /// Cuts the keys into units, and these into ranges, of at most so many hashes or of one key.
    pub(super) fn cut(&mut self, table: &KeyTable, max_in_unit: u64, max_in_range: u64) {
        let num_keys = table[0].len() as u32;
        let (mut in_unit, mut in_range, mut ranges) = (0, 0, Vec::new());
        let mut range = Range { keys: (0, 0), unit: 0 };
        for key in 0..num_keys {
            let all = table.iter().map(|counts| u64::from(counts[key as usize])).sum::<u64>();
            let count = if self.is_hot(key) { 0 } else { all };
            let ends_unit = in_unit > 0 && in_unit + count > max_in_unit;
            if ends_unit || in_range > 0 && in_range + count > max_in_range {
                ranges.push(range);
                range = Range { keys: (key, key), unit: range.unit + u32::from(ends_unit) };
                in_range = 0;
            }
            in_unit = if ends_unit { count } else { in_unit + count };
            in_range += count;
            range.keys.1 = key;
        }
        ranges.push(range);
        self.ranges = ranges;
    }

    /// The place of the range that a key is in.
    pub(super) fn range_of(&self, key: u32) -> usize {
        self.ranges.partition_point(|range| range.keys.1 < key)
    }

    pub(super) fn is_hot(&self, key: u32) -> bool {
        !self.hot.is_empty() && self.hot.binary_search_by_key(&key, |bucket| bucket.key).is_ok()
    }
}

/// Hashes of a range of keys, in order of the key.
pub(super) struct Part {
    entries: Vec<Entry>,
    first_key: u32,
    /// Where the entries of each key begin, and the end.
    starts: Vec<u32>,
}

/// Takes a near pair.
pub(super) type Sink<'a> = dyn FnMut(&Entry, &Entry, u32) -> Result<(), NearError> + 'a;

impl Part {
    /// Loads those of a file whose key is in the range and not hot.
    pub(super) fn load(
        file: &Spilled<Entry>,
        slot: &Slot,
        counted: &Counted,
        range: usize,
    ) -> Result<Self, NearError> {
        let (first_key, last_key) = counted.ranges[range].keys;
        let mut entries = Vec::with_capacity(file.num_rows() as usize);
        for entry in file.rows() {
            let entry = entry?;
            if !counted.is_hot(slot.key(&entry.bits)) {
                entries.push(entry);
            }
        }
        entries.sort_unstable_by_key(|entry| slot.key(&entry.bits));
        let mut starts = Vec::with_capacity((last_key - first_key) as usize + 2);
        for (at, entry) in entries.iter().enumerate() {
            let place = (slot.key(&entry.bits) - first_key) as usize;
            starts.resize((place + 1).max(starts.len()), at as u32);
        }
        starts.resize((last_key - first_key) as usize + 2, entries.len() as u32);
        Ok(Self { entries, first_key, starts })
    }

    /// The entries of a key; none of those of another range.
    fn bucket(&self, key: u32) -> &[Entry] {
        let place = key.wrapping_sub(self.first_key) as usize;
        match self.starts.get(place..) {
            Some([start, end, ..]) => &self.entries[*start as usize..*end as usize],
            _ => &[],
        }
    }

    /// Finds pairs of this part and another, or within this one. Returns the number of comparisons.
    pub(super) fn compare(
        &self,
        other: Option<&Self>,
        slot: &Slot,
        most: u32,
        shutdown: &Shutdown,
        found: &mut Sink,
    ) -> Result<u64, NearError> {
        let masks = slot.masks();
        let mut comparisons = 0;
        let num_keys = self.starts.len() - 1;
        for from in (0..num_keys).step_by(KEYS_AT_ONCE) {
            keep_going(shutdown)?;
            let places = from..num_keys.min(from + KEYS_AT_ONCE);
            comparisons += self.compare_keys(places, other, &masks, most, found)?;
        }
        Ok(comparisons)
    }

    fn compare_keys(
        &self,
        places: std::ops::Range<usize>,
        other: Option<&Self>,
        masks: &[u32],
        most: u32,
        found: &mut Sink,
    ) -> Result<u64, NearError> {
        let mut comparisons = 0;
        for place in places {
            let (start, end) = (self.starts[place] as usize, self.starts[place + 1] as usize);
            if start == end {
                continue;
            }
            let (bucket, key) = (&self.entries[start..end], self.first_key + place as u32);
            for &mask in masks {
                let near = match other {
                    Some(other) => other.bucket(key ^ mask),
                    None if mask == 0 => {
                        for (at, entry) in bucket.iter().enumerate() {
                            comparisons += compare_one(entry, &bucket[at + 1..], most, found)?;
                        }
                        continue;
                    }
                    // Both buckets are of this part: they meet once.
                    None if key ^ mask < key => continue,
                    None => self.bucket(key ^ mask),
                };
                for entry in bucket {
                    comparisons += compare_one(entry, near, most, found)?;
                }
            }
        }
        Ok(comparisons)
    }
}

#[inline]
fn compare_one(one: &Entry, others: &[Entry], most: u32, found: &mut Sink) -> Result<u64, NearError> {
    for other in others {
        let distance = one.bits.distance(&other.bits, most);
        if distance <= most {
            found(one, other, distance)?;
        }
    }
    Ok(others.len() as u64)
}
