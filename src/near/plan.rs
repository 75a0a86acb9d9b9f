//! How the 256 bits are cut into slots.
//!
//! Two hashes that differ in at most *d* bits differ, in one of *m* slots, in at most *r* bits, where *m (r + 1) > d*:
//! if it were *r + 1* or more in each, *d* would be exceeded. More generally slot *i* may have a radius of its own, as
//! long as the sum of all *r + 1* exceeds *d*. So all pairs are found by looking, slot by slot, at those pairs that are
//! within its radius there.
//!
//! Many slots are short ones, in which many hashes agree by chance; few slots have a larger radius, and so more
//! neighbours to look at. [`Plan::new`] takes the number that costs least.

use super::bits::{Bits, NUM_BITS};

/// Bits of a key at most: a table of all keys has to fit into memory.
const MAX_KEY_BITS: u32 = 24;

/// Relative costs, measured in nanoseconds: sorting a hash, looking up a neighbour, comparing two hashes.
const SORT: f64 = 150.0;
const LOOK_UP: f64 = 8.0;
const COMPARE: f64 = 2.0;

/// Some of the bits, and how many of them may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    start: u32,
    pub(super) key_bits: u32,
    radius: u32,
}

impl Slot {
    #[inline]
    pub(super) fn key(&self, bits: &Bits) -> u32 {
        bits.slice(self.start, self.key_bits)
    }

    pub(super) fn num_keys(&self) -> usize {
        1 << self.key_bits
    }

    pub(super) fn is_near(&self, one: u32, other: u32) -> bool {
        (one ^ other).count_ones() <= self.radius
    }

    /// What a key differs from its neighbours in: 0 first, then all of one bit, of two, up to the radius.
    pub(super) fn masks(&self) -> Vec<u32> {
        let mut masks = vec![0_u32];
        let mut from = 0;
        for _ in 0..self.radius {
            let to = masks.len();
            for at in from..to {
                // Only above the highest bit, so that each mask comes once.
                let above = u32::BITS - masks[at].leading_zeros();
                (above..self.key_bits).for_each(|bit| masks.push(masks[at] | 1 << bit));
            }
            from = to;
        }
        masks
    }

    /// The least number of bits in which a key of one range may differ from one of another, or less.
    pub(super) fn may_be_near(&self, one: (u32, u32), other: (u32, u32)) -> bool {
        let open_bits = u32::BITS - ((one.0 ^ one.1) | (other.0 ^ other.1)).leading_zeros();
        let fixed = |key: u32| u64::from(key) >> open_bits;
        (fixed(one.0) ^ fixed(other.0)).count_ones() <= self.radius
    }
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) distance: u32,
    pub(super) slots: Vec<Slot>,
}

impl Plan {
    /// The cheapest for so many hashes, if they were random.
    pub(super) fn new(distance: u32, num_hashes: u64) -> Self {
        let plans = (1..=distance + 1).map(|num_slots| Self::with_slots(distance, num_slots, num_hashes));
        let cheapest = plans.min_by(|one, other| one.cost(num_hashes).total_cmp(&other.cost(num_hashes)));
        cheapest.expect("there is one of one slot")
    }

    pub(super) fn with_slots(distance: u32, num_slots: u32, num_hashes: u64) -> Self {
        let (each, more) = ((distance + 1) / num_slots, (distance + 1) % num_slots);
        let width = NUM_BITS / num_slots;
        // A few keys for each hash; a larger table would only be emptier.
        let enough = (u64::BITS - num_hashes.leading_zeros() + 2).clamp(4, MAX_KEY_BITS);
        let slots = (0..num_slots).map(|number| Slot {
            start: number * width,
            key_bits: width.min(enough),
            radius: each + u32::from(number < more) - 1,
        });
        Self { distance, slots: slots.collect() }
    }

