//! Images that wait to be written: bought from one budget, laid on the shelf of their partition.
//!
//! A partition writes what is on its shelf when it is worth a row group. When the budget runs short, it is
//! asked for it earlier: **while images wait for memory, as many bytes are on their way to a file, if the
//! shelves have as many; the fullest shelf is emptied first.** So row groups stay as large as memory allows,
//! and nobody waits for a partition that has no reason of its own to write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tokio::sync::Notify;

use crate::runtime::{MemoryBudget, MemoryPermit};
use crate::storage::ImageRow;

/// Bytes of a row beyond its image, roughly.
const ROW_OVERHEAD: u64 = 1024;

/// The memory for images that wait, over all partitions of a rank.
#[derive(Debug)]
pub(super) struct PartMemory {
    budget: MemoryBudget,
    shelves: Mutex<Shelves>,
}

#[derive(Debug, Default)]
struct Shelves {
    fill: HashMap<u64, Fill>,
    /// Bytes of shelves that were asked for, and of row groups that are not written yet.
    leaving: u64,
    last_id: u64,
}

/// How full a shelf is.
#[derive(Debug)]
struct Fill {
    bytes: u64,
    is_asked: bool,
    ask: Arc<Notify>,
}

impl PartMemory {
    /// A budget of `limit` bytes; a single image may have up to `max_image`.
    pub fn new(limit: u64, max_image: u64) -> Self {
        let budget = MemoryBudget::new(limit, max_image.saturating_add(ROW_OVERHEAD));
        Self { budget, shelves: Mutex::default() }
    }

    /// Waits until an image of `image_bytes` may be kept.
    pub async fn buy(&self, image_bytes: u64) -> MemoryPermit {
        let bytes = image_bytes.saturating_add(ROW_OVERHEAD).min(self.budget.max_permit());
        let mut bought = std::pin::pin!(self.budget.acquire(bytes));
        let bought = match bought.as_mut().now_or_never() {
            Some(bought) => bought,
            None => {
                self.relieve(&mut self.shelves());
                bought.await
            }
        };
        bought.expect("no more than one permit may hold")
    }

    #[cfg(test)]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// A shelf for the images of one partition.
    pub fn shelf(self: &Arc<Self>) -> Shelf {
        let mut shelves = self.shelves();
        shelves.last_id += 1;
        let (id, ask) = (shelves.last_id, Arc::new(Notify::new()));
        shelves.fill.insert(id, Fill { bytes: 0, is_asked: false, ask: ask.clone() });
        drop(shelves);
        Shelf { memory: self.clone(), id, ask, rows: Vec::new(), permits: Vec::new(), bytes: 0 }
    }

    /// Asks for the fullest shelves until as much is leaving as is waited for. Called whenever either changes.
    fn relieve(&self, shelves: &mut Shelves) {
        let wanted = self.budget.wanted();
        while shelves.leaving < wanted {
            let unasked = shelves.fill.values_mut().filter(|fill| fill.bytes > 0 && !fill.is_asked);
            let Some(fullest) = unasked.max_by_key(|fill| fill.bytes) else { return };
            fullest.is_asked = true;
            fullest.ask.notify_one();
            shelves.leaving += fullest.bytes;
        }
    }

    /// Every change is complete before anything can panic, so a poisoned lock is sound.
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The images of one partition that wait for their row group.
#[derive(Debug)]
pub(super) struct Shelf {
    memory: Arc<PartMemory>,
    id: u64,
    ask: Arc<Notify>,
    rows: Vec<ImageRow>,
    permits: Vec<MemoryPermit>,
    bytes: u64,
}

impl Shelf {
    pub fn put(&mut self, row: ImageRow, permit: MemoryPermit) {
        let bytes = permit.bytes();
        self.bytes += bytes;
        self.rows.push(row);
        self.permits.push(permit);
        let mut shelves = self.memory.shelves();
        let Shelves { fill, leaving, .. } = &mut *shelves;
        if let Some(fill) = fill.get_mut(&self.id) {
            fill.bytes += bytes;
            *leaving += if fill.is_asked { bytes } else { 0 };
        }
        self.memory.relieve(&mut shelves);
    }

    /// Bytes of all images on the shelf.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until others need the memory. Cancel safe.
    pub async fn asked(&self) {
        // A shelf that was emptied since it was asked for is not meant any more.
        while !self.is_asked() {
            self.ask.notified().await;
        }
    }

    fn is_asked(&self) -> bool {
        self.memory.shelves().fill.get(&self.id).is_some_and(|fill| fill.is_asked)
    }

