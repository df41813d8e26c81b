//! `imageswap check`: what is wrong with a map file, as a compiler would say it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::{Output, OutputArgs, flag, stdin_once};
use super::heard;
use super::terminal::{self, ERROR, GOOD, WARNING};
use crate::maps_file::{self, Loaded};
use crate::text::counted;

/// Check map files and show what is wrong, as a compiler would
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 if a line is in error or, with --strict, there is a warning; with 2 if a file can't be read."
)]
pub(super) struct Args {
    /// The map files; `-` reads standard input
    #[arg(required = true, value_name = "MAPS")]
    files: Vec<PathBuf>,

    /// Take warnings for errors
    #[arg(long, value_parser = flag, env = "IMAGESWAP_STRICT")]
    strict: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// As many errors, or as many warnings, as anybody reads.
const MAX_SHOWN: usize = 500;

/// How many findings a file has.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    errors: usize,
    warnings: usize,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    stdin_once(&args.files)?;
    let mut out = terminal::stdout();
    let (mut faulty, mut unread) = (false, false);
    // The verdict is about all files.
    for file in &args.files {
        match maps_file::load(file) {
            Ok(loaded) => {
                let count = Count::of(&loaded);
                faulty |= count.errors > 0 || args.strict && count.warnings > 0;
                heard(match args.output.form {
                    Output::Text => print(&mut out, file, &loaded, count, args.strict),
                    Output::Json => print_json(&mut out, file, &loaded),
                })?;
            }
            Err(error) => {
                heard(out.flush())?;
                terminal::complain(&error.to_string());
                unread = true;
            }
        }
    }
    heard(out.flush())?;
    Ok(match (unread, faulty) {
        (true, _) => ExitCode::from(2),
        (false, true) => ExitCode::from(1),
        (false, false) => ExitCode::SUCCESS,
    })
}

impl Count {
    fn of(loaded: &Loaded) -> Self {
        Self {
            errors: loaded.errors(),
            warnings: loaded.warnings(),
        }
    }
}

fn print(
    out: &mut impl Write,
    file: &Path,
    loaded: &Loaded,
    count: Count,
    strict: bool,
) -> anyhow::Result<()> {
    let name = file.display().to_string();
    let mut more = loaded.findings.listed().len();
    for found in loaded.findings.first(MAX_SHOWN, MAX_SHOWN) {
        // The stream drops the colour if it is not wanted.
        writeln!(out, "{}", found.render(&name, true))?;
        more -= 1;
    }
    if more > 0 {
        writeln!(
            out,
            "and {more} more findings; `--output json` shows them\n"
        )?;
    }
    if loaded.findings.unlisted() > 0 {
        writeln!(
            out,
            "and {} findings more than are kept\n",
            loaded.findings.unlisted()
        )?;
    }
    let (style, verdict) = match count {
        Count { errors: 1.., .. } => (ERROR, "not good"),
        Count { warnings: 1.., .. } if strict => (ERROR, "not good (--strict)"),
        Count { warnings: 1.., .. } => (WARNING, "usable"),
        _ => (GOOD, "good"),
    };
    writeln!(
        out,
        "{style}{name} is {verdict}{style:#}: {}, {}, {}",
        counted(loaded.maps.len(), "rule"),
        counted(count.errors, "error"),
        counted(count.warnings, "warning"),
    )?;
    if let Some(why) = loaded.refusal() {
        writeln!(out, "`imageswap serve` takes none of it: {why}")?;
    }
    Ok(())
}

fn print_json(out: &mut impl Write, file: &Path, loaded: &Loaded) -> anyhow::Result<()> {
    let name = file.display().to_string();
    for found in loaded.findings.listed() {
        serde_json::to_writer(&mut *out, &found.record(&name))?;
        out.write_all(b"\n")?;
    }
    if let Some(why) = loaded.refusal() {
        terminal::hint(&format!("`imageswap serve` takes nothing of {name}: {why}"));
    }
    if loaded.findings.unlisted() > 0 {
        let more = counted(loaded.findings.unlisted(), "more finding");
        terminal::hint(&format!("{name} has {more} than are kept and printed"));
    }
    Ok(())
}
