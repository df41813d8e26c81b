//! The `imageswap` command: reads the command line, runs the command, prints its error.

use std::process::ExitCode;

/// Why, is said in Cargo.toml.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    imageswap::cli::main()
}
