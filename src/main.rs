//! The `imageswap` command: reads the command line, runs the command, prints its error.

use std::process::ExitCode;

fn main() -> ExitCode {
    imageswap::cli::main()
}
