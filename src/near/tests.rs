//! The whole room against comparing everything with everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::PerceptualHash;
use crate::runtime::{Shutdown, StopReason};

/// So little that some hundred hashes are sorted on disk and dealt to dozens of files.
const LITTLE: u64 = 4 << 10;
const MUCH: u64 = 64 << 20;

fn options(distance: u32, memory_bytes: u64) -> NearOptions {
    NearOptions { distance, memory_bytes, threads: 2, ..NearOptions::default() }
}

fn collect(records: &[(u64, PerceptualHash)], options: &NearOptions) -> Hashes {
    let folder = tempfile::tempdir().unwrap();
    let mut hashes = HashesBuilder::new(folder.path(), options);
    records.iter().for_each(|(record, hash)| hashes.push(*record, hash).unwrap());
    hashes.finish().unwrap()
}

/// Pairs and report of one shard.
fn search(sides: &[&Hashes], options: &NearOptions, shard: Shard) -> (Vec<Pair>, SearchReport) {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let search = Search { options, folder: folder.path(), shard, shutdown: &shutdown };
    let found = match sides {
        [hashes] => search.pairs_within(hashes),
        [left, right] => search.pairs_between(left, right),
        _ => unreachable!("one or two sets"),
    };
    let Found { pairs, report } = found.unwrap();
    let pairs: Vec<Pair> = pairs.map(Result::unwrap).collect();
    assert_eq!(pairs.len() as u64, report.pairs);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    (pairs, report)
}

fn pairs_of(sides: &[&Hashes], options: &NearOptions) -> Vec<Pair> {
    let (pairs, report) = search(sides, options, Shard::WHOLE);
    assert_eq!(report.left_out, []);
    pairs
}

fn distance(one: &PerceptualHash, other: &PerceptualHash) -> u32 {
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

/// The first record of each hash that is not flat.
fn distinct(records: &[(u64, PerceptualHash)]) -> BTreeMap<PerceptualHash, u64> {
    let mut first = BTreeMap::new();
    for (record, hash) in records.iter().filter(|(_, hash)| !is_flat(hash)) {
        let lowest = first.entry(*hash).or_insert(*record);
        *lowest = *record.min(lowest);
    }
    first
}

fn expected_within(records: &[(u64, PerceptualHash)], most: u32) -> Vec<Pair> {
    let all = distinct(records);
    let mut pairs = Vec::new();
    for (one, &first) in &all {
        for (other, &second) in all.iter().filter(|&(_, &second)| second > first) {
            let distance = distance(one, other);
            if distance <= most {
                pairs.push(Pair { first, second, distance });
            }
        }
    }
    pairs.sort();
    pairs
}

fn expected_between(left: &[(u64, PerceptualHash)], right: &[(u64, PerceptualHash)], most: u32) -> Vec<Pair> {
    let (left, right) = (distinct(left), distinct(right));
    let mut pairs = Vec::new();
    for (one, &first) in &left {
        for (other, &second) in &right {
            let distance = distance(one, other);
            if distance <= most {
                pairs.push(Pair { first, second, distance });
            }
        }
    }
    pairs.sort();
    pairs
}

/// Who goes, by the definition.
fn expected_stars(records: &[(u64, PerceptualHash)], most: u32) -> Vec<(u64, u64, u32)> {
    let mut order: Vec<_> = distinct(records).into_iter().map(|(hash, record)| (record, hash)).collect();
    order.sort_unstable();
    let mut kept: Vec<(u64, PerceptualHash)> = Vec::new();
    let mut verdicts = BTreeMap::new();
    for (record, hash) in order {
        let near = kept.iter().map(|(keeper, other)| (distance(&hash, other), *keeper));
        match near.filter(|(distance, _)| *distance <= most).min() {
            Some(witness) => drop(verdicts.insert(hash, (record, witness))),
            None => {
                kept.push((record, hash));
                verdicts.insert(hash, (record, (0, record)));
            }
        }
    }
    let mut gone: Vec<_> = records
        .iter()
        .filter_map(|(record, hash)| {
            let (_, (distance, witness)) = verdicts.get(hash)?;
            (witness != record).then_some((*record, *witness, *distance))
        })
        .collect();
    gone.sort_unstable();
    gone
}

fn run_stars(pairs: Vec<Pair>, hashes: &Hashes, num_records: u64) -> Vec<(u64, u64, u32)> {
    let mut gone = Vec::new();
    stars(pairs.into_iter().map(Ok), hashes.copies(), num_records, |found| {
        gone.push((found.record, found.witness, found.distance));
        Ok::<(), NearError>(())
    })
    .unwrap();
    gone.sort_unstable();
    gone
}

/// Hashes in clusters: a few centres, and what is a few bits off. Some are equal, some flat.
fn clustered(max: usize) -> impl Strategy<Value = Vec<(u64, PerceptualHash)>> {
    let centres = proptest::collection::vec(any::<PerceptualHash>(), 1..6);
    let members = proptest::collection::vec(
        (any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 0..30), 0..20_u8),
        0..max,
    );
    (centres, members).prop_map(|(centres, members)| {
        let hash = |(centre, flips, kind): (prop::sample::Index, Vec<u8>, u8)| {
            let mut hash = if kind == 0 { [0xff; 32] } else { *centre.get(&centres) };
            flips.iter().for_each(|&bit| hash[usize::from(bit / 8)] ^= 1 << (bit % 8));
            hash
        };
        members.into_iter().map(hash).enumerate().map(|(record, hash)| (record as u64, hash)).collect()
    })
}

