//! Two allocators, each for what it is good at.
//!
//! mimalloc has the small blocks: each thread has a heap of its own, whatever the number of cores. It keeps large ones
//! for long after they were freed, though, and a download frees half a gigabyte of bodies and pixels a second. glibc
//! gives these back, and with two arenas it wastes little: a download has half the memory then. On two cores glibc alone
//! is as good (`docs/BENCHMARKS.md` has the figures); two arenas for all blocks of many threads were not measured.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Blocks from this size on are the system's: nearly all bodies, stored images, pixels and row groups. With 64 KiB,
/// resized images of some 60 KiB stayed with mimalloc, and a download with resize took 56 MiB more.
const LARGE: usize = 8 << 10;

pub struct BySize;

// SAFETY: each block is allocated and freed by the same of two sound allocators, for both are chosen by the layout
// alone, which the caller repeats. Across the boundary `realloc` moves the block.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if layout.size() < LARGE { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if layout.size() < LARGE { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if layout.size() < LARGE {
                MiMalloc.dealloc(block, layout)
            } else {
                System.dealloc(block, layout)
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above; `new_layout` has the caller's alignment and a size that the caller has checked.
        unsafe {
            match (layout.size() < LARGE, new_size < LARGE) {
                (true, true) => MiMalloc.realloc(block, layout, new_size),
                (false, false) => System.realloc(block, layout, new_size),
                _ => {
                    let new_layout = Layout::from_size_align_unchecked(new_size, layout.align());
                    let new_block = self.alloc(new_layout);
                    if !new_block.is_null() {
                        new_block.copy_from_nonoverlapping(block, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                    new_block
                }
            }
        }
    }
}

/// Settles what glibc would otherwise make of the number of cores: eight arenas for each, whose free memory no other
/// can use. Large blocks are few; two arenas are enough for them. Must be called before threads are started.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
