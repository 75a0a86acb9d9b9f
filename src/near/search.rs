//! All pairs within a distance, slot by slot.
//!
//! For each slot the hashes are sorted by their key in it. If they do not all fit into memory they are first dealt to
//! files by ranges of keys, so many that two of them do. Then those whose keys are equal, or within the slot's radius,
//! are compared. A slot, or a pair of its ranges, is a task; tasks do not depend on each other.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::error::{NearError, keep_going};
use super::hashes::{Entry, Hashes};
use super::options::{MAX_DISTANCE, NearOptions};
use super::pairs::{Pair, PairSorter, SortedPairs};
use super::part::{Counted, Part, count_keys};
use super::plan::{Plan, Slot};
use super::spill::{SpillWriter, Spilled};
use crate::runtime::{Shutdown, available_cores};

/// Files to which hashes are dealt at most, as each is open and has a buffer. Of 200 million hashes each then takes
/// 63 MB.
const MAX_RANGES: u64 = 128;

/// One of several equal portions of a search: those of all shards together are the whole, and nothing is in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: u32,
    pub count: u32,
}

impl Shard {
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

/// Looks for pairs.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// `distance` and `max_bucket` must be the same for all shards, memory and threads need not be.
    pub options: &'a NearOptions,
    /// Where files without a name lie: 80 bytes for each hash if not all fit into memory, and the pairs.
    pub folder: &'a Path,
    pub shard: Shard,
    pub shutdown: &'a Shutdown,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    pub pairs: SortedPairs,
    pub report: SearchReport,
}

/// What a search did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchReport {
    /// Pairs that this shard found.
    pub pairs: u64,
    /// Comparisons that this shard made.
    pub comparisons: u64,
    /// What was left out of the whole search, in all shards the same: in order of slots and keys.
    pub left_out: Vec<HotBucket>,
}

/// More hashes that agree in one slot than are compared with each other ([`NearOptions::max_bucket`]).
///
/// They take no part in this slot. A pair of them is still found if it agrees in another slot, as most near pairs do in
/// several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotBucket {
    /// From 0.
    pub slot: u32,
    /// The bits that they have in the slot.
    pub key: u32,
    pub hashes: u64,
    /// Comparisons in this slot that were not made.
    pub comparisons: u64,
}

impl Search<'_> {
    /// All pairs of records of one set whose hashes differ in at most `distance` bits and are not equal: each once, by
    /// the first of the records that have each hash. [`Hashes::copies`] has the others.
    ///
    /// # Errors
    /// When the distance is larger than [`MAX_DISTANCE`], the shard does not exist, somebody asks to stop, or the disk
    /// is full.
    pub fn pairs_within(&self, hashes: &Hashes) -> Result<Found, NearError> {
        Run::new(self, vec![hashes])?.find()
    }

    /// All pairs of a record of one set and a record of another whose hashes differ in at most `distance` bits, or are
    /// equal: each once, by the first of the records that have each hash. Both number their records for themselves.
    ///
    /// # Errors
    /// As [`pairs_within`](Self::pairs_within).
    pub fn pairs_between(&self, left: &Hashes, right: &Hashes) -> Result<Found, NearError> {
        Run::new(self, vec![left, right])?.find()
    }
}

/// One search.
struct Run<'a> {
    search: &'a Search<'a>,
    /// One set, or left and right.
    sides: Vec<&'a Hashes>,
    plan: Plan,
    num_threads: usize,
    pairs: Mutex<PairSorter>,
}

/// Ranges of one slot that are compared: places in [`Counted::ranges`].
struct Task {
    slot: usize,
    left: usize,
    right: usize,
}

/// The files of a slot's ranges, by side and range, from the slot's first task to its last.
struct Dealt {
    files: Mutex<Option<Arc<Files>>>,
    tasks_left: AtomicUsize,
}

/// None for ranges that no task of this shard needs.
type Files = Vec<Vec<Option<Spilled<Entry>>>>;

impl<'a> Run<'a> {
    fn new(search: &'a Search<'a>, sides: Vec<&'a Hashes>) -> Result<Self, NearError> {
        let Search { options, shard: Shard { index, count }, .. } = *search;
        if options.distance > MAX_DISTANCE {
            return Err(NearError::DistanceTooLarge { distance: options.distance, most: MAX_DISTANCE });
        }
        if index >= count {
            return Err(NearError::NoSuchShard { index, count });
        }
        let num_hashes = sides.iter().map(|side| side.counts().distinct).sum();
        Ok(Self {
            search,
            sides,
            plan: Plan::new(options.distance, num_hashes),
            num_threads: if options.threads == 0 { available_cores() } else { options.threads },
            pairs: Mutex::new(PairSorter::new(search.folder, options.memory_bytes / 8)),
        })
    }

