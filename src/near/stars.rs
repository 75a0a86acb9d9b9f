//! What pairs come to: which records go, and for which they go.
//!
//! Near is not transitive: a chain of near pictures may lead from a sunrise to a sunset. So groups are stars: whatever
//! goes is itself near to what stays. A record that is near to one that was kept before it goes; any other is kept.
//!
//! Copies share the verdict on the first record of their hash. It is judged once, by the keepers before it.

use std::iter::Peekable;

use super::error::NearError;
use super::hashes::HashCopy;
use super::pairs::Pair;

/// A record that is near to another one, its witness: of those that count the nearest, then the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    pub record: u64,
    /// Within one set a record that is kept; between two a record of the left one.
    pub witness: u64,
    /// In how many bits their hashes differ.
    pub distance: u32,
}

/// Judges the records of one set, whose numbers (below `num_records`) say who comes first: `removed` gets each that
/// goes, and for which. All others are kept.
///
/// `pairs` and `copies` are those of [`Search::pairs_within`](super::Search::pairs_within), of all shards and in its
/// order, and of [`Hashes::copies`](super::Hashes::copies). `removed` gets a record before its copies, and otherwise
/// records in order. Takes a bit for each record in memory.
///
/// # Errors
/// Those of the iterators and of `removed`; when they are not in order, or have a number that is too high.
pub fn stars<E: From<NearError>>(
    pairs: impl IntoIterator<Item = Result<Pair, NearError>>,
    copies: impl IntoIterator<Item = Result<HashCopy, NearError>>,
    num_records: u64,
    mut removed: impl FnMut(Match) -> Result<(), E>,
) -> Result<(), E> {
    let mut gone = vec![0_u64; num_records.div_ceil(64) as usize];
    let bit = |record: u64| ((record / 64) as usize, 1 << (record % 64));
    let mut judged = Judged::new(pairs, copies);
    while let Some(record) = judged.next_record()? {
        if record >= num_records {
            return Err(NearError::NoSuchRecord { record, num_records }.into());
        }
        // The first of a pair comes first, and has its verdict.
        let is_kept = |first: u64| first < record && gone[bit(first).0] & bit(first).1 == 0;
        let witness = judged.nearest(record, is_kept)?;
        if let Some(found) = witness {
            gone[bit(record).0] |= bit(record).1;
            removed(found)?;
        }
        let (witness, distance) = witness.map_or((record, 0), |found| (found.witness, found.distance));
        while let Some(copy) = judged.next_copy(record)? {
            removed(Match { record: copy, witness, distance })?;
        }
    }
    Ok(())
}

/// Finds for each record of the right set whether the left one has something near: `found` gets it with what it is
/// near to.
///
/// `pairs` are those of [`Search::pairs_between`](super::Search::pairs_between), of all shards and in its order,
/// `copies` those of the right set. `found` gets a record before its copies, and otherwise records in order.
///
/// # Errors
/// Those of the iterators and of `found`; when they are not in order.
pub fn matches<E: From<NearError>>(
    pairs: impl IntoIterator<Item = Result<Pair, NearError>>,
    copies: impl IntoIterator<Item = Result<HashCopy, NearError>>,
    mut found: impl FnMut(Match) -> Result<(), E>,
) -> Result<(), E> {
    let mut judged = Judged::new(pairs, copies);
    while let Some(record) = judged.next_record()? {
        let witness = judged.nearest(record, |_| true)?;
        witness.map_or(Ok(()), &mut found)?;
        while let Some(copy) = judged.next_copy(record)? {
            witness.map_or(Ok(()), |witness| found(Match { record: copy, ..witness }))?;
        }
    }
    Ok(())
}

/// Pairs and copies side by side, record by record: pairs by their second, copies by their first.
struct Judged<P: Iterator, C: Iterator> {
    pairs: Peekable<P>,
    copies: Peekable<C>,
    last: Option<u64>,
}

impl<P, C> Judged<P, C>
where
    P: Iterator<Item = Result<Pair, NearError>>,
    C: Iterator<Item = Result<HashCopy, NearError>>,
{
    fn new(
        pairs: impl IntoIterator<IntoIter = P, Item = P::Item>,
        copies: impl IntoIterator<IntoIter = C, Item = C::Item>,
    ) -> Self {
        let (pairs, copies) = (pairs.into_iter().peekable(), copies.into_iter().peekable());
        Self { pairs, copies, last: None }
    }

    /// The next record that is the second of pairs, or has copies.
    fn next_record(&mut self) -> Result<Option<u64>, NearError> {
        let pair = take_error(&mut self.pairs)?.map(|pair| pair.second);
        let copy = take_error(&mut self.copies)?.map(|copy| copy.first);
        let Some(record) = pair.into_iter().chain(copy).min() else { return Ok(None) };
        if let Some(after) = self.last.filter(|&last| last >= record) {
            return Err(NearError::NotInOrder { record, after });
        }
        self.last = Some(record);
        Ok(Some(record))
    }

    /// The nearest, then the first, of a record's pairs whose first counts.
    fn nearest(&mut self, record: u64, counts: impl Fn(u64) -> bool) -> Result<Option<Match>, NearError> {
        let mut nearest: Option<Match> = None;
        while let Some(pair) = take_error(&mut self.pairs)?.filter(|pair| pair.second == record) {
            self.pairs.next();
            let key = (pair.distance, pair.first);
            if counts(pair.first) && nearest.is_none_or(|found| key < (found.distance, found.witness)) {
                nearest = Some(Match { record, witness: pair.first, distance: pair.distance });
            }
        }
        Ok(nearest)
    }

    fn next_copy(&mut self, first: u64) -> Result<Option<u64>, NearError> {
        let copy = take_error(&mut self.copies)?.filter(|copy| copy.first == first).map(|copy| copy.copy);
        if copy.is_some() {
            self.copies.next();
        }
        Ok(copy)
    }
}

/// What comes next, left where it is, unless it is an error.
fn take_error<T: Copy>(
    rows: &mut Peekable<impl Iterator<Item = Result<T, NearError>>>,
) -> Result<Option<T>, NearError> {
    match rows.peek() {
        Some(Ok(row)) => Ok(Some(*row)),
        Some(Err(_)) => rows.next().transpose(),
        None => Ok(None),
    }
}