    /// Takes all images off the shelf; `None` when there are none.
    pub fn take(&mut self) -> Option<RowGroup> {
        if self.rows.is_empty() {
            return None;
        }
        let mut shelves = self.memory.shelves();
        let Shelves { fill, leaving, .. } = &mut *shelves;
        if let Some(fill) = fill.get_mut(&self.id) {
            *leaving += if fill.is_asked { 0 } else { fill.bytes };
            (fill.bytes, fill.is_asked) = (0, false);
        }
        drop(shelves);
        Some(RowGroup {
            rows: std::mem::take(&mut self.rows),
            _permits: std::mem::take(&mut self.permits),
            _leaving: Leaving { memory: self.memory.clone(), bytes: std::mem::take(&mut self.bytes) },
        })
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // As a row group that is not written: what is counted as leaving, leaves.
        drop(self.take());
        self.memory.shelves().fill.remove(&self.id);
    }
}

/// Images on their way to a file, and the memory they stand in. In this order: by the time that less is leaving,
/// the memory is free.
#[derive(Debug)]
pub(super) struct RowGroup {
    pub rows: Vec<ImageRow>,
    _permits: Vec<MemoryPermit>,
    _leaving: Leaving,
}

#[derive(Debug)]
struct Leaving {
    memory: Arc<PartMemory>,
    bytes: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut shelves = self.memory.shelves();
        shelves.leaving -= self.bytes;
        self.memory.relieve(&mut shelves);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    const KIB: u64 = 1024;

    fn row() -> ImageRow {
        ImageRow::for_test(record(0, "http://a.example/"), bytes::Bytes::new())
    }

    /// A budget of 100 KiB, and how much an image of so many KiB in all may weigh itself.
    fn memory() -> Arc<PartMemory> {
        Arc::new(PartMemory::new(100 * KIB, 1000 * KIB))
    }

    fn image(kib: u64) -> u64 {
        kib * KIB - ROW_OVERHEAD
    }

    fn put(memory: &PartMemory, shelf: &mut Shelf, kib: u64) {
        let permit = memory.buy(image(kib)).now_or_never().expect("there is room");
        shelf.put(row(), permit);
    }

    fn is_asked(shelf: &Shelf) -> bool {
        shelf.asked().now_or_never().is_some()
    }

    #[test]
    fn the_fullest_shelves_are_emptied_until_nobody_waits() {
        let memory = memory();
        let [mut small, mut large, mut middle] = std::array::from_fn(|_| memory.shelf());
        put(&memory, &mut small, 20);
        put(&memory, &mut large, 45);
        put(&memory, &mut middle, 30);
        assert!(![&small, &large, &middle].into_iter().any(is_asked), "it all fits");

        let mut first = Box::pin(memory.buy(image(40)));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!([&small, &large, &middle].map(is_asked), [false, true, false]);
        let mut second = Box::pin(memory.buy(image(20)));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!([&small, &large, &middle].map(is_asked), [false, true, true], "45 KiB are too few for 60");

        let written = large.take().unwrap();
        assert!(first.as_mut().now_or_never().is_none(), "on its way to the file it is still in memory");
        drop(written);
        let permit = first.now_or_never().expect("55 of 100 KiB are held");
        assert!(second.as_mut().now_or_never().is_none());
        small.put(row(), permit);
        drop(middle.take());
        drop(second.now_or_never().expect("60 of 100 KiB are held"));
        assert!(![&small, &large, &middle].into_iter().any(is_asked));
        drop((small, large, middle));
        let shelves = memory.shelves();
        assert_eq!((shelves.leaving, shelves.fill.len(), memory.budget.used()), (0, 0, 0));
    }

    #[test]
    fn an_image_of_more_than_the_budget_empties_all_shelves_and_has_it_alone() {
        let memory = memory();
        let [mut one, mut other] = std::array::from_fn(|_| memory.shelf());
        put(&memory, &mut one, 10);
        put(&memory, &mut other, 5);
        let mut giant = Box::pin(memory.buy(image(300)));
        assert!(giant.as_mut().now_or_never().is_none());
        assert!(is_asked(&one) && is_asked(&other));
        drop(one.take());
        assert!(giant.as_mut().now_or_never().is_none());
        drop(other.take());
        assert_eq!(giant.now_or_never().expect("alone").bytes(), 300 * KIB);
    }

    #[test]
    fn what_comes_to_a_shelf_while_others_wait_is_asked_for() {
        let memory = memory();
        let mut shelf = memory.shelf();
        let on_its_way = memory.buy(image(90)).now_or_never().unwrap();
        let mut waiting = Box::pin(memory.buy(image(50)));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(!is_asked(&shelf), "there is nothing to ask for");
        shelf.put(row(), on_its_way);
        assert!(is_asked(&shelf));
        // A partition that ends without writing frees as much.
        drop(shelf);
        assert!(waiting.now_or_never().is_some());
    }
}
