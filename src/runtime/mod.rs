//! What the process asks of the machine: cores, memory, open files, and when to stop.
//!
//! Sockets and timers belong to tokio. Work that computes goes through [`CpuPool`], so that decoding
//! never delays a connection; bytes in flight are bought from a [`MemoryBudget`]; and [`Shutdown`] is a
//! value passed down, never a global.

mod boot_clock;
mod cpu;
mod limits;
mod memory;
mod panics;
mod shutdown;

pub use boot_clock::time_since_boot;
pub use cpu::{CpuPanic, CpuPool};
pub use limits::{available_cores, machine_cores, max_open_files, raise_open_files};
pub use memory::{BudgetError, MemoryBudget, MemoryPermit};
pub use panics::{catch_panic, panic_message, silence_caught_panics};
pub use shutdown::{Shutdown, StopReason, install_deadline, install_signals};