fn shuffled(records: &[(u64, PerceptualHash)], seed: u64) -> Vec<(u64, PerceptualHash)> {
    let mut records = records.to_vec();
    fastrand::Rng::with_seed(seed).shuffle(&mut records);
    records
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn all_pairs_are_found_and_no_others(
        records in clustered(120), most in 0..=MAX_DISTANCE, memory in prop_oneof![Just(LITTLE), Just(MUCH)],
        num_shards in 1..6_u32, seed in any::<u64>(),
    ) {
        let expected = expected_within(&records, most);
        let options = options(most, memory);
        let hashes = collect(&shuffled(&records, seed), &options);
        let counts = hashes.counts();
        prop_assert_eq!(counts.records, records.len() as u64);
        prop_assert_eq!(counts.flat + counts.copies + counts.distinct, counts.records);
        prop_assert_eq!(counts.distinct, distinct(&records).len() as u64);
        prop_assert_eq!(&pairs_of(&[&hashes], &options), &expected);

        let mut merged = PairSorter::new(&std::env::temp_dir(), LITTLE);
        for index in 0..num_shards {
            // Ranks may have more or less.
            let memory_bytes = if index % 2 == 0 { LITTLE } else { MUCH };
            let options = NearOptions { memory_bytes, threads: 1 + index as usize, ..options.clone() };
            let (pairs, _) = search(&[&hashes], &options, Shard { index, count: num_shards });
            pairs.into_iter().try_for_each(|pair| merged.push(pair)).unwrap();
        }
        let merged: Vec<Pair> = merged.finish().unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(&merged, &expected);
        prop_assert_eq!(run_stars(merged, &hashes, records.len() as u64), expected_stars(&records, most));
    }

    #[test]
    fn all_pairs_between_two_sets_are_found(
        records in clustered(120), cut in any::<prop::sample::Index>(), most in 0..=MAX_DISTANCE,
        memory in prop_oneof![Just(LITTLE), Just(MUCH)], num_shards in 1..4_u32,
    ) {
        let cut = if records.is_empty() { 0 } else { cut.index(records.len()) };
        let (left, right) = records.split_at(cut);
        let options = options(most, memory);
        let (left_hashes, right_hashes) = (collect(left, &options), collect(right, &options));
        let mut pairs = Vec::new();
        for index in 0..num_shards {
            pairs.extend(search(&[&left_hashes, &right_hashes], &options, Shard { index, count: num_shards }).0);
        }
        pairs.sort();
        prop_assert_eq!(&pairs, &expected_between(left, right, most));

        let mut found = Vec::new();
        matches(pairs.into_iter().map(Ok), right_hashes.copies(), |one| {
            found.push((one.record, one.witness, one.distance));
            Ok::<(), NearError>(())
        }).unwrap();
        found.sort_unstable();
        let expected = right.iter().filter(|(_, hash)| !is_flat(hash)).filter_map(|(record, hash)| {
            let near = left.iter().filter(|(_, other)| !is_flat(other));
            let near = near.map(|(other, of)| (distance(hash, of), *other));
            let (distance, witness) = near.filter(|(distance, _)| *distance <= most).min()?;
            Some((*record, witness, distance))
        });
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
    }

    /// What is in a hot bucket is left out of it: what is found is right, and more is found with a higher cap.
    #[test]
    fn hot_buckets_are_reported(records in clustered(120), most in 0..24_u32, max_bucket in 0..12_u32) {
        let all = expected_within(&records, most);
        let options = NearOptions { max_bucket, ..options(most, MUCH) };
        let hashes = collect(&records, &options);
        let (pairs, report) = search(&[&hashes], &options, Shard::WHOLE);
        prop_assert!(pairs.iter().all(|pair| all.contains(pair)));
        prop_assert!(pairs.windows(2).all(|two| two[0] < two[1]), "each once");
        prop_assert!(pairs.len() == all.len() || !report.left_out.is_empty());
        prop_assert!(report.left_out.iter().all(|bucket| bucket.hashes > u64::from(max_bucket)));
        let free = NearOptions { max_bucket: u32::MAX, ..options.clone() };
        let (_, whole) = search(&[&hashes], &free, Shard::WHOLE);
        let left_out: u64 = report.left_out.iter().map(|bucket| bucket.comparisons).sum();
        prop_assert_eq!(report.comparisons + left_out, whole.comparisons);
        let spilled = NearOptions { memory_bytes: LITTLE, ..options.clone() };
        let (mut sharded, mut comparisons) = (Vec::new(), 0);
        for index in 0..3 {
            let options = if index == 1 { &options } else { &spilled };
            let (pairs, part) = search(&[&hashes], options, Shard { index, count: 3 });
            sharded.extend(pairs);
            comparisons += part.comparisons;
            prop_assert_eq!(&part.left_out, &report.left_out);
        }
        sharded.sort();
        prop_assert_eq!((sharded, comparisons), (pairs, report.comparisons));
    }
}

