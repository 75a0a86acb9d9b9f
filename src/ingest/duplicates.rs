//! Which rows repeat an earlier row, or a record that the catalog has.
//!
//! Keys are compared in passes over ranges of keys, as many as it takes for one range to fit into the
//! memory given: a server of 80 million rows costs time, not memory. What stays is two bits per row.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::error::IngestError;
use crate::model::UrlKey;

/// What one key of a range costs: 16 bytes and a control byte in a table that is at least 7/16 full.
const BYTES_PER_KEY: u64 = 40;

/// For each row of a bucket: whether it repeats an earlier one, and whether the catalog has it.
#[derive(Debug, Default)]
pub(super) struct Marks {
    repeats: Bits,
    known: Bits,
}

impl Marks {
    /// Whether an earlier row has the same key.
    pub(super) fn is_repeat(&self, row: u64) -> bool {
        self.repeats.get(row)
    }

    /// Whether the catalog has the key.
    pub(super) fn is_known(&self, row: u64) -> bool {
        self.known.get(row)
    }
}

/// Marks `num_rows` rows. Both sources of keys are gone through once per pass, always in one order.
pub(super) fn find_duplicates(
    num_rows: u64,
    num_known: u64,
    memory_bytes: u64,
    mut for_each_row: impl FnMut(&mut dyn FnMut(UrlKey)) -> Result<(), IngestError>,
    mut for_each_known: impl FnMut(&mut dyn FnMut(UrlKey)) -> Result<(), IngestError>,
) -> Result<Marks, IngestError> {
    let needed = (num_rows + num_known).saturating_mul(BYTES_PER_KEY);
    let passes = needed.div_ceil(memory_bytes.max(1 << 20)).max(1);
    let mut marks = Marks { repeats: Bits::new(num_rows), known: Bits::new(num_rows) };
    for pass in 0..passes {
        // The high half decides on the pass, the low half on the place in the table.
        let in_range = |key: UrlKey| ((key.0 >> 64) * u128::from(passes)) >> 64 == u128::from(pass);
        let mut known = KeySet::default();
        known.reserve((num_known / passes) as usize);
        for_each_known(&mut |key| {
            if in_range(key) {
                known.insert(key.0);
            }
        })?;
        let mut seen = KeySet::default();
        seen.reserve((num_rows / passes) as usize);
        let mut row = 0;
        for_each_row(&mut |key| {
            if in_range(key) {
                if !seen.insert(key.0) {
                    marks.repeats.set(row);
                }
                if known.contains(&key.0) {
                    marks.known.set(row);
                }
            }
            row += 1;
        })?;
    }
    Ok(marks)
}

type KeySet = HashSet<u128, BuildHasherDefault<LowHalf>>;

/// Keys are hashes already.
#[derive(Default)]
struct LowHalf(u64);

impl Hasher for LowHalf {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: u64) -> Self {
        Self(vec![0; len.div_ceil(64) as usize])
    }

    fn set(&mut self, at: u64) {
        self.0[(at / 64) as usize] |= 1 << (at % 64);
    }

    fn get(&self, at: u64) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> UrlKey {
        UrlKey::of_bytes(&number.to_le_bytes())
    }

    proptest! {
        #[test]
        fn marks_are_those_of_a_set(
            rows in proptest::collection::vec(0..40_u64, 0..100),
            known in proptest::collection::vec(0..40_u64, 0..40),
            passes in 1..9_u64,
        ) {
            // A count of known keys that is too high only makes more passes.
            let num_known = (passes * (1 << 20)) / BYTES_PER_KEY - rows.len() as u64;
            let runs = Cell::new(0);
            let marks = find_duplicates(
                rows.len() as u64, num_known, 1 << 20,
                |each| { runs.set(runs.get() + 1); rows.iter().for_each(|&n| each(key(n))); Ok(()) },
                |each| { known.iter().for_each(|&n| each(key(n))); Ok(()) },
            ).unwrap();
            prop_assert_eq!(runs.get(), passes);
            for (at, number) in rows.iter().enumerate() {
                prop_assert_eq!(marks.is_repeat(at as u64), rows[..at].contains(number));
                prop_assert_eq!(marks.is_known(at as u64), known.contains(number));
            }
        }
    }
}
