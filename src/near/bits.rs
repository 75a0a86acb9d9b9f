//! A perceptual hash as this room compares it.

use std::sync::LazyLock;

use crate::model::PerceptualHash;

pub(super) const NUM_BITS: u32 = 256;

/// Below so many frequencies above or below the median a hash is flat.
const FLAT_BITS: u32 = 32;

/// Whether a hash says next to nothing of its picture.
///
/// Each bit says whether a frequency is at least the median of all 256, so exactly 128 bits are set unless frequencies
/// tie with the median. They do when most are 0: in pictures of one colour (256 bits are set), and in simple gradients,
/// halves and frames (242 to 252, `docs/BENCHMARKS.md`). All real pictures that were looked at have 128. Flat here means
/// at least 224, or at most 32.
#[must_use]
pub fn is_flat(hash: &PerceptualHash) -> bool {
    let bits_set: u32 = hash.iter().map(|byte| byte.count_ones()).sum();
    bits_set <= FLAT_BITS || bits_set >= NUM_BITS - FLAT_BITS
}

/// The bits of a hash in an order in which neighbours are far apart in the picture's spectrum.
///
/// In simple pictures neighbouring frequencies go together: of 364 drawings, 6 times as many pairs agree in 16 bits in a
/// row as of random hashes (in the worst place 40 times), and 2.8 times as many (8) in this order. Photos are as
/// random hashes in either. Distances are the same in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bits(pub(super) [u64; 4]);

/// Bit `p` of a hash goes to place 23 p (modulo 256): from one place to the next are 10 rows and 7 columns.
const STRIDE: usize = 23;

/// What each value of each byte of a hash sets.
static PLACES: LazyLock<Vec<[Bits; 256]>> = LazyLock::new(|| {
    let bits_of = |byte: usize, value: usize| {
        let mut bits = [0; 4];
        for bit in (0..8).filter(|bit| value >> bit & 1 == 1) {
            let place = STRIDE * (8 * byte + bit) % NUM_BITS as usize;
            bits[place / 64] |= 1 << (place % 64);
        }
        Bits(bits)
    };
    (0..32).map(|byte| std::array::from_fn(|value| bits_of(byte, value))).collect()
});

impl Bits {
    pub(super) fn new(hash: &PerceptualHash) -> Self {
        let mut bits = [0; 4];
        for (&byte, places) in hash.iter().zip(PLACES.iter()) {
            for (word, set) in bits.iter_mut().zip(places[usize::from(byte)].0) {
                *word |= set;
            }
        }
        Self(bits)
    }

    /// The distance, or something above `most` if it is above.
    #[inline]
    pub(super) fn distance(&self, other: &Self, most: u32) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|word| self.0[word] ^ other.0[word]);
        let half = a.count_ones() + b.count_ones();
        if half > most { half } else { half + c.count_ones() + d.count_ones() }
    }

    /// `count` bits from place `start`; at most 32.
    #[inline]
    pub(super) fn slice(&self, start: u32, count: u32) -> u32 {
        let (word, shift) = ((start / 64) as usize, start % 64);
        let low = self.0[word] >> shift;
        // Twice, as a shift by 64 is none.
        let high = self.0.get(word + 1).map_or(0, |high| high << 1 << (63 - shift));
        ((low | high) & ((1 << count) - 1)) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn distances_stay_and_slices_are_the_bits(
            one in any::<PerceptualHash>(), other in any::<PerceptualHash>(),
            start in 0..256_u32, count in 1..25_u32,
        ) {
            let distance: u32 = one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum();
            prop_assert_eq!(Bits::new(&one).distance(&Bits::new(&other), 256), distance);
            let count = count.min(256 - start);
            let bit = |place: u32| Bits::new(&one).0[(place / 64) as usize] >> (place % 64) & 1;
            let slice = (0..count).fold(0, |slice, at| slice | bit(start + at) << at);
            prop_assert_eq!(u64::from(Bits::new(&one).slice(start, count)), slice);
        }
    }

    #[test]
    fn flat_is_what_ties_with_the_median() {
        let with_bits = |count: usize| {
            let mut hash = [0; 32];
            (0..count).for_each(|bit| hash[bit / 8] |= 1 << (bit % 8));
            hash
        };
        for (count, flat) in
            [(0, true), (32, true), (33, false), (128, false), (223, false), (224, true), (256, true)]
        {
            assert_eq!(is_flat(&with_bits(count)), flat, "{count} bits");
        }
    }
}