    fn find(self) -> Result<Found, NearError> {
        let counted = self.count()?;
        let tasks = self.tasks(&counted);
        let dealt: Vec<Dealt> = (0..counted.len())
            .map(|slot| Dealt {
                files: Mutex::new(None),
                tasks_left: AtomicUsize::new(tasks.iter().filter(|task| task.slot == slot).count()),
            })
            .collect();
        let comparisons = self.on_threads(tasks.len(), |next| {
            let mut left: Option<(usize, usize, Part)> = None;
            let mut comparisons = 0;
            while let Some(Task { slot, left: at, right }) = next().map(|task| &tasks[task]) {
                let (slot, at, right) = (*slot, *at, *right);
                let files = self.files(&counted, &tasks, &dealt[slot], slot)?;
                let load = |side: usize, range: usize| {
                    let file = files[side][range].as_ref().expect("dealt for this task");
                    Part::load(file, &self.plan.slots[slot], &counted[slot], range)
                };
                // Successive tasks mostly have the same left range.
                let part = match left.take() {
                    Some((old_slot, old_range, part)) if (old_slot, old_range) == (slot, at) => part,
                    old => {
                        drop(old);
                        load(0, at)?
                    }
                };
                comparisons += if self.is_within() && at == right {
                    self.compare(&counted, slot, &part, None)?
                } else {
                    self.compare(&counted, slot, &part, Some(&load(self.sides.len() - 1, right)?))?
                };
                left = Some((slot, at, part));
                if dealt[slot].tasks_left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    *dealt[slot].files.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
            }
            Ok(comparisons)
        })?;
        let pairs = self.pairs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let report = SearchReport {
            pairs: pairs.num_pairs(),
            comparisons: comparisons.iter().sum(),
            left_out: counted.into_iter().flat_map(|slot| slot.hot).collect(),
        };
        Ok(Found { pairs: pairs.finish()?, report })
    }

    fn is_within(&self) -> bool {
        self.sides.len() == 1
    }