    fn cost(&self, num_hashes: u64) -> f64 {
        let num_hashes = num_hashes as f64;
        let cost = |slot: &Slot| {
            let (keys, neighbours) = (slot.num_keys() as f64, num_neighbours(slot.key_bits, slot.radius));
            let look_ups = num_hashes.min(keys) * neighbours / 2.0;
            let comparisons = num_hashes * num_hashes / (2.0 * keys) * neighbours;
            SORT * num_hashes + LOOK_UP * look_ups + COMPARE * comparisons
        };
        self.slots.iter().map(cost).sum()
    }

    /// Whether the pair belongs to an earlier slot than this: each is reported by the first that finds it.
    /// `takes_part` says whether hashes of a key are compared in a slot.
    pub(super) fn is_found_before(
        &self,
        slot: usize,
        one: &Bits,
        other: &Bits,
        takes_part: impl Fn(usize, u32) -> bool,
    ) -> bool {
        self.slots[..slot].iter().enumerate().any(|(number, slot)| {
            let (one, other) = (slot.key(one), slot.key(other));
            slot.is_near(one, other) && takes_part(number, one) && takes_part(number, other)
        })
    }
}

/// Keys within the radius of one, itself included.
fn num_neighbours(key_bits: u32, radius: u32) -> f64 {
    let choose = (1..=radius.min(key_bits))
        .scan(1.0, |choose, n| {
            *choose *= f64::from(key_bits - n + 1) / f64::from(n);
            Some(*choose)
        })
        .sum::<f64>();
    1.0 + choose
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_suffice_for_the_distance_and_do_not_overlap() {
        for distance in 0..=40 {
            for num_hashes in [0, 1, 1_000, 10_000_000, 200_000_000] {
                for plan in (1..=distance + 1).map(|slots| Plan::with_slots(distance, slots, num_hashes)) {
                    assert!(plan.slots.iter().map(|slot| slot.radius + 1).sum::<u32>() > distance);
                    let ends = plan.slots.iter().map(|slot| slot.start + slot.key_bits);
                    let starts = plan.slots.iter().skip(1).map(|slot| slot.start).chain([NUM_BITS]);
                    assert!(ends.zip(starts).all(|(end, start)| end <= start));
                }
            }
        }
    }

    #[test]
    fn masks_are_all_up_to_the_radius_once() {
        for (key_bits, radius) in [(5, 0), (5, 1), (5, 3), (3, 4), (24, 2)] {
            let slot = Slot { start: 0, key_bits, radius };
            let mut masks = slot.masks();
            assert_eq!(masks[0], 0);
            assert_eq!(masks.len() as f64, num_neighbours(key_bits, radius));
            masks.sort_unstable();
            masks.dedup();
            assert_eq!(masks.len(), slot.masks().len());
            assert!(masks.iter().all(|mask| mask.count_ones() <= radius && *mask < 1 << key_bits));
        }
    }

    #[test]
    fn ranges_that_may_be_near_are_not_missed() {
        let slot = Slot { start: 0, key_bits: 5, radius: 1 };
        let ranges: Vec<(u32, u32)> = (0..32).flat_map(|from| (from..32).map(move |to| (from, to))).collect();
        for &one in &ranges {
            for &other in &ranges {
                let near = (one.0..=one.1).any(|a| (other.0..=other.1).any(|b| slot.is_near(a, b)));
                assert!(slot.may_be_near(one, other) || !near, "{one:?} {other:?}");
            }
        }
        assert!(!slot.may_be_near((0, 7), (24, 31)));
    }

    /// What the documentation says of distances.
    #[test]
    fn plans_for_ten_million() {
        let shape = |distance| {
            let plan = Plan::new(distance, 10_000_000);
            (plan.slots.len(), plan.slots[0].key_bits, plan.slots[0].radius)
        };
        assert_eq!(
            [10, 16, 20, 32, 40].map(shape),
            [(6, 24, 1), (9, 24, 1), (11, 23, 1), (12, 21, 2), (12, 21, 3)]
        );
    }
}
