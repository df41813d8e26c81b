//! `imageswap completions`: a script for the shell.

use std::io::Write;
use std::process::ExitCode;

use clap_complete::Shell;

use super::terminal;

/// Print a script that completes this command line in your shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
    `source <(imageswap completions bash)`, or into a file that your shell reads at its start.")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "imageswap", &mut script);
    let mut out = terminal::plain_stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