    /// Runs `work` on all threads; each gets a way to take the next of `num_tasks`. Stops at the first error.
    fn on_threads<T: Send>(
        &self,
        num_tasks: usize,
        work: impl Fn(&mut dyn FnMut() -> Option<usize>) -> Result<T, NearError> + Sync,
    ) -> Result<Vec<T>, NearError> {
        let next = AtomicUsize::new(0);
        let run = || {
            let done =
                work(&mut || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < num_tasks));
            if done.is_err() {
                // Nobody begins anything new.
                next.store(num_tasks, Ordering::Relaxed);
            }
            done
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (1..self.num_threads.min(num_tasks)).map(|_| scope.spawn(run)).collect();
            let own = run();
            let others = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            // All are waited for, whichever failed.
            std::iter::once(own).chain(others).collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Counts the keys of all slots: which are too many, and where to cut.
    fn count(&self) -> Result<Vec<Counted>, NearError> {
        let slots = &self.plan.slots;
        let table_bytes = (slots[0].num_keys() * size_of::<u32>() * self.sides.len()) as u64;
        let tables = self.search.options.memory_bytes / 2 / self.num_threads as u64 / table_bytes;
        let groups: Vec<_> =
            slots.chunks((tables as usize).clamp(1, slots.len().div_ceil(self.num_threads))).collect();
        let counted = self.on_threads(groups.len(), |next| {
            let mut counted = Vec::new();
            while let Some(group) = next() {
                keep_going(self.search.shutdown)?;
                let tables = count_keys(&self.sides, groups[group])?;
                let first = groups[..group].iter().map(|slots| slots.len()).sum::<usize>();
                for (at, (slot, table)) in groups[group].iter().zip(tables).enumerate() {
                    let max_bucket = u64::from(self.search.options.max_bucket);
                    let mut slot_counted = Counted::new((first + at) as u32, slot, &table, max_bucket);
                    slot_counted.cut(&table, self.max_in_unit(), self.max_in_range(slot));
                    counted.push((first + at, slot_counted));
                }
            }
            Ok(counted)
        })?;
        let mut counted: Vec<_> = counted.into_iter().flatten().collect();
        counted.sort_by_key(|(slot, _)| *slot);
        Ok(counted.into_iter().map(|(_, counted)| counted).collect())
    }

    fn num_hashes(&self) -> u64 {
        self.sides.iter().map(|side| side.counts().distinct).sum()
    }

    /// How many hashes a unit has at most, so that there are two or more for each shard.
    fn max_in_unit(&self) -> u64 {
        let units = match self.search.shard.count {
            1 => 1,
            count => (2 * u64::from(count)).div_ceil(self.plan.slots.len() as u64),
        };
        self.num_hashes().div_ceil(units).max(1)
    }

    /// How many hashes a range has at most, so that two fit into a thread's memory; or all, if all fit.
    fn max_in_range(&self, slot: &Slot) -> u64 {
        let thread_bytes = self.search.options.memory_bytes / 4 * 3 / self.num_threads as u64;
        let table_bytes = (slot.num_keys() * size_of::<u32>()) as u64;
        let fit =
            (thread_bytes.saturating_sub(table_bytes)).max(thread_bytes / 4) / size_of::<Entry>() as u64;
        match fit >= self.num_hashes() {
            true => fit,
            false => (fit / 2).max(self.num_hashes().div_ceil(MAX_RANGES)),
        }
    }

    /// What this shard is to do, in order of slots and left ranges: those of its units against all that are near and
    /// not compared with them from the other side.
    fn tasks(&self, counted: &[Counted]) -> Vec<Task> {
        let Shard { index, count } = self.search.shard;
        let (mut tasks, mut units_before) = (Vec::new(), 0);
        for (slot, Counted { ranges, .. }) in counted.iter().enumerate() {
            for (left, range) in ranges.iter().enumerate() {
                if (units_before + range.unit) % count != index {
                    continue;
                }
                let rights = if self.is_within() { left } else { 0 }..ranges.len();
                let near = |&right: &usize| self.plan.slots[slot].may_be_near(range.keys, ranges[right].keys);
                tasks.extend(rights.filter(near).map(|right| Task { slot, left, right }));
            }
            units_before += ranges.last().map_or(0, |range| range.unit + 1);
        }
        tasks
    }

    /// The files of a slot. The first to ask deals the hashes to them, while the others that want them wait.
    fn files(
        &self,
        counted: &[Counted],
        tasks: &[Task],
        dealt: &Dealt,
        slot: usize,
    ) -> Result<Arc<Files>, NearError> {
        let mut files = dealt.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*files {
            return Ok(Arc::clone(files));
        }
        keep_going(self.search.shutdown)?;
        let num_ranges = counted[slot].ranges.len();
        let deal = |side: usize| {
            if num_ranges == 1 {
                return Ok(vec![Some(self.sides[side].entries.clone())]);
            }
            let mut needed = vec![false; num_ranges];
            for task in tasks.iter().filter(|task| task.slot == slot) {
                needed[task.left] |= side == 0;
                needed[task.right] |= side + 1 == self.sides.len();
            }
            self.deal(self.sides[side], slot, &counted[slot], &needed)
        };
        let dealt = Arc::new((0..self.sides.len()).map(deal).collect::<Result<Files, NearError>>()?);
        Ok(Arc::clone(files.insert(dealt)))
    }

    fn deal(
        &self,
        hashes: &Hashes,
        slot: usize,
        counted: &Counted,
        needed: &[bool],
    ) -> Result<Vec<Option<Spilled<Entry>>>, NearError> {
        let create = |&needed: &bool| needed.then(|| SpillWriter::create(self.search.folder)).transpose();
        let mut files = needed.iter().map(create).collect::<Result<Vec<_>, _>>()?;
        let slot = &self.plan.slots[slot];
        for entry in hashes.entries.rows() {
            let entry = entry?;
            let key = slot.key(&entry.bits);
            match &mut files[counted.range_of(key)] {
                Some(file) if !counted.is_hot(key) => file.push(&entry)?,
                _ => {}
            }
        }
        files.into_iter().map(|file| file.map(SpillWriter::finish).transpose()).collect()
    }

    /// Compares a part with another, or its hashes with each other. Returns how many comparisons it took.
    fn compare(
        &self,
        counted: &[Counted],
        slot: usize,
        left: &Part,
        right: Option<&Part>,
    ) -> Result<u64, NearError> {
        let mut pairs = Vec::new();
        let mut found = |one: &Entry, other: &Entry, distance: u32| {
            let takes_part = |slot: usize, key: u32| !counted[slot].is_hot(key);
            if self.plan.is_found_before(slot, &one.bits, &other.bits, takes_part) {
                return Ok(());
            }
            let (one, other) = (one.record, other.record);
            let (first, second) =
                if self.is_within() { (one.min(other), one.max(other)) } else { (one, other) };
            pairs.push(Pair { first, second, distance });
            if pairs.len() >= 4096 { self.add(&mut pairs) } else { Ok(()) }
        };
        let (slot, most) = (&self.plan.slots[slot], self.plan.distance);
        let comparisons = left.compare(right, slot, most, self.search.shutdown, &mut found)?;
        self.add(&mut pairs)?;
        Ok(comparisons)
    }

    fn add(&self, new: &mut Vec<Pair>) -> Result<(), NearError> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        new.drain(..).try_for_each(|pair| pairs.push(pair))
    }
}