/// Many enough for long keys and several ranges; planted pairs at every distance.
#[test]
fn planted_pairs_are_found_among_many() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut records: Vec<(u64, PerceptualHash)> = Vec::new();
    let mut planted = Vec::new();
    for record in 0..4_000_u64 {
        let mut hash: PerceptualHash = std::array::from_fn(|_| random.u8(..));
        if record % 20 == 19 {
            let (first, of) = records[random.usize(..records.len())];
            let most = (record / 20 % 44 + 1) as usize;
            hash = of;
            random
                .choose_multiple(0..256_usize, most)
                .into_iter()
                .for_each(|bit| hash[bit / 8] ^= 1 << (bit % 8));
            planted.push((first, record, most as u32));
        }
        records.push((record, hash));
    }
    for most in [0, 3, 10, 16, 21, 40] {
        for memory in [LITTLE, MUCH] {
            let options = options(most, memory);
            let hashes = collect(&records, &options);
            let pairs = pairs_of(&[&hashes], &options);
            let near = planted.iter().filter(|(.., distance)| (1..=most).contains(distance));
            for &(first, second, distance) in near {
                assert!(pairs.contains(&Pair { first, second, distance }), "{first} {second} at {distance}");
            }
        }
    }
}

/// A chain a - b - c in which only neighbours are near: b goes for a, and c stays, as what it is near to has gone.
#[test]
fn a_chain_is_no_group() {
    let hash = |bits: usize| {
        let mut hash = [0x5a; 32];
        (0..bits).for_each(|bit| hash[bit / 8] ^= 1 << (bit % 8));
        hash
    };
    let records = [(0, hash(0)), (1, hash(8)), (2, hash(16)), (3, hash(17)), (4, hash(8))];
    let options = options(10, MUCH);
    let hashes = collect(&records, &options);
    let pairs = pairs_of(&[&hashes], &options);
    // 3 is nearer to 2, which stays, than to 1; 4 has the hash of 1 and goes as 1 does.
    assert_eq!(run_stars(pairs, &hashes, 5), [(1, 0, 8), (3, 2, 1), (4, 0, 8)]);
}

#[test]
fn what_cannot_be_searched_is_said() {
    let options = options(MAX_DISTANCE + 1, MUCH);
    let hashes = collect(&[(0, [0x5a; 32]), (1, [0x5b; 32])], &options);
    let folder = std::env::temp_dir();
    let shutdown = Shutdown::new();
    let search = Search { options: &options, folder: &folder, shard: Shard::WHOLE, shutdown: &shutdown };
    let error = search.pairs_within(&hashes).unwrap_err();
    assert_eq!(error.to_string(), "a distance of 41 bits is more than 40, the most that is searched");

    let options = NearOptions { distance: 10, ..options };
    let search = Search { options: &options, shard: Shard { index: 2, count: 2 }, ..search };
    assert!(matches!(search.pairs_within(&hashes).unwrap_err(), NearError::NoSuchShard { .. }));

    shutdown.request(StopReason::Terminate);
    let search = Search { shard: Shard::WHOLE, ..search };
    let error = search.pairs_within(&hashes).unwrap_err();
    assert!(matches!(error, NearError::Stopped(StopReason::Terminate)));
}

#[test]
fn stars_refuse_what_is_not_theirs() {
    let pair = |first, second| Ok(Pair { first, second, distance: 1 });
    let judge = |pairs: Vec<Result<Pair, NearError>>| {
        stars(pairs, [], 10, |_| Ok::<(), NearError>(())).map_err(|error| error.to_string())
    };
    assert_eq!(judge(vec![pair(0, 1), pair(0, 2)]), Ok(()));
    assert!(judge(vec![pair(0, 2), pair(0, 1)]).unwrap_err().contains("not in order"));
    assert!(judge(vec![pair(0, 10)]).unwrap_err().contains("is not one of 10"));
    assert!(judge(vec![Err(NearError::NoSuchShard { index: 1, count: 1 })]).unwrap_err().contains("shard"));
}
