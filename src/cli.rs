//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done, 1 something is wrong with what was looked at, 2 it could not be done.

mod args;
mod check;
mod completions;
mod explain;
mod names;
mod rewrite;
mod rotate;
mod serve;
mod status;
mod terminal;

use std::ffi::OsStr;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::terminal::Color;
use crate::text::chain;

/// Rewrites the image references of Kubernetes Pods, so that they are pulled from your registry.
#[derive(Debug, Parser)]
#[command(
    name = "imageswap",
    version,
    arg_required_else_help = true,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Start with `imageswap serve`, or try `imageswap explain nginx`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// When to use colour
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        help_heading = "For all commands",
        value_name = "auto|always|never",
        env = "IMAGESWAP_COLOR"
    )]
    color: Color,
}

/// What each is for, its `Args` say: they are its help.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Check(check::Args),
    Explain(explain::Args),
    Rewrite(rewrite::Args),
    Status(status::Args),
    Rotate(rotate::Args),
    Completions(completions::Args),
}

/// What the process ends with where a command could not do its work.
const FAILED: u8 = 2;

/// The command line, as it is parsed and shown.
pub(crate) fn command() -> clap::Command {
    let maps = "The map file [default: /app/maps/imageswap-maps.conf, if that exists]";
    // No example stands in for it there.
    Cli::command().mut_subcommand("rewrite", |rewrite| {
        rewrite.mut_arg("maps", |arg| arg.help(maps))
    })
}

/// What `main` does.
pub fn main() -> ExitCode {
    // Also for what is said of a command line that can't be read.
    let color = Color::wished(std::env::args_os().skip(1));
    color.apply();
    let understood = without_empty_variables(command()).color(color.into());
    let parsed = Cli::from_arg_matches(&understood.get_matches());
    let cli = parsed.unwrap_or_else(|error| error.exit());
    cli.color.apply();
    let done = match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Rewrite(args) => rewrite::run(args),
        Command::Status(args) => status::run(args),
        Command::Rotate(args) => rotate::run(args),
        Command::Completions(args) => completions::run(args, &mut command()),
    };
    done.unwrap_or_else(|error| {
        if has_reader_left(&error) {
            // Whoever read our output has read enough.
            return ExitCode::SUCCESS;
        }
        terminal::complain(&chain(error.as_ref()));
        ExitCode::from(FAILED)
    })
}

/// A variable that is set to nothing is not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
            true => arg.env(clap::builder::Resettable::Reset),
            false => arg,
        })
        .mut_subcommands(without_empty_variables)
}

/// What was printed, for who is not done with that: whoever reads it may have read enough of it.
fn heard<E: Into<anyhow::Error>>(printed: Result<(), E>) -> anyhow::Result<()> {
    match printed.map_err(Into::into) {
        Err(error) if has_reader_left(&error) => Ok(()),
        printed => printed,
    }
}

/// Whether something could not be written because nobody reads it any more.
fn has_reader_left(error: &anyhow::Error) -> bool {
    error.chain().any(is_broken_pipe)
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref().map(io::Error::kind);
    let json = || {
        error
            .downcast_ref()
            .and_then(serde_json::Error::io_error_kind)
    };
    io.or_else(json) == Some(io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for command in Cli::command().get_subcommands() {
            for flag in command.get_opts() {
                if !["help", "version"].contains(&flag.get_id().as_str()) {
                    let name = (command.get_name(), flag.get_id());
                    assert!(flag.get_env().is_some(), "{name:?}");
                    assert!(flag.get_help().is_some(), "{name:?}");
                }
            }
        }
    }
}
