//! A table of bits that tells which hashes may be there twice.
//!
//! Most images are there once. A pass over the hashes alone finds most of these out, so that only a small part of the
//! images needs to be sorted, and the rest of their columns not even to be read. A hash has two slots in one word of the
//! table (as in a blocked Bloom filter, so that it takes one miss of the cache), and a slot two bits: whether a hash came
//! by, and whether one came by again. What is there twice has all four bits; of what is there once, about 1 in 25 has.

/// Slots for each image, or up to twice as many: their number is a power of two.
const SLOTS_PER_IMAGE: u64 = 8;

/// A word has 32 slots.
const WORD_SLOTS: u64 = 32;

/// Words at most (512 MiB): from 268 million images on more of them are sorted than need to be.
const MAX_WORDS: u64 = 1 << 26;

pub(super) struct Sketch {
    words: Vec<u64>,
    /// Images that came when what they have was there.
    num_repeats: u64,
}

impl Sketch {
    pub fn new(num_images: u64) -> Self {
        Self { words: vec![0; num_words(num_images) as usize], num_repeats: 0 }
    }

    /// Adds an image of a set within which hashes may repeat.
    pub fn add(&mut self, hash: &str) {
        let (word, slots) = self.place(hash);
        let word = &mut self.words[word];
        self.num_repeats += u64::from(*word & slots == slots);
        *word |= (*word & slots) << 1 | slots;
    }

    /// Adds an image of the first of two sets that may have hashes in common.
    pub fn add_first(&mut self, hash: &str) {
        let (word, slots) = self.place(hash);
        self.words[word] |= slots;
    }

    /// Adds an image of the second.
    pub fn add_second(&mut self, hash: &str) {
        let (word, slots) = self.place(hash);
        let word = &mut self.words[word];
        self.num_repeats += u64::from(*word & slots == slots);
        *word |= slots << 1;
    }

    /// About how many images have a hash that may repeat: of most hashes that do, there are two.
    pub fn num_repeating(&self) -> u64 {
        2 * self.num_repeats
    }

    /// Whether the hash may have been added twice, or to both sets; if it was, always.
    pub fn may_repeat(&self, hash: &str) -> bool {
        let (word, slots) = self.place(hash);
        let all = slots | slots << 1;
        self.words[word] & all == all
    }

    /// A word, and in it the lower bit of each slot.
    fn place(&self, hash: &str) -> (usize, u64) {
        let bits = mixed(hash);
        let slot = |shift: u32| 1 << (2 * (bits >> shift & (WORD_SLOTS - 1)));
        ((bits >> 10) as usize & (self.words.len() - 1), slot(0) | slot(5))
    }
}

fn num_words(num_images: u64) -> u64 {
    let num_images = num_images.min(MAX_WORDS * WORD_SLOTS / SLOTS_PER_IMAGE);
    (num_images * SLOTS_PER_IMAGE).div_ceil(WORD_SLOTS).next_power_of_two()
}

/// 64 bits of a hash's first 16 characters. Those are digits of what is a good hash already, so a multiplication spreads
/// them well enough; where it does not, more is sorted than needs to be.
pub(super) fn mixed(hash: &str) -> u64 {
    let mut first = [0; 16];
    let num_bytes = hash.len().min(first.len());
    first[..num_bytes].copy_from_slice(&hash.as_bytes()[..num_bytes]);
    // The golden ratio's digits.
    let product = u128::from_le_bytes(first).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let high = (product >> 64) as u64;
    high ^ high >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> String {
        blake3::hash(&number.to_le_bytes()).to_string()
    }

    #[test]
    fn what_repeats_is_never_missed_and_little_else_is_taken_for_it() {
        let mut sketch = Sketch::new(11_000);
        (0..10_000).for_each(|number| sketch.add(&hash(number)));
        (0..1_000).for_each(|number| sketch.add(&hash(number)));
        assert!((0..1_000).all(|number| sketch.may_repeat(&hash(number))));
        let taken = (1_000..10_000).filter(|&number| sketch.may_repeat(&hash(number))).count();
        assert!(taken < 1_000, "{taken} of 9,000");
    }

    #[test]
    fn what_is_in_both_sets_is_never_missed() {
        let mut sketch = Sketch::new(4_000);
        (0..2_000).for_each(|number| sketch.add_first(&hash(number)));
        (1_900..4_000).for_each(|number| sketch.add_second(&hash(number)));
        // Again within a set says nothing.
        (0..2_000).for_each(|number| sketch.add_first(&hash(number)));
        assert!((1_900..2_000).all(|number| sketch.may_repeat(&hash(number))));
        let taken = (0..1_900).chain(2_000..4_000).filter(|&number| sketch.may_repeat(&hash(number))).count();
        assert!(taken < 600, "{taken} of 3,900");
    }

    #[test]
    fn there_may_be_none_or_very_many() {
        assert_eq!(Sketch::new(0).words.len(), 1);
        assert!(!Sketch::new(0).may_repeat(""));
        let check = |num_images, words| assert_eq!(num_words(num_images), words, "{num_images} images");
        check(0, 1);
        check(10_000_000, 1 << 22);
        // Its size was that of 67 million images at most.
        check(200_000_000, MAX_WORDS);
        check(268_000_000, MAX_WORDS);
        check(u64::MAX, MAX_WORDS);
    }
}
