//! The binary: parse, run, turn the result into an exit code.

mod allocator;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::BySize = allocator::BySize;

fn main() -> ExitCode {
    allocator::settle();
    ddl::cli::run()
}
